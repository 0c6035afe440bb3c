//! `Community`: names for BGP communities.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

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
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct CommunitySpec {
    /// The names and what they stand for.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub communities: Vec<CommunityAlias>,
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
