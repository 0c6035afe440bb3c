//! The election on one segment, as one of its speakers runs it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::claim::{Ledger, Standing};
use crate::group::{Cause, Entry, Group, Mine, Silence, View};
use crate::id::{GroupId, NodeId};
use crate::peers::{Liveness, Peer, Peers, Received};
use crate::profile::Profile;
use crate::votes::Votes;
use crate::wire::{Heartbeat, MAX_UNANSWERED, Opinion, Unanswered, room_for_claims};

/// How long a speaker that starts, or whose link comes back, owns nothing, if
/// not all voters are heard before.
pub const HOLD_DOWN: Duration = Duration::from_secs(2);

/// A speaker that hears one it cannot understand waits for it no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Datagrams with claims that go out at once.
const PAGES: usize = 32;

/// A timer that is so late is a stall; less is noise.
const NOISE: Duration = Duration::from_millis(10);

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which node this is.
    pub node: NodeId,
    /// Drawn by lot whenever an election begins. It tells this start from an
    /// earlier one, and real heartbeats from replayed ones.
    pub session: u64,
    /// The profile while no group has another.
    pub profile: Profile,
}

/// A heartbeat to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// What to send.
    pub heartbeat: Heartbeat,
    /// Whether the segment's own link is down, and other ways to the peers, if
    /// there are any, are to be tried.
    pub detour: bool,
}

/// What became of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// It counts: it is of a session that has proved that it is no recording, and
    /// newer than what came of that session before.
    Counted,
    /// Of a session that has yet to prove that it is no recording.
    Stranger,
    /// Old, our own, or not wanted now.
    Ignored,
}

/// What the caller has to do, or may want to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The group is ours: answer for it and announce it.
    Announce {
        /// Which group.
        group: GroupId,
        /// Why.
        cause: Cause,
    },
    /// The group is still ours, and others may have been told otherwise:
    /// announce it again.
    Reannounce {
        /// Which group.
        group: GroupId,
    },
    /// Another has the group: stop announcing, and stop answering as soon as
    /// its announcement is heard.
    HandOver {
        /// Which group.
        group: GroupId,
        /// Who has it.
        to: NodeId,
    },
    /// Stop answering and announcing at once.
    Withdraw {
        /// Which group.
        group: GroupId,
        /// Why.
        why: Silence,
    },
    /// Ask on the segment whether this node's own address is answered for, and
    /// call [`Election::node_answered`] if it is.
    Probe {
        /// Which node.
        node: NodeId,
    },
    /// Another node is seen differently.
    Peer {
        /// Which node.
        node: NodeId,
        /// How it is now.
        liveness: Liveness,
    },
    /// We did not run for this long; the others are not blamed for it.
    Stalled {
        /// How late we are.
        late: Duration,
    },
    /// Another speaker says that it is this node: two nodes share a name.
    Impostor,
}

/// What an election has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Heartbeats taken in.
    pub received: u64,
    /// Heartbeats that were old or replayed.
    pub replayed: u64,
    /// Heartbeats made.
    pub sent: u64,
    /// Groups taken over.
    pub taken: u64,
}

/// Others that are to be heard after a stall of ours, or a time without any of
/// them, before we trust what we know.
#[derive(Debug)]
struct Doubt {
    /// What is heard before may have waited in the socket.
    from: Instant,
    until: Instant,
    waiting: BTreeSet<NodeId>,
}

/// A speaker's part in the election of owners on one segment.
///
/// The caller feeds heartbeats, the API's view and the state of the link in,
/// then drains [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event), and calls
/// [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout).
/// Heartbeats are opened by a [`KeyRing`](crate::KeyRing) before, and sealed
/// behind.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact that stands by itself"
)]
pub struct Election {
    pub(crate) config: Config,
    pub(crate) view: u64,
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) groups: BTreeMap<GroupId, Entry>,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) peers: Peers,
    pub(crate) ledger: Ledger,
    pub(crate) votes: Votes,
    sequence: u64,
    /// Since when the link is up; none while it is down.
    joined: Option<Instant>,
    seen: bool,
    /// Since when we may own something.
    pub(crate) ready: Option<Instant>,
    pub(crate) draining: bool,
    left: bool,
    doubt: Option<Doubt>,
    /// Whether nobody else is there.
    alone: bool,
    /// What this node asked for in vain.
    pub(crate) unanswered: Vec<Unanswered>,
    /// When leases are to be looked at again.
    leases: Instant,
    /// Groups under `strict` that we ask for, and those that we have; some may not
    /// be so any more.
    pub(crate) asked: BTreeSet<GroupId>,
    pub(crate) leased: BTreeSet<GroupId>,
    /// Groups to be looked at anew.
    dirty: BTreeSet<GroupId>,
    pub(crate) rechecks: BTreeSet<(Instant, GroupId)>,
    next_beat: Instant,
    last_beat: Instant,
    urgent: bool,
    /// Whether somebody is heard again.
    returned: bool,
    /// The version of our claims that has been sent at least once.
    told: u64,
    /// When we wanted to be called.
    expected: Option<Instant>,
    transmit: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counters: Counters,
}

impl Election {
    /// Owns nothing yet, and waits for [`set_view`](Self::set_view). The link is
    /// taken to be up.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            view: 0,
            voters: BTreeSet::new(),
            groups: BTreeMap::new(),
            profiles: vec![config.profile],
            peers: Peers::new(config.session),
            ledger: Ledger::default(),
            votes: Votes::default(),
            sequence: 0,
            joined: Some(now),
            seen: false,
            ready: None,
            draining: false,
            left: false,
            doubt: None,
            alone: true,
            unanswered: Vec::new(),
            leases: now,
            asked: BTreeSet::new(),
            leased: BTreeSet::new(),
            dirty: BTreeSet::new(),
            rechecks: BTreeSet::new(),
            next_beat: now,
            last_beat: now,
            urgent: true,
            returned: false,
            told: 0,
            expected: None,
            transmit: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What it has done so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether we answer for a group.
    pub fn owns(&self, group: GroupId) -> bool {
        let entry = self.groups.get(&group);
        entry.is_some_and(|entry| matches!(entry.mine, Mine::Holding { silent: false, .. }))
    }

    /// The groups that we answer for.
    pub fn owned(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups
            .keys()
            .copied()
            .filter(|group| self.owns(*group))
    }

    /// Who owns a group, as far as we know.
    pub fn owner(&self, group: GroupId) -> Option<NodeId> {
        let entry = self.groups.get(&group)?;
        let me = entry.mine.holds().then_some(self.config.node);
        me.or_else(|| self.field(entry).holder.map(|(node, _)| node))
    }

    /// Whether it knows the segment well enough to own something.
    pub const fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// How another node is by a profile.
    pub fn liveness(&self, node: NodeId, profile: Profile) -> Option<Liveness> {
        self.peers.get(node).map(|peer| peer.liveness(profile))
    }

    /// Whether this is a session of that node which we hear, or heard last.
    pub fn knows(&self, node: NodeId, session: u64) -> bool {
        self.peers
            .get(node)
            .is_some_and(|peer| peer.session() == session)
    }

    /// The number of the view has grown, and nothing else in it is different.
    pub fn set_view_number(&mut self, number: u64, now: Instant) {
        self.advance(now);
        // Somebody who knew more than we did keeps what he has until we know
        // as much.
        let behind = |peer: &Peer| peer.view > self.view;
        if self.peers.iter().any(|(_, peer)| behind(peer)) {
            self.all_dirty();
        }
        self.view = number;
        self.settle(now);
    }

    /// Takes in what the API says.
    pub fn set_view(&mut self, view: View, now: Instant) {
        self.advance(now);
        self.view = view.number;
        self.voters = view.voters;
        self.seen = true;
        let mut gone: BTreeSet<GroupId> = self.groups.keys().copied().collect();
        for spec in view.groups {
            gone.remove(&spec.id);
            self.profiles.push(spec.profile);
            self.set_group(spec, now);
        }
        for group in gone {
            self.withdraw(group, Silence::Gone);
            self.groups.remove(&group);
            self.ledger.abandon(group);
        }
        self.profiles = vec![self.config.profile];
        let used = self.groups.values().map(|entry| entry.spec.profile);
        self.profiles.extend(used);
        self.profiles.sort_unstable();
        self.profiles.dedup();
        self.peers.look_again(now);
        self.all_dirty();
        self.settle(now);
    }

    fn set_group(&mut self, spec: Group, now: Instant) {
        let id = spec.id;
        let entry = self
            .groups
            .entry(id)
            .or_insert_with(|| Entry::new(spec.clone(), now));
        if entry.spec != spec {
            entry.spec = spec;
            self.republish(id, now);
        }
    }

    /// The segment's link is up or down. Down is not waited out: what we have
    /// is given up at once.
    pub fn set_link(&mut self, up: bool, now: Instant) {
        self.advance(now);
        if up == self.joined.is_some() {
            return;
        }
        self.ready = None;
        self.doubt = None;
        if up {
            self.joined = Some(now);
            self.urgent = true;
            self.peers.rejoin(now);
        } else {
            self.withdraw_all(Silence::LinkDown);
            self.joined = None;
            self.farewell(true);
        }
        self.all_dirty();
        self.settle(now);
    }

    /// Takes in a heartbeat that was opened with a key of the segment.
    pub fn handle_heartbeat(&mut self, heartbeat: &Heartbeat, now: Instant) -> Reception {
        let reception = self.take_heartbeat(heartbeat, now, now);
        self.settle(now);
        reception
    }

    /// Takes in one of several heartbeats that came at `heard` and waited to be read
    /// until `now`. What follows from them is drawn by
    /// [`handle_timeout`](Self::handle_timeout), which is called after the last of them:
    /// once for all, as each of many peers speaks of all others.
    pub fn take_heartbeat(
        &mut self,
        heartbeat: &Heartbeat,
        heard: Instant,
        now: Instant,
    ) -> Reception {
        self.advance(now);
        let heard = heard.min(now);
        if self.joined.is_none() || self.left {
            return Reception::Ignored;
        }
        if heartbeat.sender == self.config.node {
            if heartbeat.session != self.config.session {
                self.events.push_back(Event::Impostor);
            }
            return Reception::Ignored;
        }
        let node = heartbeat.sender;
        match self
            .peers
            .receive(heartbeat, self.ledger.version(), heard, now)
        {
            Received::Replay => {
                self.counters.replayed += 1;
                Reception::Ignored
            }
            Received::Stranger => {
                self.urgent = true;
                Reception::Stranger
            }
            Received::News { groups, all } => {
                self.counters.received += 1;
                for group in groups {
                    let entry = self.groups.get(&group);
                    let ours = entry.is_some_and(|entry| entry.mine != Mine::Nothing);
                    self.votes
                        .claimed(self.config.node, node, group, &self.peers, ours, now);
                    self.dirty.insert(group);
                }
                if all {
                    self.all_dirty();
                }
                self.reassured_by(node, now);
                self.watch_votes(node);
                Reception::Counted
            }
        }
    }

    /// A node answered for its own address on the segment.
    pub fn node_answered(&mut self, node: NodeId, now: Instant) {
        self.advance(now);
        self.peers.answered(node, now);
        self.settle(now);
    }

    /// Asks the others to take what we have; nothing new is taken.
    pub fn drain(&mut self, now: Instant) {
        self.advance(now);
        self.draining = true;
        self.urgent = true;
        self.all_dirty();
        self.settle(now);
    }

    /// Gives all groups that another should have, and which are ours by rank,
    /// a chance to come to us: once, as far as damping lets them.
    pub fn rebalance(&mut self, now: Instant) {
        self.advance(now);
        for entry in self.groups.values_mut() {
            entry.rebalance = !(entry.mine.holds() && entry.spec.first == Some(self.config.node));
        }
        self.all_dirty();
        self.settle(now);
    }

    /// Gives up what is left, and tells the others. Nothing happens afterwards.
    pub fn leave(&mut self, now: Instant) {
        self.advance(now);
        self.withdraw_all(Silence::Left);
        self.left = true;
        self.ready = None;
        // Twice, as the others would otherwise have to find out by themselves.
        self.farewell(false);
        self.farewell(false);
        self.expected = None;
    }

    fn farewell(&mut self, detour: bool) {
        let heartbeat = Heartbeat {
            leaving: true,
            ..self.heartbeat(None, false)
        };
        self.transmit.push_back(Transmit { heartbeat, detour });
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.settle(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.expected
    }

    /// The next heartbeat to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmit.pop_front()
    }

    /// The next thing to do or to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Between two of our heartbeats: that of the soonest profile in use.
    fn interval(&self) -> Duration {
        let intervals = self.profiles.iter().map(|profile| profile.interval());
        intervals.min().unwrap_or(self.config.profile.interval())
    }

    /// What there is to say does not wait for the next heartbeat.
    pub(crate) const fn urgent(&mut self) {
        self.urgent = true;
    }

    pub(crate) fn all_dirty(&mut self) {
        self.dirty.extend(self.groups.keys());
    }

    /// Notices that we come late.
    fn advance(&mut self, now: Instant) {
        let Some(expected) = self.expected else {
            return;
        };
        let late = now.saturating_duration_since(expected);
        if late < NOISE.max(self.interval() / 2) || self.joined.is_none() {
            return;
        }
        self.expected = Some(now);
        self.peers.shift(late, now);
        // Who does not run does not listen.
        if self.ready.is_none() {
            self.joined = self.joined.map(|at| (at + late).min(now));
        }
        self.events.push_back(Event::Stalled { late });
        let silent = now.saturating_duration_since(self.last_beat);
        let waiting: BTreeSet<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                // Those who do not hear us may have taken what was ours all the same.
                let liveness = peer.liveness(self.config.profile);
                matches!(liveness, Liveness::Up | Liveness::OneWay)
            })
            .map(|(node, _)| node)
            .collect();
        if waiting.is_empty() {
            return;
        }
        // Others may have taken what they could not know to be in good hands.
        for (group, entry) in &mut self.groups {
            if silent >= entry.spec.profile.fence()
                && let Mine::Holding { silent, .. } = &mut entry.mine
                && !std::mem::replace(silent, true)
            {
                let (group, why) = (*group, Silence::Stalled);
                self.events.push_back(Event::Withdraw { group, why });
            }
        }
        let profiles = self.profiles.iter();
        let longest = profiles
            .filter(|profile| silent >= profile.fence())
            .max_by_key(|profile| profile.detect());
        if let Some(profile) = longest {
            self.doubt = Some(Doubt {
                from: now + self.interval() / 2,
                until: now + profile.detect(),
                waiting,
            });
        }
    }

    /// Who was alone and hears somebody again does not know yet what the others
    /// have, and calls nothing vacant before it does.
    fn note_return(&mut self, now: Instant) {
        let profile = self.config.profile;
        let stands = |peer: &Peer| peer.liveness(profile).stands();
        let before = std::mem::replace(
            &mut self.alone,
            !self.peers.iter().any(|(_, peer)| stands(peer)),
        );
        if !before || self.alone || self.ready.is_none() || self.doubt.is_some() {
            return;
        }
        let others = self.voters.iter().filter(|node| **node != self.config.node);
        self.doubt = Some(Doubt {
            from: now,
            until: now + profile.detect(),
            waiting: others.copied().collect(),
        });
    }

    /// One of those that we wait for after a stall or a return has been heard.
    fn reassured_by(&mut self, node: NodeId, now: Instant) {
        if let Some(doubt) = &mut self.doubt
            && now >= doubt.from
            && self.peers.get(node).is_some_and(Peer::is_synced)
        {
            doubt.waiting.remove(&node);
        }
    }

    /// Whether we know what the others have.
    pub(crate) const fn is_sure(&self) -> bool {
        self.doubt.is_none()
    }

    /// Brings everything in line with what is known now.
    fn settle(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.probe(now);
        let profile = self.config.profile;
        let changed = self.peers.refresh(profile, &self.profiles, now);
        if !changed.is_empty() {
            self.all_dirty();
        }
        for (node, liveness) in changed {
            let Some(liveness) = liveness else { continue };
            // Who is heard again is to know soon that it is, and what it missed.
            self.returned |= liveness.is_heard();
            self.events.push_back(Event::Peer { node, liveness });
        }
        self.note_return(now);
        if let Some(doubt) = &self.doubt
            && (doubt.waiting.is_empty() || now >= doubt.until)
        {
            self.doubt = None;
            self.all_dirty();
        }
        self.check_ready(now);
        if now >= self.leases {
            self.leases = self.peers.next_lease_end(now);
            self.watch_leases();
        }
        while let Some((at, group)) = self.rechecks.first().copied()
            && at <= now
        {
            self.rechecks.remove(&(at, group));
            self.dirty.insert(group);
        }
        for group in std::mem::take(&mut self.dirty) {
            if let Some(at) = self.evaluate(group, now) {
                self.rechecks.insert((at, group));
            }
        }
        self.speak(now);
        self.expected = self.next_timeout(now);
    }

    fn probe(&mut self, now: Instant) {
        if self.joined.is_none() {
            return;
        }
        let due = self.peers.probes(&self.profiles, now);
        let probes = due.into_iter().map(|node| Event::Probe { node });
        self.events.extend(probes);
    }

    /// Whether the hold-down is over: all voters are heard and all that is
    /// claimed is known, or it has lasted long enough.
    fn check_ready(&mut self, now: Instant) {
        let Some(joined) = self.joined else { return };
        if self.ready.is_some() || !self.seen {
            return;
        }
        let profile = self.config.profile;
        // Heard since, and not only remembered from before the link went away:
        // it may have taken what was ours meanwhile.
        let up = |node: &NodeId| {
            *node == self.config.node
                || self.peers.get(*node).is_some_and(|peer| {
                    peer.liveness(profile) == Liveness::Up && peer.has_heard_since(joined)
                })
        };
        let lagging = self
            .peers
            .iter()
            .any(|(_, peer)| peer.liveness(profile).stands() && !peer.is_synced());
        let waited = now.saturating_duration_since(joined);
        let complete = !lagging && self.voters.iter().all(up);
        if complete || waited >= HOLD_DOWN && !lagging || waited >= PATIENCE {
            self.ready = Some(now);
            self.urgent = true;
            self.all_dirty();
        }
    }

    /// Groups under `strict` depend on votes, which any heartbeat may bring or
    /// take away.
    fn watch_votes(&mut self, node: NodeId) {
        let groups = &self.groups;
        self.asked.retain(|group| {
            let entry = groups.get(group);
            entry.is_some_and(|entry| matches!(entry.mine, Mine::Acquiring { .. }))
        });
        self.dirty.extend(&self.asked);
        if self.peers.get(node).is_some_and(Peer::objects) {
            self.watch_leases();
        }
    }

    /// And on leases, which end by themselves.
    fn watch_leases(&mut self) {
        let groups = &self.groups;
        self.leased.retain(|group| {
            let entry = groups.get(group);
            entry.is_some_and(|entry| entry.is_strict() && entry.mine.holds())
        });
        self.dirty.extend(&self.leased);
    }

    fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let joined = self.joined?;
        let beat = if self.urgent || self.returned {
            self.next_beat.min(self.last_beat + self.gap())
        } else {
            self.next_beat
        };
        let ready = self
            .ready
            .is_none()
            .then_some([joined + HOLD_DOWN, joined + PATIENCE])
            .into_iter()
            .flatten()
            .find(|at| *at > now);
        [
            Some(beat),
            ready,
            self.doubt.as_ref().map(|doubt| doubt.until),
            self.rechecks.first().map(|(at, _)| *at),
            self.peers.next_change().filter(|at| *at > now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The least time between two of our heartbeats. For so long those of others may
    /// wait to be read together, where many come.
    pub fn gap(&self) -> Duration {
        self.interval() / 8
    }

    /// Sends a heartbeat if one is due, or if there is something to say that
    /// does not wait.
    fn speak(&mut self, now: Instant) {
        if self.joined.is_none() {
            return;
        }
        let regular = now >= self.next_beat;
        let hurried = self.urgent || self.returned;
        let early = hurried && now >= self.last_beat + self.gap();
        let changed = self.told < self.ledger.version();
        if !(regular || early || changed) {
            return;
        }
        for node in if regular {
            self.peers.forget(now)
        } else {
            Vec::new()
        } {
            self.votes.forget(node);
            self.all_dirty();
        }
        let opinion = self.opinion(now);
        // New claims are told at once; what was missed, at the regular time, or when
        // the one that missed it is back.
        let slowest = self.peers.slowest(now);
        let mut from = match slowest {
            Some(slowest) if regular || self.returned => slowest,
            Some(_) => self.told,
            None => self.ledger.version(),
        };
        let mut opinion = Some(opinion);
        let votes = self.votes(now);
        for _ in 0..PAGES {
            let page = self.ledger.page(from, room_for_claims(opinion.as_ref()));
            if page.is_none() && opinion.is_none() {
                break;
            }
            from = page.as_ref().map_or(from, |page| page.to);
            let mut heartbeat = self.heartbeat(opinion.take(), votes);
            heartbeat.page = page;
            self.peers.sent(heartbeat.sequence, now);
            self.counters.sent += 1;
            self.transmit.push_back(Transmit {
                heartbeat,
                detour: false,
            });
        }
        self.told = self.ledger.version();
        self.urgent = false;
        self.returned = false;
        self.last_beat = now;
        if regular {
            self.next_beat = now + self.interval();
        }
        if regular && let Some(slowest) = slowest {
            let groups = &self.groups;
            self.ledger
                .forget(slowest, |group| groups.contains_key(&group));
        }
    }

    fn opinion(&mut self, now: Instant) -> Opinion {
        let groups = &self.groups;
        let ours = |group| {
            groups
                .get(&group)
                .is_some_and(|entry| entry.mine != Mine::Nothing)
        };
        let me = self.config.node;
        let (objections, objects_to_all) = self.votes.objections(me, &self.peers, ours, now);
        Opinion {
            heard: self.peers.heard(now),
            objections,
            objects_to_all,
            unanswered: self
                .unanswered
                .iter()
                .take(MAX_UNANSWERED)
                .copied()
                .collect(),
        }
    }

    /// Whether our vote counts. It takes no view of the API: a vote is for whoever
    /// claims first. But it takes time, as we may have voted before we started.
    fn votes(&self, now: Instant) -> bool {
        let waited = |joined| now.saturating_duration_since(joined) >= HOLD_DOWN;
        self.ready.is_some() || self.joined.is_some_and(waited)
    }

    fn heartbeat(&mut self, opinion: Option<Opinion>, votes: bool) -> Heartbeat {
        self.sequence += 1;
        Heartbeat {
            sender: self.config.node,
            session: self.config.session,
            sequence: self.sequence,
            interval: self.interval(),
            ready: self.ready.is_some(),
            votes,
            draining: self.draining,
            leaving: false,
            view: self.view,
            claims: self.ledger.version(),
            floor: self.ledger.floor(),
            opinion,
            page: None,
            hardware: None,
        }
    }

    fn withdraw_all(&mut self, why: Silence) {
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.withdraw(group, why);
        }
    }

    /// Gives a group up, whatever we have to do with it, and is silent at once.
    pub(crate) fn withdraw(&mut self, group: GroupId, why: Silence) {
        let Some(entry) = self.groups.get_mut(&group) else {
            return;
        };
        let before = std::mem::replace(&mut entry.mine, Mine::Nothing);
        if let Mine::Holding { silent: false, .. } = before {
            self.events.push_back(Event::Withdraw { group, why });
        }
        self.claim(group, Standing::Released);
    }
}

#[cfg(test)]
mod tests;
