//! `Community`: names for BGP communities.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// Names for BGP communities, for `BGPAdvertisement`s and `BGPPeer`s.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema,
)]
#[kube(
    group = "herald.dev",
    version = "v1alpha1",
    kind = "Community",
    plural = "communities",
    doc = "Names for BGP communities.",
    namespaced,
    status = "CommunityStatus",
    printcolumn(
        name = "Valid",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Valid')].status"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct CommunitySpec {
    /// The names and what they stand for.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub communities: Vec<CommunityAlias>,
}

/// What the operator says of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommunityStatus {
    /// `Valid`: whether all of them are in force as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A name for a community.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommunityAlias {
    /// The name; not twice in the namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The community, as in `communities` of a `BGPAdvertisement`; not another
    /// name.
    #[schemars(
        length(min = 1, max = 64),
        regex(
            pattern = r"^([0-9]{1,5}:[0-9]{1,5}|large:[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}|(rt|soo):[0-9]{1,10}:[0-9]{1,10}|ext:0x[0-9a-fA-F]{16}|[a-z][a-z-]*)$"
        )
    )]
    pub value: String,
}
