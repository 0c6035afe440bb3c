//! What this node has to do for each VIP, as a function of what the API says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_api::{L2AdvertisementSpec, any_or_empty};
use herald_core::{AddressRange, Endpoint, Node, ServiceKey, TrafficPolicy};

/// Everything the decision rests on.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// This node's name.
    pub(crate) me: String,
    /// This speaker is about to stop and must not own anything.
    pub(crate) draining: bool,
    pub(crate) nodes: Vec<Node>,
    /// Nodes whose speaker's pod is Ready and stays.
    pub(crate) speakers: BTreeSet<String>,
    pub(crate) services: Vec<ServiceView>,
    pub(crate) pools: Vec<PoolView>,
    pub(crate) advertisements: Vec<L2AdvertisementSpec>,
}

/// A Service that is Herald's to announce.
#[derive(Debug)]
pub(crate) struct ServiceView {
    pub(crate) key: ServiceKey,
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) traffic_policy: TrafficPolicy,
    /// Its addresses, the first family first.
    pub(crate) vips: Vec<IpAddr>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A pool as far as advertisements select it.
#[derive(Debug)]
pub(crate) struct PoolView {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ranges: Vec<AddressRange>,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Ours: answer and announce.
    Own,
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

/// The duties of this node.
pub(crate) fn compute(view: &View) -> Duties {
    let mut duties = Duties::new();
    for service in &view.services {
        // Both families go to one node: the first address stands for all.
        let Some(first) = service.vips.first() else { continue };
        for vip in &service.vips {
            let advertisements = advertisements(view, service, vip);
            let candidates = candidates(view, service, &advertisements);
            let Some(owner) = herald_election::owner(first, candidates) else { continue };
            let role = if owner == view.me { Role::Own } else { Role::Yield };
            let duty = Duty {
                service: service.key.clone(),
                uid: service.uid.clone(),
                role,
                interfaces: interfaces(view, &advertisements),
            };
            duties.insert(*vip, duty);
        }
    }
    duties
}

/// The advertisements that cover a VIP of a Service.
fn advertisements<'a>(
    view: &'a View,
    service: &ServiceView,
    vip: &IpAddr,
) -> Vec<&'a L2AdvertisementSpec> {
    let holds = |pool: &&PoolView| pool.ranges.iter().any(|range| range.contains(vip));
    let pools: Vec<&PoolView> = view.pools.iter().filter(holds).collect();
    view.advertisements
        .iter()
        .filter(|advertisement| {
            pools.iter().any(|pool| selects(advertisement, pool))
                && any_or_empty(&advertisement.service_selectors, &service.labels)
        })
        .collect()
}

fn selects(advertisement: &L2AdvertisementSpec, pool: &PoolView) -> bool {
    let (names, selectors) =
        (&advertisement.ip_address_pools, &advertisement.ip_address_pool_selectors);
    (names.is_empty() && selectors.is_empty())
        || names.contains(&pool.name)
        || selectors.iter().any(|selector| selector.matches(&pool.labels))
}

/// The nodes that may own a VIP of a Service.
fn candidates<'a>(
    view: &'a View,
    service: &'a ServiceView,
    advertisements: &'a [&L2AdvertisementSpec],
) -> impl Iterator<Item = &'a str> {
    let usable = usable_endpoints(&service.endpoints);
    view.nodes
        .iter()
        .filter(|node| node.eligible() && view.speakers.contains(&node.name))
        .filter(|node| !(view.draining && node.name == view.me))
        .filter(|node| {
            advertisements
                .iter()
                .any(|advertisement| any_or_empty(&advertisement.node_selectors, &node.labels))
        })
        .filter(move |node| match service.traffic_policy {
            TrafficPolicy::Cluster => !usable.is_empty(),
            TrafficPolicy::Local => {
                usable.iter().any(|endpoint| endpoint.node.as_ref() == Some(&node.name))
            }
        })
        .map(|node| node.name.as_str())
}

/// Those that kube-proxy would use: the ready ones, else those that still
/// serve while they end.
fn usable_endpoints(endpoints: &[Endpoint]) -> Vec<&Endpoint> {
    let ready: Vec<&Endpoint> = endpoints.iter().filter(|endpoint| endpoint.ready).collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints.iter().filter(|endpoint| endpoint.serving && endpoint.terminating).collect()
}

/// The interfaces that the advertisements for this node name together; one
/// that names none means all.
fn interfaces(view: &View, advertisements: &[&L2AdvertisementSpec]) -> BTreeSet<String> {
    let Some(me) = view.nodes.iter().find(|node| node.name == view.me) else {
        return BTreeSet::new();
    };
    let mut names = BTreeSet::new();
    for advertisement in advertisements
        .iter()
        .filter(|advertisement| any_or_empty(&advertisement.node_selectors, &me.labels))
    {
        if advertisement.interfaces.is_empty() {
            return BTreeSet::new();
        }
        names.extend(advertisement.interfaces.iter().cloned());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        Node {
            name: name.into(),
            labels: BTreeMap::from([("name".into(), name.into())]),
            internal_addresses: Vec::new(),
            ready: true,
            network_unavailable: false,
            excluded: false,
            deleting: false,
        }
    }

    fn endpoint(node: &str) -> Endpoint {
        Endpoint {
            address: "10.244.1.2".parse().unwrap(),
            node: Some(node.into()),
            ready: true,
            serving: true,
            terminating: false,
        }
    }

    fn service(endpoints: Vec<Endpoint>) -> ServiceView {
        ServiceView {
            key: ServiceKey::new("default", "web"),
            uid: "u".into(),
            labels: BTreeMap::new(),
            traffic_policy: TrafficPolicy::Cluster,
            vips: vec!["10.20.100.0".parse().unwrap(), "fd20::1:0".parse().unwrap()],
            endpoints,
        }
    }

    fn view() -> View {
        View {
            me: "n1".into(),
            nodes: vec![node("n1"), node("n2"), node("n3")],
            speakers: ["n1", "n2", "n3"].into_iter().map(str::to_owned).collect(),
            services: vec![service(vec![endpoint("n1")])],
            pools: vec![PoolView {
                name: "lan".into(),
                labels: BTreeMap::new(),
                ranges: vec!["10.20.100.0/22".parse().unwrap(), "fd20::1:0/112".parse().unwrap()],
            }],
            advertisements: vec![L2AdvertisementSpec::default()],
            ..View::default()
        }
    }

    /// Who owns the first VIP, asked of every node.
    fn owners(mut view: View) -> Vec<String> {
        let vip: IpAddr = "10.20.100.0".parse().unwrap();
        let names: Vec<String> = view.nodes.iter().map(|node| node.name.clone()).collect();
        names
            .into_iter()
            .filter(|name| {
                view.me.clone_from(name);
                compute(&view).get(&vip).is_some_and(|duty| duty.role == Role::Own)
            })
            .collect()
    }

    #[test]
    fn one_node_owns_and_both_families_go_together() {
        assert_eq!(owners(view()).len(), 1);
        let duties = compute(&view());
        let roles: Vec<Role> = duties.values().map(|duty| duty.role).collect();
        assert_eq!(roles.len(), 2);
        assert_eq!(roles[0], roles[1]);
    }

    #[test]
    fn an_owner_that_may_no_longer_own_gives_way() {
        let owner = owners(view()).remove(0);
        let spoil: [fn(&mut View, &str); 4] = [
            |view, owner| view.nodes.iter_mut().for_each(|n| n.excluded |= n.name == owner),
            |view, owner| view.nodes.iter_mut().for_each(|n| n.ready &= n.name != owner),
            |view, owner| drop(view.speakers.remove(owner)),
            |view, owner| {
                view.advertisements[0].node_selectors = vec![herald_api::LabelSelector {
                    match_expressions: vec![herald_api::LabelSelectorRequirement {
                        key: "name".into(),
                        operator: "NotIn".into(),
                        values: vec![owner.into()],
                    }],
                    ..Default::default()
                }];
            },
        ];
        for spoil in spoil {
            let mut view = view();
            spoil(&mut view, &owner);
            let next = owners(view);
            assert_eq!(next.len(), 1);
            assert_ne!(next[0], owner);
        }
    }

    #[test]
    fn with_local_only_a_node_with_an_endpoint_owns() {
        let mut view = view();
        view.services[0].traffic_policy = TrafficPolicy::Local;
        for name in ["n1", "n2", "n3"] {
            view.services[0].endpoints = vec![endpoint(name)];
            assert_eq!(owners(View { ..copy(&view) }), [name]);
        }
    }

    fn copy(view: &View) -> View {
        let mut copy = self::view();
        copy.services[0].traffic_policy = view.services[0].traffic_policy;
        copy.services[0].endpoints.clone_from(&view.services[0].endpoints);
        copy
    }

    #[test]
    fn nobody_owns_without_an_endpoint_an_advertisement_or_a_pool() {
        let spoil: [fn(&mut View); 3] = [
            |view| view.services[0].endpoints.clear(),
            |view| view.advertisements.clear(),
            |view| view.pools.clear(),
        ];
        for spoil in spoil {
            let mut view = view();
            spoil(&mut view);
            assert!(owners(view).is_empty());
        }
    }

    #[test]
    fn an_endpoint_that_ends_serves_only_where_no_other_is_ready() {
        let ending = Endpoint { ready: false, terminating: true, ..endpoint("n1") };
        assert_eq!(usable_endpoints(std::slice::from_ref(&ending)).len(), 1);
        let both = [ending, endpoint("n2")];
        assert_eq!(usable_endpoints(&both)[0].node.as_deref(), Some("n2"));
    }

    #[test]
    fn a_speaker_that_stops_yields() {
        let mut view = view();
        view.me = owners(self::view()).remove(0);
        view.draining = true;
        assert!(compute(&view).values().all(|duty| duty.role == Role::Yield));
        view.nodes.retain(|node| node.name == view.me);
        assert!(compute(&view).is_empty(), "nobody is there to yield to");
    }

    #[test]
    fn interfaces_of_several_advertisements_add_up() {
        let mut view = view();
        let named = |name: &str| L2AdvertisementSpec {
            interfaces: vec![name.into()],
            ..L2AdvertisementSpec::default()
        };
        view.advertisements = vec![named("lan0"), named("lan1")];
        let duty = compute(&view).into_values().next().unwrap();
        assert_eq!(duty.interfaces.len(), 2);
        view.advertisements.push(L2AdvertisementSpec::default());
        let duty = compute(&view).into_values().next().unwrap();
        assert!(duty.interfaces.is_empty(), "one that names none means all");
    }
}
