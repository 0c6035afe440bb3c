//! Who should have a group, decided anew from what is known whenever something
//! changes.

use std::time::{Duration, Instant};

use crate::claim::{Claim, Standing};
use crate::election::{Election, Event};
use crate::group::{Cause, DAMPING, Entry, Mine, Rebalance, Silence, Situation};
use crate::id::{GroupId, NodeId, mix};
use crate::peers::{Liveness, Peer};
use crate::votes::{agrees, most};

/// How far one speaker's view of the API may be behind another's in good times.
const LAG: Duration = Duration::from_secs(1);

/// What the others claim.
#[derive(Debug, Default)]
pub(crate) struct Field {
    /// The owner, of several the one that will keep it.
    pub(crate) holder: Option<(NodeId, Claim)>,
    /// One who asks for it (policy `strict`), of several the one that will win.
    acquirer: Option<(NodeId, Claim)>,
    /// The greatest epoch of one who hears nobody.
    deaf: Option<u32>,
    /// The greatest epoch of all.
    epoch: u32,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Nothing,
    /// Look again at this time.
    Wait(Instant),
    Take(Cause),
    /// The votes are there.
    Won(Cause),
    Resume,
    /// Our claim is to be above this epoch.
    Outbid(u32),
    /// Tell the clients again, as this rival told them otherwise.
    Reassert(NodeId, u32),
    HandOver(NodeId),
    /// Two of us have it, and this one stays.
    Settle(NodeId),
    /// It has rested for long enough.
    Undamp,
    Withdraw(Silence),
    /// It has an owner after all: ask no more.
    Desist,
    /// Ask again later.
    GiveWay,
}

impl Election {
    /// Looks at a group; says when to look again.
    pub(crate) fn evaluate(&mut self, group: GroupId, now: Instant) -> Option<Instant> {
        self.note_unanswered(group, now);
        let entry = self.groups.get(&group)?;
        let field = self.field(entry);
        let situation = self.situation(entry, &field);
        let me = self.config.node;
        let entry = self.groups.get_mut(&group)?;
        entry.epoch = entry.epoch.max(field.epoch);
        if entry.mine == Mine::Nothing {
            if let Some((holder, _)) = field.holder {
                entry.held_by(holder, now);
            }
            entry.situation(situation, now);
        }
        let entry = self.groups.get(&group)?;
        let decision = match entry.mine {
            Mine::Nothing => self.decide_idle(entry, &field, now),
            Mine::Acquiring { cause, since } => {
                self.decide_acquiring(entry, &field, cause, since, now)
            }
            Mine::Holding { .. } => self.decide_holding(entry, &field, now),
        };
        match decision {
            Decision::Nothing => {}
            Decision::Wait(at) => return Some(at),
            Decision::Take(cause) => return self.take(group, cause, now),
            Decision::Won(cause) => {
                // Our own vote, too, must not be another's.
                if self.votes.grant_us(me, group, &self.peers, now) {
                    self.hold(group, cause, now);
                } else {
                    return Some(now + entry_detect(entry) / 4);
                }
            }
            Decision::Resume => {
                if let Some(entry) = self.groups.get_mut(&group)
                    && let Mine::Holding { silent, .. } = &mut entry.mine
                {
                    *silent = false;
                    let cause = Cause::Resumed;
                    self.events.push_back(Event::Announce { group, cause });
                }
            }
            Decision::Outbid(epoch) => {
                let entry = self.groups.get_mut(&group)?;
                entry.epoch = entry.epoch.max(epoch).saturating_add(1);
                self.claim(group, Standing::Holding);
                self.events.push_back(Event::Reannounce { group });
            }
            Decision::Reassert(node, epoch) => {
                self.groups.get_mut(&group)?.rival = Some((node, epoch));
                self.events.push_back(Event::Reannounce { group });
            }
            Decision::Undamp => {
                self.groups.get_mut(&group)?.damped = false;
                self.claim(group, Standing::Holding);
            }
            Decision::HandOver(to) => {
                self.yield_to(group, to, now);
                self.events.push_back(Event::HandOver { group, to });
            }
            Decision::Settle(to) => {
                self.yield_to(group, to, now);
                let why = Silence::Settled;
                self.events.push_back(Event::Withdraw { group, why });
            }
            Decision::Withdraw(why) => {
                self.withdraw(group, why);
                return Some(now + entry_detect(self.groups.get(&group)?));
            }
            Decision::Desist => {
                self.groups.get_mut(&group)?.mine = Mine::Nothing;
                self.claim(group, Standing::Released);
                return Some(now);
            }
            Decision::GiveWay => {
                let entry = self.groups.get_mut(&group)?;
                // Not all at the same time again.
                let lot = mix(me.0 ^ group.0 ^ u64::from(entry.epoch)) % 4;
                let pause = entry_detect(entry) * (1 + u32::try_from(lot).unwrap_or(0)) / 2;
                entry.retry = now + pause;
                entry.mine = Mine::Nothing;
                self.claim(group, Standing::Released);
                return Some(now + pause);
            }
        }
        None
    }

    /// Notes that we do not answer for a group that is ours, and in time says that
    /// it is forgotten.
    fn note_unanswered(&mut self, group: GroupId, now: Instant) {
        let Some(entry) = self.groups.get(&group) else {
            return;
        };
        let mine = entry.mine;
        let until = if mine.holds() && self.is_mute(entry, self.config.node) {
            Some(now + DAMPING)
        } else {
            entry.unanswered_until.filter(|until| *until > now)
        };
        let forgotten = entry.unanswered_until.is_some() && until.is_none();
        if let Some(entry) = self.groups.get_mut(&group) {
            entry.unanswered_until = until;
        }
        if let Some(until) = until
            && !mine.holds()
        {
            self.rechecks.insert((until, group));
        }
        if forgotten && mine == Mine::Nothing {
            self.claim(group, Standing::Released);
        }
    }

    /// Notes that another has the group from now on.
    fn yield_to(&mut self, group: GroupId, to: NodeId, now: Instant) {
        if let Some(entry) = self.groups.get_mut(&group) {
            entry.mine = Mine::Nothing;
            entry.rebalance = false;
            entry.held_by(to, now);
            entry.situation(Situation::Kept, now);
        }
        self.claim(group, Standing::Released);
    }

    /// What the others claim about a group.
    pub(crate) fn field(&self, entry: &Entry) -> Field {
        let group = entry.spec.id;
        let mut field = Field::default();
        for (node, peer) in self.peers.iter() {
            let Some(claim) = peer.claims.get(group) else {
                continue;
            };
            field.epoch = field.epoch.max(claim.epoch);
            // Of two opinions on how soon it is dead, the more patient one.
            let profile = [entry.spec.profile, claim.profile]
                .into_iter()
                .max_by_key(|profile| profile.detect())
                .unwrap_or_default();
            let liveness = peer.liveness(profile);
            let best = match claim.standing {
                Standing::Holding if liveness.stands() => &mut field.holder,
                Standing::Acquiring if liveness == Liveness::Up => &mut field.acquirer,
                Standing::Holding if liveness == Liveness::Deaf => {
                    field.deaf = field.deaf.max(Some(claim.epoch));
                    continue;
                }
                _ => continue,
            };
            if best.is_none_or(|(other, than)| claim.key(node) > than.key(other)) {
                *best = Some((node, *claim));
            }
        }
        field
    }

    /// Whether another could own it now.
    fn usable(&self, entry: &Entry, node: NodeId, now: Instant) -> bool {
        let profile = entry.spec.profile;
        // Those who start together are ready together, and find out in turn.
        let starting = self
            .ready
            .is_some_and(|since| now < since + profile.detect());
        self.peers.get(node).is_some_and(|peer| {
            peer.liveness(profile) == Liveness::Up && (peer.ready || starting) && !peer.draining
        })
    }

    /// Whether a node says that it takes the group only where nobody else can.
    fn is_last(&self, group: GroupId, node: NodeId) -> bool {
        let claim = self.peers.get(node).and_then(|peer| peer.claims.get(group));
        claim.is_some_and(|claim| claim.unanswered)
    }

    fn situation(&self, entry: &Entry, field: &Field) -> Situation {
        let Some((holder, claim)) = field.holder else {
            return Situation::Vacant;
        };
        let Some(peer) = self.peers.get(holder) else {
            return Situation::Kept;
        };
        if peer.draining {
            return Situation::Movable(Cause::Drained(holder));
        }
        if !claim.damped && self.is_mute(entry, holder) {
            return Situation::Movable(Cause::Unanswered(holder));
        }
        // If it knows more than we do, it knows why it keeps the group.
        if self.view < peer.view || claim.damped {
            return Situation::Kept;
        }
        if entry.spec.candidate(holder).is_none() {
            return Situation::Movable(Cause::Ineligible(holder));
        }
        let ours = entry.spec.first == Some(self.config.node);
        if ours && (entry.rebalance || entry.spec.rebalance == Rebalance::OnJoin) {
            return Situation::Movable(Cause::Rebalanced(holder));
        }
        Situation::Kept
    }

    fn decide_idle(&self, entry: &Entry, field: &Field, now: Instant) -> Decision {
        let me = self.config.node;
        let may = self.ready.is_some() && !self.draining && self.is_sure();
        if !may || entry.spec.candidate(me).is_none() {
            return Decision::Nothing;
        }
        // Somebody may have it without our knowing.
        let unknown = |peer: &Peer| {
            peer.liveness(entry.spec.profile) == Liveness::Up
                && peer.claims.have() == 0
                && !peer.is_synced()
        };
        if self.peers.iter().any(|(_, peer)| unknown(peer)) {
            return Decision::Nothing;
        }
        let holder = field.holder.map(|(node, _)| node);
        let cause = match (entry.situation, entry.holder) {
            (Situation::Kept, _) => return Decision::Nothing,
            (Situation::Movable(cause), _) => cause,
            (Situation::Vacant, Some(before)) if before != me => Cause::Lost(before),
            (Situation::Vacant, _) => Cause::Vacant,
        };
        let detect = entry_detect(entry);
        // Each waits for those before it, in case they decide otherwise.
        let other = |node| {
            Some(node) != holder
                && self.usable(entry, node, now)
                && !self.is_last(entry.spec.id, node)
        };
        let place = if entry.unanswered_until.is_some() {
            // Behind all others, whatever its rank.
            let candidates = entry.spec.candidates.iter();
            candidates.filter(|c| c.node != me && other(c.node)).count()
        } else {
            entry.spec.place(me, other)
        };
        let patience = detect * u32::try_from(place).unwrap_or(u32::MAX).min(64);
        let mut due = entry.since + patience + self.lonely(entry, field) + self.lagging(entry);
        due = due.max(entry.retry);
        if cause.is_planned() && !matches!(cause, Cause::Drained(_)) {
            due = due.max(entry.damped_until().unwrap_or(due));
        }
        if matches!(cause, Cause::Rebalanced(_) | Cause::Unanswered(_)) {
            due = due.max(entry.unanswered_until.unwrap_or(due));
        }
        if due > now {
            return Decision::Wait(due);
        }
        Decision::Take(cause)
    }

    /// Who loses several others at once, and hears nobody any more, may be the
    /// one that is lost; it waits for longer.
    fn lonely(&self, entry: &Entry, field: &Field) -> Duration {
        let profile = entry.spec.profile;
        let alone = !self
            .peers
            .iter()
            .any(|(_, peer)| peer.liveness(profile).stands());
        if field.holder.is_none() && alone && self.peers.lost_together(profile) > 1 {
            profile.detect() * 2
        } else {
            Duration::ZERO
        }
    }

    /// One who is well and gave up what it had did so for another that we have
    /// yet to hear; or it knows something that the API has yet to tell us, for
    /// instance that the group is gone.
    fn lagging(&self, entry: &Entry) -> Duration {
        let profile = entry.spec.profile;
        let giver = (entry.situation == Situation::Vacant)
            .then(|| entry.holder.and_then(|holder| self.peers.get(holder)))
            .flatten()
            .filter(|peer| peer.liveness(profile) == Liveness::Up && peer.ready && !peer.draining);
        match giver {
            Some(peer) if peer.view > self.view => LAG,
            Some(_) => profile.interval(),
            None => Duration::ZERO,
        }
    }

    fn decide_acquiring(
        &self,
        entry: &Entry,
        field: &Field,
        cause: Cause,
        since: Instant,
        now: Instant,
    ) -> Decision {
        let me = self.config.node;
        let (Some(claim), Some(version)) = (
            self.ledger.get(entry.spec.id),
            self.ledger.version_of(entry.spec.id),
        ) else {
            return Decision::GiveWay;
        };
        let beaten = field
            .acquirer
            .is_some_and(|(node, other)| other.key(node) > claim.key(me));
        if field.holder.is_some() && !cause.is_planned() {
            return Decision::Desist;
        }
        let may = self.ready.is_some() && !self.draining && entry.spec.candidate(me).is_some();
        if !may || beaten {
            return Decision::GiveWay;
        }
        let votes = |node| {
            self.peers
                .get(node)
                .is_some_and(|peer| peer.votes && agrees(me, peer, entry.spec.id, version))
        };
        if most(me, &self.voters, votes) && self.is_leased(entry, version, now) {
            return Decision::Won(cause);
        }
        let end = since + entry_detect(entry);
        if now >= end {
            return Decision::GiveWay;
        }
        Decision::Wait(end)
    }

    /// Whether most voters have heard us so lately that they let nobody else
    /// have the group.
    fn is_leased(&self, entry: &Entry, version: u64, now: Instant) -> bool {
        let (me, group) = (self.config.node, entry.spec.id);
        let profile = self
            .ledger
            .get(group)
            .map_or(entry.spec.profile, |c| c.profile);
        most(me, &self.voters, |node| {
            self.peers.get(node).is_some_and(|peer| {
                let fresh = peer.leased.is_some_and(|at| now < at + profile.fence());
                fresh && agrees(me, peer, group, version)
            })
        })
    }

    fn decide_holding(&self, entry: &Entry, field: &Field, now: Instant) -> Decision {
        let me = self.config.node;
        let Mine::Holding {
            silent,
            version,
            probation,
        } = entry.mine
        else {
            return Decision::Nothing;
        };
        if entry.spec.candidates.is_empty() {
            return Decision::Withdraw(Silence::Gone);
        }
        let Some(claim) = self.ledger.get(entry.spec.id) else {
            return Decision::Withdraw(Silence::Gone);
        };
        if entry.is_strict() {
            if now >= probation && !self.is_leased(entry, version, now) {
                return Decision::Withdraw(Silence::Fenced);
            }
            if self.should_release(entry, field) {
                return Decision::Withdraw(Silence::Released);
            }
        }
        if let Some((node, other)) = field.holder {
            if other.key(node) > claim.key(me) {
                return if entry.is_strict() {
                    Decision::Withdraw(Silence::Released)
                } else if self.is_to_go(entry, node) || self.is_behind(node) {
                    Decision::HandOver(node)
                } else {
                    Decision::Settle(node)
                };
            }
            if entry.rival != Some((node, other.epoch)) {
                return Decision::Reassert(node, other.epoch);
            }
        }
        if let Some(epoch) = field.deaf
            && epoch >= claim.epoch
        {
            return Decision::Outbid(epoch);
        }
        if silent && self.is_sure() {
            return Decision::Resume;
        }
        if entry.damped {
            return match entry.damped_until() {
                Some(until) if until > now => Decision::Wait(until),
                _ => Decision::Undamp,
            };
        }
        if entry.is_strict() && now < probation {
            return Decision::Wait(probation);
        }
        Decision::Nothing
    }

    /// Under `strict` the old owner goes before the new one comes, and only for
    /// one who can come.
    fn should_release(&self, entry: &Entry, field: &Field) -> bool {
        let Some((node, _)) = field.acquirer else {
            return false;
        };
        let newer = self
            .peers
            .get(node)
            .is_some_and(|peer| peer.view >= self.view);
        let wanted = entry.spec.candidate(node).is_some() || newer;
        wanted && self.is_to_go(entry, node)
    }

    /// Whether there is a reason for which our group goes to this one.
    fn is_to_go(&self, entry: &Entry, to: NodeId) -> bool {
        let me = self.config.node;
        self.draining
            || entry.spec.candidate(me).is_none()
            || entry.rebalance
            || self.is_mute(entry, me)
            || entry.spec.rebalance == Rebalance::OnJoin && entry.spec.first == Some(to)
    }

    /// Whether another knows more of the API, and so may have a reason that we are
    /// yet to be told.
    fn is_behind(&self, node: NodeId) -> bool {
        self.peers
            .get(node)
            .is_some_and(|peer| peer.view > self.view)
    }

    /// Makes a group ours, or asks for it.
    fn take(&mut self, group: GroupId, cause: Cause, now: Instant) -> Option<Instant> {
        let strict = self.groups.get(&group)?.is_strict();
        // What is granted to another we ask for only if that one is to go.
        if strict
            && !cause.is_planned()
            && !self
                .votes
                .grant_us(self.config.node, group, &self.peers, now)
        {
            return Some(now + entry_detect(self.groups.get(&group)?) / 2);
        }
        let entry = self.groups.get_mut(&group)?;
        entry.epoch = entry.epoch.saturating_add(1);
        if !strict {
            self.hold(group, cause, now);
            return None;
        }
        entry.mine = Mine::Acquiring { cause, since: now };
        self.asked.insert(group);
        let end = now + entry_detect(entry);
        self.claim(group, Standing::Acquiring);
        // Alone among the voters there is nobody to wait for.
        Some(if self.voters.len() == 1 { now } else { end })
    }

    fn hold(&mut self, group: GroupId, cause: Cause, now: Instant) {
        let me = self.config.node;
        // The others gave their votes to the claim as it was.
        let version = self.ledger.version_of(group).unwrap_or(0);
        if let Some(entry) = self.groups.get_mut(&group) {
            entry.mine = Mine::Holding {
                silent: false,
                version,
                probation: now,
            };
            entry.held_by(me, now);
            entry.situation(Situation::Kept, now);
            entry.damped = entry.damped_until().is_some_and(|until| until > now);
            entry.rival = None;
            entry.rebalance = false;
        }
        self.lease(group);
        self.claim(group, Standing::Holding);
        self.counters.taken += 1;
        self.events.push_back(Event::Announce { group, cause });
    }

    /// A group is described differently: claims tell so.
    pub(crate) fn republish(&mut self, group: GroupId, now: Instant) {
        let Some(entry) = self.groups.get_mut(&group) else {
            return;
        };
        let strict = entry.is_strict();
        let before = self.ledger.get(group).copied();
        if before.is_some_and(|claim| claim.strict && strict) && entry.mine.holds() {
            // The votes are for the claim as it is.
            return;
        }
        if !entry.mine.holds() {
            entry.mine = Mine::Nothing;
            return self.claim(group, Standing::Released);
        }
        let detect = entry_detect(entry);
        self.lease(group);
        self.claim(group, Standing::Holding);
        let told = self.ledger.version_of(group).unwrap_or(0);
        if let Some(entry) = self.groups.get_mut(&group)
            && let Mine::Holding {
                version, probation, ..
            } = &mut entry.mine
        {
            *version = told;
            *probation = now + detect;
        }
    }

    /// What we have under `strict` is ours for as long as others let us have it.
    fn lease(&mut self, group: GroupId) {
        if self.groups.get(&group).is_some_and(Entry::is_strict) {
            self.leased.insert(group);
        }
    }

    /// Writes down what we have to do with a group.
    pub(crate) fn claim(&mut self, group: GroupId, standing: Standing) {
        let Some(entry) = self.groups.get(&group) else {
            return;
        };
        if standing == Standing::Released && self.ledger.get(group).is_none() {
            return;
        }
        self.ledger.set(Claim {
            group,
            epoch: entry.epoch,
            priority: entry.spec.priority(self.config.node),
            standing,
            profile: entry.spec.profile,
            strict: entry.is_strict(),
            damped: entry.damped,
            unanswered: standing == Standing::Released && entry.unanswered_until.is_some(),
        });
    }
}

const fn entry_detect(entry: &Entry) -> Duration {
    entry.spec.profile.detect()
}
