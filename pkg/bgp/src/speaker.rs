//! All peers, and the routes for them.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use thiserror::Error;

use crate::config::{Change, ConfigError, PeerConfig};
use crate::notification::Code;
use crate::offers::{GroupId, Offer, PeerId};
use crate::path::{PathAttributes, PathError};
use crate::rib::Rib;
use crate::session::{ConnectionId, Input, Output, Session, Stop};

/// A change after some quiet is sent at once; those that follow are gathered for so
/// long before they are sent.
pub const GATHER: Duration = Duration::from_millis(10);
/// A peer that is drained and does not take its withdrawals is left after so
/// long.
const WITHDRAWAL_WAIT: Duration = Duration::from_secs(5);

/// How a peer is drained: its paths are told to be going away (RFC 8326),
/// withdrawn after a while, and the session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The time that the peer has to find other paths.
    pub wait: Duration,
    /// What its people read in the end (RFC 9003).
    pub text: String,
}

/// Where a peer is on its way out.
#[derive(Clone, Debug)]
enum Phase {
    Staying,
    Going { until: Instant, text: String },
    Withdrawing { until: Instant, text: String },
}

#[derive(Debug)]
struct Peer {
    group: Option<GroupId>,
    session: Session,
    phase: Phase,
}

/// A BGP speaker that only originates routes.
///
/// The caller hands in what [happens](Self::handle), does what
/// [is to be done](Self::poll_output), writes what
/// [is pending](Self::pending) for a connection whenever its socket takes
/// something, and comes back at [`poll_timeout`](Self::poll_timeout) for
/// [`handle_timeout`](Self::handle_timeout). How much a socket takes is what
/// paces a peer: routes are put into messages only when all before them are
/// out.
#[derive(Debug)]
pub struct Speaker {
    peers: BTreeMap<PeerId, Peer>,
    rib: Rib,
    next: u32,
    next_group: u32,
    random: fastrand::Rng,
    /// When gathered changes are sent.
    flush: Option<Instant>,
    /// When changes were sent last.
    flushed: Option<Instant>,
    outputs: VecDeque<(PeerId, Output)>,
}

/// Why a route can't be announced.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("route {prefix}: {error}")]
pub struct RouteError {
    /// The route.
    pub prefix: IpNet,
    /// What is wrong with its attributes.
    pub error: PathError,
}

impl Speaker {
    /// Without peers and routes. `seed` is for the jitter.
    pub fn new(seed: u64) -> Self {
        Self {
            peers: BTreeMap::new(),
            rib: Rib::new(),
            next: 0,
            next_group: 0,
            random: fastrand::Rng::with_seed(seed),
            flush: None,
            flushed: None,
            outputs: VecDeque::new(),
        }
    }

    /// A group that has no peers yet.
    pub fn add_group(&mut self) -> GroupId {
        let group = GroupId(self.next_group);
        self.next_group += 1;
        group
    }

    /// Adds a peer, of no group; its session begins at once.
    pub fn add_peer(&mut self, config: PeerConfig, now: Instant) -> Result<PeerId, ConfigError> {
        self.add(None, config, now)
    }

    /// Adds a peer to a group; its session begins at once.
    pub fn add_member(
        &mut self,
        group: GroupId,
        config: PeerConfig,
        now: Instant,
    ) -> Result<PeerId, ConfigError> {
        self.add(Some(group), config, now)
    }

    fn add(
        &mut self,
        group: Option<GroupId>,
        config: PeerConfig,
        now: Instant,
    ) -> Result<PeerId, ConfigError> {
        config.validate()?;
        let id = PeerId(self.next);
        self.next += 1;
        let mut session = Session::new(config, self.random.u64(..));
        session.handle(Input::Start, now);
        let phase = Phase::Staying;
        let peer = Peer {
            group,
            session,
            phase,
        };
        self.peers.insert(id, peer);
        Ok(id)
    }

    /// Gives a peer other settings, and says what that did to its session. A
    /// peer that is not there has none to change.
    pub fn set_peer(
        &mut self,
        peer: PeerId,
        config: PeerConfig,
        now: Instant,
    ) -> Result<Change, ConfigError> {
        config.validate()?;
        let Some(entry) = self.peers.get_mut(&peer) else {
            return Ok(Change::None);
        };
        let change = entry.session.config().change_to(&config);
        if change == Change::None {
            return Ok(change);
        }
        entry.session.set_config(config, now);
        if change == Change::Reset {
            let input = Input::Reset(Code::CONFIGURATION_CHANGE);
            entry.session.handle(input, now);
            self.settle(peer);
        } else {
            self.reexport(peer);
        }
        Ok(change)
    }

    /// Ends a peer's session in one of the ways there are, and forgets the
    /// peer. What is to be done for it is still given out.
    pub fn remove_peer(&mut self, peer: PeerId, stop: &Stop, now: Instant) {
        self.handle(peer, Input::Stop(stop), now);
        self.peers.remove(&peer);
    }

    /// The peers there are.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.peers.keys().copied()
    }

    /// The session with a peer.
    pub fn session(&self, peer: PeerId) -> Option<&Session> {
        self.peers.get(&peer).map(|entry| &entry.session)
    }

    /// Announces a route, or announces it otherwise. Each peer gets it with
    /// the first offer that is for it, if there is one.
    pub fn announce(
        &mut self,
        prefix: IpNet,
        offers: &[Offer],
        now: Instant,
    ) -> Result<(), RouteError> {
        for offer in offers {
            let error = offer.attributes.validate();
            error.map_err(|error| RouteError { prefix, error })?;
        }
        self.rib.announce(prefix, offers);
        self.gather(now);
        Ok(())
    }

    /// Withdraws a route.
    pub fn withdraw(&mut self, prefix: IpNet, now: Instant) {
        self.rib.withdraw(prefix);
        self.gather(now);
    }

    fn gather(&mut self, now: Instant) {
        if self.flush.is_none() && self.rib.has_news() {
            let quiet = self.flushed.map(|last| last + GATHER);
            self.flush = Some(quiet.map_or(now, |quiet| quiet.max(now)));
        }
    }

    /// All routes that this speaker has to begin with have been announced.
    /// Before that no peer is told End-of-RIB, at which one that has kept our
    /// routes over a restart drops those that were not sent again.
    pub fn set_complete(&mut self) {
        self.rib.set_complete();
        self.wake();
    }

    /// How many routes there are.
    pub const fn routes(&self) -> usize {
        self.rib.len()
    }

    /// How many different attribute sets they have.
    pub fn attribute_sets(&self) -> usize {
        self.rib.sets()
    }

    /// How often UPDATEs were made for a peer, and not shared with another.
    pub const fn encodings(&self) -> u64 {
        self.rib.encodings()
    }

    /// How many routes a peer has been told of.
    pub fn told(&self, peer: PeerId) -> usize {
        self.rib.told(peer)
    }

    /// What a peer gets, or would get: prefixes, and attributes without what
    /// its policy adds.
    pub fn routes_for(&self, peer: PeerId) -> impl Iterator<Item = (IpNet, &PathAttributes)> {
        self.rib
            .routes(self.peers.get(&peer).and_then(|entry| entry.group))
    }

    /// A peer has dialled us. None if it is not there: close the connection.
    pub fn accept(&mut self, peer: PeerId, local: IpAddr, now: Instant) -> Option<ConnectionId> {
        let entry = self.peers.get_mut(&peer)?;
        let id = entry.session.accept(local, now);
        self.settle(peer);
        Some(id)
    }

    /// Takes in what happened to a peer's session.
    pub fn handle(&mut self, peer: PeerId, input: Input<'_>, now: Instant) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.session.handle(input, now);
            self.settle(peer);
        }
    }

    /// Drains a peer; in the end there is [`Output::Stopped`]. Without a
    /// session it is stopped at once.
    pub fn drain(&mut self, peer: PeerId, drain: Drain, now: Instant) {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        if entry.session.established().is_none() {
            let stop = Stop::Shutdown(drain.text);
            return self.handle(peer, Input::Stop(&stop), now);
        }
        if matches!(entry.phase, Phase::Staying) {
            entry.phase = Phase::Going {
                until: now + drain.wait,
                text: drain.text,
            };
            self.reexport(peer);
        }
    }

    /// Closes all sessions without a word, so that peers that do graceful
    /// restart keep our routes until we are back (RFC 4724 §4).
    pub fn restart(&mut self, now: Instant) {
        for peer in self.ids() {
            self.handle(peer, Input::Stop(&Stop::Restart), now);
        }
    }

    fn ids(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    /// Has a peer's routes written as its settings and its phase want it now.
    fn reexport(&mut self, peer: PeerId) {
        let Some(entry) = self.peers.get(&peer) else {
            return;
        };
        if let Some(export) = entry.export() {
            self.rib.set_export(peer, export);
            self.wake();
        }
    }

    fn settle(&mut self, peer: PeerId) {
        self.pass_on(peer);
        self.wake();
    }

    /// Tells the routes of what a session has put out, and passes it on.
    fn pass_on(&mut self, peer: PeerId) {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        while let Some(output) = entry.session.poll_output() {
            match &output {
                Output::Up(terms) => {
                    let (going, withdrawn) = entry.phase.flags();
                    let export = terms.export(entry.session.config(), going, withdrawn);
                    let enhanced = terms.enhanced_refresh;
                    self.rib
                        .add_peer(peer, entry.group, export, terms.families, enhanced);
                    self.flush = None;
                }
                Output::Down(_) => self.rib.remove_peer(peer),
                Output::Refresh(family) => self.rib.refresh(peer, *family),
                Output::Stopped => entry.phase = Phase::Staying,
                _ => {}
            }
            self.outputs.push_back((peer, output));
        }
    }

    /// Asks for the sockets of peers that have yet to be told something.
    fn wake(&mut self) {
        for (id, entry) in &mut self.peers {
            if let Some(connection) = entry.session.idle_connection()
                && self.rib.has_work(*id)
            {
                entry.session.ask_to_transmit(connection);
                while let Some(output) = entry.session.poll_output() {
                    self.outputs.push_back((*id, output));
                }
            }
        }
    }

    /// What is to be done for a peer, and what is new with it.
    pub fn poll_output(&mut self) -> Option<(PeerId, Output)> {
        self.outputs.pop_front()
    }

    /// The bytes to send next on a connection; empty if there are none.
    pub fn pending(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) -> &[u8] {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return &[];
        };
        if entry.session.idle_connection() == Some(connection) && self.rib.has_work(peer) {
            entry.session.send(connection, self.rib.take(peer), now);
        }
        entry.session.pending(connection)
    }

    /// The socket took the first `count` bytes of what is pending.
    pub fn transmitted(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        count: usize,
        now: Instant,
    ) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.session.transmitted(connection, count, now);
            self.leave(peer, now);
        }
    }

    /// Stops a peer that is drained and has taken all its withdrawals, or does
    /// not take them.
    fn leave(&mut self, peer: PeerId, now: Instant) {
        let Some(entry) = self.peers.get(&peer) else {
            return;
        };
        let Phase::Withdrawing { until, text } = &entry.phase else {
            return;
        };
        let told = entry.session.idle_connection().is_some() && !self.rib.has_work(peer);
        let gone = entry.session.established().is_none();
        if told || gone || *until <= now {
            let stop = Stop::Shutdown(text.clone());
            self.handle(peer, Input::Stop(&stop), now);
        }
    }

    /// When to come back for [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let peers = self.peers.values().flat_map(|entry| {
            let phase = match entry.phase {
                Phase::Staying => None,
                Phase::Going { until, .. } | Phase::Withdrawing { until, .. } => Some(until),
            };
            [entry.session.poll_timeout(), phase]
        });
        peers.chain([self.flush]).flatten().min()
    }

    /// Does what is due. What the sockets have received must have been handed
    /// in before.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.flush.is_some_and(|at| at <= now) {
            self.flush = None;
            self.flushed = Some(now);
            self.rib.publish();
        }
        for peer in self.ids() {
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.session.handle_timeout(now);
            }
            self.pass_on(peer);
            self.advance(peer, now);
            self.leave(peer, now);
        }
        self.wake();
    }

    /// The wait of a peer that is drained is over.
    fn advance(&mut self, peer: PeerId, now: Instant) {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        if let Phase::Going { until, text } = &mut entry.phase
            && *until <= now
        {
            entry.phase = Phase::Withdrawing {
                until: now + WITHDRAWAL_WAIT,
                text: std::mem::take(text),
            };
            self.reexport(peer);
        }
    }
}

impl Phase {
    /// Whether the paths are told to be going away, and whether they are
    /// withdrawn.
    const fn flags(&self) -> (bool, bool) {
        match self {
            Self::Staying => (false, false),
            Self::Going { .. } => (true, false),
            Self::Withdrawing { .. } => (true, true),
        }
    }
}

impl Peer {
    fn export(&self) -> Option<crate::export::Export> {
        let (terms, _) = self.session.established()?;
        let (going, withdrawn) = self.phase.flags();
        Some(terms.export(self.session.config(), going, withdrawn))
    }
}

#[cfg(test)]
mod tests;
