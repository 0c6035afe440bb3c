//! Which addresses there are to own, and which nodes may, as a function of what
//! the API says. On which segments that is, is the matter of [`crate::view`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use herald_api::names::LABEL_WEIGHT;
use herald_api::{L2AdvertisementSpec, L2Policy, L2Profile, L2Rebalance, any_or_empty};
use herald_core::{AddressRange, Node, ServiceKey, TrafficPolicy};
use herald_election::{GroupId, NodeId, Policy, Profile, Rebalance};

use crate::index::{
    AdvertisementView, Index, InterfaceView, PerNode, PoolView, ServiceView, SliceView,
};

/// Lists of which most groups have the same.
pub(crate) type Shared<T> = HashMap<Vec<T>, Arc<[T]>>;

/// The list, kept once.
pub(crate) fn share<T: Clone + Eq + Hash>(shared: &mut Shared<T>, list: Vec<T>) -> Arc<[T]> {
    let shared = shared.entry(list);
    shared
        .or_insert_with_key(|list| list.as_slice().into())
        .clone()
}

/// What an advertisement leaves open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L2Defaults {
    /// How soon a silent node is taken for dead.
    pub profile: L2Profile,
    /// What is worse, no owner or two.
    pub policy: L2Policy,
    /// When addresses go back to the node that should have them.
    pub rebalance: L2Rebalance,
}

/// What there is to do in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Duties {
    /// The nodes that have a speaker, by name.
    pub(crate) nodes: BTreeMap<String, NodeDuty>,
    pub(crate) groups: Vec<GroupDuty>,
    /// Where addresses may come to be.
    pub(crate) grounds: Vec<Ground>,
    /// By advertisement: what asks for addresses to go back to the nodes that
    /// should have them, whenever it changes.
    pub(crate) rebalance: BTreeMap<String, Option<String>>,
}

/// A node with a speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeDuty {
    pub(crate) id: NodeId,
    pub(crate) weight: u8,
    /// None while its speaker has not told them.
    pub(crate) interfaces: Option<Vec<InterfaceView>>,
    /// Where the cluster reaches it.
    pub(crate) addresses: Vec<IpAddr>,
}

/// An address, and the Services that have it.
pub(crate) type Vip = (IpAddr, Vec<Arc<ServiceRef>>);

/// Addresses that move together: those of one Service, and of all Services that
/// share one of these, as far as the same advertisements cover them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupDuty {
    pub(crate) id: GroupId,
    /// In order.
    pub(crate) vips: Arc<[Vip]>,
    pub(crate) policy: Policy,
    pub(crate) profile: Profile,
    pub(crate) rebalance: Rebalance,
    /// In the order of the nodes' names; most groups have the same.
    pub(crate) candidates: Arc<[CandidateDuty]>,
}

/// A Service, to write events about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceRef {
    pub(crate) key: ServiceKey,
    pub(crate) uid: String,
}

/// A node that may own a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CandidateDuty {
    pub(crate) node: String,
    /// Whether Kubernetes calls the node Ready.
    pub(crate) ready: bool,
    pub(crate) preference: Preference,
    pub(crate) place: Place,
}

/// On which interfaces of a node a group may be announced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// On those that have a subnet with the address.
    Subnet,
    /// On those of these names, whatever their subnets.
    Named(Arc<BTreeSet<String>>),
}

impl Place {
    /// Whether an address belongs on an interface with this name and these
    /// subnets.
    pub(crate) fn takes(&self, name: &str, subnets: &[(IpAddr, u8)], address: &IpAddr) -> bool {
        match self {
            Self::Subnet => subnets
                .iter()
                .any(|(own, length)| herald_net::same_subnet(own, address, *length)),
            Self::Named(names) => names.contains(name),
        }
    }
}

/// Which candidates come first: the greater one, what stands first in it first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Preference {
    /// How many Services of the group have an endpoint that the node reaches.
    pub(crate) serves: u32,
    /// The sum of the weights of the advertisement's preferences.
    pub(crate) weight: u32,
    /// Its own ready endpoints, where only these are reached.
    pub(crate) endpoints: u32,
}

impl Preference {
    /// All in one number, below how many of the group's addresses the node has a
    /// place for.
    pub(crate) fn pack(self, places: u32) -> u32 {
        places.min(7) << 29
            | self.serves.min(0xf) << 25
            | self.weight.min(0xfff) << 13
            | self.endpoints.min(0x1fff)
    }
}

/// Where addresses of an advertisement's pools may come to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ground {
    pub(crate) place: Place,
    pub(crate) ranges: Vec<AddressRange>,
}

/// The duties in a cluster.
pub(crate) fn compute(index: &Index, defaults: L2Defaults) -> Duties {
    let nodes = nodes(index);
    Duties {
        groups: Grouping::of(index).groups(&nodes, defaults),
        nodes: nodes
            .iter()
            .map(|node| (node.name.clone(), node_duty(index, node)))
            .collect(),
        grounds: grounds(index),
        rebalance: index
            .advertisements
            .known()
            .iter()
            .map(|(name, view)| (name.clone(), view.rebalance.clone()))
            .collect(),
    }
}

/// The nodes with a speaker.
fn nodes(index: &Index) -> Vec<&Node> {
    let speaking: BTreeSet<&String> = index.speakers.known().values().collect();
    index
        .nodes
        .known()
        .values()
        .map(|view| &view.node)
        .filter(|node| speaking.contains(&node.name))
        .collect()
}

fn node_duty(index: &Index, node: &Node) -> NodeDuty {
    NodeDuty {
        id: NodeId::of(&node.name),
        weight: weight(node),
        interfaces: index.interfaces.known().get(&node.name).cloned(),
        addresses: node.internal_addresses.clone(),
    }
}

/// A label that is no number from 1 to 255 counts as none.
fn weight(node: &Node) -> u8 {
    let weight = node
        .labels
        .get(LABEL_WEIGHT)
        .and_then(|text| text.parse().ok());
    weight.unwrap_or(1).max(1)
}

/// Whether traffic from outside may be sent to a node, Ready or not.
const fn may_carry(node: &Node) -> bool {
    !node.network_unavailable && !node.excluded && !node.deleting
}

fn grounds(index: &Index) -> Vec<Ground> {
    let ground = |view: &AdvertisementView| Ground {
        place: place(&[&view.spec]),
        ranges: index
            .pools
            .known()
            .iter()
            .filter(|(name, pool)| selects(&view.spec, name, pool))
            .flat_map(|(_, pool)| pool.ranges.iter().copied())
            .collect(),
    };
    index.advertisements.known().values().map(ground).collect()
}

/// Where a Service's usable endpoints are: the ready ones, else those that
/// still serve while they end, as kube-proxy takes them.
struct Backing<'a> {
    policy: TrafficPolicy,
    nodes: BTreeMap<Option<&'a str>, u32>,
}

impl<'a> Backing<'a> {
    fn of(policy: TrafficPolicy, slices: &[&'a SliceView]) -> Self {
        let count = |set: fn(&SliceView) -> &PerNode| {
            let mut nodes = BTreeMap::new();
            for (node, count) in slices.iter().flat_map(|slice| set(slice)) {
                *nodes.entry(node.as_deref()).or_default() += count;
            }
            nodes
        };
        let ready = count(|slice| &slice.ready);
        let nodes = if ready.is_empty() {
            count(|slice| &slice.ending)
        } else {
            ready
        };
        Self { policy, nodes }
    }

    /// Whether a node could pass traffic on.
    fn allows(&self, node: &str) -> bool {
        match self.policy {
            TrafficPolicy::Cluster => !self.nodes.is_empty(),
            TrafficPolicy::Local => self.nodes.contains_key(&Some(node)),
        }
    }

    /// Endpoints on the node, where only those count.
    fn own(&self, node: &str) -> u32 {
        match self.policy {
            TrafficPolicy::Cluster => 0,
            TrafficPolicy::Local => self.nodes.get(&Some(node)).copied().unwrap_or(0),
        }
    }
}

/// An address, and what is known of it.
#[derive(Default)]
struct Facts<'a> {
    /// Services that have it, by their places.
    services: Vec<usize>,
    /// Advertisements that cover it.
    advertisements: BTreeSet<&'a String>,
}

/// Advertisements that cover a group, and the nodes that they select.
struct Cover<'a> {
    specs: Vec<&'a L2AdvertisementSpec>,
    standings: Vec<Standing<'a>>,
}

/// What makes a node a candidate under certain advertisements, whatever the Service.
struct Standing<'a> {
    node: &'a Node,
    weight: u32,
    place: Place,
}

/// Services and their addresses on the way to groups.
struct Grouping<'a> {
    index: &'a Index,
    services: Vec<(&'a ServiceKey, &'a ServiceView)>,
    vips: BTreeMap<IpAddr, Facts<'a>>,
    slices: HashMap<&'a ServiceKey, Vec<&'a SliceView>>,
}

impl<'a> Grouping<'a> {
    fn of(index: &'a Index) -> Self {
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in index.slices.known().values() {
            slices.entry(&slice.service).or_default().push(slice);
        }
        let services: Vec<_> = index.services.known().iter().collect();
        let mut vips: BTreeMap<IpAddr, Facts> = BTreeMap::new();
        for (place, (_, service)) in services.iter().enumerate() {
            for address in &service.vips {
                let vip = vips.entry(*address).or_default();
                vip.services.push(place);
                vip.advertisements
                    .extend(advertisements(index, service, address));
            }
        }
        Self {
            index,
            services,
            vips,
            slices,
        }
    }

    fn groups(&self, nodes: &[&Node], defaults: L2Defaults) -> Vec<GroupDuty> {
        let mut parts: BTreeMap<(usize, &BTreeSet<&String>), Vec<IpAddr>> = BTreeMap::new();
        let roots = self.roots();
        for (address, vip) in &self.vips {
            if let Some(first) = vip.services.first()
                && !vip.advertisements.is_empty()
            {
                let part = (roots[*first], &vip.advertisements);
                parts.entry(part).or_default().push(*address);
            }
        }
        let mut covers = HashMap::new();
        let mut shared = HashMap::new();
        let groups = parts.into_iter();
        groups
            .filter_map(|((_, names), addresses)| {
                let cover = covers
                    .entry(names)
                    .or_insert_with(|| self.cover(names, nodes));
                self.group(cover, &addresses, defaults, &mut shared)
            })
            .collect()
    }

    fn cover(&self, names: &BTreeSet<&String>, nodes: &[&'a Node]) -> Cover<'a> {
        let known = self.index.advertisements.known();
        let specs: Vec<&L2AdvertisementSpec> = names
            .iter()
            .filter_map(|name| known.get(*name).map(|view| &view.spec))
            .collect();
        let carriers = nodes.iter().filter(|node| may_carry(node));
        let standings = carriers.filter_map(|node| standing(node, &specs)).collect();
        Cover { specs, standings }
    }

    /// For each Service the least of those that it shares addresses with,
    /// directly or not.
    fn roots(&self) -> Vec<usize> {
        fn find(roots: &mut [usize], mut at: usize) -> usize {
            while roots[at] != at {
                roots[at] = roots[roots[at]];
                at = roots[at];
            }
            at
        }
        let mut roots: Vec<usize> = (0..self.services.len()).collect();
        for vip in self.vips.values() {
            for pair in vip.services.windows(2) {
                let (a, b) = (find(&mut roots, pair[0]), find(&mut roots, pair[1]));
                roots[a.max(b)] = a.min(b);
            }
        }
        (0..roots.len()).map(|at| find(&mut roots, at)).collect()
    }

    /// A group; none where no node may own it.
    fn group(
        &self,
        cover: &Cover,
        addresses: &[IpAddr],
        defaults: L2Defaults,
        shared: &mut Shared<CandidateDuty>,
    ) -> Option<GroupDuty> {
        let places: BTreeSet<usize> = addresses
            .iter()
            .flat_map(|address| self.vips[address].services.iter().copied())
            .collect();
        let backings: Vec<Backing> = places.iter().map(|place| self.backing(*place)).collect();
        let mut candidates: Vec<_> = cover
            .standings
            .iter()
            .filter_map(|standing| candidate(standing, &backings))
            .collect();
        if candidates.is_empty() {
            return None;
        }
        // One that is cut off from the cluster has old rules and dead ways to the
        // pods. Where all are, it is the API that is blind: nothing moves.
        if candidates.iter().any(|candidate| candidate.ready) {
            candidates.retain(|candidate| candidate.ready);
        }
        let refs: BTreeMap<usize, Arc<ServiceRef>> = places
            .iter()
            .map(|place| (*place, self.reference(*place)))
            .collect();
        let services = |address| {
            let places = self.vips[address].services.iter();
            places.map(|place| refs[place].clone()).collect()
        };
        let (policy, profile, rebalance) = settings(&cover.specs, defaults);
        Some(GroupDuty {
            id: GroupId::of(addresses.first()?),
            vips: addresses
                .iter()
                .map(|address| (*address, services(address)))
                .collect(),
            policy,
            profile,
            rebalance,
            candidates: share(shared, candidates),
        })
    }

    fn backing(&self, place: usize) -> Backing<'a> {
        let (key, service) = self.services[place];
        let slices = self.slices.get(key).map_or(&[][..], Vec::as_slice);
        Backing::of(service.traffic_policy, slices)
    }

    fn reference(&self, place: usize) -> Arc<ServiceRef> {
        let (key, service) = self.services[place];
        Arc::new(ServiceRef {
            key: key.clone(),
            uid: service.uid.clone(),
        })
    }
}

/// The node under these advertisements; none where none of them selects it.
fn standing<'a>(node: &'a Node, specs: &[&L2AdvertisementSpec]) -> Option<Standing<'a>> {
    let from: Vec<&L2AdvertisementSpec> = specs
        .iter()
        .copied()
        .filter(|spec| any_or_empty(&spec.node_selectors, &node.labels))
        .collect();
    if from.is_empty() {
        return None;
    }
    let weights = from.iter().flat_map(|spec| &spec.preferred_node_selectors);
    Some(Standing {
        node,
        weight: weights
            .filter(|preferred| preferred.preference.matches(&node.labels))
            .map(|preferred| preferred.weight.clamp(0, 100).unsigned_abs())
            .sum(),
        place: place(&from),
    })
}

/// The node as a candidate for Services with these endpoints; none where it could
/// pass traffic on to none of them.
fn candidate(standing: &Standing, backings: &[Backing]) -> Option<CandidateDuty> {
    let name = standing.node.name.as_str();
    let serves = backings.iter().filter(|backing| backing.allows(name));
    let serves = u32::try_from(serves.count()).unwrap_or(u32::MAX);
    (serves > 0).then(|| CandidateDuty {
        node: name.to_owned(),
        ready: standing.node.ready,
        preference: Preference {
            serves,
            weight: standing.weight,
            endpoints: backings.iter().map(|backing| backing.own(name)).sum(),
        },
        place: standing.place.clone(),
    })
}

/// The interfaces that advertisements name together; with one that names none
/// the subnets decide.
fn place(specs: &[&L2AdvertisementSpec]) -> Place {
    if specs.iter().any(|spec| spec.interfaces.is_empty()) {
        return Place::Subnet;
    }
    let names = specs
        .iter()
        .flat_map(|spec| spec.interfaces.iter().cloned());
    Place::Named(Arc::new(names.collect()))
}

/// Of several advertisements the most careful policy, the soonest profile, and a
/// rebalancing if any wants it.
fn settings(specs: &[&L2AdvertisementSpec], defaults: L2Defaults) -> (Policy, Profile, Rebalance) {
    let strict = specs
        .iter()
        .any(|spec| spec.policy.unwrap_or(defaults.policy) == L2Policy::Strict);
    let on_join = specs
        .iter()
        .any(|spec| spec.rebalance.unwrap_or(defaults.rebalance) == L2Rebalance::OnJoin);
    let profiles = specs
        .iter()
        .map(|spec| profile(spec.profile.unwrap_or(defaults.profile)));
    (
        if strict {
            Policy::Strict
        } else {
            Policy::Available
        },
        profiles
            .min_by_key(|profile| profile.detect())
            .unwrap_or_default(),
        if on_join {
            Rebalance::OnJoin
        } else {
            Rebalance::Manual
        },
    )
}

/// The election's word for it.
pub(crate) const fn profile(profile: L2Profile) -> Profile {
    match profile {
        L2Profile::Default => Profile::Default,
        L2Profile::Fast => Profile::Fast,
        L2Profile::Safe => Profile::Safe,
    }
}

/// The advertisements that cover an address of a Service.
fn advertisements<'a>(
    index: &'a Index,
    service: &ServiceView,
    address: &IpAddr,
) -> impl Iterator<Item = &'a String> {
    let holds = |pool: &PoolView| pool.ranges.iter().any(|range| range.contains(address));
    let pools: Vec<(&String, &PoolView)> = index
        .pools
        .known()
        .iter()
        .filter(|(_, pool)| holds(pool))
        .collect();
    index
        .advertisements
        .known()
        .iter()
        .filter(move |(_, view)| {
            pools
                .iter()
                .any(|(name, pool)| selects(&view.spec, name, pool))
                && any_or_empty(&view.spec.service_selectors, &service.labels)
        })
        .map(|(name, _)| name)
}

fn selects(spec: &L2AdvertisementSpec, name: &String, pool: &PoolView) -> bool {
    pool.is_selected(
        name,
        &spec.ip_address_pools,
        &spec.ip_address_pool_selectors,
    )
}

#[cfg(test)]
mod tests;
