//! An endpoint of a Service, from its `EndpointSlices`.

use std::net::IpAddr;

/// One endpoint, whatever stands behind it (a pod or a hand-made slice).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// One of `endpoints[].addresses[]`.
    pub address: IpAddr,
    /// `endpoints[].nodeName`; none for endpoints outside the cluster.
    pub node: Option<String>,
    /// `conditions.ready`; an absent condition means ready.
    pub ready: bool,
    /// `conditions.serving`; an absent condition follows `ready`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
}
