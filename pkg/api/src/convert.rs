//! From the API's objects to the domain's.

use std::net::IpAddr;

use herald_core::{Backend, Endpoint, EndpointPort, Labels, Node, Protocol, Taint, TrafficPolicy};
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};
use kube::ResourceExt;

use crate::names::{LABEL_EXCLUDE_NODE, LABEL_ZONE};

/// A Node as far as load balancing cares.
pub fn node(node: &core_v1::Node) -> Node {
    let spec = node.spec.as_ref();
    let status = node.status.as_ref();
    let holds = |kind: &str| {
        status
            .into_iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    Node {
        name: node.name_any(),
        labels: labels(node),
        internal_addresses: status
            .into_iter()
            .flat_map(|status| status.addresses.iter().flatten())
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect(),
        ready: holds("Ready"),
        network_unavailable: holds("NetworkUnavailable"),
        excluded: node.labels().contains_key(LABEL_EXCLUDE_NODE),
        deleting: node.metadata.deletion_timestamp.is_some(),
        provider_id: spec.and_then(|spec| spec.provider_id.clone()),
        taints: spec
            .into_iter()
            .flat_map(|spec| spec.taints.iter().flatten())
            .map(|taint| Taint {
                key: taint.key.clone(),
                effect: taint.effect.clone(),
            })
            .collect(),
        zone: node.labels().get(LABEL_ZONE).cloned(),
    }
}

/// The labels of an object, for selectors.
pub fn labels(object: &impl ResourceExt) -> Labels {
    let labels = object.labels().iter();
    labels
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The endpoints of a slice. Conditions that are absent mean what
/// `discovery/v1` says of them.
pub fn endpoints(slice: &EndpointSlice) -> impl Iterator<Item = Endpoint> + '_ {
    slice.endpoints.iter().flat_map(endpoints_of)
}

fn endpoints_of(endpoint: &discovery::Endpoint) -> impl Iterator<Item = Endpoint> + '_ {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    endpoint.addresses.iter().filter_map(move |address| {
        Some(Endpoint {
            address: address.parse().ok()?,
            node: endpoint.node_name.clone(),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        })
    })
}

/// The endpoints of a slice with all that a load balancer needs that sends to them
/// directly. Whether a pod awaits a readiness gate a slice does not say.
pub fn backends(slice: &EndpointSlice) -> impl Iterator<Item = Backend> + '_ {
    let ports: Vec<EndpointPort> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(EndpointPort {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()),
                port: u16::try_from(port.port?).ok()?,
            })
        })
        .collect();
    slice.endpoints.iter().flat_map(move |endpoint| {
        let pod = endpoint
            .target_ref
            .as_ref()
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| target.name.clone());
        let ports = ports.clone();
        endpoints_of(endpoint).map(move |endpoint| Backend {
            endpoint,
            ports: ports.clone(),
            pod: pod.clone(),
            awaits_gate: false,
        })
    })
}

/// A transport protocol; the API's default is TCP.
pub fn protocol(text: Option<&str>) -> Protocol {
    match text {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

/// `spec.externalTrafficPolicy`.
pub fn traffic_policy(spec: &ServiceSpec) -> TrafficPolicy {
    match spec.external_traffic_policy.as_deref() {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

/// The addresses in `status.loadBalancer.ingress` whose packets reach the nodes
/// unchanged (`ipMode: VIP`, which is also the default).
pub fn vips(service: &core_v1::Service) -> impl Iterator<Item = IpAddr> + '_ {
    service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref())
        .flat_map(|status| status.ingress.iter().flatten())
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
}
