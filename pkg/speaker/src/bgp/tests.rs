use herald_api::BGPAdvertisementSpec;
use herald_bgp::Community;
use herald_core::{Labels, ServiceKey, Taint, TrafficPolicy};

use super::*;
use crate::index::{Change, NodeView, PoolView, ServiceView, SliceView};
use crate::table::Step;

fn node(name: &str, address: &str) -> NodeView {
    NodeView {
        node: Node {
            name: name.into(),
            labels: Labels::new(),
            internal_addresses: vec![address.parse().unwrap()],
            ready: true,
            network_unavailable: false,
            excluded: false,
            deleting: false,
            provider_id: None,
            taints: Vec::new(),
            zone: None,
        },
        uid: name.into(),
    }
}

fn slice(nodes: &[&str], ending: &[&str]) -> SliceView {
    let count = |nodes: &[&str]| nodes.iter().map(|n| (Some((*n).to_owned()), 1)).collect();
    SliceView {
        service: ServiceKey::new("default", "web"),
        ready: count(nodes),
        ending: count(ending),
    }
}

/// Nodes n1 and n2, a Service 192.0.2.1 with an endpoint on n1, one peer.
fn index(policy: TrafficPolicy, spec: BGPAdvertisementSpec) -> Index {
    let mut index = Index::default();
    let service = ServiceView {
        uid: "u".into(),
        labels: Labels::new(),
        traffic_policy: policy,
        vips: vec!["192.0.2.1".parse().unwrap()],
        link_bandwidth: None,
    };
    let pool = PoolView {
        labels: Labels::new(),
        ranges: vec!["192.0.2.0/24".parse().unwrap()],
    };
    let peer = PeerView {
        spec: Arc::new(BGPPeerSpec::default()),
        uid: "p".into(),
    };
    for change in [
        Change::Node(Step::Put("n1".into(), Some(node("n1", "10.0.0.1")))),
        Change::Node(Step::Put("n2".into(), Some(node("n2", "10.0.0.2")))),
        Change::Speaker(Step::Put("s1".into(), Some("n1".into()))),
        Change::Speaker(Step::Put("s2".into(), Some("n2".into()))),
        Change::Service(Step::Put(ServiceKey::new("default", "web"), Some(service))),
        Change::Slice(Step::Put(
            ("default".into(), "web-1".into()),
            Some(slice(&["n1"], &[])),
        )),
        Change::Pool(Step::Put("pool".into(), Some(pool))),
        Change::Peer(Step::Put("tor".into(), Some(peer))),
        Change::BgpAdvertisement(Step::Put("all".into(), Some(Arc::new(spec)))),
    ] {
        index.apply(change);
    }
    index
}

fn told(index: &Index, node: &str) -> Vec<String> {
    let orders = orders(index, node).unwrap();
    orders
        .routes
        .prefixes
        .keys()
        .map(ToString::to_string)
        .collect()
}

fn cordon(index: &mut Index, name: &str) {
    let mut view = index.nodes.known()[name].clone();
    view.node.taints.push(Taint {
        key: TAINT_UNSCHEDULABLE.into(),
        effect: "NoSchedule".into(),
    });
    index.apply(Change::Node(Step::Put(name.into(), Some(view))));
}

#[test]
fn with_cluster_every_node_tells_and_with_local_only_those_with_endpoints() {
    let all = index(TrafficPolicy::Cluster, BGPAdvertisementSpec::default());
    assert_eq!(told(&all, "n1"), ["192.0.2.1/32"]);
    assert_eq!(told(&all, "n2"), ["192.0.2.1/32"]);
    let local = index(TrafficPolicy::Local, BGPAdvertisementSpec::default());
    assert_eq!(told(&local, "n1"), ["192.0.2.1/32"]);
    assert!(told(&local, "n2").is_empty());
}

#[test]
fn a_node_whose_last_endpoint_ends_says_that_its_path_goes_away() {
    let mut index = index(TrafficPolicy::Local, BGPAdvertisementSpec::default());
    let ending = Some(slice(&["n2"], &["n1"]));
    index.apply(Change::Slice(Step::Put(
        ("default".into(), "web-1".into()),
        ending,
    )));
    let communities = |node: &str| {
        let orders = orders(&index, node).unwrap();
        let parts = orders.routes.prefixes.values().next().unwrap();
        parts[0].attributes.communities.clone()
    };
    assert_eq!(communities("n1"), [Community::GRACEFUL_SHUTDOWN]);
    assert!(communities("n2").is_empty());
}

#[test]
fn nodes_weigh_by_their_ready_endpoints() {
    let mut index = index(TrafficPolicy::Local, BGPAdvertisementSpec::default());
    let key = ServiceKey::new("default", "web");
    let mut service = index.services.known()[&key].clone();
    service.link_bandwidth = Some(100);
    index.apply(Change::Service(Step::Put(key, Some(service))));
    let mut endpoints = slice(&["n1"], &[]);
    endpoints.ready.insert(Some("n1".into()), 3);
    endpoints.ready.insert(Some("n2".into()), 1);
    index.apply(Change::Slice(Step::Put(
        ("default".into(), "web-1".into()),
        Some(endpoints),
    )));
    let told = |node: &str| {
        let orders = orders(&index, node).unwrap();
        let parts = orders.routes.prefixes.values().next().unwrap();
        let communities = &parts[0].attributes.extended_communities;
        communities.iter().find_map(|c| c.bandwidth())
    };
    assert_eq!(told("n1"), Some(37_500_000.0));
    assert_eq!(told("n2"), Some(12_500_000.0));
}

#[test]
fn a_cordoned_node_leaves_unless_it_is_needed() {
    let mut all = index(TrafficPolicy::Cluster, BGPAdvertisementSpec::default());
    cordon(&mut all, "n1");
    let drain = |index: &Index| orders(index, "n1").unwrap().drain;
    assert_eq!(drain(&all).as_deref(), Some("node n1 is cordoned"));
    cordon(&mut all, "n2");
    assert_eq!(drain(&all), None, "somebody has to");
    let mut local = index(TrafficPolicy::Local, BGPAdvertisementSpec::default());
    cordon(&mut local, "n1");
    assert_eq!(drain(&local), None, "only it has an endpoint");
}

#[test]
fn an_aggregate_stays_within_its_pool() {
    let of = |length| BGPAdvertisementSpec {
        aggregation_length: length,
        communities: vec!["no-export".into(), "mine".into(), "nobody's".into()],
        ..BGPAdvertisementSpec::default()
    };
    let mut index = index(TrafficPolicy::Cluster, of(24));
    let aliases = vec![("mine".into(), "large:64512:1:2".into())];
    index.apply(Change::Community(Step::Put("c".into(), Some(aliases))));
    let within = orders(&index, "n1").unwrap();
    let (prefix, parts) = within.routes.prefixes.iter().next().unwrap();
    assert_eq!(prefix.to_string(), "192.0.2.0/24");
    assert_eq!(parts[0].attributes.communities, [Community::NO_EXPORT]);
    assert_eq!(parts[0].attributes.large_communities.len(), 1);
    assert!(within.problems.iter().any(|p| p.contains("nobody's")));
    let wide = Some(Arc::new(of(23)));
    index.apply(Change::BgpAdvertisement(Step::Put("all".into(), wide)));
    let beyond = orders(&index, "n1").unwrap();
    assert!(beyond.routes.prefixes.is_empty());
    assert!(beyond.problems[0].contains("aggregation"));
}

#[test]
fn nodes_without_ipv4_have_router_ids_of_their_own() {
    let mut index = index(TrafficPolicy::Cluster, BGPAdvertisementSpec::default());
    for name in ["v6-a", "v6-b"] {
        index.apply(Change::Node(Step::Put(
            name.into(),
            Some(node(name, "fd00::1")),
        )));
    }
    let id = |name: &str| orders(&index, name).unwrap().router_id;
    assert_eq!(id("n1"), Ipv4Addr::new(10, 0, 0, 1));
    assert_ne!(id("v6-a"), id("v6-b"));
    assert!(id("v6-a").octets()[0] >= 240);
}

#[test]
fn a_router_id_of_several_nodes_is_told() {
    let mut index = index(TrafficPolicy::Cluster, BGPAdvertisementSpec::default());
    assert!(orders(&index, "n1").unwrap().problems.is_empty());
    let spec = BGPPeerSpec {
        router_id: Some("10.9.9.9".into()),
        ..BGPPeerSpec::default()
    };
    let view = PeerView {
        spec: Arc::new(spec),
        uid: "p".into(),
    };
    index.apply(Change::Peer(Step::Put("tor".into(), Some(view))));
    let problems = orders(&index, "n1").unwrap().problems;
    assert!(problems[0].contains("n2") && problems[0].contains("10.9.9.9"));
}
