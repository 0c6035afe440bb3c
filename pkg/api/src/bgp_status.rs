//! `BGPStatus`: how a node's BGP sessions are.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a node's BGP sessions are. One for each node that has peers, of its name;
/// written by its speaker, on change only.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema,
)]
#[kube(
    group = "herald.dev",
    version = "v1alpha1",
    kind = "BGPStatus",
    plural = "bgpstatuses",
    doc = "How a node's BGP sessions are.",
    namespaced,
    status = "BGPStatusStatus",
    printcolumn(name = "Router ID", type_ = "string", json_path = ".status.routerID"),
    printcolumn(name = "Peers", type_ = "integer", json_path = ".status.configured"),
    printcolumn(
        name = "Established",
        type_ = "integer",
        json_path = ".status.established"
    ),
    printcolumn(name = "Routes", type_ = "integer", json_path = ".status.routes"),
    printcolumn(name = "Problem", type_ = "string", json_path = ".status.problems[0]")
)]
#[expect(clippy::duplicated_attributes, reason = "columns share a type")]
#[serde(rename_all = "camelCase")]
pub struct BGPStatusSpec {}

/// What the speaker says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPStatusStatus {
    /// The node's BGP identifier, where a peer asks for no other.
    #[serde(default, rename = "routerID")]
    pub router_id: String,
    /// The port that peers are listened for on; 0 if they are only dialled.
    #[serde(default)]
    pub listen_port: u16,
    /// How many peers the node has.
    #[serde(default)]
    pub configured: i32,
    /// How many of them there are sessions with.
    #[serde(default)]
    pub established: i32,
    /// How many prefixes the node has for its peers, each counted once.
    #[serde(default)]
    pub routes: i32,
    /// What is wrong on this node beside its sessions, in words.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The peers, by name.
    #[serde(default)]
    pub peers: Vec<BGPSession>,
}

/// The session with a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPSession {
    /// Name of its `BGPPeer`.
    pub peer: String,
    /// The peer's address, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The interface, where one is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm` or `Established`
    /// (RFC 4271 §8.2.2). A session that is not up is told as `Active` whichever of
    /// the states between it is in, so that attempts are not written out.
    pub state: String,
    /// Since when it is up, or not (RFC 3339).
    pub since: String,
    /// Why the last session or attempt ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What keeps the peer from being in force as written, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How many prefixes the peer was told.
    #[serde(default)]
    pub prefixes_sent: i32,
    /// The families of the session, `ipv4` and `ipv6`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<String>,
    /// Our address in the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<String>,
    /// The peer's AS.
    #[serde(default, rename = "remoteASN", skip_serializing_if = "Option::is_none")]
    pub remote_asn: Option<u32>,
    /// The peer's BGP identifier.
    #[serde(
        default,
        rename = "remoteRouterID",
        skip_serializing_if = "Option::is_none"
    )]
    pub remote_router_id: Option<String>,
    /// The name that the peer gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_name: Option<String>,
    /// The hold time agreed on, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<u32>,
    /// Whether the peer keeps our routes while the speaker is restarted.
    #[serde(default)]
    pub graceful_restart: bool,
    /// How BFD sees the path to the peer, where the peer has a BFD profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BFDSession>,
}

/// The BFD session with a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BFDSession {
    /// `Up`, `Init`, `Down` or `AdminDown` (RFC 5880 §6.2). A BGP session does not wait
    /// for `Up`, and ends when it was `Up` and the path fails.
    pub state: String,
    /// Since when it is in that state (RFC 3339).
    pub since: String,
    /// Why it is not up, in words: the diagnostic of RFC 5880 §4.1, or what keeps
    /// this node from speaking BFD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostic: Option<String>,
}
