//! One session (RFC 5880 §6.8).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::{SLOW, SessionConfig, micros};
use crate::packet::{ControlPacket, Diagnostic, State};

/// What a session has to tell: it is in another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The state it was in.
    pub from: State,
    /// The state it is in.
    pub to: State,
    /// The state that the peer last told; `Down` when it is not heard.
    pub remote_state: State,
    /// Why we went down; what it was before for a change upwards.
    pub diagnostic: Diagnostic,
    /// What the peer last gave as its reason.
    pub remote_diagnostic: Diagnostic,
    /// Whether the peer's BFD goes on without its control plane (C). If not, a
    /// client that waits for a graceful restart of the peer may take a failure
    /// for that restart (RFC 5882 §4.3.2).
    pub remote_independent: bool,
}

impl Event {
    /// Whether the path to the peer has failed, so that a client such as BGP
    /// should end its session (RFC 5882 §4.2; BGP with Cease and the subcode
    /// "BFD Down", RFC 9384). A session that either side's administrator took
    /// down says nothing about the path (§3.2).
    pub fn is_failure(&self) -> bool {
        self.from == State::Up && self.to == State::Down && self.remote_state != State::AdminDown
    }
}

/// A time in which the process did not run, or came late to its timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// When it ran again.
    pub end: Instant,
    /// How late it was then.
    pub length: Duration,
}

/// A Poll Sequence (RFC 5880 §6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    Idle,
    Active {
        /// Whether a packet with P is out, so that an F can be its answer.
        sent: bool,
        /// Whether values changed since, so that another has to follow.
        again: bool,
    },
}

/// What a session knows of its peer. The default is what §6.8.1 sets at the
/// start, and again when the peer is no longer heard.
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    min_rx: Duration,
    min_tx: Duration,
    detect_mult: u8,
    demand: bool,
    independent: bool,
}

impl Default for Remote {
    fn default() -> Self {
        Self {
            discriminator: 0,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            min_rx: Duration::from_micros(1),
            min_tx: Duration::ZERO,
            detect_mult: 1,
            demand: false,
            independent: false,
        }
    }
}

/// A session with one peer: asynchronous mode, without echo.
///
/// The caller feeds [`handle_packet`](Self::handle_packet), drains
/// [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event),
/// and comes back at [`transmit_at`](Self::transmit_at) to transmit and at
/// [`detect_at`](Self::detect_at) for [`handle_expiry`](Self::handle_expiry).
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    discriminator: u32,
    random: fastrand::Rng,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    poll: Poll,
    /// Desired Min TX and Required Min RX Interval as they are announced.
    announced: (Duration, Duration),
    /// The same two as they are counted with, which follow later where the
    /// peer has to know first (§6.8.3).
    in_use: (Duration, Duration),
    /// When something was last done, which is when what is urgent became so.
    touched: Instant,
    /// The last packet that was not an answer to P: when, and the part of the
    /// transmit interval after which the next is due.
    sent: Option<(Instant, f32)>,
    /// What the last packet said.
    said: Option<ControlPacket>,
    /// Whether a packet with P is to be answered.
    answer: bool,
    heard: Instant,
    /// Until when we wait longer than the Detection Time, after a stall of
    /// ours.
    forgiven: Option<Instant>,
    events: VecDeque<Event>,
}

impl Session {
    /// A session that is down. `discriminator` must be unique among those of
    /// this system and not 0; `seed` is for the jitter. The values of `config`
    /// must be valid.
    pub fn new(discriminator: u32, config: SessionConfig, seed: u64, now: Instant) -> Self {
        let intervals = (config.desired_min_tx.max(SLOW), config.required_min_rx);
        Self {
            config,
            discriminator,
            random: fastrand::Rng::with_seed(seed),
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote: Remote::default(),
            poll: Poll::Idle,
            announced: intervals,
            in_use: intervals,
            touched: now,
            sent: None,
            said: None,
            answer: false,
            heard: now,
            forgiven: None,
            events: VecDeque::new(),
        }
    }

    /// bfd.SessionState.
    pub const fn state(&self) -> State {
        self.state
    }

    /// bfd.RemoteSessionState.
    pub const fn remote_state(&self) -> State {
        self.remote.state
    }

    /// bfd.LocalDiag.
    pub const fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// bfd.LocalDiscr.
    pub const fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// What it is set up with.
    pub const fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// The time between two packets of ours, before jitter (§6.8.2, §6.8.7).
    pub fn transmit_interval(&self) -> Duration {
        self.in_use.0.max(self.remote.min_rx)
    }

    /// The time between two packets of the peer, before jitter.
    fn receive_interval(&self) -> Duration {
        self.in_use.1.max(self.remote.min_tx)
    }

    /// After so long without a packet the session goes down (§6.8.4).
    pub fn detection_time(&self) -> Duration {
        self.receive_interval() * u32::from(self.remote.detect_mult)
    }

    /// The peer's Detection Time for us, as far as we know it.
    pub fn remote_detection_time(&self) -> Duration {
        self.transmit_interval() * u32::from(self.config.detect_mult)
    }

    /// Sets other timers, without taking the session down: a Poll Sequence
    /// tells the peer (§6.8.3). The values must be valid.
    pub fn set_config(&mut self, config: SessionConfig, now: Instant) {
        self.touched = now;
        self.config = config;
        self.retime();
    }

    /// Takes the session down by its administrator's word, or lets it go up
    /// again (§6.8.16).
    pub fn set_admin_down(&mut self, down: bool, now: Instant) {
        self.touched = now;
        match (self.state, down) {
            (State::AdminDown, true) => {}
            (_, true) => {
                self.diagnostic = Diagnostic::ADMINISTRATIVELY_DOWN;
                self.enter(State::AdminDown);
            }
            (State::AdminDown, false) => {
                self.diagnostic = Diagnostic::NONE;
                self.enter(State::Down);
            }
            (_, false) => {}
        }
    }

    /// Takes in a packet that is valid, belongs to this session and reached
    /// this machine at `at` (§6.8.6, from the point where the session is
    /// known).
    pub fn handle_packet(&mut self, packet: &ControlPacket, at: Instant) {
        self.touched = self.touched.max(at);
        self.heard = self.heard.max(at);
        self.forgiven = None;
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            min_rx: Duration::from_micros(packet.required_min_rx.into()),
            min_tx: Duration::from_micros(packet.desired_min_tx.into()),
            detect_mult: packet.detect_mult,
            demand: packet.demand,
            independent: packet.control_plane_independent,
        };
        if packet.r#final {
            self.end_poll();
        }
        if self.state == State::AdminDown {
            return;
        }
        match (self.state, packet.state) {
            (State::Down, State::AdminDown) => {}
            (_, State::AdminDown) | (State::Up, State::Down) => {
                self.diagnostic = Diagnostic::NEIGHBOR_SIGNALED_DOWN;
                self.enter(State::Down);
            }
            (State::Down, State::Down) => self.enter(State::Init),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up);
            }
            _ => {}
        }
        self.answer |= packet.poll;
    }

    /// Takes the session down if nothing was heard for the Detection Time
    /// (§6.8.4). If the process itself `stall`ed since the last packet for
    /// more than half of the peer's interval, the peer gets one more interval,
    /// once: its packets may have been lost for our sake.
    pub fn handle_expiry(&mut self, now: Instant, stall: Option<Stall>) {
        if self.detect_at().is_none_or(|due| now < due) {
            return;
        }
        self.touched = now;
        let interval = self.receive_interval();
        if self.forgiven.is_none()
            && stall.is_some_and(|stall| stall.end > self.heard && stall.length > interval / 2)
        {
            self.forgiven = Some(now + interval);
            return;
        }
        // §6.8.1: bfd.RemoteDiscr is 0 after a Detection Time of silence, and
        // with it goes all that the peer said.
        self.forgiven = None;
        let independent = self.remote.independent;
        self.remote = Remote {
            independent,
            ..Remote::default()
        };
        if matches!(self.state, State::Init | State::Up) {
            self.diagnostic = Diagnostic::DETECTION_TIME_EXPIRED;
            self.enter(State::Down);
        }
    }

    /// When to call [`handle_expiry`](Self::handle_expiry); none while the
    /// peer is not heard.
    pub fn detect_at(&self) -> Option<Instant> {
        (self.remote.discriminator != 0).then(|| {
            self.forgiven
                .unwrap_or_else(|| self.heard + self.detection_time())
        })
    }

    /// When the next packet is due; in the past for one that is urgent.
    pub fn transmit_at(&self) -> Option<Instant> {
        if self.is_silent() {
            None
        } else if self.answer || self.is_news() {
            Some(self.touched)
        } else if self.is_periodic() {
            self.sent.map_or(Some(self.touched), |(at, part)| {
                Some(at + self.transmit_interval().mul_f32(part))
            })
        } else {
            None
        }
    }

    /// A packet to send now. To be called until there is none.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<ControlPacket> {
        if self.transmit_at().is_none_or(|due| due > now) {
            return None;
        }
        self.touched = self.touched.max(now);
        let said = self.contents();
        self.said = Some(said);
        // §6.5: the answer to P goes out at once and beside the schedule, and
        // has no P of its own.
        if std::mem::take(&mut self.answer) {
            return Some(ControlPacket {
                r#final: true,
                ..said
            });
        }
        // §6.8.7: each interval is shortened by 0 to 25 %, and by 10 % at the
        // least when the peer tolerates no loss.
        let most = if self.config.detect_mult == 1 {
            0.9
        } else {
            1.0
        };
        let part = 0.75 + (most - 0.75) * self.random.f32();
        self.sent = Some((now, part));
        let poll = match &mut self.poll {
            Poll::Idle => false,
            Poll::Active { sent, .. } => {
                *sent = true;
                true
            }
        };
        Some(ControlPacket { poll, ..said })
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// §6.8.7: a passive system says nothing to a peer it does not hear.
    fn is_silent(&self) -> bool {
        self.config.passive && self.remote.discriminator == 0
    }

    /// §6.8.7: whether packets go out by the clock.
    fn is_periodic(&self) -> bool {
        let quiet = self.remote.demand
            && self.state == State::Up
            && self.remote.state == State::Up
            && self.poll == Poll::Idle;
        !self.remote.min_rx.is_zero() && !quiet
    }

    /// §6.8.7: what the peer has not been told should not wait for the clock.
    fn is_news(&self) -> bool {
        self.said != Some(self.contents())
    }

    /// A packet as of now, without P and F.
    fn contents(&self) -> ControlPacket {
        ControlPacket {
            diagnostic: self.diagnostic,
            state: self.state,
            control_plane_independent: self.config.control_plane_independent,
            detect_mult: self.config.detect_mult,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: micros(self.announced.0),
            required_min_rx: micros(self.announced.1),
            ..ControlPacket::default()
        }
    }

    fn enter(&mut self, state: State) {
        if state == State::Up {
            self.diagnostic = Diagnostic::NONE;
        }
        let from = std::mem::replace(&mut self.state, state);
        self.retime();
        self.events.push_back(Event {
            from,
            to: state,
            remote_state: self.remote.state,
            diagnostic: self.diagnostic,
            remote_diagnostic: self.remote.diagnostic,
            remote_independent: self.remote.independent,
        });
    }

    /// Brings the timers in line with configuration and state. A change is
    /// announced by a Poll Sequence; until it ends, an interval that grows
    /// for our packets, or shrinks for the peer's, stays as it was (§6.8.3).
    fn retime(&mut self) {
        let up = self.state == State::Up;
        let tx = if up {
            self.config.desired_min_tx
        } else {
            self.config.desired_min_tx.max(SLOW)
        };
        let rx = self.config.required_min_rx;
        if self.announced == (tx, rx) {
            return;
        }
        self.announced = (tx, rx);
        self.in_use = if up {
            (self.in_use.0.min(tx), self.in_use.1.max(rx))
        } else {
            (tx, rx)
        };
        self.poll = match self.poll {
            Poll::Active { sent: true, .. } => Poll::Active {
                sent: true,
                again: true,
            },
            _ => Poll::Active {
                sent: false,
                again: false,
            },
        };
    }

    fn end_poll(&mut self) {
        match self.poll {
            Poll::Active {
                sent: true,
                again: true,
            } => {
                self.poll = Poll::Active {
                    sent: false,
                    again: false,
                };
            }
            Poll::Active {
                sent: true,
                again: false,
            } => {
                self.poll = Poll::Idle;
                self.in_use = self.announced;
            }
            // No question, no answer.
            Poll::Active { sent: false, .. } | Poll::Idle => {}
        }
    }
}

#[cfg(test)]
mod tests;
