//! Many sessions: who a packet is for, and whose timer is next.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::config::{ConfigError, SessionConfig};
use crate::packet::{ControlPacket, Malformed, State};
use crate::queue::Queue;
use crate::session::{Event, Session, Stall};

/// A session of this system: its discriminator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u32);

impl SessionId {
    /// bfd.LocalDiscr.
    pub const fn discriminator(self) -> u32 {
        self.0
    }

    #[cfg(test)]
    pub(crate) const fn from_discriminator(discriminator: u32) -> Self {
        Self(discriminator)
    }
}

/// How far away a peer may be, which is another protocol port each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hops {
    /// On the same link: UDP port 3784, and nothing is taken whose TTL or hop
    /// limit is not 255 (RFC 5881 §4, §5).
    Single,
    /// Behind routers: UDP port 4784 (RFC 5883 §5).
    Multi {
        /// Packets with a smaller TTL or hop limit are dropped. 255 less the
        /// number of routers between; 1 takes all.
        minimum_ttl: u8,
    },
}

/// The two ends of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The peer's address.
    pub peer: IpAddr,
    /// Our address; any if none.
    pub local: Option<IpAddr>,
    /// Index of the interface that packets leave and come by; any if none.
    pub interface: Option<u32>,
    /// How far the peer is.
    pub hops: Hops,
}

/// Why there can be no such session.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PathError {
    /// Its first packets could not be told from another session's.
    #[error("there is a BFD session with {0} already that takes the same packets")]
    Taken(IpAddr),
    /// A link-local peer is only an address together with an interface.
    #[error("the BFD peer {0} is a link-local address; an interface must be given with it")]
    Interface(IpAddr),
    /// One end is IPv4 and the other IPv6.
    #[error("the BFD session from {local} to {peer} mixes IPv4 and IPv6")]
    Family {
        /// Our address.
        local: IpAddr,
        /// The peer's.
        peer: IpAddr,
    },
    /// A value out of range.
    #[error("the BFD session with {peer} can't be: {error}")]
    Config {
        /// The peer.
        peer: IpAddr,
        /// What is wrong.
        error: ConfigError,
    },
}

impl Path {
    fn check(&self) -> Result<(), PathError> {
        if let Some(local) = self.local
            && local.is_ipv4() != self.peer.is_ipv4()
        {
            return Err(PathError::Family {
                local,
                peer: self.peer,
            });
        }
        match self.peer {
            IpAddr::V6(peer) if peer.is_unicast_link_local() && self.interface.is_none() => {
                Err(PathError::Interface(self.peer))
            }
            _ => Ok(()),
        }
    }

    /// Whether a first packet could be for either.
    fn overlaps(&self, other: &Self) -> bool {
        fn may_be_same<T: PartialEq + Copy>(one: Option<T>, two: Option<T>) -> bool {
            one.is_none() || two.is_none() || one == two
        }
        self.key() == other.key()
            && may_be_same(self.local, other.local)
            && may_be_same(self.interface, other.interface)
    }

    const fn key(&self) -> (IpAddr, bool) {
        (self.peer, matches!(self.hops, Hops::Multi { .. }))
    }

    /// Whether a packet came the way that this session's packets come.
    fn accepts(&self, arrival: &Arrival) -> bool {
        let far_enough = match self.hops {
            Hops::Single => !arrival.multihop && arrival.ttl == 255,
            Hops::Multi { minimum_ttl } => arrival.multihop && arrival.ttl >= minimum_ttl,
        };
        far_enough
            && self
                .interface
                .is_none_or(|interface| interface == arrival.interface)
    }
}

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Whether it came to the multihop port.
    pub multihop: bool,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// Index of the interface it came by.
    pub interface: u32,
    /// Its TTL or hop limit.
    pub ttl: u8,
    /// When it reached this machine, which may be before it was read.
    pub at: Instant,
}

/// Why a packet had no effect.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Dropped {
    /// It is not a packet to act on.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// No session has this discriminator.
    #[error("no session has the discriminator {0}")]
    UnknownDiscriminator(u32),
    /// It does not name a session, and there is none with its sender.
    #[error("there is no session with its sender")]
    UnknownPeer,
    /// It came with a smaller TTL than the session takes, to the wrong port,
    /// or by another interface.
    #[error("it came by a way that its session does not take (TTL {0})")]
    Path(u8),
}

/// A packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Whose it is.
    pub session: SessionId,
    /// The payload of the datagram.
    pub payload: [u8; ControlPacket::LENGTH],
}

/// What a session has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Control packets that it took.
    pub received: u64,
    /// Control packets that it sent.
    pub sent: u64,
    /// How often it went up.
    pub ups: u64,
    /// How often it went down from up.
    pub downs: u64,
}

#[derive(Debug)]
struct Slot {
    session: Session,
    path: Path,
    counters: Counters,
    /// When it is to be removed.
    ends: Option<Instant>,
}

/// All sessions of a system.
///
/// When [`poll_timeout`](Self::poll_timeout) has come, or after anything else, a
/// [`turn`](Self::turn) is due. Its steps are there for who has no [`Wire`](crate::Wire):
/// first [`start_turn`](Self::start_turn) and the packets that
/// [`poll_transmit`](Self::poll_transmit) gives; then every datagram that is there; then
/// [`handle_expiries`](Self::handle_expiries) with the time at which the turn began; then
/// what is left to transmit, and [`poll_event`](Self::poll_event).
#[derive(Debug)]
pub struct Sessions {
    random: fastrand::Rng,
    slots: HashMap<SessionId, Slot>,
    /// Sessions with a peer, for packets that name none.
    peers: HashMap<(IpAddr, bool), Vec<SessionId>>,
    transmits: Queue,
    expiries: Queue,
    stall: Option<Stall>,
    events: VecDeque<(SessionId, Event)>,
}

impl Sessions {
    /// No session yet. `seed` should be random: discriminators come from it,
    /// and who can guess one can take a session down.
    pub fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            slots: HashMap::new(),
            peers: HashMap::new(),
            transmits: Queue::default(),
            expiries: Queue::default(),
            stall: None,
            events: VecDeque::new(),
        }
    }

    /// Starts a session. A session with the same path that is
    /// [retiring](Self::retire) makes way.
    pub fn add(
        &mut self,
        path: Path,
        config: SessionConfig,
        now: Instant,
    ) -> Result<SessionId, PathError> {
        path.check()?;
        config.validate().map_err(|error| PathError::Config {
            peer: path.peer,
            error,
        })?;
        for other in self.peers.get(&path.key()).cloned().unwrap_or_default() {
            match self.slots.get(&other) {
                Some(slot) if slot.path.overlaps(&path) && slot.ends.is_none() => {
                    return Err(PathError::Taken(path.peer));
                }
                Some(slot) if slot.path.overlaps(&path) => self.remove(other),
                _ => {}
            }
        }
        let id = self.free_discriminator();
        let session = Session::new(id.0, config, self.random.u64(..), now);
        let slot = Slot {
            session,
            path,
            counters: Counters::default(),
            ends: None,
        };
        self.slots.insert(id, slot);
        self.peers.entry(path.key()).or_default().push(id);
        self.reschedule(id);
        Ok(id)
    }

    /// Ends a session without a word: its peer goes down after its Detection
    /// Time.
    pub fn remove(&mut self, id: SessionId) {
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        self.transmits.forget(id);
        self.expiries.forget(id);
        if let Some(ids) = self.peers.get_mut(&slot.path.key()) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.peers.remove(&slot.path.key());
            }
        }
    }

    /// Ends a session with a word: it is `AdminDown` for one Detection Time of
    /// the peer, and then removed (RFC 5880 §6.8.16).
    pub fn retire(&mut self, id: SessionId, now: Instant) {
        self.change(id, |slot| {
            slot.session.set_admin_down(true, now);
            slot.ends
                .get_or_insert(now + slot.session.remote_detection_time());
        });
    }

    /// Holds a session down, or lets it go up again.
    pub fn set_admin_down(&mut self, id: SessionId, down: bool, now: Instant) {
        self.change(id, |slot| {
            if slot.ends.is_none() {
                slot.session.set_admin_down(down, now);
            }
        });
    }

    /// Sets other timers; the session stays as it is.
    pub fn set_config(
        &mut self,
        id: SessionId,
        config: SessionConfig,
        now: Instant,
    ) -> Result<(), ConfigError> {
        config.validate()?;
        self.change(id, |slot| slot.session.set_config(config, now));
        Ok(())
    }

    /// A session, if there is one.
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.slots.get(&id).map(|slot| &slot.session)
    }

    /// The ends of a session.
    pub fn path(&self, id: SessionId) -> Option<&Path> {
        self.slots.get(&id).map(|slot| &slot.path)
    }

    /// What a session has done.
    pub fn counters(&self, id: SessionId) -> Option<Counters> {
        self.slots.get(&id).map(|slot| slot.counters)
    }

    /// All sessions.
    pub fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.slots.keys().copied()
    }

    /// Takes in the payload of a datagram. What is not for a session has no
    /// effect.
    pub fn handle_datagram(
        &mut self,
        payload: &[u8],
        arrival: &Arrival,
    ) -> Result<SessionId, Dropped> {
        let packet = ControlPacket::parse(payload)?;
        packet.validate()?;
        let id = self.find(&packet, arrival)?;
        self.change(id, |slot| {
            slot.counters.received += 1;
            slot.session.handle_packet(&packet, arrival.at);
        });
        Ok(id)
    }

    /// Begins a turn: `now` is when the process woke. How late that is tells
    /// whether it had stalled.
    pub fn start_turn(&mut self, now: Instant) {
        let due = [self.transmits.next(), self.expiries.next()]
            .into_iter()
            .flatten()
            .min();
        let late = due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        // A longer stall is not forgotten for a short one that follows at once.
        let outweighed = self
            .stall
            .is_none_or(|stall| late >= stall.length || now > stall.end + stall.length);
        if !late.is_zero() && outweighed {
            self.stall = Some(Stall {
                end: now,
                length: late,
            });
        }
    }

    /// Whether a session may have to be taken down now: its Detection Time may be
    /// over, if nothing of its peer has come that was not taken in.
    pub fn is_expiring(&mut self, now: Instant) -> bool {
        self.expiries.next().is_some_and(|due| due <= now)
    }

    /// Takes those sessions down that have not heard their peer for too long.
    /// All that had come by `now` must have been taken in before.
    pub fn handle_expiries(&mut self, now: Instant) {
        let stall = self.stall;
        while let Some(id) = self.expiries.pop(now) {
            let over = self
                .slots
                .get(&id)
                .and_then(|slot| slot.ends)
                .is_some_and(|ends| ends <= now);
            if over {
                self.remove(id);
            } else {
                self.change(id, |slot| slot.session.handle_expiry(now, stall));
            }
        }
    }

    /// A packet to send now. To be called until there is none.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        while let Some(id) = self.transmits.pop(now) {
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            let packet = slot.session.poll_transmit(now);
            slot.counters.sent += u64::from(packet.is_some());
            self.reschedule(id);
            if let Some(packet) = packet {
                return Some(Transmit {
                    session: id,
                    payload: packet.to_bytes(),
                });
            }
        }
        None
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<(SessionId, Event)> {
        self.events.pop_front()
    }

    /// When the next turn is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let due = [self.transmits.next(), self.expiries.next()];
        due.into_iter().flatten().min()
    }

    /// Does something to a session and sees to what follows from it.
    fn change(&mut self, id: SessionId, change: impl FnOnce(&mut Slot)) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        change(slot);
        while let Some(event) = slot.session.poll_event() {
            slot.counters.ups += u64::from(event.to == State::Up);
            slot.counters.downs += u64::from(event.from == State::Up);
            // Its owner has let go of one that retires.
            if slot.ends.is_none() {
                self.events.push_back((id, event));
            }
        }
        self.reschedule(id);
    }

    fn reschedule(&mut self, id: SessionId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        if let Some(due) = slot.session.transmit_at() {
            self.transmits.schedule(id, due);
        }
        if let Some(due) = slot.session.detect_at().into_iter().chain(slot.ends).min() {
            self.expiries.schedule(id, due);
        }
    }

    /// RFC 5880 §6.3: by Your Discriminator alone if it is there, else by the
    /// addresses (RFC 5881 §3).
    fn find(&self, packet: &ControlPacket, arrival: &Arrival) -> Result<SessionId, Dropped> {
        if packet.your_discriminator != 0 {
            let id = SessionId(packet.your_discriminator);
            let slot = self
                .slots
                .get(&id)
                .ok_or(Dropped::UnknownDiscriminator(id.0))?;
            return if slot.path.accepts(arrival) {
                Ok(id)
            } else {
                Err(Dropped::Path(arrival.ttl))
            };
        }
        let candidates = self.peers.get(&(arrival.source, arrival.multihop));
        let mut refused = Dropped::UnknownPeer;
        for id in candidates.into_iter().flatten() {
            let Some(slot) = self.slots.get(id) else {
                continue;
            };
            if !slot.path.accepts(arrival) {
                refused = Dropped::Path(arrival.ttl);
            } else if slot
                .path
                .local
                .is_none_or(|local| local == arrival.destination)
            {
                return Ok(*id);
            }
        }
        Err(refused)
    }

    /// RFC 5880 §6.8.1: random, unique, not 0.
    fn free_discriminator(&mut self) -> SessionId {
        loop {
            let id = SessionId(self.random.u32(1..));
            if !self.slots.contains_key(&id) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests;
