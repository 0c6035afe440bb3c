//! Policy `strict`: what the voters let an owner have.
//!
//! Each node grants a group to the first that claims it, for as long as it
//! hears that one itself within the profile's detection time. While two claim
//! it, its heartbeats hold an objection that names the one it granted the group
//! to. A heartbeat that acknowledges a claim and holds no objection is a vote
//! for it. Most votes make an owner, and an owner stays one while most have
//! heard it within the profile's fence, which is shorter than the detection
//! time: so the last owner is silent before the next has its votes. Any two
//! majorities share a node, and that one votes for one of them.
//!
//! Of an even number, half is enough with the voter of the lowest id among them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use crate::claim::{Claim, Standing};
use crate::id::{GroupId, NodeId};
use crate::peers::{Peer, Peers};
use crate::wire::MAX_OBJECTIONS;

/// Whom we granted what.
#[derive(Debug, Default)]
pub(crate) struct Votes {
    granted: HashMap<GroupId, NodeId>,
    /// Claims to groups that are granted to another.
    contested: BTreeMap<NodeId, BTreeSet<GroupId>>,
}

/// Whether a claim needs votes.
const fn counts(claim: &Claim) -> bool {
    claim.strict && !matches!(claim.standing, Standing::Released)
}

impl Votes {
    /// Takes in what a peer claims.
    pub(crate) fn claimed(
        &mut self,
        me: NodeId,
        node: NodeId,
        group: GroupId,
        peers: &Peers,
        ours: bool,
        now: Instant,
    ) {
        let claim = peers.get(node).and_then(|peer| peer.claims.get(group));
        if claim.is_none_or(|claim| !counts(claim)) {
            if self.granted.get(&group) == Some(&node) {
                self.granted.remove(&group);
            }
            if let Some(groups) = self.contested.get_mut(&node) {
                groups.remove(&group);
            }
            return;
        }
        if self.grantee(me, group, peers, ours, now).is_none() {
            self.grant(group, node, peers);
        }
        if self.granted.get(&group) != Some(&node) {
            self.contested.entry(node).or_default().insert(group);
        }
    }

    /// Grants a group to ourselves if it is granted to nobody who is there.
    pub(crate) fn grant_us(
        &mut self,
        me: NodeId,
        group: GroupId,
        peers: &Peers,
        now: Instant,
    ) -> bool {
        let free = self
            .grantee(me, group, peers, false, now)
            .is_none_or(|node| node == me);
        if free {
            self.grant(group, me, peers);
        }
        free
    }

    fn grant(&mut self, group: GroupId, node: NodeId, peers: &Peers) {
        self.granted.insert(group, node);
        if let Some(groups) = self.contested.get_mut(&node) {
            groups.remove(&group);
        }
        // One who had it may come back and still think so.
        for (other, peer) in peers.iter() {
            if other != node && peer.claims.get(group).is_some_and(counts) {
                self.contested.entry(other).or_default().insert(group);
            }
        }
    }

    /// To whom a group is granted; `ours` is whether we claim it.
    fn grantee(
        &self,
        me: NodeId,
        group: GroupId,
        peers: &Peers,
        ours: bool,
        now: Instant,
    ) -> Option<NodeId> {
        let node = *self.granted.get(&group)?;
        let stands = if node == me {
            ours
        } else {
            peers.get(node).is_some_and(|peer| claims(peer, group, now))
        };
        stands.then_some(node)
    }

    /// What we object to, and whether that is too much to be told.
    pub(crate) fn objections(
        &mut self,
        me: NodeId,
        peers: &Peers,
        ours: impl Fn(GroupId) -> bool,
        now: Instant,
    ) -> (Vec<(GroupId, NodeId)>, bool) {
        let rivals: Vec<(NodeId, GroupId)> = self
            .contested
            .iter()
            .flat_map(|(node, groups)| groups.iter().map(|group| (*node, *group)))
            .filter(|(node, group)| {
                peers
                    .get(*node)
                    .is_some_and(|peer| claims(peer, *group, now))
            })
            .collect();
        let mut told = BTreeMap::new();
        for (node, group) in rivals {
            match self.grantee(me, group, peers, ours(group), now) {
                Some(granted) if granted != node => {
                    told.insert(group, granted);
                }
                Some(_) => {}
                None => self.grant(group, node, peers),
            }
        }
        let too_many = told.len() > MAX_OBJECTIONS;
        (told.into_iter().take(MAX_OBJECTIONS).collect(), too_many)
    }

    /// Forgets a peer.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.contested.remove(&node);
        self.granted.retain(|_, granted| *granted != node);
    }
}

/// Whether a peer that we hear ourselves claims the group.
fn claims(peer: &Peer, group: GroupId, now: Instant) -> bool {
    peer.claims
        .get(group)
        .is_some_and(|claim| counts(claim) && peer.is_heard(claim.profile, now))
}

/// Whether we and those of the voters who agree are most of them.
pub(crate) fn most(me: NodeId, voters: &BTreeSet<NodeId>, agrees: impl Fn(NodeId) -> bool) -> bool {
    if !voters.contains(&me) {
        return false;
    }
    let lowest = voters.first().copied();
    let (mut count, mut with_lowest) = (0, false);
    for node in voters {
        if *node == me || agrees(*node) {
            count += 2;
            with_lowest |= lowest == Some(*node);
        }
    }
    count > voters.len() || count == voters.len() && with_lowest
}

/// Whether a peer, as far as we know, lets us have a group whose claim has this
/// version.
pub(crate) fn agrees(me: NodeId, peer: &Peer, group: GroupId, version: u64) -> bool {
    let objects = peer
        .objections
        .iter()
        .any(|(other, to)| *other == group && *to != me);
    peer.have >= version && !objects && !peer.objects_to_all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_disjoint_sets_are_never_both_most() {
        for count in 1..=6_u64 {
            let voters: BTreeSet<NodeId> = (0..count).map(NodeId).collect();
            let all = (1_u64 << count) - 1;
            let is_most = |set: u64| {
                let member = |node: NodeId| set & (1 << node.0) != 0;
                voters
                    .iter()
                    .find(|node| member(**node))
                    .is_some_and(|me| most(*me, &voters, member))
            };
            for set in 0..=all {
                assert!(!(is_most(set) && is_most(all & !set)), "{count} {set:b}");
                assert!(is_most(set) || is_most(all & !set), "{count} {set:b}");
            }
        }
    }

    #[test]
    fn who_is_no_voter_has_no_majority() {
        let voters = BTreeSet::from([NodeId(1)]);
        assert!(most(NodeId(1), &voters, |_| false));
        assert!(!most(NodeId(2), &voters, |_| true));
    }
}
