//! `IPAddressPool`: addresses that Services may get.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::period;
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

/// As those of addresses, and single addresses too.
const IS_CIDR_RANGE_OR_ADDRESS: &str = "self.all(a, isIP(a) || isCIDR(a) \
     || (a.split('-').size() == 2 && a.split('-').all(end, isIP(end)) \
     && ip(a.split('-')[0]).family() == ip(a.split('-')[1]).family()))";
const ARE_ADDRESSES: &str = "self.all(a, isIP(a))";
/// What a source has given can only be given back to that source.
const SOURCE_STAYS: &str =
    "!has(oldSelf.source) || (has(self.source) && self.source == oldSelf.source)";
const LIMIT_LIMITS: &str = "has(self.addressesPerNamespace) || has(self.servicesPerNamespace)";

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
    printcolumn(name = "Used4", type_ = "integer", json_path = ".status.assignedIPv4"),
    printcolumn(name = "Left4", type_ = "integer", json_path = ".status.availableIPv4"),
    printcolumn(name = "Used6", type_ = "integer", json_path = ".status.assignedIPv6"),
    printcolumn(name = "Left6", type_ = "integer", json_path = ".status.availableIPv6"),
    printcolumn(
        name = "Waiting",
        type_ = "integer",
        json_path = ".status.waitingServices"
    ),
    printcolumn(
        name = "Valid",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Valid')].status"
    )
)]
#[expect(clippy::duplicated_attributes, reason = "columns share a type")]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(SOURCE_STAYS).message("a pool keeps its source: make another pool, and drain this one"))]
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
    /// What of `addresses` is never given: CIDRs, ranges or single addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 2, max = 79)))]
    #[x_kube(
        validation = Rule::new(IS_CIDR_RANGE_OR_ADDRESS).message("each must be an address, a CIDR such as 192.0.2.0/28, or a range such as 192.0.2.10-192.0.2.20 of one family"),
        validation = Rule::new(NO_HOST_BITS).message("a CIDR must have no host bits set: write 192.0.2.0/24, not 192.0.2.1/24"),
        validation = Rule::new(IPV4_RANGE_ASCENDS).message("a range must not be upside down: the first address is the lower one"),
    )]
    pub excluded_addresses: Vec<String>,
    /// Which free address a Service gets.
    #[serde(default)]
    pub selection: PoolSelection,
    /// For so long an address that was given back is not given again, while there
    /// are others: `90s`, `5m`, `1h30m`; `5m` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = period::PATTERN), length(max = 32))]
    pub reuse_after: Option<String>,
    /// Whether it gives addresses.
    #[serde(default)]
    pub state: PoolState,
    /// At which pace Services leave a pool whose `state` is `draining`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<PoolDrain>,
    /// How much of it one namespace may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(LIMIT_LIMITS).message("limits must limit something: addressesPerNamespace or servicesPerNamespace"))]
    pub limits: Option<PoolLimits>,
    /// Addresses of the pool that only one Service gets, whether it exists yet or
    /// not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub reservations: Vec<PoolReservation>,
    /// Name of the source outside that gives its addresses, one of the operator's
    /// `--source`; then `addresses` says which it may give, and `selection` and
    /// `reuseAfter` have no effect. It may be given to a pool that has none, and stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub source: Option<String>,
}

/// Which free address of a pool a Service gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PoolSelection {
    /// The first, in the order of `addresses`.
    #[default]
    FirstFit,
    /// Any: it follows from the Service's uid, and so is the same on every replica.
    Random,
    /// One that nobody had yet, else the one that is free for longest.
    LeastRecentlyUsed,
}

/// Whether a pool gives addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PoolState {
    /// It does.
    #[default]
    Active,
    /// It gives no new ones; who has one keeps it.
    Disabled,
    /// It gives no new ones, and Services are moved to other pools one by one.
    Draining,
}

/// At which pace Services leave a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolDrain {
    /// Between two Services; `10s` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = period::PATTERN), length(max = 32))]
    pub interval: Option<String>,
    /// For so long a Service has its old address beside the new one; `1m` by
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = period::PATTERN), length(max = 32))]
    pub overlap: Option<String>,
}

/// How much of a pool one namespace may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolLimits {
    /// Addresses of both families together; one that Services share counts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses_per_namespace: Option<u32>,
    /// Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services_per_namespace: Option<u32>,
}

/// Addresses that only one Service gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolReservation {
    /// Namespace of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The addresses.
    #[schemars(length(min = 1, max = 8), inner(length(min = 2, max = 39)))]
    #[x_kube(validation = Rule::new(ARE_ADDRESSES).message("each must be a single address"))]
    pub addresses: Vec<String>,
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
    /// Services that wait for an address of it.
    #[serde(default)]
    pub waiting_services: i64,
    /// Addresses that were given back last and that nobody has, the newest first; at
    /// most 256. It is how the next operator knows how long they rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freed: Vec<FreedAddress>,
    /// `Valid`: whether the pool is in force as written. `Conflicts`,
    /// `ServicesWaiting`, `LimitReached`: only where there are such. `Drained`: only
    /// where it is draining.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// An address that was given back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FreedAddress {
    /// The address.
    pub address: String,
    /// When, RFC 3339, to the second.
    pub since: String,
}

const fn yes() -> bool {
    true
}
