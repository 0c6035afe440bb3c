//! What an election on one segment rests on: the duties, seen from one of this
//! node's interfaces.
//!
//! A node is *expected* on the segment if it shares a subnet with the interface,
//! by its own word in the API. One that has not told its interfaces yet may be
//! anywhere, and so is expected on every segment: until it has told, it is waited
//! for, and under `strict` it counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use herald_core::AddressRange;
use herald_election::{Candidate, Group, GroupId, NodeId, View, spread};
use herald_net::{Interface, same_subnet};

use crate::duties::{CandidateDuty, Duties, GroupDuty, NodeDuty, Place, Shared, Vip, share};
use crate::index::InterfaceView;

/// A segment, as far as the API knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentView {
    pub(crate) election: View,
    /// What this node announces of each group.
    pub(crate) groups: BTreeMap<GroupId, Arc<[Vip]>>,
    /// The other nodes that are expected.
    pub(crate) peers: Vec<PeerView>,
    /// The names of all nodes with a speaker.
    pub(crate) names: BTreeMap<NodeId, String>,
    /// See [`Duties::rebalance`].
    pub(crate) rebalance: BTreeMap<String, Option<String>>,
}

impl SegmentView {
    /// What this node announces of all groups.
    pub(crate) fn vips(&self) -> impl Iterator<Item = &Vip> {
        self.groups.values().flat_map(|vips| vips.iter())
    }
}

/// How to reach another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerView {
    /// On the segment.
    pub(crate) here: Vec<IpAddr>,
    /// By other ways.
    pub(crate) elsewhere: Vec<IpAddr>,
}

/// The segment of an interface; none where no addresses may come to be on it.
pub(crate) fn compute(
    duties: &Duties,
    number: u64,
    me: &str,
    interface: &Interface,
) -> Option<SegmentView> {
    let mine = shown(interface);
    if !duties.grounds.iter().any(|ground| {
        let subnets = mine.addresses.iter();
        let mut ranges = subnets.filter_map(|(address, length)| range_of(*address, *length));
        match &ground.place {
            Place::Named(names) => names.contains(&mine.name),
            Place::Subnet => ranges.any(|subnet| ground.ranges.iter().any(|r| r.overlaps(&subnet))),
        }
    }) {
        return None;
    }
    let expected: BTreeMap<&String, &NodeDuty> = duties
        .nodes
        .iter()
        .filter(|(name, node)| *name == me || is_expected(&mine, node))
        .collect();
    let mut shared = Shared::<Candidate>::new();
    let mut groups = BTreeMap::new();
    let mut wanted = Vec::new();
    let mut here = Vec::new();
    for duty in &duties.groups {
        let candidates = candidates(duty, &expected, me, &mine);
        let carried = carried(duty, me, &mine);
        if candidates.is_empty() {
            continue;
        }
        wanted.push((duty.id, share(&mut shared, candidates)));
        here.push(duty);
        groups.insert(duty.id, carried);
    }
    let firsts = spread(&wanted);
    let groups_here = here.into_iter().zip(wanted).zip(firsts);
    Some(SegmentView {
        election: View {
            number,
            groups: groups_here
                .map(|((duty, (id, candidates)), first)| Group {
                    id,
                    candidates,
                    first,
                    policy: duty.policy,
                    profile: duty.profile,
                    rebalance: duty.rebalance,
                })
                .collect(),
            voters: expected.values().map(|node| node.id).collect(),
        },
        groups,
        peers: expected
            .iter()
            .filter(|(name, _)| **name != me)
            .map(|(_, node)| peer(&mine, node))
            .collect(),
        names: duties
            .nodes
            .iter()
            .map(|(name, node)| (node.id, name.clone()))
            .collect(),
        rebalance: duties.rebalance.clone(),
    })
}

/// An interface as its node shows it to the others.
pub(crate) fn shown(interface: &Interface) -> InterfaceView {
    let global = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    let mut addresses: Vec<(IpAddr, u8)> = interface
        .addresses
        .iter()
        .copied()
        .filter(|(address, _)| global(address))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    InterfaceView {
        name: interface.name.clone(),
        addresses,
    }
}

/// Addresses of which no node has a place, and that nobody announces therefore,
/// with the node that is to say so. Nodes that have not told their interfaces
/// may have one.
pub(crate) fn stranded(duties: &Duties) -> Vec<(&Vip, &str)> {
    let mut stranded = Vec::new();
    for group in &duties.groups {
        let nodes = group.candidates.iter().filter_map(|candidate| {
            let node = duties.nodes.get(&candidate.node)?;
            Some((candidate, node))
        });
        let nodes: Vec<_> = nodes.collect();
        for vip in group.vips.iter() {
            let placed = nodes.iter().any(|(candidate, node)| {
                node.interfaces.as_ref().is_none_or(|interfaces| {
                    interfaces.iter().any(|interface| {
                        candidate
                            .place
                            .takes(&interface.name, &interface.addresses, &vip.0)
                    })
                })
            });
            let names = nodes.iter().map(|(candidate, _)| candidate.node.as_str());
            if !placed && let Some(teller) = herald_election::owner(&vip.0, names) {
                stranded.push((vip, teller));
            }
        }
    }
    stranded
}

/// Whether two interfaces are on one segment, as far as their subnets tell. Two
/// without any are if their names are the same.
fn is_together(mine: &InterfaceView, other: &InterfaceView) -> bool {
    let shared = mine.addresses.iter().any(|(a, length)| {
        let mut others = other.addresses.iter();
        others.any(|(b, other)| length == other && same_subnet(a, b, *length))
    });
    let bare = mine.addresses.is_empty() && other.addresses.is_empty();
    shared || bare && mine.name == other.name
}

fn is_expected(mine: &InterfaceView, node: &NodeDuty) -> bool {
    node.interfaces
        .as_ref()
        .is_none_or(|interfaces| interfaces.iter().any(|other| is_together(mine, other)))
}

/// What a node announces of a group on one interface.
fn carried(duty: &GroupDuty, node: &str, interface: &InterfaceView) -> Arc<[Vip]> {
    let candidate = duty.candidates.iter().find(|c| c.node == node);
    let takes = |candidate: &CandidateDuty, vip: &Vip| {
        candidate
            .place
            .takes(&interface.name, &interface.addresses, &vip.0)
    };
    let carries = |vip: &&Vip| candidate.is_some_and(|candidate| takes(candidate, vip));
    if duty.vips.iter().all(|vip| carries(&vip)) {
        return duty.vips.clone();
    }
    duty.vips.iter().filter(carries).cloned().collect()
}

/// The candidates on the segment: those that have a place on it for an address
/// of the group. In the order of their nodes' names.
fn candidates(
    duty: &GroupDuty,
    expected: &BTreeMap<&String, &NodeDuty>,
    me: &str,
    mine: &InterfaceView,
) -> Vec<Candidate> {
    let places = |candidate: &CandidateDuty, interface: &InterfaceView| {
        let takes = |vip: &&Vip| {
            candidate
                .place
                .takes(&interface.name, &interface.addresses, &vip.0)
        };
        u32::try_from(duty.vips.iter().filter(takes).count()).unwrap_or(u32::MAX)
    };
    let mut unknown = Vec::new();
    let mut found = Vec::new();
    for candidate in duty.candidates.iter() {
        let Some(node) = expected.get(&candidate.node) else {
            continue;
        };
        let count = if candidate.node == me {
            places(candidate, mine)
        } else if let Some(interfaces) = &node.interfaces {
            let here = interfaces.iter().filter(|other| is_together(mine, other));
            here.map(|other| places(candidate, other))
                .max()
                .unwrap_or(0)
        } else {
            unknown.push((candidate, node));
            continue;
        };
        if count > 0 {
            found.push((candidate, node, count));
        }
    }
    // Whoever has not told may have all that others have, if it has the segment
    // and its subnets.
    let most = found.iter().map(|(.., count)| *count).max();
    let here = most.or_else(|| {
        let by_subnet = unknown.iter().map(|(candidate, _)| places(candidate, mine));
        by_subnet.max().filter(|count| *count > 0)
    });
    let mut candidates: Vec<Candidate> = found
        .into_iter()
        .chain(
            unknown
                .into_iter()
                .filter_map(|(candidate, node)| Some((candidate, node, here?))),
        )
        .map(|(candidate, node, count)| Candidate {
            node: node.id,
            weight: node.weight,
            preference: candidate.preference.pack(count),
        })
        .collect();
    candidates.sort_unstable_by_key(|candidate| candidate.node);
    candidates
}

fn peer(mine: &InterfaceView, node: &NodeDuty) -> PeerView {
    let interfaces = node.interfaces.iter().flatten();
    let on_link = |address: &IpAddr| {
        mine.addresses
            .iter()
            .any(|(own, length)| same_subnet(own, address, *length))
    };
    let here: BTreeSet<IpAddr> = interfaces
        .flat_map(|interface| interface.addresses.iter().map(|(address, _)| *address))
        .chain(node.addresses.iter().copied())
        .filter(on_link)
        .collect();
    PeerView {
        here: here.into_iter().collect(),
        elsewhere: node
            .addresses
            .iter()
            .copied()
            .filter(|address| !on_link(address))
            .collect(),
    }
}

/// The addresses of a subnet.
fn range_of(address: IpAddr, length: u8) -> Option<AddressRange> {
    let length = u32::from(length);
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            let first = address.to_bits() & !host;
            AddressRange::new(
                Ipv4Addr::from_bits(first).into(),
                Ipv4Addr::from_bits(first | host).into(),
            )
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            let first = address.to_bits() & !host;
            AddressRange::new(
                Ipv6Addr::from_bits(first).into(),
                Ipv6Addr::from_bits(first | host).into(),
            )
        }
    }
}

#[cfg(test)]
mod tests;
