//! The session with one peer (RFC 4271 §8).
//!
//! ```text
//!          ┌────────────── Idle <──────────────── any error, Stop
//!          │ Start          ^ after repeated errors, for a while
//!          v                v
//!   Connect <──retry──> Active       dialling; waiting, ready to be dialled
//!          └──────┬───────┘
//!                 v  a connection, by either side
//!             OpenSent ──OPEN──> OpenConfirm ──KEEPALIVE──> Established
//! ```
//!
//! RFC 4271 §6.8 has a state machine for each connection, and up to two until
//! their OPENs tell which stays. So here the three states below are those of a
//! connection, the three above those of the session without one.

mod connection;
mod ending;
mod event;
mod opening;
mod sending;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attribute::Context;
use crate::config::PeerConfig;
use crate::message::{Frame, MessageType, RefreshKind, RouteRefresh};
use crate::negotiate::{Negotiated, Told};
use crate::notification::{Code, Fault, Notification};
use crate::session::connection::{Connection, Stage};
use crate::session::opening::DIAL_WAIT;
use crate::update::Update;

pub use event::{ConnectionId, Counters, Down, Input, Output, State, Stop};

/// From so many connections in a row on that we had to end, the peer's attempts
/// are refused during the pause too, so that two that can't agree do not do so
/// all the time (RFC 4271 §8.1.1, `DampPeerOscillations`).
const DAMPED: u32 = 5;

/// The dialling of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    Off,
    /// Not before then.
    Pause(Instant),
    /// Until then.
    Under(ConnectionId, Instant),
}

/// The session with one peer. See [`Input`] and [`Output`]; the caller comes
/// back at [`poll_timeout`](Self::poll_timeout) for
/// [`handle_timeout`](Self::handle_timeout), after it has handed in all that
/// the sockets have: what arrived in time is not late.
#[derive(Debug)]
pub struct Session {
    config: PeerConfig,
    random: fastrand::Rng,
    running: bool,
    dial: Dial,
    /// An outgoing one, an incoming one; at most one is established.
    connections: Vec<Connection>,
    next: u32,
    /// Attempts in a row that failed.
    failures: u32,
    /// Those among them, and those sessions, that we ended for an error.
    errors: u32,
    told: Told,
    /// Whether no session has been up since we started (RFC 4724 §4.1).
    restarted: bool,
    outputs: VecDeque<Output>,
    counters: Counters,
    last_error: Option<Down>,
    last_malformed: Option<String>,
}

impl Session {
    /// A session that is stopped. `seed` is for the jitter.
    pub fn new(config: PeerConfig, seed: u64) -> Self {
        Self {
            config,
            random: fastrand::Rng::with_seed(seed),
            running: false,
            dial: Dial::Off,
            connections: Vec::new(),
            next: 0,
            failures: 0,
            errors: 0,
            told: Told::All,
            restarted: true,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            last_error: None,
            last_malformed: None,
        }
    }

    /// What it is set up with.
    pub const fn config(&self) -> &PeerConfig {
        &self.config
    }

    /// Other settings, for what comes from now on. What is up stays so.
    pub fn set_config(&mut self, config: PeerConfig, now: Instant) {
        let dials = self.config.passive && !config.passive;
        self.config = config;
        if dials && self.running && self.connections.is_empty() && self.dial == Dial::Off {
            self.dial = Dial::Pause(now);
        }
        if self.config.passive
            && let Dial::Under(..) = self.dial
        {
            self.stop_dialling();
        }
    }

    /// The state, of the connection that is farthest.
    pub fn state(&self) -> State {
        let of = |connection: &Connection| match connection.stage {
            Stage::OpenSent => State::OpenSent,
            Stage::OpenConfirm(_) => State::OpenConfirm,
            Stage::Established(..) => State::Established,
        };
        let without = || match self.dial {
            _ if !self.running => State::Idle,
            Dial::Under(..) => State::Connect,
            Dial::Pause(_) if self.errors >= DAMPED => State::Idle,
            Dial::Pause(_) | Dial::Off => State::Active,
        };
        self.connections
            .iter()
            .map(of)
            .max()
            .unwrap_or_else(without)
    }

    /// The terms of the session that is up, and since when.
    pub fn established(&self) -> Option<(&Arc<Negotiated>, Instant)> {
        self.connections.iter().find_map(|c| match &c.stage {
            Stage::Established(terms, since) => Some((terms, *since)),
            _ => None,
        })
    }

    /// Why the last session, or attempt, ended.
    pub const fn last_error(&self) -> Option<&Down> {
        self.last_error.as_ref()
    }

    /// What was wrong in the last UPDATE that was malformed.
    pub fn last_malformed(&self) -> Option<&str> {
        self.last_malformed.as_deref()
    }

    /// What was counted.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// What is to be done, and what is new.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Takes in what happened. What is told of a connection that is not there
    /// any more is ignored.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Start => self.start(now),
            Input::Connected { connection, local } => self.connected(connection, local, now),
            Input::ConnectFailed { connection, why } => self.connect_failed(connection, why, now),
            Input::Received { connection, bytes } => self.received(connection, bytes, now),
            Input::Closed { connection } => self.drop_connection(connection, Down::Closed, now),
            Input::BfdDown => self.bfd_down(now),
            Input::Reset(code) => self.reset(code, now),
            Input::Stop(stop) => self.stop(stop, now),
        }
    }

    fn start(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.running, true) {
            self.forgive();
            self.dial = if self.config.passive {
                Dial::Off
            } else {
                Dial::Pause(now)
            };
        }
    }

    /// What went wrong before does not count any more.
    const fn forgive(&mut self) {
        self.failures = 0;
        self.errors = 0;
        self.told = Told::All;
    }

    fn next_id(&mut self) -> ConnectionId {
        self.next = self.next.wrapping_add(1);
        ConnectionId(self.next)
    }

    fn at(&self, id: ConnectionId) -> Option<usize> {
        self.connections.iter().position(|c| c.id == id)
    }

    fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| c.id == id)
    }

    /// What came in, message by message.
    fn received(&mut self, id: ConnectionId, bytes: &[u8], now: Instant) {
        let Some(connection) = self.get(id) else {
            return;
        };
        let mut inbox = std::mem::take(&mut connection.inbox);
        inbox.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(connection) = self.get(id) {
            match Frame::parse(&inbox[at..], connection.max_received()) {
                Ok(Some(frame)) => {
                    at += frame.length();
                    self.counters.received += 1;
                    if let Err(fault) = self.message(id, frame, now) {
                        self.fault(id, fault, now);
                    }
                }
                Ok(None) => {
                    inbox.drain(..at);
                    connection.inbox = inbox;
                    return;
                }
                Err(fault) => self.fault(id, fault, now),
            }
        }
    }

    fn message(&mut self, id: ConnectionId, frame: Frame<'_>, now: Instant) -> Result<(), Fault> {
        let Some(connection) = self.get(id) else {
            return Ok(());
        };
        // RFC 4271 §6.6, RFC 6608 §3: what must not come now.
        let unexpected = |code: Code| {
            let detail = format!("the peer sent {:?} out of turn", frame.kind);
            Err(Fault::new(code, [frame.kind.number()], detail))
        };
        match (&connection.stage, frame.kind) {
            (_, MessageType::Notification) => {
                self.notified(id, frame.body, now);
                Ok(())
            }
            (Stage::OpenSent, MessageType::Open) => self.opened(id, frame.body, now),
            (Stage::OpenSent, _) => unexpected(Code::UNEXPECTED_IN_OPEN_SENT),
            (Stage::OpenConfirm(_), MessageType::Keepalive) => {
                self.establish(id, now);
                Ok(())
            }
            (Stage::OpenConfirm(_), _) => unexpected(Code::UNEXPECTED_IN_OPEN_CONFIRM),
            (Stage::Established(..), MessageType::Open) => {
                unexpected(Code::UNEXPECTED_IN_ESTABLISHED)
            }
            (Stage::Established(terms, _), kind) => {
                let terms = Arc::clone(terms);
                connection.restart_hold(now);
                match kind {
                    MessageType::Update => self.updated(&terms, frame.body),
                    MessageType::RouteRefresh => self.refresh(&terms, frame.body),
                    _ => Ok(()),
                }
            }
        }
    }

    fn updated(&mut self, terms: &Negotiated, body: &[u8]) -> Result<(), Fault> {
        self.counters.updates_received += 1;
        let received = Update::parse(body)?.check(Context {
            four_octet_as: terms.four_octet_as,
            internal: terms.internal,
        })?;
        self.counters.prefixes_received += received.announced as u64;
        if let Some(error) = received.error {
            self.counters.malformed_updates += 1;
            self.last_malformed = Some(format!("attribute {}: {}", error.attribute, error.detail));
        }
        Ok(())
    }

    /// RFC 2918 §4: of a family that was not agreed on it is ignored.
    fn refresh(&mut self, terms: &Negotiated, body: &[u8]) -> Result<(), Fault> {
        if let Some(refresh) = RouteRefresh::parse(body)?
            && refresh.kind == RefreshKind::Request
            && terms.families.has(refresh.family)
        {
            self.counters.refreshes += 1;
            self.outputs.push_back(Output::Refresh(refresh.family));
        }
        Ok(())
    }

    fn notified(&mut self, id: ConnectionId, body: &[u8], now: Instant) {
        let Some(notification) = Notification::parse(body) else {
            return;
        };
        let refused = self
            .at(id)
            .is_some_and(|at| !self.connections[at].is_established());
        let less = match notification.code {
            // RFC 5492 §3: such a peer does not know capabilities at all.
            Code::UNSUPPORTED_PARAMETER => Told::Nothing,
            Code::UNSUPPORTED_CAPABILITY => self.told.less(),
            _ => {
                self.drop_connection(id, Down::Received(notification), now);
                return;
            }
        };
        self.drop_connection(id, Down::Received(notification), now);
        let again = refused && less != self.told;
        // When less does not help either, it begins from the top.
        self.told = if again { less } else { Told::All };
        if again {
            self.failures = self.failures.saturating_sub(1);
            if let Dial::Pause(_) = self.dial {
                self.dial = Dial::Pause(now);
            }
        }
    }

    fn ids(&self) -> Vec<ConnectionId> {
        self.connections.iter().map(|c| c.id).collect()
    }

    /// RFC 4271 §10: a time, shortened by up to a quarter.
    fn pause(&mut self, time: Duration) -> Duration {
        time.mul_f32(0.75 + 0.25 * self.random.f32())
    }

    /// When to come back for [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let dial = match self.dial {
            Dial::Off => None,
            Dial::Pause(at) | Dial::Under(_, at) => Some(at),
        };
        let timers = self
            .connections
            .iter()
            .flat_map(|c| [c.hold, c.keepalive, c.send_hold]);
        timers.chain([dial]).flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for id in self.ids() {
            let Some(connection) = self.get(id) else {
                continue;
            };
            if due(connection.hold) {
                let detail = if connection.terms().is_some() {
                    "nothing came from the peer for the whole hold time"
                } else {
                    "the peer took the connection and sent no OPEN"
                };
                self.fault(id, Fault::new(Code::HOLD_TIMER, [], detail), now);
            } else if due(connection.send_hold) {
                let detail = "the peer reads nothing of what we send";
                self.fault(id, Fault::new(Code::SEND_HOLD_TIMER, [], detail), now);
            } else if due(connection.keepalive) {
                self.send_keepalive(id, now);
            }
        }
        match self.dial {
            Dial::Pause(at) if at <= now => self.dial(now),
            Dial::Under(connection, until) if until <= now => {
                self.outputs.push_back(Output::Close {
                    connection,
                    last: Vec::new(),
                });
                self.dial = Dial::Off;
                let why = format!("no answer within {} s", DIAL_WAIT.as_secs());
                self.failed(Down::Unreachable(why), now);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
