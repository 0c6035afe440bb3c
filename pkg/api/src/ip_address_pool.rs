//! `IPAddressPool`: addresses that Services may get.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Condition, LabelSelector};

/// The API server's IP functions take no white space, and neither do we.
const IS_CIDR_OR_RANGE: &str = "self.all(a, isCIDR(a) || (a.split('-').size() == 2 \
     && a.split('-').all(end, isIP(end)) \
     && ip(a.split('-')[0]).family() == ip(a.split('-')[1]).family()))";
const NO_HOST_BITS: &str = "self.all(a, !isCIDR(a) || cidr(a).ip() == cidr(a).masked().ip())";
/// Only for IPv4: CEL has no order of addresses, but their bytes are numbers.
/// An IPv6 range that is upside down is told by the operator, in the condition
/// `Valid`.
const IPV4_RANGE_ASCENDS: &str = "self.all(a, \
     !a.matches('^[0-9]{1,3}([.][0-9]{1,3}){3}-[0-9]{1,3}([.][0-9]{1,3}){3}$') \
     || [a.split('-').map(end, end.split('.')).map(o, \
        int(o[0]) * 16777216 + int(o[1]) * 65536 + int(o[2]) * 256 + int(o[3]))] \
        .all(n, n[0] <= n[1]))";

/// Addresses that Services may get, as CIDRs or ranges.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema,
)]
#[kube(
    group = "herald.dev",
    version = "v1alpha1",
    kind = "IPAddressPool",
    plural = "ipaddresspools",
    namespaced,
    doc = "Addresses that Services of type LoadBalancer may get.",
    status = "IPAddressPoolStatus",
    printcolumn(name = "Addresses", type_ = "string", json_path = ".spec.addresses"),
    printcolumn(
        name = "Auto Assign",
        type_ = "boolean",
        json_path = ".spec.autoAssign"
    ),
    printcolumn(
        name = "Valid",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Valid')].status"
    )
)]
#[expect(clippy::duplicated_attributes, reason = "columns share a type")]
#[serde(rename_all = "camelCase")]
pub struct IPAddressPoolSpec {
    /// CIDRs without host bits (`192.0.2.0/24`) or ranges
    /// (`192.0.2.10-192.0.2.20`), of either family.
    #[schemars(length(min = 1, max = 64), inner(length(min = 2, max = 79)))]
    #[x_kube(
        validation = Rule::new(IS_CIDR_OR_RANGE).message("each address must be a CIDR such as 192.0.2.0/24 or fd00::/112, or a range such as 192.0.2.10-192.0.2.20 of one family"),
        validation = Rule::new(NO_HOST_BITS).message("a CIDR must have no host bits set: write 192.0.2.0/24, not 192.0.2.1/24"),
        validation = Rule::new(IPV4_RANGE_ASCENDS).message("a range must not be upside down: the first address is the lower one"),
    )]
    pub addresses: Vec<String>,
    /// Whether Services that name no pool may get addresses from this one.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// Skip IPv4 addresses that end in .0 or .255, which some old equipment drops.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,
    /// Which Services may use it, and in which order pools are tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_allocation: Option<ServiceAllocation>,
}

/// Which Services may use a pool, and its place in the order of pools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAllocation {
    /// Pools with a lower number are tried first; 0 or none is last.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub priority: i32,
    /// Namespaces whose Services may use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Selectors of namespaces whose Services may use it, beside `namespaces`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_selectors: Vec<LabelSelector>,
    /// Selectors of Services that may use it; one match is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<LabelSelector>,
}

/// What the operator says of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPAddressPoolStatus {
    /// IPv4 addresses in use.
    #[serde(default, rename = "assignedIPv4")]
    pub assigned_ipv4: i64,
    /// IPv6 addresses in use.
    #[serde(default, rename = "assignedIPv6")]
    pub assigned_ipv6: i64,
    /// IPv4 addresses left; saturates.
    #[serde(default, rename = "availableIPv4")]
    pub available_ipv4: i64,
    /// IPv6 addresses left; saturates.
    #[serde(default, rename = "availableIPv6")]
    pub available_ipv6: i64,
    /// `Valid`: whether the pool is in force as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

const fn yes() -> bool {
    true
}
