//! A Service of type `LoadBalancer`: what it asks for and what it has.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Backend, IpFamily, Labels};

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ServiceKey {
    /// The key of `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol, as in `spec.ports[].protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, the API's default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// One of `spec.ports[]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// `name`; empty where the Service has one unnamed port.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`, 1 to 65535: what clients dial.
    pub port: u16,
    /// `nodePort`; none with `allocateLoadBalancerNodePorts: false`.
    pub node_port: Option<u16>,
    /// `targetPort`.
    pub target_port: TargetPort,
}

/// `spec.ports[].targetPort`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetPort {
    /// The same on all pods, 1 to 65535.
    Number(u16),
    /// A named port, which each pod may resolve to another number.
    Name(String),
}

/// `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// Any node forwards to any endpoint; the client's address may be lost.
    #[default]
    Cluster,
    /// A node forwards only to its own endpoints and keeps the client's address.
    Local,
}

/// `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IpFamilyPolicy {
    /// One family.
    #[default]
    SingleStack,
    /// Two where the cluster has them.
    PreferDualStack,
    /// Two or an error.
    RequireDualStack,
}

/// What a Service of type `LoadBalancer` asks for, and what its status holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRequest {
    /// Which Service.
    pub key: ServiceKey,
    /// `metadata.uid`: a Service deleted and made anew is another one.
    pub uid: String,
    /// `metadata.labels`, for selectors.
    pub labels: Labels,
    /// Labels of its namespace, for selectors.
    pub namespace_labels: Labels,
    /// `metadata.annotations`, for providers that read their own.
    pub annotations: BTreeMap<String, String>,
    /// `spec.ipFamilies`, the primary one first; never empty.
    pub ip_families: Vec<IpFamily>,
    /// `spec.ipFamilyPolicy`.
    pub ip_family_policy: IpFamilyPolicy,
    /// Addresses asked for by annotation or `spec.loadBalancerIP`, as written
    /// (already parsed; at most one per family is valid, more is refused by
    /// the allocator with a reason).
    pub requested_addresses: Vec<IpAddr>,
    /// Pools asked for by annotation; of two, each family is taken from the first
    /// that has it.
    pub requested_pools: Vec<String>,
    /// The key of Services that may have one address, by annotation; never empty.
    pub sharing_key: Option<String>,
    /// `spec.selector`.
    pub selector: BTreeMap<String, String>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`, set by the API server with `Local`.
    pub health_check_node_port: Option<u16>,
    /// `spec.loadBalancerSourceRanges`, as written.
    pub source_ranges: Vec<String>,
    /// `status.loadBalancer.ingress` as it stands.
    pub ingress: Vec<Ingress>,
}

impl ServiceRequest {
    /// Of a Service that asks for an IPv4 address and for nothing in particular; it has
    /// no ports yet.
    pub fn new(key: ServiceKey, uid: impl Into<String>) -> Self {
        Self {
            key,
            uid: uid.into(),
            labels: Labels::new(),
            namespace_labels: Labels::new(),
            annotations: BTreeMap::new(),
            ip_families: vec![IpFamily::V4],
            ip_family_policy: IpFamilyPolicy::SingleStack,
            requested_addresses: Vec::new(),
            requested_pools: Vec::new(),
            sharing_key: None,
            selector: BTreeMap::new(),
            ports: Vec::new(),
            traffic_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            source_ranges: Vec::new(),
            ingress: Vec::new(),
        }
    }
}

/// Another Service that a request refers to, such as one of a weighted action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceReference {
    /// Its name; its namespace is that of the request.
    pub name: String,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<u16>,
    /// Its endpoints.
    pub endpoints: Vec<Backend>,
}

/// `status.loadBalancer.ingress[].ipMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpMode {
    /// Packets reach the node with the VIP as destination; kube-proxy may
    /// short-cut traffic from inside the cluster.
    Vip,
    /// Packets reach the node (or pod) with its own address as destination.
    Proxy,
}

/// Where clients find a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IngressPoint {
    /// `ip`.
    Ip(IpAddr),
    /// `hostname`.
    Hostname(String),
}

/// One of `status.loadBalancer.ingress[]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ingress {
    /// `ip` or `hostname`.
    pub point: IngressPoint,
    /// `ipMode`; only the API server's default (VIP) when none. The API
    /// allows it only beside `ip`.
    pub ip_mode: Option<IpMode>,
    /// `ports`, where the load balancer has something to say of them.
    pub ports: Vec<IngressPort>,
}

/// One of `status.loadBalancer.ingress[].ports[]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IngressPort {
    /// What clients dial.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// What is wrong with it, in the form that the API demands of errors that are
    /// not Kubernetes' own: `herald.dev/CertificateNotFound`.
    pub error: Option<String>,
}

impl Ingress {
    /// An address that reaches nodes unchanged (`ipMode: VIP`).
    pub const fn vip(address: IpAddr) -> Self {
        Self {
            point: IngressPoint::Ip(address),
            ip_mode: Some(IpMode::Vip),
            ports: Vec::new(),
        }
    }

    /// The address, if it is one.
    pub const fn address(&self) -> Option<IpAddr> {
        match self.point {
            IngressPoint::Ip(address) => Some(address),
            IngressPoint::Hostname(_) => None,
        }
    }
}
