//! What this node knows of the cluster: of each kind what the duties rest on,
//! and nothing else, so that a thousand Services fit in a few megabytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use herald_api::{BFDProfileSpec, L2AdvertisementSpec, LabelSelector};
use herald_core::{AddressRange, Endpoint, Labels, Node, ServiceKey, TrafficPolicy};
use litemap::LiteMap;

use crate::bgp::{BgpAdvertisementView, PeerView};
use crate::table::{Step, Table};

/// Namespace and name.
pub(crate) type ObjectKey = (String, String);

/// A Service that is Herald's to announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceView {
    pub(crate) uid: String,
    pub(crate) labels: Labels,
    pub(crate) traffic_policy: TrafficPolicy,
    /// Its addresses, in the order of its status.
    pub(crate) vips: Vec<IpAddr>,
    /// What each ready endpoint counts for, in Mbit/s, where peers are told that.
    pub(crate) link_bandwidth: Option<u32>,
}

/// How many endpoints are on each node; no node for those outside the cluster.
pub(crate) type PerNode = LiteMap<Option<String>, u32>;

/// An `EndpointSlice`: where its endpoints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceView {
    pub(crate) service: ServiceKey,
    pub(crate) ready: PerNode,
    /// Those that still serve while they end.
    pub(crate) ending: PerNode,
}

impl SliceView {
    pub(crate) fn new(service: ServiceKey, endpoints: impl Iterator<Item = Endpoint>) -> Self {
        let mut ready = BTreeMap::new();
        let mut ending = BTreeMap::new();
        for endpoint in endpoints {
            if endpoint.ready {
                *ready.entry(endpoint.node).or_default() += 1;
            } else if endpoint.serving && endpoint.terminating {
                *ending.entry(endpoint.node).or_default() += 1;
            }
        }
        Self {
            service,
            ready: ready.into_iter().collect(),
            ending: ending.into_iter().collect(),
        }
    }
}

/// A pool as far as advertisements select it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolView {
    pub(crate) labels: Labels,
    pub(crate) ranges: Vec<AddressRange>,
}

impl PoolView {
    /// Whether an advertisement with these names and selectors of pools covers this
    /// one, which is called `name`; with none of either it covers all.
    pub(crate) fn is_selected(
        &self,
        name: &String,
        names: &[String],
        selectors: &[LabelSelector],
    ) -> bool {
        (names.is_empty() && selectors.is_empty())
            || names.contains(name)
            || selectors
                .iter()
                .any(|selector| selector.matches(&self.labels))
    }
}

/// An advertisement, and what its annotation asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AdvertisementView {
    pub(crate) spec: L2AdvertisementSpec,
    /// Whenever this changes, addresses go back to whom they should be with.
    pub(crate) rebalance: Option<String>,
}

/// A node, and what a status object of its speaker's refers to it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeView {
    pub(crate) node: Node,
    pub(crate) uid: String,
}

/// An interface of a node, as its speaker tells the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceView {
    pub(crate) name: String,
    /// With the lengths of their prefixes; no link-local ones.
    pub(crate) addresses: Vec<(IpAddr, u8)>,
}

/// A step of one of the watches, and the number of the API's state after it
/// (`resourceVersion`; 0 where the step has none).
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) number: u64,
    pub(crate) change: Change,
}

/// A step of one of the watches.
#[derive(Debug)]
pub(crate) enum Change {
    Node(Step<String, NodeView>),
    /// A speaker's pod that runs or is about to, with its node. How it is, its
    /// peers hear for themselves.
    Speaker(Step<String, String>),
    /// The interfaces of a node.
    Interfaces(Step<String, Vec<InterfaceView>>),
    Service(Step<ServiceKey, ServiceView>),
    Slice(Step<ObjectKey, SliceView>),
    Pool(Step<String, PoolView>),
    Advertisement(Step<String, AdvertisementView>),
    Peer(Step<String, PeerView>),
    BgpAdvertisement(Step<String, BgpAdvertisementView>),
    /// Names and what they stand for.
    Community(Step<String, Vec<(String, String)>>),
    Profile(Step<String, BFDProfileSpec>),
}

/// Everything the duties rest on. Owned by one task.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// The greatest number of the API's state seen. All speakers follow the same
    /// objects, so who has the greater one knows more.
    pub(crate) number: u64,
    pub(crate) nodes: Table<String, NodeView>,
    pub(crate) speakers: Table<String, String>,
    pub(crate) interfaces: Table<String, Vec<InterfaceView>>,
    pub(crate) services: Table<ServiceKey, ServiceView>,
    pub(crate) slices: Table<ObjectKey, SliceView>,
    pub(crate) pools: Table<String, PoolView>,
    pub(crate) advertisements: Table<String, AdvertisementView>,
    pub(crate) peers: Table<String, PeerView>,
    pub(crate) bgp_advertisements: Table<String, BgpAdvertisementView>,
    pub(crate) communities: Table<String, Vec<(String, String)>>,
    pub(crate) profiles: Table<String, BFDProfileSpec>,
}

impl Index {
    /// Takes in news; says whether anything but the number is different now.
    pub(crate) fn take(&mut self, news: News) -> bool {
        self.number = self.number.max(news.number);
        self.apply(news.change)
    }

    /// Takes in a change; says whether anything is different now.
    pub(crate) fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Node(step) => self.nodes.apply(step),
            Change::Speaker(step) => self.speakers.apply(step),
            Change::Interfaces(step) => self.interfaces.apply(step),
            Change::Service(step) => self.services.apply(step),
            Change::Slice(step) => self.slices.apply(step),
            Change::Pool(step) => self.pools.apply(step),
            Change::Advertisement(step) => self.advertisements.apply(step),
            Change::Peer(step) => self.peers.apply(step),
            Change::BgpAdvertisement(step) => self.bgp_advertisements.apply(step),
            Change::Community(step) => self.communities.apply(step),
            Change::Profile(step) => self.profiles.apply(step),
        }
    }

    /// Whether every kind has been listed once. Before that, an object that is
    /// missing may only not have arrived.
    pub(crate) const fn is_complete(&self) -> bool {
        self.nodes.is_complete()
            && self.speakers.is_complete()
            && self.interfaces.is_complete()
            && self.services.is_complete()
            && self.slices.is_complete()
            && self.pools.is_complete()
            && self.advertisements.is_complete()
    }

    /// Whether every kind that BGP rests on has been listed once too.
    pub(crate) const fn is_bgp_complete(&self) -> bool {
        self.is_complete()
            && self.peers.is_complete()
            && self.bgp_advertisements.is_complete()
            && self.communities.is_complete()
            && self.profiles.is_complete()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_decided_before_every_kind_was_listed() {
        let mut index = Index::default();
        let lists = [
            Change::Node(Step::Complete),
            Change::Speaker(Step::Complete),
            Change::Interfaces(Step::Complete),
            Change::Service(Step::Complete),
            Change::Slice(Step::Complete),
            Change::Pool(Step::Complete),
            Change::Advertisement(Step::Complete),
        ];
        for list in lists {
            assert!(!index.is_complete());
            assert!(index.apply(list));
        }
        assert!(index.is_complete());
    }

    #[test]
    fn the_number_only_grows() {
        let mut index = Index::default();
        for (number, grown) in [(7, 7), (0, 7), (9, 9), (8, 9)] {
            let change = Change::Node(Step::Begin);
            assert!(!index.take(News { number, change }));
            assert_eq!(index.number, grown);
        }
    }

    #[test]
    fn an_endpoint_that_is_neither_ready_nor_serves_does_not_count() {
        let endpoint = |ready, serving, terminating| Endpoint {
            address: "10.244.1.2".parse().unwrap(),
            node: Some("n1".into()),
            ready,
            serving,
            terminating,
        };
        let slice =
            |endpoint| SliceView::new(ServiceKey::new("default", "web"), std::iter::once(endpoint));
        assert_eq!(slice(endpoint(true, true, false)).ready.len(), 1);
        assert_eq!(slice(endpoint(false, true, true)).ending.len(), 1);
        let failing = slice(endpoint(false, false, true));
        assert!(failing.ready.is_empty() && failing.ending.is_empty());
        let unready = slice(endpoint(false, true, false));
        assert!(unready.ready.is_empty() && unready.ending.is_empty());
    }
}
