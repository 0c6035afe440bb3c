//! `L2Status`: what a node's speaker announces, and what one of them sees of the others.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a node's speaker announces, and what it sees of the others. One for each
/// node, of its name; written by its speaker, on change only.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema,
)]
#[kube(
    group = "herald.dev",
    version = "v1alpha1",
    kind = "L2Status",
    plural = "l2statuses",
    doc = "What a node's speaker announces by ARP and NDP, and what it sees of the others.",
    namespaced,
    status = "L2StatusStatus",
    printcolumn(name = "Owned", type_ = "integer", json_path = ".status.owned"),
    printcolumn(
        name = "Interfaces",
        type_ = "string",
        json_path = ".status.segments[*].interface"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct L2StatusSpec {}

/// What the speaker says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct L2StatusStatus {
    /// The node's interfaces on which addresses could be announced. By these the
    /// others know which segments the node is on.
    #[serde(default)]
    pub interfaces: Vec<L2Interface>,
    /// The segments on which owners are elected.
    #[serde(default)]
    pub segments: Vec<L2Segment>,
    /// How many addresses the node owns.
    #[serde(default)]
    pub owned: i32,
    /// The addresses that the node owns.
    #[serde(default)]
    pub addresses: Vec<L2Address>,
}

/// An interface of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct L2Interface {
    /// Its name.
    pub name: String,
    /// Its addresses with the lengths of their prefixes, link-local ones aside.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// A segment as a node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct L2Segment {
    /// The node's interface on it.
    pub interface: String,
    /// Whether the speaker knows the segment well enough to own something.
    pub ready: bool,
    /// The other speakers on it; told by the first node by name whose speaker lives.
    #[serde(default)]
    pub peers: Vec<L2Peer>,
}

/// Another node's speaker, as seen on a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct L2Peer {
    /// Its node.
    pub node: String,
    /// `Up`, `OneWay`, `Relayed`, `Stalled`, `Deaf`, `Down` or `Left`.
    pub liveness: String,
}

/// An address that a node owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct L2Address {
    /// The address.
    pub address: String,
    /// The Services that have it, as `namespace/name`.
    #[serde(default)]
    pub services: Vec<String>,
    /// The interface that it is announced on.
    pub interface: String,
    /// Since when (RFC 3339).
    pub since: String,
    /// Why the node became its owner: `Vacant`, `Lost`, `Drained`, `Ineligible`,
    /// `Rebalanced`, `Unanswered` or `Resumed`.
    pub cause: String,
    /// Who had it before, where somebody had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}
