use herald_api::{LabelSelector, LabelSelectorRequirement, PreferredNodeSelector};
use herald_core::Labels;

use super::*;
use crate::index::{Change, NodeView};
use crate::table::Step;

const VIP: &str = "10.20.100.0";

fn node(name: &str) -> Node {
    Node {
        name: name.into(),
        labels: [("name".into(), name.into())].into_iter().collect(),
        internal_addresses: Vec::new(),
        provider_id: None,
        taints: Vec::new(),
        zone: None,
        ready: true,
        network_unavailable: false,
        excluded: false,
        deleting: false,
    }
}

fn web() -> ServiceKey {
    ServiceKey::new("default", "web")
}

fn service(traffic_policy: TrafficPolicy) -> ServiceView {
    ServiceView {
        uid: "u".into(),
        labels: [("tier".into(), "web".into())].into_iter().collect(),
        traffic_policy,
        vips: vec![VIP.parse().unwrap(), "fd20::1:0".parse().unwrap()],
        link_bandwidth: None,
    }
}

fn slice(ready: &[&str], ending: &[&str]) -> SliceView {
    let nodes = |names: &[&str]| -> PerNode {
        let mut nodes = BTreeMap::new();
        for name in names {
            *nodes.entry(Some((*name).to_owned())).or_default() += 1;
        }
        nodes.into_iter().collect()
    };
    SliceView {
        service: web(),
        ready: nodes(ready),
        ending: nodes(ending),
    }
}

/// Three nodes, a pool, an advertisement of it, and a Service with an endpoint
/// on n1.
struct Cluster(Index);

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self(Index::default());
        for name in ["n1", "n2", "n3"] {
            cluster.node(node(name));
            cluster.put(Change::Speaker(Step::Put(
                format!("speaker-{name}"),
                Some(name.into()),
            )));
        }
        cluster.service(TrafficPolicy::Cluster);
        cluster.endpoints(slice(&["n1"], &[]));
        let pool = PoolView {
            labels: [("net".into(), "lan".into())].into_iter().collect(),
            ranges: vec![
                "10.20.100.0/22".parse().unwrap(),
                "fd20::1:0/112".parse().unwrap(),
            ],
        };
        cluster.put(Change::Pool(Step::Put("lan".into(), Some(pool))));
        cluster.advertise(&[L2AdvertisementSpec::default()]);
        cluster
    }

    fn put(&mut self, change: Change) {
        self.0.apply(change);
    }

    fn node(&mut self, node: Node) {
        let uid = format!("uid-{}", node.name);
        let name = node.name.clone();
        let view = NodeView { node, uid };
        self.put(Change::Node(Step::Put(name, Some(view))));
    }

    fn service(&mut self, policy: TrafficPolicy) {
        self.put(Change::Service(Step::Put(web(), Some(service(policy)))));
    }

    fn another(&mut self, name: &str, vips: &[&str], policy: TrafficPolicy) {
        let view = ServiceView {
            vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
            uid: name.into(),
            ..service(policy)
        };
        let key = ServiceKey::new("default", name);
        self.put(Change::Service(Step::Put(key, Some(view))));
    }

    fn endpoints(&mut self, slice: SliceView) {
        let name = format!("{}-1", slice.service.name);
        self.put(Change::Slice(Step::Put(
            ("default".into(), name),
            Some(slice),
        )));
    }

    /// These and no other advertisements.
    fn advertise(&mut self, specs: &[L2AdvertisementSpec]) {
        self.put(Change::Advertisement(Step::Begin));
        for (i, spec) in specs.iter().enumerate() {
            let view = AdvertisementView {
                spec: spec.clone(),
                rebalance: None,
            };
            self.put(Change::Advertisement(Step::Listed(
                format!("a{i}"),
                Some(view),
            )));
        }
        self.put(Change::Advertisement(Step::Complete));
    }

    fn duties(&self) -> Duties {
        compute(&self.0, L2Defaults::default())
    }

    fn groups(&self) -> Vec<GroupDuty> {
        self.duties().groups
    }

    /// The only group.
    fn group(&self) -> GroupDuty {
        let mut groups = self.groups();
        assert_eq!(groups.len(), 1, "{groups:?}");
        groups.remove(0)
    }

    /// Candidates of the only group; none where there is no group.
    fn candidates(&self) -> Vec<String> {
        let groups = self.groups();
        let candidates = groups.iter().flat_map(|group| group.candidates.iter());
        candidates.map(|candidate| candidate.node.clone()).collect()
    }

    fn preference(&self, name: &str) -> Preference {
        let group = self.group();
        let mut candidates = group.candidates.iter();
        candidates.find(|c| c.node == name).unwrap().preference
    }
}

/// Matches nodes by their label `name`.
fn selector(operator: &str, name: &str) -> LabelSelector {
    LabelSelector {
        match_expressions: vec![LabelSelectorRequirement {
            key: "name".into(),
            operator: operator.into(),
            values: vec![name.into()],
        }],
        ..LabelSelector::default()
    }
}

fn spec(change: impl FnOnce(&mut L2AdvertisementSpec)) -> L2AdvertisementSpec {
    let mut spec = L2AdvertisementSpec::default();
    change(&mut spec);
    spec
}

#[test]
fn both_families_of_a_service_are_one_group() {
    let group = Cluster::new().group();
    assert_eq!(group.vips.len(), 2);
    assert_eq!(group.id, GroupId::of(&VIP.parse().unwrap()));
    assert_eq!(group.candidates.len(), 3);
}

#[test]
fn services_that_share_an_address_are_one_group() {
    let mut cluster = Cluster::new();
    cluster.another("two", &[VIP, "10.20.100.7"], TrafficPolicy::Cluster);
    cluster.another("three", &["10.20.100.7"], TrafficPolicy::Cluster);
    cluster.another("alone", &["10.20.100.9"], TrafficPolicy::Cluster);
    for name in ["two", "three", "alone"] {
        let service = ServiceKey::new("default", name);
        cluster.endpoints(SliceView {
            service,
            ..slice(&["n1"], &[])
        });
    }
    let mut sizes: Vec<usize> = cluster.groups().iter().map(|g| g.vips.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 3]);
    let shared = cluster.groups().into_iter().find(|g| g.vips.len() == 3);
    let shared = shared.unwrap();
    assert_eq!(shared.vips[0].1.len(), 2, "an address with its Services");
    assert_eq!(shared.candidates[0].preference.serves, 3);
}

#[test]
fn addresses_of_different_advertisements_move_by_themselves() {
    let mut cluster = Cluster::new();
    let pool = |range: &str| PoolView {
        labels: Labels::new(),
        ranges: vec![range.parse().unwrap()],
    };
    cluster.put(Change::Pool(Step::Put(
        "lan".into(),
        Some(pool("10.20.100.0/22")),
    )));
    cluster.put(Change::Pool(Step::Put(
        "six".into(),
        Some(pool("fd20::1:0/112")),
    )));
    let of = |name: &str, node: &str| {
        spec(|spec| {
            spec.ip_address_pools = vec![name.into()];
            spec.node_selectors = vec![selector("In", node)];
        })
    };
    cluster.advertise(&[of("lan", "n1"), of("six", "n2")]);
    let groups = cluster.groups();
    let nodes = |i: usize| groups[i].candidates[0].node.clone();
    assert_eq!(
        (groups.len(), nodes(0), nodes(1)),
        (2, "n1".into(), "n2".into())
    );
}

#[test]
fn a_node_that_may_no_longer_own_is_no_candidate() {
    let spoil: [fn(&mut Cluster); 5] = [
        |cluster| {
            cluster.node(Node {
                excluded: true,
                ..node("n1")
            });
        },
        |cluster| {
            cluster.node(Node {
                network_unavailable: true,
                ..node("n1")
            });
        },
        |cluster| cluster.put(Change::Node(Step::Remove("n1".into()))),
        |cluster| cluster.put(Change::Speaker(Step::Put("speaker-n1".into(), None))),
        |cluster| {
            let selectors = vec![selector("NotIn", "n1")];
            cluster.advertise(&[spec(|spec| spec.node_selectors = selectors)]);
        },
    ];
    for spoil in spoil {
        let mut cluster = Cluster::new();
        spoil(&mut cluster);
        assert_eq!(cluster.candidates(), ["n2", "n3"]);
    }
}

#[test]
fn nodes_that_are_not_ready_own_only_where_none_is() {
    let mut cluster = Cluster::new();
    let unready = |name: &str| Node {
        ready: false,
        ..node(name)
    };
    cluster.node(unready("n1"));
    assert_eq!(cluster.candidates(), ["n2", "n3"]);
    cluster.node(unready("n2"));
    cluster.node(unready("n3"));
    assert_eq!(cluster.candidates(), ["n1", "n2", "n3"], "nothing moves");
}

#[test]
fn with_local_the_nodes_with_endpoints_may_own_and_the_most_come_first() {
    let mut cluster = Cluster::new();
    cluster.service(TrafficPolicy::Local);
    cluster.endpoints(slice(&["n1", "n2", "n2"], &["n3"]));
    assert_eq!(cluster.candidates(), ["n1", "n2"]);
    assert!(cluster.preference("n2") > cluster.preference("n1"));
    cluster.endpoints(slice(&[], &["n3"]));
    assert_eq!(
        cluster.candidates(),
        ["n3"],
        "while they end, where no other is"
    );
}

#[test]
fn an_endpoint_outside_the_cluster_serves_cluster_policy_only() {
    let mut cluster = Cluster::new();
    let outside = SliceView {
        ready: [(None, 1)].into_iter().collect(),
        ..slice(&[], &[])
    };
    cluster.endpoints(outside);
    assert_eq!(cluster.candidates().len(), 3);
    cluster.service(TrafficPolicy::Local);
    assert!(cluster.candidates().is_empty());
}

#[test]
fn nobody_owns_without_an_endpoint_an_advertisement_or_a_pool() {
    let spoil: [fn(&mut Cluster); 5] = [
        |cluster| cluster.endpoints(slice(&[], &[])),
        |cluster| cluster.advertise(&[]),
        |cluster| cluster.put(Change::Pool(Step::Remove("lan".into()))),
        |cluster| {
            cluster.advertise(&[spec(|spec| spec.ip_address_pools = vec!["other".into()])]);
        },
        |cluster| {
            let other = LabelSelector {
                match_labels: [("tier".into(), "db".into())].into_iter().collect(),
                ..LabelSelector::default()
            };
            cluster.advertise(&[spec(|spec| spec.service_selectors = vec![other])]);
        },
    ];
    for spoil in spoil {
        let mut cluster = Cluster::new();
        spoil(&mut cluster);
        assert_eq!(cluster.groups(), [], "to be given up at once");
    }
}

#[test]
fn an_advertisement_selects_pools_by_name_or_label() {
    let by_label = LabelSelector {
        match_labels: [("net".into(), "lan".into())].into_iter().collect(),
        ..LabelSelector::default()
    };
    for spec in [
        spec(|spec| spec.ip_address_pools = vec!["lan".into()]),
        spec(|spec| spec.ip_address_pool_selectors = vec![by_label]),
    ] {
        let mut cluster = Cluster::new();
        cluster.advertise(&[spec]);
        assert_eq!(cluster.groups().len(), 1);
    }
}

#[test]
fn interfaces_of_the_advertisements_for_a_node_add_up() {
    let named = |name: &str| spec(|spec| spec.interfaces = vec![name.into()]);
    let elsewhere = spec(|spec| spec.node_selectors = vec![selector("In", "n2")]);
    let mut cluster = Cluster::new();
    cluster.advertise(&[named("lan0"), named("lan1"), elsewhere]);
    let group = cluster.group();
    let Place::Named(names) = &group.candidates[0].place else {
        panic!("{group:?}");
    };
    assert_eq!(names.len(), 2);
    let places = group.candidates.iter().map(|c| c.place == Place::Subnet);
    assert_eq!(places.collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn preferred_nodes_come_before_those_with_more_endpoints() {
    let preferred = |weight, name: &str| PreferredNodeSelector {
        weight,
        preference: selector("In", name),
    };
    let mut cluster = Cluster::new();
    cluster.service(TrafficPolicy::Local);
    cluster.endpoints(slice(&["n1", "n2", "n3", "n3"], &[]));
    cluster.advertise(&[spec(|spec| {
        spec.preferred_node_selectors = vec![preferred(10, "n1"), preferred(5, "n2")];
    })]);
    let [one, two, three] = ["n1", "n2", "n3"].map(|name| cluster.preference(name));
    assert!(one > two && two > three);
}

#[test]
fn of_several_advertisements_the_most_careful_policy_and_the_soonest_profile_hold() {
    let mut cluster = Cluster::new();
    let group = cluster.group();
    assert_eq!(
        (group.policy, group.profile, group.rebalance),
        (Policy::Available, Profile::Default, Rebalance::Manual)
    );
    cluster.advertise(&[
        spec(|spec| {
            spec.policy = Some(L2Policy::Strict);
            spec.profile = Some(L2Profile::Safe);
        }),
        spec(|spec| {
            spec.profile = Some(L2Profile::Fast);
            spec.rebalance = Some(L2Rebalance::OnJoin);
        }),
    ]);
    let group = cluster.group();
    assert_eq!(
        (group.policy, group.profile, group.rebalance),
        (Policy::Strict, Profile::Fast, Rebalance::OnJoin)
    );
}

#[test]
fn a_node_has_the_weight_of_its_label() {
    let weight_of = |text: &str| {
        let mut heavy = node("n1");
        heavy.labels.insert(LABEL_WEIGHT.into(), text.into());
        weight(&heavy)
    };
    assert_eq!(
        [weight_of("3"), weight_of("0"), weight_of("many")],
        [3, 1, 1]
    );
    assert_eq!(weight(&node("n1")), 1);
}

#[test]
fn what_comes_first_in_a_preference_weighs_more_than_all_that_follows() {
    let one = Preference {
        serves: 1,
        weight: 100,
        endpoints: 3,
    };
    let ladder = [
        Preference::default().pack(0),
        Preference {
            endpoints: u32::MAX,
            ..Preference::default()
        }
        .pack(0),
        Preference {
            weight: 1,
            ..Preference::default()
        }
        .pack(0),
        Preference {
            weight: u32::MAX,
            endpoints: u32::MAX,
            ..Preference::default()
        }
        .pack(0),
        one.pack(0),
        Preference { serves: 2, ..one }.pack(0),
        one.pack(1),
        one.pack(2),
    ];
    assert!(ladder.is_sorted_by(|a, b| a < b), "{ladder:x?}");
}
