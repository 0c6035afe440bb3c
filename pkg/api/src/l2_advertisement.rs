//! `L2Advertisement`: which pools are announced by ARP and NDP, from which
//! nodes and interfaces.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::LabelSelector;

const PREFERENCE_SELECTS: &str = "self.all(p, has(p.preference.matchLabels) \
     && p.preference.matchLabels.size() > 0 || has(p.preference.matchExpressions) \
     && p.preference.matchExpressions.size() > 0)";

/// Which pools are announced by ARP and NDP, from which nodes and interfaces.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema,
)]
#[kube(
    group = "herald.dev",
    version = "v1alpha1",
    kind = "L2Advertisement",
    plural = "l2advertisements",
    doc = "Which pools are announced by ARP and NDP, from which nodes and interfaces.",
    namespaced,
    printcolumn(name = "Pools", type_ = "string", json_path = ".spec.ipAddressPools"),
    printcolumn(name = "Interfaces", type_ = "string", json_path = ".spec.interfaces"),
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.profile"),
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.policy")
)]
#[expect(clippy::duplicated_attributes, reason = "columns share a type")]
#[serde(rename_all = "camelCase")]
pub struct L2AdvertisementSpec {
    /// Names of pools; with no names and no selectors, all pools.
    #[serde(
        default,
        rename = "ipAddressPools",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ip_address_pools: Vec<String>,
    /// Selectors of pools, beside `ipAddressPools`.
    #[serde(
        default,
        rename = "ipAddressPoolSelectors",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ip_address_pool_selectors: Vec<LabelSelector>,
    /// Selectors of nodes that may announce; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,
    /// Names of interfaces to announce on; none means all that can.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// Selectors of Services to announce; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<LabelSelector>,
    /// Nodes that come before others. Of those that may announce, the first is
    /// the one with the greatest sum of weights; others stand in for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(PREFERENCE_SELECTS).message("each preference must ask for something: an empty selector matches every node, and so prefers none"))]
    pub preferred_node_selectors: Vec<PreferredNodeSelector>,
    /// How soon a silent node is taken for dead; by default what the speakers'
    /// flag --l2-profile says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<L2Profile>,
    /// What is worse when the segment is in parts, no owner or two; by default
    /// what the speakers' flag --l2-policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<L2Policy>,
    /// Whether addresses go back to the node that should have them when it
    /// comes back; by default what the speakers' flag --l2-rebalance says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<L2Rebalance>,
}

/// A node that matches is preferred, with this weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreferredNodeSelector {
    /// How much, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,
    /// Which nodes.
    pub preference: LabelSelector,
}

/// How soon a silent node is taken for dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum L2Profile {
    /// After 280 ms: for any network.
    #[default]
    Default,
    /// After 75 ms: for links without loss, and speakers without a CPU limit.
    Fast,
    /// After one second: for links that lose a lot, and overloaded nodes.
    Safe,
}

/// What is worse, no owner or two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum L2Policy {
    /// No owner: each part of a segment has one.
    #[default]
    Available,
    /// Two owners: only the part with most speakers has one.
    Strict,
}

/// When addresses go back to the node that should have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum L2Rebalance {
    /// When somebody asks for it, by changing the annotation
    /// `herald.dev/rebalance` of the `L2Advertisement`.
    #[default]
    Manual,
    /// As soon as that node has joined.
    OnJoin,
}
