//! `BGPPeer`: a router that the speakers tell of addresses.

#![allow(
    clippy::struct_excessive_bools,
    reason = "each is a field of the object, and the derived schema has them too"
)]

use std::fmt;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, LabelSelector};

const ONE_PEER: &str = "(has(self.peerAddress) ? 1 : 0) + (has(self.interface) ? 1 : 0) \
     + (has(self.listenRanges) && self.listenRanges.size() > 0 ? 1 : 0) == 1";
const ONE_AS: &str = "(has(self.peerASN) ? 1 : 0) + (has(self.dynamicASN) ? 1 : 0) == 1";
const ONE_PASSWORD: &str = "!(has(self.password) && has(self.passwordSecret))";
const ONE_DISTANCE: &str =
    "!(has(self.ebgpMultiHop) && self.ebgpMultiHop && has(self.ttlSecurityHops))";
const ONE_FAMILY: &str = "!(has(self.dualStackAddressFamily) && self.dualStackAddressFamily \
     && has(self.addressFamilies) && self.addressFamilies.size() > 0)";
const SAME_FAMILY: &str = "!(has(self.sourceAddress) && has(self.peerAddress)) \
     || !isIP(self.sourceAddress) || !isIP(self.peerAddress) \
     || ip(self.sourceAddress).family() == ip(self.peerAddress).family()";
const HOLD_AND_KEEPALIVE: &str = "!has(self.keepaliveTime) || (has(self.holdTime) \
     ? duration(self.keepaliveTime) <= duration(self.holdTime) \
     : duration(self.keepaliveTime) <= duration('90s'))";
const HOLD_TIME: &str = "duration(self) == duration('0s') || (duration(self) >= duration('3s') \
     && duration(self) <= duration('65535s'))";
const WHOLE_SECONDS: &str = "duration(self) >= duration('1s') && duration(self) <= duration('65535s') \
     && duration(self).getMilliseconds() % 1000 == 0";
const RESTART_TIME: &str = "duration(self) >= duration('1s') && duration(self) <= duration('4095s') \
     && duration(self).getMilliseconds() % 1000 == 0";
const STALE_TIME: &str = "duration(self) >= duration('1s') && duration(self) <= duration('16777215s') \
     && duration(self).getMilliseconds() % 1000 == 0";
const IS_IP: &str = "isIP(self)";
const IS_IPV4: &str = "isIP(self) && ip(self).family() == 4";
const IS_IPV6: &str = "isIP(self) && ip(self).family() == 6";
const ARE_CIDRS: &str = "self.all(r, isCIDR(r) && cidr(r).ip() == cidr(r).masked().ip())";

/// A router, or routers alike, that the speakers tell of addresses.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema,
)]
#[kube(
    group = "herald.dev",
    version = "v1alpha1",
    kind = "BGPPeer",
    plural = "bgppeers",
    doc = "A router, or routers alike, that the speakers tell of addresses by BGP.",
    namespaced,
    status = "BGPPeerStatus",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.peerAddress"),
    printcolumn(
        name = "Interface",
        type_ = "string",
        json_path = ".spec.interface",
        priority = 1
    ),
    printcolumn(name = "ASN", type_ = "integer", json_path = ".spec.peerASN"),
    printcolumn(name = "BFD Profile", type_ = "string", json_path = ".spec.bfdProfile"),
    printcolumn(
        name = "Valid",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Valid')].status"
    )
)]
#[expect(clippy::duplicated_attributes, reason = "columns share a type")]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(ONE_PEER).message("give one of peerAddress, interface (unnumbered) and listenRanges (to be dialled only)"),
    validation = Rule::new(ONE_AS).message("give one of peerASN and dynamicASN"),
    validation = Rule::new(ONE_PASSWORD).message("give the password or a Secret with it, not both"),
    validation = Rule::new(ONE_DISTANCE).message("ttlSecurityHops says how far the peer is; leave out ebgpMultiHop"),
    validation = Rule::new(ONE_FAMILY).message("addressFamilies names the families; leave out dualStackAddressFamily"),
    validation = Rule::new(SAME_FAMILY).message("sourceAddress and peerAddress must both be IPv4 or both IPv6"),
    validation = Rule::new(HOLD_AND_KEEPALIVE).message("keepaliveTime must not be longer than holdTime (90s where none is given)"),
)]
pub struct BGPPeerSpec {
    /// The AS number of the nodes.
    #[serde(rename = "myASN")]
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub my_asn: u32,
    /// The AS number of the peer.
    #[serde(default, rename = "peerASN", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub peer_asn: Option<u32>,
    /// In the place of `peerASN`: any number that is ours (`internal`) or any
    /// that is not (`external`).
    #[serde(
        default,
        rename = "dynamicASN",
        skip_serializing_if = "Option::is_none"
    )]
    pub dynamic_asn: Option<DynamicAsn>,
    /// The AS number of the nodes as this peer sees it, in the place of `myASN`.
    #[serde(default, rename = "localASN", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_294_u32))]
    pub local_asn: Option<u32>,
    /// The address of the peer. A link-local IPv6 address needs
    /// `sourceInterface`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45))]
    #[x_kube(validation = Rule::new(IS_IP).message("peerAddress must be an IP address"))]
    pub peer_address: Option<String>,
    /// The interface on which the peer is found by its router advertisements (an
    /// unnumbered peer): the only router on that link, spoken with by link-local
    /// addresses. Each node looks on its own interface of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// CIDRs from which peers may dial; they are not dialled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 2, max = 49)))]
    #[x_kube(validation = Rule::new(ARE_CIDRS).message("each range must be a CIDR without host bits, such as 10.0.0.0/24"))]
    pub listen_ranges: Vec<String>,
    /// How many peers of `listenRanges` there may be at a time on a node.
    #[serde(default = "default_listen_limit")]
    #[schemars(range(min = 1, max = 1000))]
    pub listen_limit: u32,
    /// The address to dial from, one of the node's. It is also the next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45))]
    #[x_kube(validation = Rule::new(IS_IP).message("sourceAddress must be an IP address"))]
    pub source_address: Option<String>,
    /// The interface to dial through, where the routing table would not tell:
    /// for a link-local `peerAddress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub source_interface: Option<String>,
    /// The VRF, an interface of the node, to speak in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub vrf: Option<String>,
    /// The port to dial.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub peer_port: u16,
    /// Whether to wait for the peer to dial, and never do so ourselves.
    #[serde(default)]
    pub passive: bool,
    /// Hold time to offer: `0s` for none, else 3 s to 65535 s; 90 s by default.
    /// The smaller of both sides' holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(HOLD_TIME).message("holdTime must be 0s, or 3s to 65535s"))]
    pub hold_time: Option<String>,
    /// Time between KEEPALIVEs; by default and at most a third of the hold time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(WHOLE_SECONDS).message("keepaliveTime must be whole seconds, 1s to 65535s"))]
    pub keepalive_time: Option<String>,
    /// The longest pause between attempts to connect; 30 s by default. The first
    /// is 1 s, and each is twice the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(WHOLE_SECONDS).message("connectTime must be whole seconds, 1s to 65535s"))]
    pub connect_time: Option<String>,
    /// The session ends when the peer reads nothing for so long; 8 minutes, or
    /// twice the hold time if that is longer, by default (RFC 9687).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(WHOLE_SECONDS).message("sendHoldTime must be whole seconds, 1s to 65535s"))]
    pub send_hold_time: Option<String>,
    /// Our BGP identifier, an IPv4 address that no other router has; by default the
    /// node's first IPv4 address, and on IPv6-only nodes a number made of the
    /// node's name.
    #[serde(default, rename = "routerID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 7, max = 15))]
    #[x_kube(validation = Rule::new(IS_IPV4).message("routerID must be an IPv4 address"))]
    pub router_id: Option<String>,
    /// The nodes that have this peer; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,
    /// Password of the TCP connections (RFC 2385). Better in a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// The Secret, of type `kubernetes.io/basic-auth`, that has the password as
    /// its entry `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretReference>,
    /// Name of a `BFDProfile`; none: no BFD with this peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub bfd_profile: Option<String>,
    /// Whether BFD is spoken across routers (UDP port 4784) or on the link (3784);
    /// by default across routers with `ebgpMultiHop`, and where the peer is in none
    /// of the node's subnets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd_multi_hop: Option<bool>,
    /// Whether the peer is to keep our routes while a speaker is restarted
    /// (RFC 4724); by default it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_graceful_restart: Option<bool>,
    /// How graceful restart is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<GracefulRestartSettings>,
    /// Whether the peer, in another AS, may be more than one hop away.
    #[serde(default)]
    pub ebgp_multi_hop: bool,
    /// Packets from the peer that came from further than so many hops away are
    /// dropped (GTSM, RFC 5082): 1 for a neighbour. The peer must have it too, as
    /// `ttl-security`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub ttl_security_hops: Option<u8>,
    /// Both families with this peer, not only that of its address.
    #[serde(default)]
    pub dual_stack_address_family: bool,
    /// The families with this peer: `ipv4`, `ipv6`. By default that of its address,
    /// and both with an unnumbered peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub address_families: Vec<AddressFamily>,
    /// Has no meaning; `MetalLB` has it.
    #[serde(default, rename = "disableMP")]
    pub disable_mp: bool,
    /// Next hop of IPv4 routes for this peer; by default our address in the
    /// session, an IPv6 one where the peer takes that (RFC 8950).
    #[serde(
        default,
        rename = "nextHopIPv4",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 2, max = 45))]
    #[x_kube(validation = Rule::new(IS_IP).message("nextHopIPv4 must be an IP address"))]
    pub next_hop_ipv4: Option<String>,
    /// Next hop of IPv6 routes for this peer; by default our IPv6 address in the
    /// session, or that of the node on the same subnet.
    #[serde(
        default,
        rename = "nextHopIPv6",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 2, max = 45))]
    #[x_kube(validation = Rule::new(IS_IPV6).message("nextHopIPv6 must be an IPv6 address"))]
    pub next_hop_ipv6: Option<String>,
    /// Communities of all routes for this peer, beside those of advertisements, and
    /// written as there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 253)))]
    pub communities: Vec<String>,
    /// `MULTI_EXIT_DISC` of routes whose advertisement has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// `LOCAL_PREF` of routes whose advertisement has none; for peers in our AS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// How many times our AS is put before itself, beside what advertisements ask
    /// for.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub as_path_prepend: u8,
    /// Whether to take and to send messages of up to 65535 octets where the peer
    /// does (RFC 8654).
    #[serde(default = "yes")]
    pub extended_messages: bool,
}

/// Which AS a peer may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DynamicAsn {
    /// Ours.
    Internal,
    /// Any but ours.
    External,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AddressFamily {
    /// IPv4 unicast.
    Ipv4,
    /// IPv6 unicast.
    Ipv6,
}

/// How graceful restart is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestartSettings {
    /// How long the peer keeps our routes while a speaker is away, whole seconds to
    /// 4095 s; 60 s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(RESTART_TIME).message("restartTime must be whole seconds, 1s to 4095s"))]
    pub restart_time: Option<String>,
    /// How much longer, beyond `restartTime`, the peer keeps our routes as its last
    /// choice, whole seconds to 16777215 s (long-lived graceful restart, RFC 9494). By
    /// default no longer: what a dead node told would attract traffic for so long where
    /// there is no other way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(STALE_TIME).message("longLivedStaleTime must be whole seconds, 1s to 16777215s"))]
    pub long_lived_stale_time: Option<String>,
}

/// A Secret of Herald's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace: Herald's own, which need not be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
}

/// A password; it is not shown when printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Password(#[schemars(length(max = 80))] pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// What the operator says of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPPeerStatus {
    /// `Valid`: whether the peer is in force as written. How its sessions are is in
    /// each node's `BGPStatus`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

const fn default_port() -> u16 {
    179
}

const fn default_listen_limit() -> u32 {
    100
}

const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let spec = BGPPeerSpec {
            password: Some(Password("s3cret".into())),
            ..BGPPeerSpec::default()
        };
        assert!(!format!("{spec:?}").contains("s3cret"));
        assert!(serde_json::to_string(&spec).unwrap().contains("s3cret"));
    }

    #[test]
    fn what_metallb_writes_is_read() {
        let text = r#"{"myASN":64512,"peerASN":64513,"peerAddress":"10.0.0.1","peerPort":1179,
            "holdTime":"1m30s","passwordSecret":{"name":"a","namespace":"b"},"ebgpMultiHop":true,
            "routerID":"10.1.1.1","enableGracefulRestart":true,"disableMP":false}"#;
        let spec: BGPPeerSpec = serde_json::from_str(text).unwrap();
        assert_eq!((spec.my_asn, spec.peer_asn), (64512, Some(64513)));
        assert_eq!((spec.peer_port, spec.listen_limit), (1179, 100));
        assert!(spec.ebgp_multi_hop && spec.extended_messages);
        assert_eq!(spec.router_id.as_deref(), Some("10.1.1.1"));
    }
}
