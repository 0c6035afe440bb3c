//! A node, as far as load balancing cares.

use std::net::IpAddr;

use crate::Labels;

/// A node that may carry traffic for load balancers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of the API's object"
)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`, for selectors.
    pub labels: Labels,
    /// `status.addresses` of type `InternalIP`, in the order of the API.
    pub internal_addresses: Vec<IpAddr>,
    /// Condition `Ready` is `True`.
    pub ready: bool,
    /// Condition `NetworkUnavailable` is `True`.
    pub network_unavailable: bool,
    /// It bears the label `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub excluded: bool,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `spec.providerID`, such as `aws:///eu-central-1a/i-0123456789abcdef0`.
    pub provider_id: Option<String>,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// One of `spec.taints[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its effect, such as `NoSchedule`.
    pub effect: String,
}

impl Node {
    /// Whether traffic from outside may be sent to it now.
    pub const fn eligible(&self) -> bool {
        self.ready && !self.network_unavailable && !self.excluded && !self.deleting
    }
}
