//! What this node knows of the cluster: of each kind what the duties rest on,
//! and nothing else, so that a thousand Services fit in a few megabytes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_api::L2AdvertisementSpec;
use herald_core::{AddressRange, Endpoint, Node, ServiceKey, TrafficPolicy};

use crate::table::{Step, Table};

/// Namespace and name.
pub(crate) type ObjectKey = (String, String);

/// A Service that is Herald's to announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceView {
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) traffic_policy: TrafficPolicy,
    /// Its addresses, in the order of its status.
    pub(crate) vips: Vec<IpAddr>,
}

/// An `EndpointSlice`: on which nodes its endpoints are; no node for one
/// outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceView {
    pub(crate) service: ServiceKey,
    pub(crate) ready: BTreeSet<Option<String>>,
    /// Those that still serve while they end.
    pub(crate) ending: BTreeSet<Option<String>>,
}

impl SliceView {
    pub(crate) fn new(service: ServiceKey, endpoints: impl Iterator<Item = Endpoint>) -> Self {
        let mut slice = Self {
            service,
            ready: BTreeSet::new(),
            ending: BTreeSet::new(),
        };
        for endpoint in endpoints {
            if endpoint.ready {
                slice.ready.insert(endpoint.node);
            } else if endpoint.serving && endpoint.terminating {
                slice.ending.insert(endpoint.node);
            }
        }
        slice
    }
}

/// A pool as far as advertisements select it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolView {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ranges: Vec<AddressRange>,
}

/// A step of one of the watches.
#[derive(Debug)]
pub(crate) enum Change {
    Node(Step<String, Node>),
    /// A speaker's pod that is Ready and stays, with its node.
    Speaker(Step<String, String>),
    Service(Step<ServiceKey, ServiceView>),
    Slice(Step<ObjectKey, SliceView>),
    Pool(Step<String, PoolView>),
    Advertisement(Step<String, L2AdvertisementSpec>),
}

/// Everything the duties rest on. Owned by one task.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) nodes: Table<String, Node>,
    pub(crate) speakers: Table<String, String>,
    pub(crate) services: Table<ServiceKey, ServiceView>,
    pub(crate) slices: Table<ObjectKey, SliceView>,
    pub(crate) pools: Table<String, PoolView>,
    pub(crate) advertisements: Table<String, L2AdvertisementSpec>,
}

impl Index {
    /// Takes in a change; says whether anything is different now.
    pub(crate) fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Node(step) => self.nodes.apply(step),
            Change::Speaker(step) => self.speakers.apply(step),
            Change::Service(step) => self.services.apply(step),
            Change::Slice(step) => self.slices.apply(step),
            Change::Pool(step) => self.pools.apply(step),
            Change::Advertisement(step) => self.advertisements.apply(step),
        }
    }

    /// Whether every kind has been listed once. Before that, an object that is
    /// missing may only not have arrived.
    pub(crate) const fn is_complete(&self) -> bool {
        self.nodes.is_complete()
            && self.speakers.is_complete()
            && self.services.is_complete()
            && self.slices.is_complete()
            && self.pools.is_complete()
            && self.advertisements.is_complete()
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
