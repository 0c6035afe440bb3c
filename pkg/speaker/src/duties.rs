//! What this node has to do for each VIP, as a function of what the API says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use herald_api::{L2AdvertisementSpec, any_or_empty};
use herald_core::{Node, ServiceKey, TrafficPolicy};

use crate::index::{Index, PoolView, ServiceView, SliceView};

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Ours: answer and announce.
    Own {
        /// Whether there is another node that could.
        successor: bool,
    },
    /// Another node's: hand over if we have it.
    Yield,
}

/// What to do for one VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Duty {
    pub(crate) service: ServiceKey,
    pub(crate) uid: String,
    pub(crate) role: Role,
    /// Names of interfaces to announce on; empty means all that can.
    pub(crate) interfaces: BTreeSet<String>,
}

/// VIPs that somebody owns. One that is missing is to be given up at once.
pub(crate) type Duties = BTreeMap<IpAddr, Duty>;

/// The duties of the node `me`.
pub(crate) fn compute(index: &Index, me: &str) -> Duties {
    let mut slices: HashMap<&ServiceKey, Vec<&SliceView>> = HashMap::new();
    for slice in index.slices.known().values() {
        slices.entry(&slice.service).or_default().push(slice);
    }
    let eligible = eligible_nodes(index);
    let mut duties = Duties::new();
    for (key, service) in index.services.known() {
        // Both families go to one node: the first address stands for all.
        let Some(first) = service.vips.first() else {
            continue;
        };
        let backing = Backing::of(slices.get(key).map_or(&[], Vec::as_slice));
        for vip in &service.vips {
            let advertisements = advertisements(index, service, vip);
            if advertisements.is_empty() {
                continue;
            }
            let candidates: Vec<&str> = eligible
                .iter()
                .filter(|node| backing.allows(service.traffic_policy, &node.name))
                .filter(|node| advertisements.iter().any(|spec| announces_from(spec, node)))
                .map(|node| node.name.as_str())
                .collect();
            let Some(owner) = herald_election::owner(first, candidates.iter().copied()) else {
                continue;
            };
            let role = if owner == me {
                Role::Own {
                    successor: candidates.len() > 1,
                }
            } else {
                Role::Yield
            };
            let duty = Duty {
                service: key.clone(),
                uid: service.uid.clone(),
                role,
                interfaces: interfaces(index, me, &advertisements),
            };
            // An address in the status of two Services is a mistake that the
            // operator tells of; the first of them has it on every node.
            duties.entry(*vip).or_insert(duty);
        }
    }
    duties
}

/// The nodes that may carry traffic and whose speaker is at work.
fn eligible_nodes(index: &Index) -> Vec<&Node> {
    let speaking: BTreeSet<&String> = index.speakers.known().values().collect();
    index
        .nodes
        .known()
        .values()
        .filter(|node| node.eligible() && speaking.contains(&node.name))
        .collect()
}

/// Where a Service's usable endpoints are: the ready ones, else those that
/// still serve while they end, as kube-proxy takes them.
struct Backing<'a> {
    nodes: BTreeSet<Option<&'a str>>,
}

impl<'a> Backing<'a> {
    fn of(slices: &[&'a SliceView]) -> Self {
        let nodes = |set: fn(&SliceView) -> &BTreeSet<Option<String>>| -> BTreeSet<_> {
            slices
                .iter()
                .flat_map(|slice| set(slice))
                .map(Option::as_deref)
                .collect()
        };
        let ready = nodes(|slice| &slice.ready);
        Self {
            nodes: if ready.is_empty() {
                nodes(|slice| &slice.ending)
            } else {
                ready
            },
        }
    }

    /// Whether a node could pass traffic on.
    fn allows(&self, policy: TrafficPolicy, node: &str) -> bool {
        match policy {
            TrafficPolicy::Cluster => !self.nodes.is_empty(),
            TrafficPolicy::Local => self.nodes.contains(&Some(node)),
        }
    }
}

/// The advertisements that cover a VIP of a Service.
fn advertisements<'a>(
    index: &'a Index,
    service: &ServiceView,
    vip: &IpAddr,
) -> Vec<&'a L2AdvertisementSpec> {
    let holds = |pool: &PoolView| pool.ranges.iter().any(|range| range.contains(vip));
    let pools: Vec<(&String, &PoolView)> = index
        .pools
        .known()
        .iter()
        .filter(|(_, pool)| holds(pool))
        .collect();
    index
        .advertisements
        .known()
        .values()
        .filter(|spec| {
            pools.iter().any(|(name, pool)| selects(spec, name, pool))
                && any_or_empty(&spec.service_selectors, &service.labels)
        })
        .collect()
}

fn selects(spec: &L2AdvertisementSpec, name: &String, pool: &PoolView) -> bool {
    let (names, selectors) = (&spec.ip_address_pools, &spec.ip_address_pool_selectors);
    (names.is_empty() && selectors.is_empty())
        || names.contains(name)
        || selectors
            .iter()
            .any(|selector| selector.matches(&pool.labels))
}

fn announces_from(spec: &L2AdvertisementSpec, node: &Node) -> bool {
    any_or_empty(&spec.node_selectors, &node.labels)
}

/// The interfaces that the advertisements for this node name together; one
/// that names none means all.
fn interfaces(
    index: &Index,
    me: &str,
    advertisements: &[&L2AdvertisementSpec],
) -> BTreeSet<String> {
    let Some(me) = index.nodes.known().get(me) else {
        return BTreeSet::new();
    };
    let mut names = BTreeSet::new();
    for spec in advertisements
        .iter()
        .filter(|spec| announces_from(spec, me))
    {
        if spec.interfaces.is_empty() {
            return BTreeSet::new();
        }
        names.extend(spec.interfaces.iter().cloned());
    }
    names
}

#[cfg(test)]
mod tests {
    use herald_api::{LabelSelector, LabelSelectorRequirement};

    use super::*;
    use crate::index::Change;
    use crate::table::Step;

    const VIP: &str = "10.20.100.0";

    fn node(name: &str) -> Node {
        Node {
            name: name.into(),
            labels: BTreeMap::from([("name".into(), name.into())]),
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
            labels: BTreeMap::from([("tier".into(), "web".into())]),
            traffic_policy,
            vips: vec![VIP.parse().unwrap(), "fd20::1:0".parse().unwrap()],
        }
    }

    fn slice(ready: &[&str], ending: &[&str]) -> SliceView {
        let nodes = |names: &[&str]| names.iter().map(|n| Some((*n).to_owned())).collect();
        SliceView {
            service: web(),
            ready: nodes(ready),
            ending: nodes(ending),
        }
    }

    /// Three nodes, a pool, an advertisement of it, and a Service with an
    /// endpoint on n1.
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
                labels: BTreeMap::from([("net".into(), "lan".into())]),
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
            self.put(Change::Node(Step::Put(node.name.clone(), Some(node))));
        }

        fn service(&mut self, policy: TrafficPolicy) {
            self.put(Change::Service(Step::Put(web(), Some(service(policy)))));
        }

        fn endpoints(&mut self, slice: SliceView) {
            self.put(Change::Slice(Step::Put(
                ("default".into(), "web-1".into()),
                Some(slice),
            )));
        }

        /// These and no other advertisements.
        fn advertise(&mut self, specs: &[L2AdvertisementSpec]) {
            self.put(Change::Advertisement(Step::Begin));
            for (i, spec) in specs.iter().enumerate() {
                self.put(Change::Advertisement(Step::Listed(
                    i.to_string(),
                    Some(spec.clone()),
                )));
            }
            self.put(Change::Advertisement(Step::Complete));
        }

        /// Who owns the first VIP, asked of every node: nobody or one.
        fn owner(&self) -> Option<String> {
            let vip: IpAddr = VIP.parse().unwrap();
            let mut owners = self.0.nodes.known().keys().filter(|name| {
                compute(&self.0, name)
                    .get(&vip)
                    .is_some_and(|duty| matches!(duty.role, Role::Own { .. }))
            });
            let owner = owners.next().cloned();
            assert_eq!(owners.next(), None, "two own it");
            owner
        }

        fn duty(&self, me: &str) -> Option<Duty> {
            compute(&self.0, me).remove(&VIP.parse().unwrap())
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
    fn both_families_go_to_one_node() {
        let cluster = Cluster::new();
        let owner = cluster.owner().unwrap();
        let duties = compute(&cluster.0, &owner);
        assert_eq!(duties.len(), 2);
        assert!(
            duties
                .values()
                .all(|duty| duty.role == Role::Own { successor: true })
        );
    }

    #[test]
    fn an_owner_that_may_no_longer_own_gives_way_to_one_other() {
        let owner = Cluster::new().owner().unwrap();
        let spoil: [fn(&mut Cluster, &str); 6] = [
            |cluster, owner| {
                cluster.node(Node {
                    excluded: true,
                    ..node(owner)
                });
            },
            |cluster, owner| {
                cluster.node(Node {
                    ready: false,
                    ..node(owner)
                });
            },
            |cluster, owner| {
                cluster.node(Node {
                    network_unavailable: true,
                    ..node(owner)
                });
            },
            |cluster, owner| cluster.put(Change::Node(Step::Remove(owner.into()))),
            |cluster, owner| {
                cluster.put(Change::Speaker(Step::Put(format!("speaker-{owner}"), None)));
            },
            |cluster, owner| {
                let selectors = vec![selector("NotIn", owner)];
                cluster.advertise(&[spec(|spec| spec.node_selectors = selectors)]);
            },
        ];
        for spoil in spoil {
            let mut cluster = Cluster::new();
            spoil(&mut cluster, &owner);
            assert_ne!(cluster.owner().unwrap(), owner);
            if cluster.0.nodes.known().contains_key(&owner) {
                assert_eq!(cluster.duty(&owner).unwrap().role, Role::Yield);
            }
        }
    }

    #[test]
    fn with_local_only_a_node_with_an_endpoint_owns() {
        let mut cluster = Cluster::new();
        cluster.service(TrafficPolicy::Local);
        for name in ["n1", "n2", "n3"] {
            cluster.endpoints(slice(&[name], &[]));
            assert_eq!(cluster.owner().as_deref(), Some(name));
            let role = cluster.duty(name).unwrap().role;
            assert_eq!(role, Role::Own { successor: false }, "no other has one");
        }
    }

    #[test]
    fn an_endpoint_that_ends_serves_only_where_no_other_is_ready() {
        let mut cluster = Cluster::new();
        cluster.service(TrafficPolicy::Local);
        cluster.endpoints(slice(&[], &["n1"]));
        assert_eq!(cluster.owner().as_deref(), Some("n1"));
        cluster.endpoints(slice(&["n2"], &["n1"]));
        assert_eq!(cluster.owner().as_deref(), Some("n2"));
    }

    #[test]
    fn an_endpoint_outside_the_cluster_serves_cluster_policy_only() {
        let mut cluster = Cluster::new();
        let outside = SliceView {
            ready: BTreeSet::from([None]),
            ..slice(&[], &[])
        };
        cluster.endpoints(outside);
        assert!(cluster.owner().is_some());
        cluster.service(TrafficPolicy::Local);
        assert_eq!(cluster.owner(), None);
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
                    match_labels: BTreeMap::from([("tier".into(), "db".into())]),
                    ..LabelSelector::default()
                };
                cluster.advertise(&[spec(|spec| spec.service_selectors = vec![other])]);
            },
        ];
        for spoil in spoil {
            let mut cluster = Cluster::new();
            spoil(&mut cluster);
            assert_eq!(cluster.owner(), None);
            assert_eq!(cluster.duty("n1"), None, "to be given up at once");
        }
    }

    #[test]
    fn an_advertisement_selects_pools_by_name_or_label() {
        let by_label = LabelSelector {
            match_labels: BTreeMap::from([("net".into(), "lan".into())]),
            ..LabelSelector::default()
        };
        for spec in [
            spec(|spec| spec.ip_address_pools = vec!["lan".into()]),
            spec(|spec| spec.ip_address_pool_selectors = vec![by_label]),
        ] {
            let mut cluster = Cluster::new();
            cluster.advertise(&[spec]);
            assert!(cluster.owner().is_some());
        }
    }

    #[test]
    fn the_last_node_has_no_successor() {
        let mut cluster = Cluster::new();
        for name in ["n2", "n3"] {
            cluster.put(Change::Node(Step::Remove(name.into())));
        }
        assert_eq!(
            cluster.duty("n1").unwrap().role,
            Role::Own { successor: false }
        );
    }

    #[test]
    fn interfaces_of_the_advertisements_for_this_node_add_up() {
        let named = |name: &str| spec(|spec| spec.interfaces = vec![name.into()]);
        let elsewhere = spec(|spec| spec.node_selectors = vec![selector("In", "n2")]);
        let mut cluster = Cluster::new();
        cluster.advertise(&[named("lan0"), named("lan1"), elsewhere]);
        assert_eq!(cluster.duty("n1").unwrap().interfaces.len(), 2);
        let all = cluster.duty("n2").unwrap().interfaces;
        assert!(all.is_empty(), "one that names none means all");
    }
}
