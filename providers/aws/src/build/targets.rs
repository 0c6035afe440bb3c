//! Who is registered: nodes or pods.

use std::collections::{BTreeMap, BTreeSet};

use herald_core::{Backend, IpFamily, Node, ServicePort, TrafficPolicy};
use ipnet::IpNet;

use super::Context;
use crate::spec::Target;

/// Taints of nodes that are about to go.
const LEAVING: &[&str] = &[
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
];
/// Labels by whose presence nodes are kept out, besides the well-known one.
const EXCLUDING_LABELS: &[&str] = &[
    "node-role.kubernetes.io/master",
    "alpha.service-controller.kubernetes.io/exclude-balancer",
];
/// Nodes of this kind have no instance behind them.
const FARGATE: (&str, &str) = ("eks.amazonaws.com/compute-type", "fargate");

/// What stands behind a target group.
pub(super) struct Behind<'a> {
    /// The port of the Service.
    pub port: &'a ServicePort,
    /// The UDP port that shares the group.
    pub second: Option<&'a ServicePort>,
    /// `spec.externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// The Service's endpoints.
    pub endpoints: &'a [Backend],
}

/// Nodes at a node port.
pub(super) fn instances(context: &Context<'_>, behind: &Behind<'_>, port: u16) -> BTreeSet<Target> {
    let annotations = context.annotations;
    let local = behind.traffic_policy == TrafficPolicy::Local && !annotations.local_all_nodes;
    // Whether an endpoint serves just now is the health check's affair: pods come and
    // go on a node that stays.
    let with_endpoints: BTreeSet<&str> = behind
        .endpoints
        .iter()
        .filter_map(|backend| backend.endpoint.node.as_deref())
        .collect();
    let fit: Vec<&Node> = context
        .request
        .nodes
        .iter()
        .filter(|node| may_carry(node))
        .filter(|node| has_labels(node, &annotations.target_node_labels))
        .filter(|node| !local || with_endpoints.contains(node.name.as_str()))
        .collect();
    // A control plane that lost sight of all nodes must not empty a load balancer.
    let some_ready = fit.iter().any(|node| node.ready);
    fit.into_iter()
        .filter(|node| !annotations.remove_not_ready_nodes || node.ready || !some_ready)
        .filter_map(|node| instance_id(node.provider_id.as_deref()?))
        .map(|id| Target::Instance {
            id: id.to_owned(),
            port,
        })
        .collect()
}

/// Instances of the nodes that a Service gets that selects none.
pub(crate) fn common_instances(nodes: &[Node]) -> BTreeSet<String> {
    nodes
        .iter()
        .filter(|node| may_carry(node))
        .filter_map(|node| instance_id(node.provider_id.as_deref()?))
        .map(ToOwned::to_owned)
        .collect()
}

/// Pods at their own ports.
pub(super) fn pods(context: &Context<'_>, behind: &Behind<'_>) -> BTreeSet<Target> {
    let family = context.request.service.ip_families.first().copied();
    let family = family.unwrap_or(IpFamily::V4);
    behind
        .endpoints
        .iter()
        .filter(|backend| IpFamily::of(&backend.endpoint.address) == family)
        .filter(|backend| !backend.endpoint.terminating)
        .filter(|backend| backend.endpoint.ready || backend.awaits_gate)
        .filter_map(|backend| {
            let port = backend.port_for(behind.port)?;
            // Both protocols of a TCP_UDP group reach a target at one port.
            let both = behind
                .second
                .is_none_or(|second| backend.port_for(second) == Some(port));
            both.then_some(Target::Ip {
                address: backend.endpoint.address,
                port,
                outside_vpc: outside(context, backend),
            })
        })
        .collect()
}

fn outside(context: &Context<'_>, backend: &Backend) -> bool {
    let networks: &[IpNet] = &context.facts.vpc_cidrs;
    !networks.is_empty()
        && !networks
            .iter()
            .any(|net| net.contains(&backend.endpoint.address))
}

/// Whether a node may carry traffic from outside, leaving its conditions aside.
fn may_carry(node: &Node) -> bool {
    let leaving = |key: &str| LEAVING.contains(&key);
    !node.excluded
        && !node.deleting
        && !node.taints.iter().any(|taint| leaving(&taint.key))
        && !EXCLUDING_LABELS
            .iter()
            .any(|label| node.labels.contains_key(*label))
        && node
            .labels
            .get(FARGATE.0)
            .is_none_or(|kind| kind != FARGATE.1)
}

fn has_labels(node: &Node, labels: &BTreeMap<String, String>) -> bool {
    labels
        .iter()
        .all(|(key, value)| node.labels.get(key) == Some(value))
}

/// The instance of a providerID such as `aws:///eu-central-1a/i-0a1b2c3d`.
fn instance_id(provider_id: &str) -> Option<&str> {
    let path = provider_id.strip_prefix("aws://")?;
    let id = path.rsplit('/').next()?;
    let digits = id.strip_prefix("i-")?;
    let fits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_alphanumeric());
    fits.then_some(id)
}
