//! The network that fixtures describe and that EC2 answers for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::Tags;

/// An availability zone, local zone or the like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Zone {
    /// Such as `us-east-1a`.
    pub name: String,
    /// Such as `use1-az1`.
    pub id: String,
    /// `availability-zone`, `local-zone` or `wavelength-zone`.
    #[serde(default = "Zone::ordinary")]
    pub zone_type: String,
}

impl Zone {
    fn ordinary() -> String {
        "availability-zone".into()
    }
}

/// A VPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vpc {
    /// `vpc-…`.
    pub id: String,
    /// Its IPv4 blocks, the primary one first.
    pub cidrs: Vec<Ipv4Net>,
    /// Its IPv6 block.
    #[serde(default)]
    pub ipv6_cidr: Option<Ipv6Net>,
    /// Whether an internet gateway is attached.
    #[serde(default = "yes")]
    pub internet_gateway: bool,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

const fn yes() -> bool {
    true
}

/// A subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subnet {
    /// `subnet-…`.
    pub id: String,
    /// Its VPC.
    pub vpc: String,
    /// Its zone, by name.
    pub zone: String,
    /// Its IPv4 block.
    pub cidr: Ipv4Net,
    /// Its IPv6 block.
    #[serde(default)]
    pub ipv6_cidr: Option<Ipv6Net>,
    /// Free IPv4 addresses, before what load balancers take.
    #[serde(default = "Subnet::plenty")]
    pub free_addresses: u32,
    /// Whether instances get public addresses.
    #[serde(default)]
    pub map_public_ip: bool,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

impl Subnet {
    const fn plenty() -> u32 {
        4000
    }
}

/// A route table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteTable {
    /// `rtb-…`.
    pub id: String,
    /// Its VPC.
    pub vpc: String,
    /// Whether it is for the subnets without a table of their own.
    #[serde(default)]
    pub main: bool,
    /// Subnets that use it.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// Where 0.0.0.0/0 goes: `igw-…`, `nat-…`, or nowhere.
    #[serde(default)]
    pub default_route: Option<String>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// How an instance is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// It starts.
    Pending,
    /// It runs.
    #[default]
    Running,
    /// It is being stopped.
    Stopping,
    /// It is stopped.
    Stopped,
    /// It is being terminated.
    ShuttingDown,
    /// It is no more.
    Terminated,
}

impl InstanceState {
    /// EC2's number for it.
    pub const fn code(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }

    /// EC2's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// An instance with one network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// `i-…`.
    pub id: String,
    /// Its subnet, which gives VPC and zone.
    pub subnet: String,
    /// Its private address.
    pub address: Ipv4Addr,
    /// More private addresses of its interface, such as its pods'.
    #[serde(default)]
    pub secondary: Vec<Ipv4Addr>,
    /// Its IPv6 address.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// Security groups of its interface.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// How it is.
    #[serde(default)]
    pub state: InstanceState,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// A network interface: an instance's, or a load balancer's in one subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `eni-…`.
    pub id: String,
    /// Its subnet.
    pub subnet: String,
    /// `ELB net/NAME/ID` for a load balancer's.
    pub description: String,
    /// Its private addresses, the primary one first.
    pub addresses: Vec<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its security groups.
    pub security_groups: Vec<String>,
    /// The instance it is attached to.
    pub instance: Option<String>,
    /// The load balancer's ARN it belongs to.
    pub load_balancer: Option<String>,
    /// When it goes, once its load balancer is deleted.
    pub released_at: Option<Duration>,
}

/// An elastic address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ElasticAddress {
    /// `eipalloc-…`.
    pub allocation: String,
    /// The address.
    pub address: Ipv4Addr,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
    /// The interface it is associated with.
    #[serde(default)]
    pub interface: Option<String>,
}

/// A managed prefix list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefixList {
    /// `pl-…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How many entries it may have, which is what a rule with it counts as.
    pub max_entries: usize,
    /// `IPv4` or `IPv6`.
    #[serde(default = "PrefixList::ipv4")]
    pub family: String,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

impl PrefixList {
    fn ipv4() -> String {
        "IPv4".into()
    }
}

/// A security group. Outwards everything is allowed, as with a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecurityGroup {
    /// `sg-…`.
    pub id: String,
    /// Its name, unique in its VPC.
    pub name: String,
    /// Its description.
    #[serde(default)]
    pub description: String,
    /// Its VPC.
    pub vpc: String,
    /// Rules for what comes in.
    #[serde(default)]
    pub ingress: Vec<Rule>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// A rule of a security group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// `sgr-…`.
    pub id: String,
    /// What it allows: a group has each only once.
    #[serde(flatten)]
    pub permission: Permission,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// What a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Permission {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, a number, or `-1` for all.
    pub protocol: String,
    /// First port or ICMP type; none for all protocols.
    #[serde(default)]
    pub from: Option<i32>,
    /// Last port or ICMP code; none for all protocols.
    #[serde(default)]
    pub to: Option<i32>,
    /// From whom.
    pub peer: RulePeer,
}

/// From whom a rule allows traffic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RulePeer {
    /// An IPv4 block.
    Ipv4(Ipv4Net),
    /// An IPv6 block.
    Ipv6(Ipv6Net),
    /// Whoever has this security group.
    Group(String),
    /// The entries of this prefix list.
    PrefixList(String),
}

impl fmt::Display for RulePeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(block) => block.fmt(f),
            Self::Ipv6(block) => block.fmt(f),
            Self::Group(id) | Self::PrefixList(id) => f.write_str(id),
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protocol)?;
        if let (Some(from), Some(to)) = (self.from, self.to) {
            write!(f, " {from}-{to}")?;
        }
        write!(f, " from {}", self.peer)
    }
}

/// Whether `address` is the VPC's.
pub fn vpc_contains(vpc: &Vpc, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => vpc.cidrs.iter().any(|block| block.contains(&address)),
        IpAddr::V6(address) => vpc.ipv6_cidr.is_some_and(|block| block.contains(&address)),
    }
}
