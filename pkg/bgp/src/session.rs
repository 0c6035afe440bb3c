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

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attribute::Context;
use crate::config::PeerConfig;
use crate::family::Family;
use crate::message::{Frame, MAX_MESSAGE, MessageType, RefreshKind, RouteRefresh};
use crate::negotiate::{Negotiated, Told, negotiate, our_open};
use crate::notification::{Code, Fault, Notification};
use crate::open::Open;
use crate::outbox::Outbox;
use crate::rib::Messages;
use crate::update::Update;

/// How long to wait for the peer's OPEN (RFC 4271 §8.2.2: "a large value").
const OPEN_WAIT: Duration = Duration::from_mins(4);
/// How long to wait for a connection before dialling anew.
const DIAL_WAIT: Duration = Duration::from_secs(10);
/// The pause before the first new attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A session that was up for so long has shown that it works: what fails after
/// it is a first failure again.
const PROVEN: Duration = Duration::from_secs(30);
/// From so many connections in a row on that came to nothing, the peer's
/// attempts are refused during the pause too, so that two that can't agree do
/// not do so all the time (RFC 4271 §8.1.1, `DampPeerOscillations`).
const DAMPED: u32 = 5;
/// Connections opened within so long of each other's OPEN are taken for dialled
/// at the same time.
const CONCURRENT: Duration = Duration::from_secs(5);
/// RFC 9687 §3.2.
const LEAST_SEND_HOLD: Duration = Duration::from_mins(8);

/// A connection of a session; never the same for two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u32);

/// The state of a session (RFC 4271 §8.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Stopped, or refusing all for a while.
    Idle,
    /// Dialling.
    Connect,
    /// Waiting to dial or to be dialled.
    Active,
    /// Connected, without the peer's OPEN.
    OpenSent,
    /// Connected, without the peer's first KEEPALIVE.
    OpenConfirm,
    /// Up.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How to end a session for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Administratively, with a text for the people at the peer (RFC 9003);
    /// the peer drops our routes.
    Shutdown(String),
    /// Because the peer was taken out of the configuration; it drops our
    /// routes.
    Deconfigured,
    /// Without a word, so that a peer that does graceful restart keeps our
    /// routes until we are back (RFC 4724 §4).
    Restart,
}

/// What happens to a session.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// It may begin.
    Start,
    /// What was asked for with [`Output::Connect`] is there.
    Connected {
        /// The one asked for.
        connection: ConnectionId,
        /// Our address in it.
        local: IpAddr,
    },
    /// What was asked for can't be had.
    ConnectFailed {
        /// The one asked for.
        connection: ConnectionId,
        /// Why, in words.
        why: &'a str,
    },
    /// Bytes came in.
    Received {
        /// On which connection.
        connection: ConnectionId,
        /// In order, cut anywhere.
        bytes: &'a [u8],
    },
    /// The peer closed the connection, or it failed.
    Closed {
        /// Which.
        connection: ConnectionId,
    },
    /// BFD found the path to the peer down (RFC 5882 §4.2).
    BfdDown,
    /// The session is to end and begin anew, for this reason, one of
    /// [`Code::ADMINISTRATIVE_RESET`] and [`Code::CONFIGURATION_CHANGE`].
    Reset(Code),
    /// The session is to end.
    Stop(&'a Stop),
}

/// Why a session, or an attempt at one, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Down {
    /// The peer said so.
    Received(Notification),
    /// We said so.
    Sent {
        /// What we sent.
        notification: Notification,
        /// Why, in words.
        detail: String,
    },
    /// The peer closed the connection without a word, or it failed.
    Closed,
    /// The peer, which does graceful restart, has restarted: it came with
    /// another connection (RFC 4724 §4.2).
    Replaced,
    /// There was no connection.
    Unreachable(String),
    /// We closed it without a word, to restart.
    Restart,
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Received(notification) => write!(f, "the peer ended it: {notification}"),
            Self::Sent {
                notification,
                detail,
            } => write!(f, "{detail} (sent: {notification})"),
            Self::Closed => f.write_str(
                "the peer closed the connection without a word; \
                 does it have us as a neighbor, with this address and password?",
            ),
            Self::Replaced => f.write_str("the peer restarted and came with a new connection"),
            Self::Unreachable(why) => write!(f, "no connection to the peer: {why}"),
            Self::Restart => f.write_str("closed without a word, to restart"),
        }
    }
}

/// What is to be done, and what is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Dial the peer; answer with [`Input::Connected`] or
    /// [`Input::ConnectFailed`].
    Connect(ConnectionId),
    /// There are bytes for this connection: write what is
    /// [pending](Session::pending) until there is nothing, now or whenever the
    /// socket takes some.
    Transmit(ConnectionId),
    /// Close the connection, or give up dialling it.
    Close {
        /// Which.
        connection: ConnectionId,
        /// To be written before, as far as the socket takes it at once.
        last: Vec<u8>,
    },
    /// The session is up.
    Up(Arc<Negotiated>),
    /// The session, which was up, is down.
    Down(Down),
    /// An attempt failed; another follows.
    Failed(Down),
    /// The peer wants its routes of a family again.
    Refresh(Family),
    /// The session has been stopped; no other follows until it is started.
    Stopped,
}

/// What was counted since the session was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times it went up.
    pub established: u64,
    /// Messages that went out.
    pub sent: u64,
    /// UPDATEs among them.
    pub updates_sent: u64,
    /// Messages that came in.
    pub received: u64,
    /// UPDATEs among them.
    pub updates_received: u64,
    /// Prefixes announced by the peer, all ignored.
    pub prefixes_received: u64,
    /// UPDATEs with an error that did not end the session (RFC 7606).
    pub malformed_updates: u64,
    /// Requests for a refresh.
    pub refreshes: u64,
}

#[derive(Debug)]
enum Stage {
    OpenSent,
    OpenConfirm(Arc<Negotiated>),
    Established(Arc<Negotiated>, Instant),
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    incoming: bool,
    opened: Instant,
    local: IpAddr,
    stage: Stage,
    /// What we sent.
    open: Open,
    inbox: Vec<u8>,
    outbox: Outbox,
    /// Whether the caller knows that there are bytes.
    transmitting: bool,
    /// When the peer is given up.
    hold: Option<Instant>,
    keepalive: Option<Instant>,
    /// When the peer is given up because it reads nothing.
    send_hold: Option<Instant>,
}

impl Connection {
    const fn terms(&self) -> Option<&Arc<Negotiated>> {
        match &self.stage {
            Stage::OpenSent => None,
            Stage::OpenConfirm(terms) | Stage::Established(terms, _) => Some(terms),
        }
    }

    const fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Established(..))
    }

    fn max_received(&self) -> usize {
        self.terms().map_or(MAX_MESSAGE, |terms| terms.max_received)
    }

    fn restart_hold(&mut self, now: Instant) {
        if let Some(terms) = self.terms() {
            self.hold = (!terms.hold_time.is_zero()).then(|| now + terms.hold_time);
        }
    }
}

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
    /// Those among them for which there was a connection.
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

    /// The peer has dialled us: takes its connection, in which our address is
    /// `local`. It may be refused, with [`Output::Close`].
    pub fn accept(&mut self, local: IpAddr, now: Instant) -> ConnectionId {
        let id = self.next_id();
        let damped =
            self.errors >= DAMPED && matches!(self.dial, Dial::Pause(until) if now < until);
        if !self.running || damped {
            // RFC 4486 §4: for a connection that was accepted in TCP only.
            let mut last = Vec::new();
            if self.running {
                Notification::from(Code::CONNECTION_REJECTED).encode(&mut last);
            }
            self.outputs.push_back(Output::Close {
                connection: id,
                last,
            });
            return id;
        }
        // A peer that dials again has given up what it dialled before.
        let stale = |c: &&Connection| c.incoming && !c.is_established();
        if let Some(stale) = self.connections.iter().find(stale) {
            let stale = stale.id;
            self.close(stale, Some(Code::COLLISION.into()));
        }
        self.open(id, true, local, now);
        id
    }

    fn connected(&mut self, id: ConnectionId, local: IpAddr, now: Instant) {
        if !matches!(self.dial, Dial::Under(under, _) if under == id) {
            return;
        }
        self.dial = Dial::Off;
        self.open(id, false, local, now);
    }

    fn connect_failed(&mut self, id: ConnectionId, why: &str, now: Instant) {
        if !matches!(self.dial, Dial::Under(under, _) if under == id) {
            return;
        }
        self.dial = Dial::Off;
        self.failed(Down::Unreachable(why.into()), now);
    }

    /// A connection is there: RFC 4271 §8.2.2, into OpenSent.
    fn open(&mut self, id: ConnectionId, incoming: bool, local: IpAddr, now: Instant) {
        let open = our_open(&self.config, local, self.told, self.restarted);
        let mut outbox = Outbox::default();
        outbox.control(|out| open.encode(out));
        self.connections.push(Connection {
            id,
            incoming,
            opened: now,
            local,
            stage: Stage::OpenSent,
            open,
            inbox: Vec::new(),
            outbox,
            transmitting: false,
            hold: Some(now + OPEN_WAIT),
            keepalive: None,
            send_hold: None,
        });
        self.touch(id, now);
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
            self.errors = self.errors.saturating_sub(1);
            if let Dial::Pause(_) = self.dial {
                self.dial = Dial::Pause(now);
            }
        }
    }

    /// The peer's OPEN: RFC 4271 §6.2 and §6.8.
    fn opened(&mut self, id: ConnectionId, body: &[u8], now: Instant) -> Result<(), Fault> {
        let theirs = Open::parse(body)?;
        theirs.validate()?;
        let Some(connection) = self.get(id) else {
            return Ok(());
        };
        let (local, ours) = (connection.local, connection.open.clone());
        let (incoming, opened) = (connection.incoming, connection.opened);
        let terms = Arc::new(negotiate(&self.config, local, &ours, &theirs)?);
        if !self.survives_collision((id, incoming, opened), &terms, now) {
            return Ok(());
        }
        let first = self.pause(terms.keepalive_time);
        let Some(connection) = self.get(id) else {
            return Ok(());
        };
        connection.outbox.keepalive();
        connection.keepalive = (!terms.keepalive_time.is_zero()).then(|| now + first);
        connection.stage = Stage::OpenConfirm(terms);
        connection.restart_hold(now);
        self.touch(id, now);
        Ok(())
    }

    /// RFC 4271 §6.8: whether this connection, whose OPEN is good, stays beside
    /// another one.
    ///
    /// One that waits for its OPEN counts too while it is young: now that the
    /// peer's identifier is known, what will come of it is. So no KEEPALIVE
    /// goes out on a connection that will not stay, and neither side can come
    /// up on one while the other gives it up. An old one may be of a peer that
    /// is gone.
    fn survives_collision(
        &mut self,
        (id, incoming, opened): (ConnectionId, bool, Instant),
        terms: &Negotiated,
        now: Instant,
    ) -> bool {
        let counts = |c: &&Connection| {
            let young = now.saturating_duration_since(c.opened) < CONCURRENT;
            c.id != id && (c.terms().is_some() || young)
        };
        let rival = self.connections.iter().find(counts);
        let Some(rival) = rival else {
            return true;
        };
        let rival_id = rival.id;
        let collision = || Some(Notification::from(Code::COLLISION));
        if let Stage::Established(established, since) = &rival.stage {
            // RFC 4724 §4.2: a peer that restarts may be back before we have
            // noticed. It has no use for a NOTIFICATION on the old one. But
            // what was opened before that one was up is of no restart.
            if established.graceful_restart.is_some() && opened > *since {
                self.end(rival_id, None, Down::Replaced, now);
                return true;
            }
            self.close(id, collision());
            return false;
        }
        // The one that the higher identifier dialled; with equal ones, that
        // of the higher AS (RFC 6286 §2.3).
        let us = (self.config.router_id, self.config.local_as);
        let ours_stays = us > (terms.peer_id, terms.peer_as);
        let this_stays = incoming != ours_stays;
        self.close(if this_stays { rival_id } else { id }, collision());
        this_stays
    }

    fn establish(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.get(id) else {
            return;
        };
        let Stage::OpenConfirm(terms) = &connection.stage else {
            return;
        };
        let terms = Arc::clone(terms);
        connection.stage = Stage::Established(Arc::clone(&terms), now);
        connection.restart_hold(now);
        self.stop_dialling();
        self.restarted = false;
        self.counters.established += 1;
        self.outputs.push_back(Output::Up(terms));
        self.touch(id, now);
    }

    fn stop_dialling(&mut self) {
        if let Dial::Under(connection, _) = std::mem::replace(&mut self.dial, Dial::Off) {
            self.outputs.push_back(Output::Close {
                connection,
                last: Vec::new(),
            });
        }
    }

    fn bfd_down(&mut self, now: Instant) {
        let established = self.connections.iter().find(|c| c.is_established());
        if let Some(id) = established.map(|c| c.id) {
            // RFC 9384 §3. Traffic does not get through: the peer must not
            // keep our routes, as it would over another NOTIFICATION.
            let detail = "BFD found the path to the peer down";
            self.cease(id, Code::BFD_DOWN.into(), true, detail, now);
        }
    }

    fn reset(&mut self, code: Code, now: Instant) {
        self.forgive();
        for id in self.ids() {
            let detail = "the session begins anew with other settings";
            self.cease(id, code.into(), false, detail, now);
        }
        if let Dial::Under(..) = self.dial {
            self.stop_dialling();
        }
        if self.running && !self.config.passive {
            self.dial = Dial::Pause(now);
        }
    }

    fn ids(&self) -> Vec<ConnectionId> {
        self.connections.iter().map(|c| c.id).collect()
    }

    fn stop(&mut self, stop: &Stop, now: Instant) {
        for id in self.ids() {
            match stop {
                Stop::Shutdown(text) => {
                    let code = Code::ADMINISTRATIVE_SHUTDOWN;
                    let notification = Notification::with_communication(code, text);
                    let detail = format!("shut down: {text}");
                    self.cease(id, notification, true, &detail, now);
                }
                Stop::Deconfigured => {
                    let detail = "the peer was taken out of the configuration";
                    self.cease(id, Code::PEER_DECONFIGURED.into(), true, detail, now);
                }
                Stop::Restart => self.end(id, None, Down::Restart, now),
            }
        }
        self.stop_dialling();
        if std::mem::replace(&mut self.running, false) {
            self.outputs.push_back(Output::Stopped);
        }
    }

    /// Ends a connection with a Cease; one that is meant for good becomes a
    /// hard reset where the peer would else keep our routes (RFC 8538 §3.1).
    fn cease(
        &mut self,
        id: ConnectionId,
        notification: Notification,
        for_good: bool,
        detail: &str,
        now: Instant,
    ) {
        let Some(at) = self.at(id) else {
            return;
        };
        let connection = &self.connections[at];
        let kept = connection.is_established()
            && connection
                .terms()
                .is_some_and(|terms| terms.notifications_kept);
        let notification = if for_good && kept {
            notification.into_hard_reset()
        } else {
            notification
        };
        let down = Down::Sent {
            notification: notification.clone(),
            detail: detail.into(),
        };
        self.end(id, Some(notification), down, now);
    }

    fn fault(&mut self, id: ConnectionId, fault: Fault, now: Instant) {
        let down = Down::Sent {
            notification: fault.notification.clone(),
            detail: fault.detail.into_owned(),
        };
        self.end(id, Some(fault.notification), down, now);
    }

    /// Ends a connection from our side.
    fn end(
        &mut self,
        id: ConnectionId,
        notification: Option<Notification>,
        down: Down,
        now: Instant,
    ) {
        if let Some(connection) = self.close(id, notification) {
            self.ended(&connection, down, now);
        }
    }

    /// The peer ended a connection.
    fn drop_connection(&mut self, id: ConnectionId, down: Down, now: Instant) {
        if let Dial::Under(under, _) = self.dial
            && under == id
        {
            self.connect_failed(id, "it was closed", now);
        }
        self.end(id, None, down, now);
    }

    /// Closes a connection without regard to the session.
    fn close(
        &mut self,
        id: ConnectionId,
        notification: Option<Notification>,
    ) -> Option<Connection> {
        let connection = self.connections.swap_remove(self.at(id)?);
        let mut last = Vec::new();
        if let Some(notification) = notification {
            last.extend_from_slice(connection.outbox.unfinished());
            notification.encode(&mut last);
        }
        self.outputs.push_back(Output::Close {
            connection: id,
            last,
        });
        Some(connection)
    }

    /// What a connection's end means for the session.
    fn ended(&mut self, connection: &Connection, down: Down, now: Instant) {
        self.errors = self.errors.saturating_add(1);
        if let Stage::Established(_, since) = connection.stage {
            if now.saturating_duration_since(since) >= PROVEN {
                self.failures = 0;
                self.errors = 0;
            }
            self.told = Told::All;
            self.last_error = Some(down.clone());
            self.outputs.push_back(Output::Down(down));
            self.retry(now);
        } else if self.connections.is_empty() {
            self.failed(down, now);
        } else {
            // What comes of the attempt is for the other connection to tell.
            self.errors -= 1;
        }
    }

    fn failed(&mut self, down: Down, now: Instant) {
        self.last_error = Some(down.clone());
        self.outputs.push_back(Output::Failed(down));
        self.retry(now);
    }

    /// The pause before the next attempt, longer each time; none is made while
    /// another connection is there.
    fn retry(&mut self, now: Instant) {
        let factor = 1 << self.failures.min(16);
        let longest = self.config.connect_retry;
        let pause = self.pause((FIRST_PAUSE * factor).min(longest));
        self.failures = self.failures.saturating_add(1);
        let damped = self.errors >= DAMPED;
        let idle = self.running && self.connections.is_empty();
        // A peer that is only waited for needs the pause to be refused in.
        if idle && !matches!(self.dial, Dial::Under(..)) && (damped || !self.config.passive) {
            self.dial = Dial::Pause(now + pause);
        }
    }

    /// RFC 4271 §10: a time, shortened by up to a quarter.
    fn pause(&mut self, time: Duration) -> Duration {
        time.mul_f32(0.75 + 0.25 * self.random.f32())
    }

    /// The bytes to send next on a connection; empty if there are none. How
    /// many went out is told by [`transmitted`](Self::transmitted).
    pub fn pending(&mut self, id: ConnectionId) -> &[u8] {
        let Some(connection) = self.get(id) else {
            return &[];
        };
        connection.transmitting = !connection.outbox.is_empty();
        connection.outbox.pending()
    }

    /// The socket took the first `count` bytes of what is pending.
    pub fn transmitted(&mut self, id: ConnectionId, count: usize, now: Instant) {
        let Some(at) = self.at(id) else {
            return;
        };
        let sent = self.connections[at].outbox.consume(count);
        self.counters.sent += sent.messages;
        self.counters.updates_sent += sent.updates;
        if sent.messages > 0 {
            self.sent_some(at, now);
        }
    }

    /// RFC 4271 §4.4 and RFC 9687 §3.2: a message is out, so that the next
    /// KEEPALIVE has time, and the peer reads.
    fn sent_some(&mut self, at: usize, now: Instant) {
        let connection = &self.connections[at];
        let time = connection
            .terms()
            .map_or(Duration::ZERO, |terms| terms.keepalive_time);
        let next = now + self.pause(time);
        let send_hold = self.send_hold_time(at);
        let connection = &mut self.connections[at];
        connection.keepalive = connection.keepalive.map(|_| next);
        let waits = !connection.outbox.is_empty();
        connection.send_hold = send_hold.filter(|_| waits).map(|time| now + time);
    }

    /// RFC 9687 §3.2; none without a hold time.
    fn send_hold_time(&self, at: usize) -> Option<Duration> {
        let terms = self.connections[at].terms()?;
        let usual = LEAST_SEND_HOLD.max(terms.hold_time * 2);
        let time = self.config.send_hold_time.unwrap_or(usual);
        (!terms.hold_time.is_zero()).then_some(time.max(terms.hold_time))
    }

    /// Bytes were put into an outbox.
    fn touch(&mut self, id: ConnectionId, now: Instant) {
        let Some(at) = self.at(id) else {
            return;
        };
        let send_hold = self.send_hold_time(at);
        let connection = &mut self.connections[at];
        if connection.outbox.is_empty() {
            return;
        }
        connection.send_hold = connection.send_hold.or_else(|| Some(now + send_hold?));
        if !std::mem::replace(&mut connection.transmitting, true) {
            self.outputs.push_back(Output::Transmit(id));
        }
    }

    /// The connection of the session that is up, if it has nothing to send:
    /// then it may have routes.
    pub(crate) fn idle_connection(&self) -> Option<ConnectionId> {
        let mut connections = self.connections.iter();
        connections
            .find(|c| c.is_established() && c.outbox.is_empty())
            .map(|c| c.id)
    }

    /// Lets the caller come for bytes, though they are not there yet.
    pub(crate) fn ask_to_transmit(&mut self, id: ConnectionId) {
        if let Some(connection) = self.get(id)
            && !std::mem::replace(&mut connection.transmitting, true)
        {
            self.outputs.push_back(Output::Transmit(id));
        }
    }

    /// Routes to send.
    pub(crate) fn send(&mut self, id: ConnectionId, messages: Vec<Messages>, now: Instant) {
        if let Some(connection) = self.get(id) {
            connection.outbox.routes(messages);
            self.touch(id, now);
        }
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

    fn send_keepalive(&mut self, id: ConnectionId, now: Instant) {
        let terms = self.at(id).and_then(|at| self.connections[at].terms());
        let time = terms.map_or(Duration::ZERO, |terms| terms.keepalive_time);
        let next = now + self.pause(time);
        if let Some(connection) = self.get(id) {
            connection.keepalive = Some(next);
            connection.outbox.keepalive();
            self.touch(id, now);
        }
    }

    fn dial(&mut self, now: Instant) {
        self.dial = Dial::Off;
        if self.config.passive {
            // The pause of a peer that was refused is over.
            self.errors = self.errors.min(DAMPED - 1);
        } else if self.connections.is_empty() {
            let id = self.next_id();
            self.dial = Dial::Under(id, now + DIAL_WAIT);
            self.outputs.push_back(Output::Connect(id));
        }
    }
}

#[cfg(test)]
mod tests;
