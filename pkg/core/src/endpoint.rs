//! An endpoint of a Service, from its `EndpointSlices`.

use std::net::IpAddr;

use crate::{Protocol, ServicePort};

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

/// An endpoint with all that a load balancer needs that sends to it directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where and how it is.
    pub endpoint: Endpoint,
    /// `ports[]` of its slice.
    pub ports: Vec<EndpointPort>,
    /// Name of the pod behind it, in the Service's namespace (`targetRef`).
    pub pod: Option<String>,
    /// Its pod's containers are ready, and what keeps the pod from being ready is
    /// only the readiness gate that the load balancer itself opens.
    pub awaits_gate: bool,
}

/// A port of an endpoint, resolved from the Service's `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name of the Service's port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where the endpoint listens.
    pub port: u16,
}

impl Backend {
    /// Where this endpoint serves a port of its Service.
    pub fn port_for(&self, port: &ServicePort) -> Option<u16> {
        self.ports
            .iter()
            .find(|own| own.name == port.name && own.protocol == port.protocol)
            .map(|own| own.port)
    }
}
