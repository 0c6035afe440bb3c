//! Failure detection: who is there, who hears whom.
//!
//! A node is dead when nobody has heard it for the profile's time: what the
//! others hear is in their heartbeats, so each detection rests on the opinion
//! of all. Time in which we ourselves did not run does not count.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::claim::Copy;
use crate::id::{GroupId, NodeId};
use crate::profile::Profile;
use crate::wire::{Heard, Heartbeat, MAX_HEARD, Opinion, Unanswered};

/// Datagrams of ours that may still be confirmed.
const REMEMBERED: usize = 512;

/// A session is new, and no replay, if it heard us within this time.
const RECENT: Duration = Duration::from_secs(2);

/// A node that was not heard for so long is forgotten, with all that it claimed.
const FORGET: Duration = Duration::from_mins(1);

/// How a node is, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Liveness {
    /// We hear each other.
    Up,
    /// We hear it, it does not hear us, but others.
    OneWay,
    /// Others hear it, we do not.
    Relayed,
    /// Nobody hears it, but its node answers for its own address: the process
    /// is stopped or gone.
    Stalled,
    /// It is heard, and hears nobody: nobody's questions reach it.
    Deaf,
    /// Nobody hears it.
    Down,
    /// It said that it goes.
    Left,
}

impl Liveness {
    /// Whether what it owns is still its own.
    pub const fn stands(self) -> bool {
        matches!(
            self,
            Self::Up | Self::OneWay | Self::Relayed | Self::Stalled
        )
    }

    /// Whether we hear it ourselves.
    pub(crate) const fn is_heard(self) -> bool {
        matches!(self, Self::Up | Self::OneWay | Self::Deaf)
    }
}

/// What is known of another node.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag on the wire")]
pub(crate) struct Peer {
    session: u64,
    sequence: u64,
    interval: Duration,
    /// When we last heard it.
    heard: Instant,
    /// When another last heard it.
    relayed: Option<Instant>,
    /// When its node last answered a probe.
    answered: Option<Instant>,
    /// When it last heard anybody.
    hears: Instant,
    /// When that was sent which it last heard from us; moved on by our stalls.
    confirmed: Option<Instant>,
    /// The same, as it was: an owner under `strict` counts on it.
    pub(crate) leased: Option<Instant>,
    /// Up to where it knows our claims.
    pub(crate) have: u64,
    pub(crate) objections: Vec<(GroupId, NodeId)>,
    pub(crate) objects_to_all: bool,
    /// What it asked for in vain.
    pub(crate) unanswered: Vec<Unanswered>,
    pub(crate) ready: bool,
    /// Whether its vote counts.
    pub(crate) votes: bool,
    pub(crate) draining: bool,
    left: bool,
    pub(crate) view: u64,
    /// How many changes its claims have had.
    version: u64,
    pub(crate) claims: Copy,
    /// By profile.
    liveness: [Liveness; 3],
    probes: u32,
    /// When to look at it again: before, and until it is heard of, nothing changes.
    due: Instant,
    /// The same, as far as the profiles in use are concerned.
    wake: Option<Instant>,
}

impl Peer {
    fn new(heartbeat: &Heartbeat, now: Instant) -> Self {
        Self {
            session: heartbeat.session,
            sequence: 0,
            interval: heartbeat.interval,
            heard: now,
            relayed: None,
            answered: None,
            hears: now,
            confirmed: None,
            leased: None,
            have: 0,
            objections: Vec::new(),
            objects_to_all: false,
            unanswered: Vec::new(),
            ready: false,
            votes: false,
            draining: false,
            left: false,
            view: 0,
            version: 0,
            claims: Copy::default(),
            liveness: [Liveness::Down; 3],
            probes: 0,
            due: now,
            wake: None,
        }
    }

    /// Silence after which it is dead; one that speaks less often than we
    /// expect is waited for.
    fn detect(&self, profile: Profile) -> Duration {
        profile.detect().max(self.interval * 7 / 2)
    }

    /// When it was last heard by anybody.
    fn last_heard(&self) -> Instant {
        self.relayed.map_or(self.heard, |at| at.max(self.heard))
    }

    pub(crate) const fn session(&self) -> u64 {
        self.session
    }

    /// Whether all that it claims is known.
    pub(crate) const fn is_synced(&self) -> bool {
        self.claims.have() >= self.version
    }

    pub(crate) const fn liveness(&self, profile: Profile) -> Liveness {
        self.liveness[profile.index()]
    }

    /// Whether it has told us that it heard what we sent at `then` or later.
    pub(crate) fn has_heard_since(&self, then: Instant) -> bool {
        self.confirmed.is_some_and(|at| at >= then)
    }

    /// Whether it objects to anything.
    pub(crate) const fn objects(&self) -> bool {
        self.objects_to_all || !self.objections.is_empty()
    }

    /// Whether we ourselves heard it within the profile's time.
    pub(crate) fn is_heard(&self, profile: Profile, now: Instant) -> bool {
        !self.left && now < self.heard + self.detect(profile)
    }

    fn liveness_at(&self, profile: Profile, now: Instant) -> Liveness {
        let within = |at: Instant, time| now < at + time;
        let (detect, last) = (self.detect(profile), self.last_heard());
        if self.left {
            Liveness::Left
        } else if !within(last, detect) {
            let answered = self.answered.is_some_and(|at| at > last);
            if answered && within(last, detect.max(profile.stalled())) {
                Liveness::Stalled
            } else {
                Liveness::Down
            }
        } else if self.heard >= self.hears + detect {
            // By its own last word, which may be a while ago.
            Liveness::Deaf
        } else if !within(self.heard, detect) {
            Liveness::Relayed
        } else if self.confirmed.is_some_and(|at| within(at, detect)) {
            Liveness::Up
        } else {
            Liveness::OneWay
        }
    }

    /// When its liveness may change next.
    fn deadlines(&self, profile: Profile) -> impl Iterator<Item = Instant> {
        let (detect, last) = (self.detect(profile), self.last_heard());
        [
            Some(self.heard + detect),
            Some(last + detect),
            Some(last + detect.max(profile.stalled())),
            self.confirmed.map(|at| at + detect),
            self.leased.map(|at| at + profile.fence()),
            self.probe_due(profile),
        ]
        .into_iter()
        .flatten()
    }

    /// When its node is to be asked whether it is alive: at half and at three
    /// quarters of the time.
    fn probe_due(&self, profile: Profile) -> Option<Instant> {
        let quarters = (!self.left && self.probes < 2).then_some(self.probes + 2)?;
        Some(self.last_heard() + self.detect(profile) * quarters / 4)
    }

    /// The next time at which its liveness may change by one of these profiles.
    fn next_deadline(&self, profiles: &[Profile], now: Instant) -> Option<Instant> {
        let deadlines = profiles.iter().flat_map(|profile| self.deadlines(*profile));
        deadlines.filter(|at| *at > now).min()
    }

    /// Computes its liveness anew; says whether it changed.
    fn refresh(&mut self, profiles: &[Profile], now: Instant) -> bool {
        self.due = self
            .next_deadline(&Profile::ALL, now)
            .unwrap_or(now + FORGET);
        self.wake = self.next_deadline(profiles, now);
        let liveness = Profile::ALL.map(|profile| self.liveness_at(profile, now));
        std::mem::replace(&mut self.liveness, liveness) != liveness
    }

    /// Moves all that is known on, as if it had happened later.
    fn shift(&mut self, by: Duration, now: Instant) {
        self.due = now;
        for at in [&mut self.heard, &mut self.hears] {
            *at = (*at + by).min(now);
        }
        for at in [&mut self.relayed, &mut self.answered, &mut self.confirmed] {
            *at = at.map(|at| (at + by).min(now));
        }
    }
}

/// A session that has not yet proved that it is no replay.
#[derive(Debug)]
struct Pending {
    session: u64,
    sequence: u64,
    heard: Instant,
}

/// What a heartbeat brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Old, or of a session that is over.
    Replay,
    /// Of a node that does not yet know that we hear it.
    Stranger,
    /// A heartbeat of a session that we know, or know from now on.
    News {
        /// Groups of which it claims something else now.
        groups: Vec<GroupId>,
        /// Whether something is new that concerns all groups.
        all: bool,
    },
}

/// All other nodes.
#[derive(Debug)]
pub(crate) struct Peers {
    session: u64,
    known: BTreeMap<NodeId, Peer>,
    pending: BTreeMap<NodeId, Pending>,
    sessions: BTreeMap<u64, NodeId>,
    /// When our last datagrams were sent.
    sent: VecDeque<(u64, Instant)>,
}

impl Peers {
    pub(crate) fn new(session: u64) -> Self {
        Self {
            session,
            known: BTreeMap::new(),
            pending: BTreeMap::new(),
            sessions: BTreeMap::new(),
            sent: VecDeque::new(),
        }
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.known.get(&node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.known.iter().map(|(node, peer)| (*node, peer))
    }

    /// Remembers that a datagram of ours was sent.
    pub(crate) fn sent(&mut self, sequence: u64, now: Instant) {
        self.sent.push_back((sequence, now));
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
    }

    /// Which datagram of ours has this lower half of a sequence number, and
    /// when it was sent.
    fn when_sent(&self, low: u32) -> Option<Instant> {
        let (last, _) = *self.sent.back()?;
        let sequence = last.checked_sub(u64::from(lower(last).wrapping_sub(low)))?;
        let place = self
            .sent
            .binary_search_by_key(&sequence, |(s, _)| *s)
            .ok()?;
        Some(self.sent[place].1)
    }

    /// Takes a heartbeat in that came at `heard`. `version` is that of our own
    /// claims.
    pub(crate) fn receive(
        &mut self,
        hb: &Heartbeat,
        version: u64,
        heard: Instant,
        now: Instant,
    ) -> Received {
        let known = self.known.get(&hb.sender);
        let mut joined = false;
        if known.is_none_or(|peer| peer.session != hb.session) {
            if !self.admit(hb, heard, now) {
                return Received::Stranger;
            }
            joined = true;
        }
        let heard_us = hb.opinion.as_ref().map(|opinion| {
            let ours = opinion.heard.iter().find(|h| h.session == self.session);
            ours.map(|heard| (self.when_sent(heard.sequence), heard.have))
        });
        let Some(peer) = self.known.get_mut(&hb.sender) else {
            return Received::Stranger;
        };
        if peer.sequence >= hb.sequence && !joined {
            return Received::Replay;
        }
        peer.due = now;
        peer.sequence = hb.sequence;
        // Never back: time in which we did not run was added to it.
        peer.heard = peer.heard.max(heard);
        peer.probes = 0;
        peer.interval = hb.interval;
        let before = (peer.ready, peer.draining, peer.left, peer.is_synced());
        peer.ready = hb.ready;
        // Speakers of versions without this flag vote when they are ready.
        peer.votes = hb.votes || hb.ready;
        peer.draining = hb.draining;
        peer.left = hb.leaving;
        peer.view = hb.view;
        peer.version = hb.claims;
        let mut groups = peer.claims.rebase(hb.floor);
        if let Some(page) = &hb.page {
            groups.extend(peer.claims.apply(page));
        }
        if let Some(opinion) = &hb.opinion {
            if let Some(Some((sent, have))) = heard_us {
                if sent > peer.leased {
                    peer.leased = sent;
                    peer.confirmed = sent;
                }
                let have = version.checked_sub(lower(version).wrapping_sub(have).into());
                peer.have = have.unwrap_or(0);
            }
            if let Some(age) = opinion.heard.iter().filter_map(|heard| heard.age).min() {
                peer.hears = heard.checked_sub(age).unwrap_or(heard).max(peer.hears);
            }
            peer.objections.clone_from(&opinion.objections);
            peer.objects_to_all = opinion.objects_to_all;
            if peer.unanswered != opinion.unanswered {
                peer.unanswered.clone_from(&opinion.unanswered);
                joined = true;
            }
        }
        let after = (peer.ready, peer.draining, peer.left, peer.is_synced());
        if let Some(opinion) = &hb.opinion {
            self.relay(opinion, heard, now);
        }
        Received::News {
            groups,
            all: joined || before != after,
        }
    }

    /// Whether a session that we do not know is to be taken for the node's:
    /// it has heard us lately, which no replay can have.
    fn admit(&mut self, hb: &Heartbeat, at: Instant, now: Instant) -> bool {
        let heard_us = hb.opinion.iter().flat_map(|opinion| &opinion.heard);
        let proved = heard_us
            .filter(|heard| heard.session == self.session)
            .filter_map(|heard| self.when_sent(heard.sequence))
            .any(|sent| now < sent + RECENT);
        if proved {
            self.adopt(hb.sender, Peer::new(hb, at));
            return true;
        }
        if self.pending.len() < MAX_HEARD || self.pending.contains_key(&hb.sender) {
            let pending = self.pending.entry(hb.sender).or_insert(Pending {
                session: hb.session,
                sequence: 0,
                heard: now,
            });
            // One stays until it has been silent for a while, so that a replay
            // can't keep the other from being heard.
            if pending.session == hb.session && pending.sequence < hb.sequence {
                pending.sequence = hb.sequence;
                pending.heard = now;
            } else if now >= pending.heard + RECENT / 8 {
                *pending = Pending {
                    session: hb.session,
                    sequence: hb.sequence,
                    heard: now,
                };
            }
        }
        false
    }

    fn adopt(&mut self, node: NodeId, peer: Peer) {
        self.pending.remove(&node);
        self.sessions.insert(peer.session, node);
        if let Some(before) = self.known.insert(node, peer) {
            self.sessions.remove(&before.session);
        }
    }

    /// Takes in what another node said at `then` that it hears.
    fn relay(&mut self, opinion: &Opinion, then: Instant, now: Instant) {
        for heard in &opinion.heard {
            let Some(age) = heard.age else { continue };
            let Some(node) = self.sessions.get(&heard.session) else {
                continue;
            };
            if let Some(peer) = self.known.get_mut(node) {
                peer.relayed = peer.relayed.max(then.checked_sub(age));
                if !peer.liveness.iter().all(|liveness| liveness.is_heard()) {
                    peer.due = now;
                }
            }
        }
    }

    /// Our link is back: who hears us now is still to be seen.
    pub(crate) fn rejoin(&mut self, now: Instant) {
        for peer in self.known.values_mut() {
            peer.confirmed = None;
            peer.leased = None;
            peer.due = now;
        }
    }

    /// Other profiles are in use.
    pub(crate) fn look_again(&mut self, now: Instant) {
        for peer in self.known.values_mut() {
            peer.due = now;
        }
    }

    /// A node answered for its own address.
    pub(crate) fn answered(&mut self, node: NodeId, now: Instant) {
        if let Some(peer) = self.known.get_mut(&node) {
            peer.answered = Some(now);
            peer.due = now;
        }
    }

    /// Whom we hear, for our own heartbeat.
    pub(crate) fn heard(&self, now: Instant) -> Vec<Heard> {
        let known = self.known.values().filter(|peer| now < peer.heard + RECENT);
        let pending = self.pending.values();
        known
            .map(|peer| Heard {
                session: peer.session,
                sequence: lower(peer.sequence),
                have: lower(peer.claims.have()),
                age: Some(now.saturating_duration_since(peer.heard)),
            })
            .chain(
                pending
                    .filter(|pending| now < pending.heard + RECENT)
                    .map(|pending| Heard {
                        session: pending.session,
                        sequence: lower(pending.sequence),
                        have: 0,
                        age: None,
                    }),
            )
            .take(MAX_HEARD)
            .collect()
    }

    /// How far the slowest of those has come who listen to our claims.
    pub(crate) fn slowest(&self, now: Instant) -> Option<u64> {
        let listening = self
            .known
            .values()
            .filter(|peer| !peer.left && peer.confirmed.is_some_and(|at| now < at + RECENT));
        listening.map(|peer| peer.have).min()
    }

    /// Time in which we did not run is not charged to the others.
    pub(crate) fn shift(&mut self, by: Duration, now: Instant) {
        for peer in self.known.values_mut() {
            peer.shift(by, now);
        }
    }

    /// Computes everyone's liveness anew; names those for whom it changed by any
    /// profile, with how they are by `profile` if that is another than before.
    /// `profiles` are all that are in use.
    pub(crate) fn refresh(
        &mut self,
        profile: Profile,
        profiles: &[Profile],
        now: Instant,
    ) -> Vec<(NodeId, Option<Liveness>)> {
        let due = self.known.iter_mut().filter(|(_, peer)| peer.due <= now);
        due.filter_map(|(node, peer)| {
            let before = peer.liveness(profile);
            let changed = peer.refresh(profiles, now);
            let liveness = Some(peer.liveness(profile)).filter(|now| *now != before);
            changed.then_some((*node, liveness))
        })
        .collect()
    }

    /// Nodes to be asked now whether they are alive. Called before
    /// [`refresh`](Self::refresh).
    pub(crate) fn probes(&mut self, profiles: &[Profile], now: Instant) -> Vec<NodeId> {
        let mut nodes = Vec::new();
        for (node, peer) in self.known.iter_mut().filter(|(_, peer)| peer.due <= now) {
            for profile in profiles {
                if peer.probe_due(*profile).is_some_and(|at| at <= now) {
                    peer.probes += 1;
                    nodes.push(*node);
                }
            }
        }
        nodes
    }

    /// Forgets who has been away for long.
    pub(crate) fn forget(&mut self, now: Instant) -> Vec<NodeId> {
        self.pending
            .retain(|_, pending| now < pending.heard + RECENT);
        let gone: Vec<NodeId> = self
            .iter()
            .filter(|(_, peer)| now >= peer.last_heard() + FORGET)
            .map(|(node, _)| node)
            .collect();
        for node in &gone {
            if let Some(peer) = self.known.remove(node) {
                self.sessions.remove(&peer.session);
            }
        }
        gone
    }

    /// The next moment at which anybody's liveness may change.
    pub(crate) fn next_change(&self) -> Option<Instant> {
        self.known.values().filter_map(|peer| peer.wake).min()
    }

    /// When the next of the leases that we have from others ends, by any
    /// profile.
    pub(crate) fn next_lease_end(&self, now: Instant) -> Instant {
        let leases = self.known.values().filter_map(|peer| peer.leased);
        leases
            .flat_map(|at| Profile::ALL.map(|profile| at + profile.fence()))
            .filter(|end| *end > now)
            .min()
            .unwrap_or(now)
    }

    /// How many were lost together with the one that was lost last.
    pub(crate) fn lost_together(&self, profile: Profile) -> usize {
        let lost: Vec<Instant> = self
            .known
            .values()
            .filter(|peer| matches!(peer.liveness(profile), Liveness::Down | Liveness::Deaf))
            .map(Peer::last_heard)
            .collect();
        let last = lost.iter().max().copied();
        lost.iter()
            .filter(|at| last.is_some_and(|last| **at + profile.detect() > last))
            .count()
    }
}

/// The lower half of a number that grows.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper half is known to both"
)]
const fn lower(number: u64) -> u32 {
    number as u32
}
