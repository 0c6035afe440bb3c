use herald_election::{Policy, Profile, Rebalance};

use super::*;
use crate::duties::{Ground, Preference};

fn interface(name: &str, subnets: &[&str]) -> Interface {
    Interface {
        index: 3,
        name: name.into(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        running: true,
        no_arp: false,
        loopback: false,
        enslaved: false,
        carrier_changes: 0,
        addresses: subnets.iter().map(|text| subnet(text)).collect(),
    }
}

fn subnet(text: &str) -> (IpAddr, u8) {
    let (address, length) = text.split_once('/').unwrap();
    (address.parse().unwrap(), length.parse().unwrap())
}

fn told(name: &str, subnets: &[&str]) -> InterfaceView {
    shown(&interface(name, subnets))
}

fn node(name: &str, interfaces: Option<Vec<InterfaceView>>) -> (String, NodeDuty) {
    let duty = NodeDuty {
        id: NodeId::of(name),
        weight: 1,
        interfaces,
        addresses: vec!["172.30.0.9".parse().unwrap()],
    };
    (name.to_owned(), duty)
}

fn group(vips: &[&str], place: &Place, nodes: &[&str]) -> GroupDuty {
    let vips: Vec<Vip> = vips
        .iter()
        .map(|vip| (vip.parse().unwrap(), Vec::new()))
        .collect();
    GroupDuty {
        id: GroupId::of(&vips[0].0),
        vips: vips.into(),
        policy: Policy::Available,
        profile: Profile::Default,
        rebalance: Rebalance::Manual,
        candidates: nodes
            .iter()
            .map(|name| CandidateDuty {
                node: (*name).to_owned(),
                ready: true,
                preference: Preference::default(),
                place: place.clone(),
            })
            .collect(),
    }
}

/// Two nodes on lan0, whatever they call it, one elsewhere, and a pool there.
fn duties() -> Duties {
    Duties {
        nodes: BTreeMap::from([
            node(
                "n1",
                Some(vec![told("lan0", &["10.20.0.11/16", "fd20::b/64"])]),
            ),
            node(
                "n2",
                Some(vec![told("enp3s0", &["10.20.0.12/16", "fd20::c/64"])]),
            ),
            node("n3", Some(vec![told("lan0", &["10.21.0.13/16"])])),
        ]),
        groups: vec![group(
            &["10.20.100.0", "fd20::1:0"],
            &Place::Subnet,
            &["n1", "n2", "n3"],
        )],
        grounds: vec![Ground {
            place: Place::Subnet,
            ranges: vec!["10.20.100.0/22".parse().unwrap()],
        }],
        rebalance: BTreeMap::new(),
    }
}

fn lan0() -> Interface {
    interface("lan0", &["10.20.0.11/16", "fd20::b/64", "fe80::1/64"])
}

fn candidates(view: &SegmentView) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = view
        .election
        .groups
        .iter()
        .flat_map(|group| group.candidates.iter().map(|c| c.node))
        .collect();
    nodes.sort_unstable();
    nodes
}

fn ids(names: &[&str]) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = names.iter().map(|name| NodeId::of(name)).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn nodes_that_share_a_subnet_are_on_one_segment_whatever_its_name_there() {
    let view = compute(&duties(), 7, "n1", &lan0()).unwrap();
    let voters: Vec<NodeId> = view.election.voters.iter().copied().collect();
    assert_eq!(voters, ids(&["n1", "n2"]));
    assert_eq!(candidates(&view), ids(&["n1", "n2"]));
    assert_eq!(view.election.number, 7);
    let vips = view.groups.values().next().unwrap();
    assert_eq!(vips.len(), 2);
    let peer = &view.peers[0];
    assert_eq!(
        peer.here,
        [IpAddr::from([10, 20, 0, 12]), "fd20::c".parse().unwrap()]
    );
    assert_eq!(peer.elsewhere, [IpAddr::from([172, 30, 0, 9])]);
}

#[test]
fn a_node_that_has_not_told_its_interfaces_is_expected_everywhere() {
    let mut duties = duties();
    duties.nodes.extend([node("n3", None)]);
    let view = compute(&duties, 1, "n1", &lan0()).unwrap();
    assert_eq!(view.election.voters.len(), 3);
    assert_eq!(candidates(&view), ids(&["n1", "n2", "n3"]));
}

#[test]
fn an_interface_without_the_pools_subnet_is_no_segment() {
    let other = interface("eth0", &["172.30.0.11/24"]);
    assert_eq!(compute(&duties(), 1, "n1", &other), None);
    let mut duties = duties();
    duties.grounds.clear();
    assert_eq!(compute(&duties, 1, "n1", &lan0()), None);
}

#[test]
fn before_the_first_service_the_segment_is_there() {
    let mut duties = duties();
    duties.groups.clear();
    let view = compute(&duties, 1, "n1", &lan0()).unwrap();
    assert!(view.election.groups.is_empty() && view.election.voters.len() == 2);
}

#[test]
fn without_the_subnet_only_interfaces_that_are_named_announce() {
    let far = ["192.0.2.1"];
    let mut duties = duties();
    duties.groups = vec![group(&far, &Place::Subnet, &["n1", "n2"])];
    let view = compute(&duties, 1, "n1", &lan0()).unwrap();
    assert!(candidates(&view).is_empty() && view.groups.is_empty());
    let named = Place::Named(Arc::new(BTreeSet::from(["lan0".to_owned()])));
    duties.groups = vec![group(&far, &named, &["n1", "n2"])];
    let view = compute(&duties, 1, "n1", &lan0()).unwrap();
    assert_eq!(
        candidates(&view),
        ids(&["n1"]),
        "n2 has no interface of the name"
    );
    assert_eq!(view.groups.values().next().unwrap().len(), 1);
}

#[test]
fn a_node_with_places_for_more_of_the_group_comes_first() {
    let mut duties = duties();
    let four_only = Some(vec![told("enp3s0", &["10.20.0.12/16"])]);
    duties.nodes.extend([node("n2", four_only)]);
    let view = compute(&duties, 1, "n1", &lan0()).unwrap();
    assert_eq!(candidates(&view), ids(&["n1", "n2"]));
    assert_eq!(view.election.groups[0].first, Some(NodeId::of("n1")));
}

#[test]
fn what_no_node_has_a_place_for_is_told_by_one_of_them() {
    let mut duties = duties();
    assert!(stranded(&duties).is_empty());
    duties.groups = vec![group(
        &["192.0.2.1", "10.20.100.1"],
        &Place::Subnet,
        &["n1", "n2"],
    )];
    let told = stranded(&duties);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0.0, IpAddr::from([192, 0, 2, 1]));
    assert!(["n1", "n2"].contains(&told[0].1));
    // One of whom nothing is known may have a place.
    duties.nodes.extend([node("n2", None)]);
    assert!(stranded(&duties).is_empty());
}

#[test]
fn subnets_are_ranges() {
    let (address, length) = subnet("10.20.3.4/16");
    let range = range_of(address, length).unwrap();
    assert!(range.contains(&"10.20.255.255".parse().unwrap()));
    assert!(!range.contains(&"10.21.0.0".parse().unwrap()));
    assert_eq!(range_of("::1".parse().unwrap(), 128).unwrap().size(), 1);
    assert!(range_of("0.0.0.0".parse().unwrap(), 0).is_some());
    assert!(range_of("::".parse().unwrap(), 0).is_some());
}
