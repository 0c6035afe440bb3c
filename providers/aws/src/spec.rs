//! What should exist in AWS for one Service, as plain data.
//!
//! ```text
//!   [Spec]
//!     +-- [LoadBalancer]   subnets, addresses, attributes, capacity
//!     +-- [SecurityGroups] managed with rules, given, or none
//!     +-- [Listener]...    port, protocol, certificates, and where to forward:
//!     |      +-- [Forward] --key--> TargetGroup, or --ARN--> somebody else's
//!     +-- [TargetGroup]... port, protocol, health check, [Target]...
//!     +-- [BackendRule]... what nodes or pods must let in from the load balancer
//! ```
//!
//! Two values are equal when nothing has to be done to get from one to the other,
//! so everything is in a fixed order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::identity::Identity;

/// Tags, by key.
pub type Tags = BTreeMap<String, String>;

/// Everything that should exist for one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Which Service.
    pub identity: Identity,
    /// The VPC it is all in.
    pub vpc_id: String,
    /// What tells the generated names from those of the same Service's load balancer
    /// as it was before a replacement; see [`Spec::renamed`].
    pub variant: String,
    /// The load balancer itself.
    pub load_balancer: LoadBalancer,
    /// Its security groups.
    pub security_groups: SecurityGroups,
    /// Listeners, by port; no two have one port.
    pub listeners: Vec<Listener>,
    /// Target groups that Herald makes, by key.
    pub target_groups: Vec<TargetGroup>,
    /// What the security groups of nodes (target type `instance`) or pods (`ip`)
    /// must let in from the load balancer; none where Herald keeps out of them.
    pub backend_rules: Option<BackendRules>,
    /// When the Service's status has the hostname.
    pub hostname_when: HostnameWhen,
    /// The load balancer to take over instead of making one.
    pub adopt: Option<Adopt>,
    /// Any change of this word makes the load balancer anew, beside the old one
    /// where that can be. It is part of the generated names.
    pub replace: Option<String>,
    /// What cannot be made beside the old one may be deleted first, at the price of
    /// an outage.
    pub allow_outage: bool,
}

/// When a Service's status has the hostname of its load balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostnameWhen {
    /// When the load balancer is active, so that nobody resolves it too early.
    #[default]
    Active,
    /// As soon as it has one.
    Provisioning,
}

/// A load balancer that exists already and is to be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// The one with this ARN.
    Arn(String),
    /// The only one with all of these tags.
    Tags(Tags),
}

impl fmt::Display for Adopt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arn(arn) => write!(f, "the load balancer {arn}"),
            Self::Tags(tags) => write!(f, "the load balancer with the tags {}", Pairs(tags)),
        }
    }
}

/// `internal` or `internet-facing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Private addresses only.
    Internal,
    /// Public addresses.
    InternetFacing,
}

impl Scheme {
    /// As AWS writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::InternetFacing => "internet-facing",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Families that a load balancer has addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpAddressType {
    /// IPv4 only.
    Ipv4,
    /// IPv4 and IPv6.
    Dualstack,
}

impl IpAddressType {
    /// As AWS writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Dualstack => "dualstack",
        }
    }
}

impl fmt::Display for IpAddressType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The load balancer itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancer {
    /// At most 32 characters, unique in the region.
    pub name: String,
    /// Whether the Service gave the name; else it follows from the Service, and
    /// [`Spec::renamed`] makes another for a replacement.
    pub name_given: bool,
    /// Whether it faces the internet. Cannot be changed in place.
    pub scheme: Scheme,
    /// Families it has addresses of.
    pub ip_address_type: IpAddressType,
    /// One subnet a zone, ordered by subnet.
    pub subnets: Vec<SubnetMapping>,
    /// IPv6 addresses by prefix as source towards targets, which UDP over dual stack
    /// needs; not said if none.
    pub ipv6_source_nat: Option<bool>,
    /// Attributes such as `deletion_protection.enabled`.
    pub attributes: Attributes,
    /// Reserved capacity in LCU units; none means no reservation.
    pub capacity_units: Option<u32>,
    /// Herald's own and the user's.
    pub tags: Tags,
}

impl fmt::Display for LoadBalancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} ({}, {}) in {}",
            self.name,
            self.scheme,
            self.ip_address_type,
            List(&self.subnets)
        )
    }
}

/// A subnet that a load balancer has an address in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubnetMapping {
    /// `subnet-…`.
    pub subnet: String,
    /// Its zone.
    pub zone: String,
    /// `eipalloc-…` of the public address, if one was asked for.
    pub allocation: Option<String>,
    /// The private address, if one was asked for.
    pub private_ipv4: Option<Ipv4Addr>,
    /// The IPv6 address, if one was asked for.
    pub ipv6: Option<Ipv6Addr>,
    /// Prefix for IPv6 source addresses, `auto_assigned` or a /80, if asked for.
    pub source_nat_ipv6_prefix: Option<String>,
}

impl SubnetMapping {
    /// A subnet with addresses that AWS chooses.
    pub fn new(subnet: impl Into<String>, zone: impl Into<String>) -> Self {
        Self {
            subnet: subnet.into(),
            zone: zone.into(),
            allocation: None,
            private_ipv4: None,
            ipv6: None,
            source_nat_ipv6_prefix: None,
        }
    }
}

impl fmt::Display for SubnetMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subnet)?;
        let address = [
            self.allocation.clone(),
            self.private_ipv4.map(|address| address.to_string()),
            self.ipv6.map(|address| address.to_string()),
            self.source_nat_ipv6_prefix.clone(),
        ];
        let address: Vec<String> = address.into_iter().flatten().collect();
        if address.is_empty() {
            return Ok(());
        }
        write!(f, " with {}", address.join(", "))
    }
}

/// Attributes of a load balancer, listener or target group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// What the Service says. Keys that Herald does not know go to AWS as they are.
    pub set: BTreeMap<String, String>,
    /// AWS's defaults of every other attribute that Herald knows. A new object has
    /// them already; on one that exists, an attribute that differs goes back to
    /// its default, so that a key taken from an annotation is undone.
    pub reset: BTreeMap<String, String>,
}

impl Attributes {
    /// What has to be written where AWS holds `observed`: what is said and differs,
    /// and what is not said and differs from its default. An attribute that AWS does
    /// not list is not reset.
    pub fn changes(&self, observed: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let said = self
            .set
            .iter()
            .filter(|(key, value)| observed.get(*key) != Some(value));
        let unsaid = self
            .reset
            .iter()
            .filter(|(key, value)| observed.get(*key).is_some_and(|is| is != *value));
        said.chain(unsaid)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// Security groups of the load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecurityGroups {
    /// One that Herald makes for this Service alone.
    Managed(ManagedGroup),
    /// Those that the user made.
    Given {
        /// `sg-…`, in the order of the annotation.
        ids: Vec<String>,
        /// Whether their rules hold for traffic over AWS `PrivateLink`; as it is if none.
        enforce_on_private_link: Option<bool>,
    },
    /// None at all; such a load balancer can never be given one.
    None,
}

/// A security group of Herald's for the clients' side of one load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedGroup {
    /// Unique in the VPC, at most 255 characters.
    pub name: String,
    /// Cannot be changed.
    pub description: String,
    /// What clients may send.
    pub rules: BTreeSet<IngressRule>,
    /// Whether the rules hold for traffic over AWS `PrivateLink`; as it is if none.
    pub enforce_on_private_link: Option<bool>,
    /// Herald's own and the user's.
    pub tags: Tags,
}

/// A rule that lets traffic in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IngressRule {
    /// What may come.
    pub traffic: Traffic,
    /// From where.
    pub source: Source,
}

impl fmt::Display for IngressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.traffic, self.source)
    }
}

/// Traffic of a security-group rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Traffic {
    /// TCP ports, both ends included.
    Tcp(u16, u16),
    /// UDP ports, both ends included.
    Udp(u16, u16),
    /// ICMP "fragmentation needed" (type 3, code 4), for path MTU discovery.
    IcmpFragmentationNeeded,
    /// `ICMPv6` "packet too big" (type 2, code 0), for path MTU discovery.
    Icmpv6PacketTooBig,
}

impl Traffic {
    /// As EC2 has it: protocol, from port and to port (for ICMP type and code).
    pub const fn ec2(self) -> (&'static str, i32, i32) {
        match self {
            Self::Tcp(from, to) => ("tcp", from as i32, to as i32),
            Self::Udp(from, to) => ("udp", from as i32, to as i32),
            Self::IcmpFragmentationNeeded => ("icmp", 3, 4),
            Self::Icmpv6PacketTooBig => ("icmpv6", 2, 0),
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, from, to) = match *self {
            Self::Tcp(from, to) => ("TCP", from, to),
            Self::Udp(from, to) => ("UDP", from, to),
            Self::IcmpFragmentationNeeded => return f.write_str("ICMP fragmentation needed"),
            Self::Icmpv6PacketTooBig => return f.write_str("ICMPv6 packet too big"),
        };
        if from == to {
            write!(f, "{name} {from}")
        } else {
            write!(f, "{name} {from}-{to}")
        }
    }
}

/// Where traffic may come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A network of either family, without host bits.
    Cidr(IpNet),
    /// A managed prefix list, `pl-…`.
    PrefixList(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr(cidr) => write!(f, "{cidr}"),
            Self::PrefixList(id) => f.write_str(id),
        }
    }
}

/// What backends must let in from the load balancer's security groups. Which groups
/// the backends have is found by the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRules {
    /// One range a protocol, which covers every target's port and health-check port.
    pub rules: BTreeSet<Traffic>,
}

impl fmt::Display for BackendRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        List(&self.rules).fmt(f)
    }
}

/// Protocol of a listener or target group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are AWS's words")]
pub enum NlbProtocol {
    Tcp,
    Udp,
    TcpUdp,
    Tls,
    Quic,
    TcpQuic,
}

impl NlbProtocol {
    /// As AWS writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::TcpUdp => "TCP_UDP",
            Self::Tls => "TLS",
            Self::Quic => "QUIC",
            Self::TcpQuic => "TCP_QUIC",
        }
    }

    /// Whether TCP is among what it carries.
    pub const fn carries_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::TcpUdp | Self::Tls | Self::TcpQuic)
    }

    /// Whether its targets need a [`Target::quic_server_id`].
    pub const fn is_quic(self) -> bool {
        matches!(self, Self::Quic | Self::TcpQuic)
    }

    /// Whether UDP is among what it carries.
    pub const fn carries_udp(self) -> bool {
        matches!(self, Self::Udp | Self::TcpUdp | Self::Quic | Self::TcpQuic)
    }
}

impl fmt::Display for NlbProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// What clients dial; unique within the load balancer.
    pub port: u16,
    /// What it carries.
    pub protocol: NlbProtocol,
    /// ARNs of certificates, the default one first; only with TLS.
    pub certificates: Vec<String>,
    /// Security policy; only with TLS.
    pub ssl_policy: Option<String>,
    /// ALPN policy, such as `HTTP2Preferred`; only with TLS.
    pub alpn_policy: Option<String>,
    /// Attributes such as `tcp.idle_timeout.seconds`; only TCP has any.
    pub attributes: Attributes,
    /// Where it sends what comes.
    pub forward: Forward,
    /// Herald's own and the user's.
    pub tags: Tags,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol, self.port, self.forward)
    }
}

/// The action of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// One target group without a weight, or several with one each.
    pub targets: Vec<WeightedGroup>,
    /// Whether a client stays with the target group it got first.
    pub sticky: bool,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        List(&self.targets).fmt(f)
    }
}

/// A target group of a forward action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedGroup {
    /// Which one.
    pub group: GroupRef,
    /// Its share, 0 to 999; none where it is the only one.
    pub weight: Option<u16>,
}

impl fmt::Display for WeightedGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.group)?;
        match self.weight {
            Some(weight) => write!(f, " (weight {weight})"),
            None => Ok(()),
        }
    }
}

/// How a listener names a target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRef {
    /// [`TargetGroup::key`] of one in this specification.
    Key(String),
    /// ARN of one that the user made, which is only referred to.
    Arn(String),
}

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "target group {key}"),
            Self::Arn(arn) => f.write_str(arn),
        }
    }
}

/// `instance` (nodes at their node ports) or `ip` (pods).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetType {
    /// Nodes by instance id, at their node ports.
    Instance,
    /// Pods by address.
    Ip,
}

impl TargetType {
    /// As AWS writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Ip => "ip",
        }
    }
}

impl fmt::Display for TargetType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Family of a target group's targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are AWS's words")]
pub enum TargetFamily {
    Ipv4,
    Ipv6,
}

impl TargetFamily {
    /// As AWS writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl fmt::Display for TargetFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    /// What it is for, the same whatever else changes: `80/TCP`, or
    /// `80/TCP@other:8080` for the port of another Service of a weighted action.
    /// The value of the tag `herald.dev/resource` is `target-group/` and this.
    pub key: String,
    /// At most 32 characters, unique in the region. It follows from all that cannot
    /// be changed in place, so that a change of that is another target group.
    pub name: String,
    /// The default port of its targets, which always come with their own. Cannot be
    /// changed in place.
    pub port: u16,
    /// What it carries. Cannot be changed in place.
    pub protocol: NlbProtocol,
    /// What its targets are. Cannot be changed in place.
    pub target_type: TargetType,
    /// Family of its targets. Cannot be changed in place.
    pub family: TargetFamily,
    /// How its targets are checked.
    pub health_check: HealthCheck,
    /// Attributes such as `preserve_client_ip.enabled`.
    pub attributes: Attributes,
    /// Herald's own and the user's.
    pub tags: Tags,
    /// What should be registered.
    pub targets: BTreeSet<Target>,
    /// Other clusters have targets in it too: what Herald did not register stays.
    pub shared: bool,
}

impl fmt::Display for TargetGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} for {} ({}, {} targets, health check {})",
            self.name, self.key, self.protocol, self.target_type, self.health_check
        )
    }
}

/// A target. The order is by id, then port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A node.
    Instance {
        /// `i-…`.
        id: String,
        /// The node port.
        port: u16,
    },
    /// A pod.
    Ip {
        /// Its address.
        address: IpAddr,
        /// The port it listens on.
        port: u16,
        /// Whether the address is outside of the VPC: `AvailabilityZone=all`.
        outside_vpc: bool,
    },
}

impl Target {
    /// Id as AWS has it: instance id or address.
    pub fn id(&self) -> String {
        match self {
            Self::Instance { id, .. } => id.clone(),
            Self::Ip { address, .. } => address.to_string(),
        }
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        match self {
            Self::Instance { port, .. } | Self::Ip { port, .. } => *port,
        }
    }

    /// `QuicServerId` to register it with: AWS demands one of QUIC's targets, `0x` and
    /// 16 hexadecimal digits. It follows from the address, so that a pod can tell its
    /// own; none for nodes, which can't be targets of QUIC.
    pub fn quic_server_id(&self) -> Option<String> {
        match self {
            Self::Ip {
                address: IpAddr::V4(address),
                ..
            } => Some(format!("0x{:016x}", address.to_bits())),
            Self::Ip {
                address: IpAddr::V6(address),
                ..
            } => {
                // The interface identifier tells pods of one network apart.
                let lower = address.to_bits() & u128::from(u64::MAX);
                Some(format!("0x{lower:016x}"))
            }
            Self::Instance { .. } => None,
        }
    }

    /// `AvailabilityZone` to register it with, if any.
    pub const fn availability_zone(&self) -> Option<&'static str> {
        match self {
            Self::Ip {
                outside_vpc: true, ..
            } => Some("all"),
            Self::Ip { .. } | Self::Instance { .. } => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip {
                address: IpAddr::V6(address),
                port,
                ..
            } => write!(f, "[{address}]:{port}"),
            _ => write!(f, "{}:{}", self.id(), self.port()),
        }
    }
}

/// How targets are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// By what.
    pub protocol: CheckProtocol,
    /// On which port.
    pub port: CheckPort,
    /// Path; only with HTTP and HTTPS.
    pub path: Option<String>,
    /// Statuses of success such as `200-399`; only with HTTP and HTTPS.
    pub success_codes: Option<String>,
    /// Seconds between two checks, 5 to 300.
    pub interval_seconds: u32,
    /// Seconds to wait for an answer, 2 to 120.
    pub timeout_seconds: u32,
    /// Successes in a row that make a target healthy, 2 to 10.
    pub healthy_threshold: u32,
    /// Failures in a row that make a target unhealthy, 2 to 10.
    pub unhealthy_threshold: u32,
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.port)?;
        match &self.path {
            Some(path) => write!(f, " {path}"),
            None => Ok(()),
        }
    }
}

/// Protocol of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are AWS's words")]
pub enum CheckProtocol {
    Tcp,
    Http,
    Https,
}

impl CheckProtocol {
    /// As AWS writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
        }
    }
}

impl fmt::Display for CheckProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Port of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckPort {
    /// The port that each target is registered with.
    Traffic,
    /// One port on all targets.
    Number(u16),
}

impl fmt::Display for CheckPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Traffic => f.write_str("traffic-port"),
            Self::Number(port) => write!(f, "{port}"),
        }
    }
}

/// Items with commas between them, as plans print them.
pub struct List<I>(pub I);

impl<I> fmt::Display for List<I>
where
    I: IntoIterator + Copy,
    I::Item: fmt::Display,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.into_iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

/// `key=value` pairs with commas between them, as plans print them.
pub struct Pairs<'a>(pub &'a BTreeMap<String, String>);

impl fmt::Display for Pairs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{key}={value}")?;
        }
        Ok(())
    }
}
