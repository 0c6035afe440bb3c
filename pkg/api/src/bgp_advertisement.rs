//! `BGPAdvertisement`: which pools are told to which peers, and with what.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, LabelSelector};

/// A part of an aggregate's Services can't be told alone.
const WHOLE_AGGREGATES: &str = "!has(self.serviceSelectors) || self.serviceSelectors.size() == 0 \
     || (self.aggregationLength == 32 && self.aggregationLengthV6 == 128)";

/// Which pools are told to which peers, from which nodes, and with what.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "herald.dev",
    version = "v1alpha1",
    kind = "BGPAdvertisement",
    plural = "bgpadvertisements",
    doc = "Which pools are told to which peers by BGP, from which nodes, and with what.",
    namespaced,
    status = "BGPAdvertisementStatus",
    printcolumn(name = "Pools", type_ = "string", json_path = ".spec.ipAddressPools"),
    printcolumn(name = "Peers", type_ = "string", json_path = ".spec.peers"),
    printcolumn(
        name = "Valid",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Valid')].status"
    )
)]
#[expect(clippy::duplicated_attributes, reason = "columns share a type")]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(WHOLE_AGGREGATES).message("serviceSelectors are for single addresses: leave aggregationLength at 32 and aggregationLengthV6 at 128"))]
pub struct BGPAdvertisementSpec {
    /// IPv4 addresses are told as prefixes of this length, which must lie in the
    /// pool as a whole.
    #[serde(default = "single_v4")]
    #[schemars(range(min = 1, max = 32))]
    pub aggregation_length: u8,
    /// IPv6 addresses are told as prefixes of this length, which must lie in the
    /// pool as a whole.
    #[serde(default = "single_v6", rename = "aggregationLengthV6")]
    #[schemars(range(min = 1, max = 128))]
    pub aggregation_length_v6: u8,
    /// `LOCAL_PREF`, the higher the better; for peers in our AS. None: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// `MULTI_EXIT_DISC`, the lower the better; none is not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// How many times our AS is put before itself, which makes a path worse; not
    /// for peers in our AS.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub as_path_prepend: u8,
    /// Communities: standard (`64512:100`, `no-export`), large
    /// (`large:64512:1:2`), extended (`rt:64512:1`, `soo:64512:1`, or 16 digits as in
    /// `ext:0x0002fc0000000064`), or names that a `Community` gives them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub communities: Vec<String>,
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
    /// Selectors of nodes that tell of these pools; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,
    /// Names of the `BGPPeer`s that are told; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// Selectors of Services to tell of; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<LabelSelector>,
}

impl Default for BGPAdvertisementSpec {
    fn default() -> Self {
        Self {
            aggregation_length: single_v4(),
            aggregation_length_v6: single_v6(),
            local_pref: None,
            med: None,
            as_path_prepend: 0,
            communities: Vec::new(),
            ip_address_pools: Vec::new(),
            ip_address_pool_selectors: Vec::new(),
            node_selectors: Vec::new(),
            peers: Vec::new(),
            service_selectors: Vec::new(),
        }
    }
}

/// What the operator says of an advertisement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPAdvertisementStatus {
    /// `Valid`: whether the advertisement is in force as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

const fn single_v4() -> u8 {
    32
}

const fn single_v6() -> u8 {
    128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_as_by_default() {
        let spec: BGPAdvertisementSpec = serde_json::from_str("{}").unwrap();
        assert_eq!(spec, BGPAdvertisementSpec::default());
        assert_eq!(
            (spec.aggregation_length, spec.aggregation_length_v6),
            (32, 128)
        );
    }
}
