//! What exists in the account, in the words of [`spec`](crate::spec).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;

use crate::spec::{IpAddressType, Scheme, Source, SubnetMapping, Tags, Target};

/// State of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// AWS makes it: minutes.
    Provisioning,
    /// It serves.
    Active,
    /// It serves, but AWS lacks something to scale it.
    Impaired(String),
    /// AWS could not make it.
    Failed(String),
}

/// A load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancer {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// Its DNS name, in lower case.
    pub dns_name: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Whether it is a Network Load Balancer; others are never touched.
    pub network: bool,
    /// Its scheme.
    pub scheme: Scheme,
    /// Families it has addresses of.
    pub ip_address_type: IpAddressType,
    /// Its state.
    pub state: State,
    /// Its subnets, ordered by subnet.
    pub subnets: Vec<SubnetMapping>,
    /// Its security groups.
    pub security_groups: BTreeSet<String>,
    /// Whether its groups' rules hold for `PrivateLink`; none where AWS does not say.
    pub enforce_on_private_link: Option<bool>,
    /// Whether it uses IPv6 prefixes as source; none where AWS does not say.
    pub ipv6_source_nat: Option<bool>,
    /// Its tags; none where they have not been read.
    pub tags: Option<Tags>,
}

impl LoadBalancer {
    /// Value of a tag, if it has it.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.as_ref()?.get(key).map(String::as_str)
    }
}

/// A target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// Default port of its targets.
    pub port: u16,
    /// `TCP`, `TLS`, ...
    pub protocol: String,
    /// `instance`, `ip`, ...
    pub target_type: String,
    /// How its targets are checked.
    pub health_check: HealthCheck,
    /// Load balancers that forward to it: none or one.
    pub load_balancers: BTreeSet<String>,
    /// Its tags; none where they have not been read.
    pub tags: Option<Tags>,
}

/// A health check as AWS writes it, so that what Herald does not know compares too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheck {
    /// `TCP`, `HTTP` or `HTTPS`.
    pub protocol: String,
    /// A number or `traffic-port`.
    pub port: String,
    /// Path of HTTP checks.
    pub path: Option<String>,
    /// Statuses of success.
    pub success_codes: Option<String>,
    /// Seconds between two checks.
    pub interval_seconds: i32,
    /// Seconds to wait.
    pub timeout_seconds: i32,
    /// Successes in a row.
    pub healthy_threshold: i32,
    /// Failures in a row.
    pub unhealthy_threshold: i32,
}

/// What can only be read of one load balancer at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancerDetail {
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Its listeners, by port.
    pub listeners: BTreeMap<u16, Listener>,
    /// Capacity reserved, if any.
    pub capacity_units: Option<u32>,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its ARN.
    pub arn: String,
    /// Its port.
    pub port: u16,
    /// What it carries.
    pub protocol: String,
    /// ARN of the default certificate.
    pub certificate: Option<String>,
    /// ARNs of the others.
    pub more_certificates: BTreeSet<String>,
    /// Its security policy.
    pub ssl_policy: Option<String>,
    /// Its ALPN policy.
    pub alpn_policy: Option<String>,
    /// Where it sends what comes: ARNs of target groups with their weights.
    pub forward: Vec<(String, Option<i32>)>,
    /// Whether a client stays with the target group it got first.
    pub sticky: bool,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

/// What can only be read of one target group at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetGroupDetail {
    /// Its attributes; none where they have not been read.
    pub attributes: Option<BTreeMap<String, String>>,
    /// Targets that are registered and not draining, with their health; none where they
    /// have not been read.
    pub targets: Option<BTreeSet<Target>>,
}

/// Health of a registered target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetHealth {
    /// Which one.
    pub target: Target,
    /// `initial`, `healthy`, `unhealthy`, `draining`, ...
    pub state: String,
}

/// A security group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// `sg-...`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Its tags.
    pub tags: Tags,
    /// What it lets in.
    pub ingress: BTreeSet<Ingress>,
}

/// A rule that lets traffic in, as EC2 has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ingress {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or a number; `-1` is all.
    pub protocol: String,
    /// First port, or ICMP type; -1 is all.
    pub from: i32,
    /// Last port, or ICMP code; -1 is all.
    pub to: i32,
    /// From where.
    pub source: IngressSource,
}

/// Where traffic may come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IngressSource {
    /// A network.
    Cidr(IpNet),
    /// A managed prefix list.
    PrefixList(String),
    /// What bears a security group.
    Group(String),
}

impl From<&crate::spec::IngressRule> for Ingress {
    fn from(rule: &crate::spec::IngressRule) -> Self {
        let (protocol, from, to) = rule.traffic.ec2();
        Self {
            protocol: protocol.to_owned(),
            from,
            to,
            source: match &rule.source {
                Source::Cidr(cidr) => IngressSource::Cidr(*cidr),
                Source::PrefixList(id) => IngressSource::PrefixList(id.clone()),
            },
        }
    }
}

impl fmt::Display for Ingress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.to_uppercase();
        match (self.from, self.to) {
            (-1, _) => f.write_str(&protocol)?,
            (from, to) if from == to => write!(f, "{protocol} {from}")?,
            (from, to) => write!(f, "{protocol} {from}-{to}")?,
        }
        match &self.source {
            IngressSource::Cidr(cidr) => write!(f, " from {cidr}"),
            IngressSource::PrefixList(id) | IngressSource::Group(id) => write!(f, " from {id}"),
        }
    }
}
