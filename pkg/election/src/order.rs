//! Which node should have which addresses: an order of candidates for each
//! group, and an even spread of all groups.
//!
//! The order is drawn for each group alone (rendezvous hashing, Thaler and
//! Ravishankar 1998), so a node that leaves moves only its own, and these go to
//! all the others alike. By itself that spreads unevenly where a node has only
//! some dozens of groups; [`spread`] therefore names the first candidate of
//! each group such that none gets more than its share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::id::{GroupId, NodeId, mix};

/// A node that may own a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Which node.
    pub node: NodeId,
    /// Its share beside other nodes, 1 to 255; 0 counts as 1.
    pub weight: u8,
    /// Candidates with a higher one come first, whatever their weight: the
    /// preferred nodes, or those with more ready endpoints.
    pub preference: u32,
}

impl Candidate {
    /// One of weight 1 that is not preferred.
    pub const fn new(node: NodeId) -> Self {
        Self {
            node,
            weight: 1,
            preference: 0,
        }
    }

    /// Sorts candidates of a group: the greatest is the first. `first` is the
    /// one that [`spread`] named.
    pub(crate) fn rank(&self, group: GroupId, first: Option<NodeId>) -> (u32, bool, u64, NodeId) {
        let score = score(group, self.node, self.weight);
        (self.preference, first == Some(self.node), score, self.node)
    }
}

/// The best of as many draws as the node has weight.
fn score(group: GroupId, node: NodeId, weight: u8) -> u64 {
    (0..u64::from(weight.max(1)))
        .map(|ticket| mix(mix(group.0 ^ mix(node.0)).wrapping_add(ticket)))
        .fold(0, u64::max)
}

/// The first candidate of each group, in the order of `groups`; none where a
/// group has no candidate. A node gets no more groups than its share, rounded
/// up: its weight's part of each group for which it is one of the most
/// preferred candidates. The order of `groups` and candidates does not matter.
pub fn spread(groups: &[(GroupId, Arc<[Candidate]>)]) -> Vec<Option<NodeId>> {
    /// One group, in parts that can be added without rounding away.
    const WHOLE: u64 = 1 << 32;
    let mut shares: HashMap<NodeId, u64> = HashMap::new();
    for (_, candidates) in groups {
        let total: u64 = best(candidates).map(|c| u64::from(c.weight.max(1))).sum();
        for candidate in best(candidates) {
            *shares.entry(candidate.node).or_default() +=
                WHOLE * u64::from(candidate.weight.max(1)) / total;
        }
    }
    let mut turns: Vec<usize> = (0..groups.len()).collect();
    turns.sort_unstable_by_key(|turn| (mix(groups[*turn].0.0), groups[*turn].0));
    let mut firsts = vec![None; groups.len()];
    for turn in turns {
        let (group, candidates) = &groups[turn];
        let mut ranked: Vec<_> = best(candidates)
            .map(|candidate| candidate.rank(*group, None))
            .collect();
        ranked.sort_unstable();
        let free = ranked
            .iter()
            .rev()
            .find(|(.., node)| shares.get(node).is_some_and(|share| *share > WHOLE / 1024));
        let Some((.., node)) = free.or(ranked.last()) else {
            continue;
        };
        firsts[turn] = Some(*node);
        if let Some(share) = shares.get_mut(node) {
            *share = share.saturating_sub(WHOLE);
        }
    }
    firsts
}

/// The candidates with the highest preference.
fn best(candidates: &[Candidate]) -> impl Iterator<Item = &Candidate> {
    let preference = candidates.iter().map(|c| c.preference).max();
    candidates
        .iter()
        .filter(move |c| Some(c.preference) == preference)
}

/// The node that should own `vip`, of equal ones; none where there is none.
pub fn owner<'a>(vip: &IpAddr, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let group = GroupId::of(vip);
    candidates
        .into_iter()
        .max_by_key(|name| Candidate::new(NodeId::of(name)).rank(group, None))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn vip(i: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a14_6400 + i))
    }

    fn nodes(count: u64) -> Vec<NodeId> {
        (1..=count).map(|i| NodeId::of(&format!("n{i}"))).collect()
    }

    fn groups(count: u32, candidates: &Arc<[Candidate]>) -> Vec<(GroupId, Arc<[Candidate]>)> {
        (0..count)
            .map(|i| (GroupId::of(&vip(i)), candidates.clone()))
            .collect()
    }

    fn loads(firsts: &[Option<NodeId>]) -> BTreeMap<NodeId, u32> {
        let mut loads = BTreeMap::new();
        for first in firsts {
            *loads.entry(first.unwrap()).or_default() += 1;
        }
        loads
    }

    #[test]
    fn a_thousand_groups_are_spread_within_a_tenth_of_even() {
        for count in [2, 3, 5, 7, 10, 20, 50] {
            let candidates: Arc<[_]> = nodes(count).into_iter().map(Candidate::new).collect();
            let loads = loads(&spread(&groups(1000, &candidates)));
            let even = 1000.0 / f64::from(u32::try_from(count).unwrap());
            for load in loads.values() {
                let off = (f64::from(*load) - even).abs() / even;
                assert!(off <= 0.1, "{count} nodes: {load} beside {even}");
            }
            assert_eq!(loads.len(), usize::try_from(count).unwrap());
        }
    }

    #[test]
    fn after_a_node_left_the_rest_is_still_even() {
        let all = nodes(10);
        let candidates: Arc<[_]> = all.iter().copied().map(Candidate::new).collect();
        let groups = groups(1000, &candidates);
        let firsts = spread(&groups);
        let owners: Vec<_> = groups
            .iter()
            .zip(&firsts)
            .map(|((group, candidates), first)| {
                candidates
                    .iter()
                    .filter(|c| c.node != all[0])
                    .map(|c| c.rank(*group, *first))
                    .max()
                    .map(|(.., node)| node)
            })
            .collect();
        for (before, after) in firsts.iter().zip(&owners) {
            assert!(before == after || *before == Some(all[0]));
        }
        let loads = loads(&owners);
        assert!(
            loads.values().all(|load| (100..=122).contains(load)),
            "{loads:?}"
        );
    }

    #[test]
    fn a_node_gets_its_weight() {
        let [one, two] = nodes(2)[..] else { panic!() };
        let heavy = Candidate {
            weight: 3,
            ..Candidate::new(two)
        };
        let loads = loads(&spread(&groups(1000, &[Candidate::new(one), heavy].into())));
        assert_eq!(loads, BTreeMap::from([(one, 250), (two, 750)]));
    }

    #[test]
    fn preferred_candidates_come_first() {
        let [one, two, three] = nodes(3)[..] else {
            panic!()
        };
        let preferred = |node| Candidate {
            preference: 1,
            ..Candidate::new(node)
        };
        let candidates = [Candidate::new(one), preferred(two), preferred(three)];
        let loads = loads(&spread(&groups(100, &candidates.into())));
        assert_eq!(loads, BTreeMap::from([(two, 50), (three, 50)]));
    }

    #[test]
    fn nobody_is_first_without_candidates() {
        assert_eq!(spread(&groups(1, &[].into())), [None]);
        assert_eq!(owner(&vip(0), []), None);
    }

    proptest! {
        #[test]
        fn the_owner_among_equals_moves_only_with_its_node(
            names in proptest::collection::hash_set("[a-z]{1,8}", 2..12),
        ) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            for vip in (0..50).map(vip) {
                let before = owner(&vip, names.iter().copied()).unwrap();
                prop_assert_eq!(owner(&vip, names.iter().rev().copied()), Some(before));
                let after = owner(&vip, names[1..].iter().copied()).unwrap();
                prop_assert!(before == names[0] || before == after);
            }
        }

        #[test]
        fn the_spread_does_not_depend_on_the_order(seed: u64, count in 1_u64..8) {
            let mut candidates: Vec<_> = nodes(count).into_iter().map(Candidate::new).collect();
            let mut all = groups(40, &candidates.clone().into());
            let before: BTreeMap<_, _> =
                all.iter().map(|(group, _)| *group).zip(spread(&all)).collect();
            candidates.sort_by_key(|c| mix(c.node.0 ^ seed));
            all = groups(40, &candidates.into());
            all.sort_by_key(|(group, _)| mix(group.0 ^ seed));
            let after: BTreeMap<_, _> =
                all.iter().map(|(group, _)| *group).zip(spread(&all)).collect();
            prop_assert_eq!(before, after);
        }
    }
}
