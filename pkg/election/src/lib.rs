//! Who owns a VIP, pure.
//!
//! In this first slice the owner is a function of what the API says: the first
//! of the candidates in an order that is drawn for each VIP alone (rendezvous
//! hashing, Thaler and Ravishankar 1998). Every speaker that sees the same
//! candidates computes the same owner, VIPs spread evenly, and a node that
//! leaves moves only its own. The ownership protocol between speakers will
//! take this order as its list of candidates.

use std::cmp::Reverse;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

/// The candidates in the order in which they should own `vip`.
pub fn order<'a>(vip: &IpAddr, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut ranked: Vec<_> = candidates
        .into_iter()
        .map(|node| (Reverse(weight(vip, node)), node))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.into_iter().map(|(_, node)| node).collect()
}

/// The candidate that should own `vip`; none where there is no candidate.
pub fn owner<'a>(vip: &IpAddr, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .max_by_key(|node| (weight(vip, node), Reverse(*node)))
}

fn weight(vip: &IpAddr, node: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(node.as_bytes());
    // No node name holds it, so that no two pairs run together.
    hash.update(b"#");
    hash.update(vip.to_string().as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn vips(count: u32) -> impl Iterator<Item = IpAddr> {
        (0..count).map(|i| IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a14_6400 + i)))
    }

    proptest! {
        #[test]
        fn a_node_that_leaves_moves_only_its_own(
            nodes in proptest::collection::hash_set("[a-z]{1,8}", 2..12),
        ) {
            let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
            let gone = nodes[0];
            for vip in vips(50) {
                let before = owner(&vip, nodes.iter().copied()).unwrap();
                let after = owner(&vip, nodes[1..].iter().copied()).unwrap();
                prop_assert!(before == gone || before == after);
            }
        }

        #[test]
        fn the_owner_is_the_first_in_the_order_whatever_the_order_of_arrival(
            nodes in proptest::collection::hash_set("[a-z]{1,8}", 1..12),
        ) {
            let mut nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
            for vip in vips(10) {
                let first = owner(&vip, nodes.iter().copied());
                nodes.reverse();
                prop_assert_eq!(order(&vip, nodes.iter().copied()).first().copied(), first);
            }
        }
    }

    #[test]
    fn vips_spread_over_the_nodes() {
        let nodes = ["n1", "n2", "n3"];
        let mut owned: HashMap<&str, u32> = HashMap::new();
        for vip in vips(3000) {
            *owned.entry(owner(&vip, nodes).unwrap()).or_default() += 1;
        }
        assert!(
            owned.values().all(|count| (900..1100).contains(count)),
            "{owned:?}"
        );
    }

    #[test]
    fn nobody_owns_without_candidates() {
        assert_eq!(owner(&"192.0.2.1".parse().unwrap(), []), None);
    }
}
