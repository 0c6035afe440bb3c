//! `BFDProfile`: how soon BFD takes a path for broken.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// How soon BFD takes a path for broken.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "herald.dev",
    version = "v1alpha1",
    kind = "BFDProfile",
    plural = "bfdprofiles",
    doc = "How soon BFD takes the path to a BGP peer for broken.",
    namespaced,
    status = "BFDProfileStatus",
    printcolumn(
        name = "Receive",
        type_ = "integer",
        json_path = ".spec.receiveInterval"
    ),
    printcolumn(
        name = "Transmit",
        type_ = "integer",
        json_path = ".spec.transmitInterval"
    ),
    printcolumn(
        name = "Multiplier",
        type_ = "integer",
        json_path = ".spec.detectMultiplier"
    ),
    printcolumn(
        name = "Valid",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Valid')].status"
    )
)]
#[expect(clippy::duplicated_attributes, reason = "columns share a type")]
#[serde(rename_all = "camelCase")]
pub struct BFDProfileSpec {
    /// The shortest time between two of the peer's packets that is taken, in
    /// milliseconds.
    #[serde(default = "interval")]
    #[schemars(range(min = 10, max = 60000))]
    pub receive_interval: u32,
    /// The time between two of our packets, in milliseconds; longer where the peer
    /// asks for that.
    #[serde(default = "interval")]
    #[schemars(range(min = 10, max = 60000))]
    pub transmit_interval: u32,
    /// After so many packets of ours in a row that did not come the peer takes the
    /// path for broken.
    #[serde(default = "multiplier")]
    #[schemars(range(min = 2, max = 255))]
    pub detect_multiplier: u8,
    /// Whether to be silent until the peer speaks.
    #[serde(default)]
    pub passive_mode: bool,
    /// For peers behind routers: packets with a smaller TTL or hop limit are
    /// dropped.
    #[serde(default = "minimum_ttl")]
    #[schemars(range(min = 1, max = 254))]
    pub minimum_ttl: u8,
    /// Has no effect: no echo packets are sent or asked for. `MetalLB` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub echo_interval: Option<u32>,
    /// Has no effect: no echo packets are sent or asked for. `MetalLB` has it.
    #[serde(default)]
    pub echo_mode: bool,
}

/// What the operator says of a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BFDProfileStatus {
    /// `Valid`: whether the profile is in force as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl Default for BFDProfileSpec {
    fn default() -> Self {
        Self {
            receive_interval: interval(),
            transmit_interval: interval(),
            detect_multiplier: multiplier(),
            passive_mode: false,
            minimum_ttl: minimum_ttl(),
            echo_interval: None,
            echo_mode: false,
        }
    }
}

const fn interval() -> u32 {
    300
}

const fn multiplier() -> u8 {
    3
}

const fn minimum_ttl() -> u8 {
    254
}
