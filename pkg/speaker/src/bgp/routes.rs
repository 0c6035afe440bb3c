//! What this node tells its peers, as a function of the index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use herald_api::{BGPAdvertisementSpec, BGPPeerSpec, any_or_empty};
use herald_bgp::{Community, ExtendedCommunity, PathAttributes};
use herald_core::{AddressRange, IpFamily, Node, ServiceKey, TrafficPolicy};
use ipnet::IpNet;

use super::settings::{communities, is_external, local_as};
use super::{PeerView, is_cordoned};
use crate::index::{Index, PoolView, ServiceView, SliceView};

/// Prefixes, and what which peers get them with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    pub(crate) prefixes: BTreeMap<IpNet, Vec<Part>>,
    /// Whether some of them can come from no node that is not cordoned.
    pub(crate) needed: bool,
}

/// What some peers get a prefix with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) peers: BTreeSet<String>,
    pub(crate) attributes: PathAttributes,
}

/// What a prefix rests on.
#[derive(Default)]
struct Basis<'a> {
    advertisements: BTreeSet<&'a String>,
    /// Whether some Service of it is here to stay.
    stays: bool,
    /// What the node's endpoints count for, in Mbit/s; 0 is not told.
    bandwidth: u64,
}

/// The endpoints of a Service: on which nodes they are ready, and on which they only
/// still serve. Without a node: outside the cluster.
#[derive(Default)]
struct Backing<'a> {
    ready: BTreeSet<Option<&'a str>>,
    ending: BTreeSet<Option<&'a str>>,
    /// How many are ready on the node in question.
    here: u32,
}

impl<'a> Backing<'a> {
    fn of(slices: &[&'a SliceView], node: &str) -> Self {
        let mut backing = Self::default();
        for slice in slices {
            let on = slice.ready.iter();
            let here = on.filter(|(other, _)| other.as_deref() == Some(node));
            backing.here += here.map(|(_, count)| count).sum::<u32>();
            backing
                .ready
                .extend(slice.ready.keys().map(Option::as_deref));
            backing
                .ending
                .extend(slice.ending.keys().map(Option::as_deref));
        }
        backing
    }

    /// Whether a node can serve, and then whether that will stay so.
    fn serves(&self, policy: TrafficPolicy, node: &str) -> Option<bool> {
        let (ready, ending) = match policy {
            TrafficPolicy::Cluster => (!self.ready.is_empty(), !self.ending.is_empty()),
            TrafficPolicy::Local => (
                self.ready.contains(&Some(node)),
                self.ending.contains(&Some(node)),
            ),
        };
        (ready || ending).then_some(ready)
    }
}

/// The routes of a node to its peers.
pub(super) fn compute(
    index: &Index,
    me: &Node,
    peers: &BTreeMap<String, PeerView>,
    aliases: &BTreeMap<String, String>,
    problems: &mut Vec<String>,
) -> Routes {
    let mut slices: HashMap<&ServiceKey, Vec<&SliceView>> = HashMap::new();
    for slice in index.slices.known().values() {
        slices.entry(&slice.service).or_default().push(slice);
    }
    let mut bases: BTreeMap<IpNet, Basis> = BTreeMap::new();
    let mut needed = false;
    for (key, service) in index.services.known() {
        let backing = Backing::of(slices.get(key).map_or(&[], Vec::as_slice), &me.name);
        let Some(stays) = backing.serves(service.traffic_policy, &me.name) else {
            continue;
        };
        let bandwidth = bandwidth(service, &backing);
        let mut told = BTreeSet::new();
        for address in &service.vips {
            for (name, spec, pool) in covering(index, service, address) {
                if !any_or_empty(&spec.node_selectors, &me.labels) {
                    continue;
                }
                if let Some(prefix) = prefix(*address, spec, pool) {
                    let basis = bases.entry(prefix).or_default();
                    basis.advertisements.insert(name);
                    basis.stays |= stays;
                    // Once for each Service, however many advertisements and addresses
                    // of it are behind the prefix.
                    if told.insert(prefix) {
                        basis.bandwidth += bandwidth;
                    }
                } else {
                    let problem = format!(
                        "BGPAdvertisement {name} would tell of more than the pool of {address} \
                         has: make its aggregation longer"
                    );
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
                needed |= is_cordoned(me) && !others_serve(index, me, spec, service, &backing);
            }
        }
    }
    let going = is_cordoned(me);
    let mut known = HashMap::new();
    let prefixes = bases
        .into_iter()
        .map(|(prefix, basis)| {
            let leaves = going || !basis.stays;
            let parts = known
                .entry((basis.advertisements, leaves, basis.bandwidth))
                .or_insert_with_key(|(names, leaves, bandwidth)| {
                    let going = Going {
                        leaves: *leaves,
                        bandwidth: *bandwidth,
                    };
                    parts(index, names, going, peers, aliases, problems)
                });
            (prefix, parts.clone())
        })
        .collect();
    Routes { prefixes, needed }
}

/// What the node's endpoints of a Service count for, in Mbit/s. Where all nodes serve
/// alike none is told.
fn bandwidth(service: &ServiceView, backing: &Backing) -> u64 {
    match (service.traffic_policy, service.link_bandwidth) {
        (TrafficPolicy::Local, Some(each)) => u64::from(each) * u64::from(backing.here),
        _ => 0,
    }
}

/// Whether another node, one that is not cordoned, tells of the Service too.
fn others_serve(
    index: &Index,
    me: &Node,
    spec: &BGPAdvertisementSpec,
    service: &ServiceView,
    backing: &Backing,
) -> bool {
    let speaking: BTreeSet<&String> = index.speakers.known().values().collect();
    index.nodes.known().values().any(|view| {
        let node = &view.node;
        node.name != me.name
            && node.eligible()
            && !is_cordoned(node)
            && speaking.contains(&node.name)
            && any_or_empty(&spec.node_selectors, &node.labels)
            && backing.serves(service.traffic_policy, &node.name) == Some(true)
    })
}

/// The advertisements that cover an address of a Service, each with its pool.
fn covering<'a>(
    index: &'a Index,
    service: &'a ServiceView,
    address: &IpAddr,
) -> impl Iterator<Item = (&'a String, &'a BGPAdvertisementSpec, &'a PoolView)> {
    let holds = |pool: &PoolView| pool.ranges.iter().any(|range| range.contains(address));
    let mut pools = index.pools.known().iter();
    // Pools have no address in common.
    let pool = pools.find(|(_, pool)| holds(pool));
    pool.into_iter().flat_map(move |(pool_name, pool)| {
        index
            .bgp_advertisements
            .known()
            .iter()
            .filter(move |(_, spec)| {
                selects(spec, pool_name, pool)
                    && any_or_empty(&spec.service_selectors, &service.labels)
            })
            .map(move |(name, spec)| (name, &**spec, pool))
    })
}

fn selects(spec: &BGPAdvertisementSpec, name: &String, pool: &PoolView) -> bool {
    pool.is_selected(
        name,
        &spec.ip_address_pools,
        &spec.ip_address_pool_selectors,
    )
}

/// The prefix that an address is told as; none if it would leave the pool.
fn prefix(address: IpAddr, spec: &BGPAdvertisementSpec, pool: &PoolView) -> Option<IpNet> {
    let length = match IpFamily::of(&address) {
        IpFamily::V4 => spec.aggregation_length,
        IpFamily::V6 => spec.aggregation_length_v6,
    };
    let prefix = IpNet::new(address, length).ok()?.trunc();
    let within = |range: &AddressRange| {
        range.contains(&prefix.network()) && range.contains(&prefix.broadcast())
    };
    pool.ranges.iter().any(within).then_some(prefix)
}

/// How a prefix is, beside what advertisements say of it.
#[derive(Clone, Copy)]
struct Going {
    /// Whether its paths by this node go away soon.
    leaves: bool,
    /// In Mbit/s; 0 is not told.
    bandwidth: u64,
}

/// What each peer gets of the advertisements together: all communities, and of the
/// preferences the best.
fn parts(
    index: &Index,
    names: &BTreeSet<&String>,
    going: Going,
    peers: &BTreeMap<String, PeerView>,
    aliases: &BTreeMap<String, String>,
    problems: &mut Vec<String>,
) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (peer, view) in peers {
        let known = index.bgp_advertisements.known();
        let specs: Vec<(&String, &BGPAdvertisementSpec)> = names
            .iter()
            .filter_map(|name| Some((*name, &**known.get(*name)?)))
            .filter(|(_, spec)| spec.peers.is_empty() || spec.peers.contains(peer))
            .collect();
        if specs.is_empty() {
            continue;
        }
        let mut attributes = PathAttributes {
            local_pref: specs.iter().filter_map(|(_, spec)| spec.local_pref).max(),
            med: specs.iter().filter_map(|(_, spec)| spec.med).min(),
            prepend: specs
                .iter()
                .map(|(_, spec)| spec.as_path_prepend)
                .min()
                .unwrap_or(0),
            ..PathAttributes::default()
        };
        for (name, spec) in specs {
            for problem in communities(&spec.communities, aliases, &mut attributes) {
                let problem = format!("BGPAdvertisement {name}: {problem}");
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        if going.bandwidth > 0 {
            let community = link_bandwidth(&view.spec, going.bandwidth);
            attributes.extended_communities.push(community);
        }
        if going.leaves {
            attributes.communities.push(Community::GRACEFUL_SHUTDOWN);
        }
        match parts.iter_mut().find(|part| part.attributes == attributes) {
            Some(part) => {
                part.peers.insert(peer.clone());
            }
            None => parts.push(Part {
                peers: BTreeSet::from([peer.clone()]),
                attributes,
            }),
        }
    }
    parts
}

/// A peer in our AS looks for the form that does not leave it, and one in another AS
/// may take only the other.
fn link_bandwidth(spec: &BGPPeerSpec, mbits: u64) -> ExtendedCommunity {
    #[expect(
        clippy::cast_precision_loss,
        reason = "routers weigh by it, and the field has 24 bits of precision"
    )]
    let bytes = mbits as f32 * 125_000.0;
    ExtendedCommunity::link_bandwidth(local_as(spec), bytes, is_external(spec))
}
