//! A group of addresses: who may own it, and what we have to do with it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::id::{GroupId, NodeId};
use crate::order::Candidate;
use crate::profile::Profile;

/// Moves of a group within [`DAMPING`] after which it moves no more unless its
/// owner is lost. Switches with EVPN freeze an address at the fifth.
pub const MOST_MOVES: usize = 4;

/// See [`MOST_MOVES`].
pub const DAMPING: Duration = Duration::from_mins(3);

/// Which is worse: no owner or two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// No owner: when the segment is in parts, each part has one.
    #[default]
    Available,
    /// Two owners: only the part with most of the voters has one.
    Strict,
}

/// Whether a group goes to its first candidate while another live one has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rebalance {
    /// Only when [`Election::rebalance`](crate::Election::rebalance) is called.
    #[default]
    Manual,
    /// When that candidate joins.
    OnJoin,
}

/// A group as the API describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which group.
    pub id: GroupId,
    /// The nodes that may own it.
    pub candidates: Arc<[Candidate]>,
    /// The candidate that [`spread`](crate::spread) named.
    pub first: Option<NodeId>,
    /// Which is worse: no owner or two.
    pub policy: Policy,
    /// How soon a silent owner is taken for dead.
    pub profile: Profile,
    /// Whether it goes to its first candidate when that one joins.
    pub rebalance: Rebalance,
}

impl Group {
    /// A group with equal candidates and the defaults of everything else.
    pub fn new(id: GroupId, candidates: Arc<[Candidate]>) -> Self {
        Self {
            id,
            candidates,
            first: None,
            policy: Policy::default(),
            profile: Profile::default(),
            rebalance: Rebalance::default(),
        }
    }

    pub(crate) fn candidate(&self, node: NodeId) -> Option<&Candidate> {
        self.candidates.iter().find(|c| c.node == node)
    }

    /// How many of the candidates for which `usable` holds come before `node`.
    pub(crate) fn place(&self, node: NodeId, usable: impl Fn(NodeId) -> bool) -> usize {
        let Some(mine) = self.candidate(node) else {
            return self.candidates.len();
        };
        let mine = mine.rank(self.id, self.first);
        self.candidates
            .iter()
            .filter(|c| usable(c.node) && c.rank(self.id, self.first) > mine)
            .count()
    }

    /// How much a node is wanted as the owner.
    pub(crate) fn priority(&self, node: NodeId) -> u8 {
        match self.candidate(node) {
            _ if self.first == Some(node) => 2,
            Some(_) => 1,
            None => 0,
        }
    }
}

/// What the API says, as this node last saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Grows with what the API says: of two speakers the one with the greater
    /// number knows more. For instance the greatest `resourceVersion` seen.
    pub number: u64,
    /// All groups.
    pub groups: Vec<Group>,
    /// The nodes whose speakers should be on this segment, this one included.
    /// Under `strict` most of them must agree to an owner.
    pub voters: BTreeSet<NodeId>,
}

/// Why a node became the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nobody had it.
    Vacant,
    /// Its owner is dead, cut off or has started again.
    Lost(NodeId),
    /// Its owner said that it goes.
    Drained(NodeId),
    /// Its owner may not own it any more.
    Ineligible(NodeId),
    /// We are its first candidate, and it was to be rebalanced.
    Rebalanced(NodeId),
    /// Its owner lives and does not answer those who ask for the addresses.
    Unanswered(NodeId),
    /// It was ours before we did not run for a while, and nobody took it.
    Resumed,
}

impl Cause {
    /// Whether the owner before was well, and could hand over.
    pub const fn is_planned(self) -> bool {
        matches!(
            self,
            Self::Drained(_) | Self::Ineligible(_) | Self::Rebalanced(_) | Self::Unanswered(_)
        )
    }
}

/// Why a node is silent about a group from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Silence {
    /// The group is gone, or nobody may own it.
    Gone,
    /// Not enough voters have heard us lately (policy `strict`).
    Fenced,
    /// Another is to have it (policy `strict`).
    Released,
    /// Our link is down.
    LinkDown,
    /// We did not run for a while, and others may have taken it. It is ours
    /// again with [`Event::Announce`](crate::Event::Announce), or another's
    /// with [`Silence::Settled`].
    Stalled,
    /// Another has it too, since neither heard the other, and stays: it answers
    /// already.
    Settled,
    /// We left.
    Left,
}

/// What we have to do with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mine {
    Nothing,
    /// Asked for, under `strict`.
    Acquiring {
        cause: Cause,
        since: Instant,
    },
    Holding {
        /// Whether we are silent about it because of a stall of our own.
        silent: bool,
        /// Under `strict`: the version of our claims that voters must know.
        version: u64,
        /// Under `strict`: until then they need not know it.
        probation: Instant,
    },
}

impl Mine {
    pub(crate) const fn holds(self) -> bool {
        matches!(self, Self::Holding { .. })
    }
}

/// How a group is, as far as others have to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Situation {
    /// Somebody has it and keeps it.
    Kept,
    /// Somebody has it, and another should.
    Movable(Cause),
    /// Nobody has it.
    Vacant,
}

/// All that is known of a group.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) spec: Group,
    pub(crate) mine: Mine,
    pub(crate) situation: Situation,
    /// Since when it is so.
    pub(crate) since: Instant,
    /// Who had it last.
    pub(crate) holder: Option<NodeId>,
    /// The greatest epoch known.
    pub(crate) epoch: u32,
    /// Whether we, its owner, ask the others to leave it.
    pub(crate) damped: bool,
    /// When it moved, the last [`MOST_MOVES`] times.
    moves: VecDeque<Instant>,
    /// The last rival whose announcements were answered by our own.
    pub(crate) rival: Option<(NodeId, u32)>,
    /// When we may ask for it again.
    pub(crate) retry: Instant,
    /// Whether it is to go to its first candidate once.
    pub(crate) rebalance: bool,
    /// We did not answer for it: until then we take it only if nobody else can.
    pub(crate) unanswered_until: Option<Instant>,
}

impl Entry {
    pub(crate) const fn new(spec: Group, now: Instant) -> Self {
        Self {
            spec,
            mine: Mine::Nothing,
            situation: Situation::Vacant,
            since: now,
            holder: None,
            epoch: 0,
            damped: false,
            moves: VecDeque::new(),
            rival: None,
            retry: now,
            rebalance: false,
            unanswered_until: None,
        }
    }

    pub(crate) const fn is_strict(&self) -> bool {
        matches!(self.spec.policy, Policy::Strict)
    }

    /// Remembers who has it.
    pub(crate) fn held_by(&mut self, node: NodeId, now: Instant) {
        if self
            .holder
            .replace(node)
            .is_some_and(|before| before != node)
        {
            if self.moves.len() == MOST_MOVES {
                self.moves.pop_front();
            }
            self.moves.push_back(now);
        }
    }

    pub(crate) fn situation(&mut self, situation: Situation, now: Instant) {
        if self.situation != situation {
            self.situation = situation;
            self.since = now;
        }
    }

    /// When it may next move while its owner is well.
    pub(crate) fn damped_until(&self) -> Option<Instant> {
        (self.moves.len() == MOST_MOVES)
            .then(|| self.moves.front().map(|first| *first + DAMPING))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_moved_too_often_rests() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut entry = Entry::new(Group::new(GroupId(1), [].into()), begin);
        for i in 0..=4_u32 {
            assert_eq!(entry.damped_until(), None);
            entry.held_by(NodeId(u64::from(i % 2)), begin + second * i);
            entry.held_by(NodeId(u64::from(i % 2)), begin + second * i);
        }
        assert_eq!(entry.damped_until(), Some(begin + second + DAMPING));
    }
}
