//! Load balancers, listeners, target groups and targets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Tags;

/// What a load balancer has in one subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The subnet.
    pub subnet: String,
    /// The elastic address that was asked for.
    pub allocation: Option<String>,
    /// The private address that was asked for.
    pub private_ipv4: Option<Ipv4Addr>,
    /// The IPv6 address that was asked for.
    pub ipv6: Option<Ipv6Addr>,
    /// The prefix for source NAT: `auto_assigned` or a /80.
    pub source_nat_prefix: Option<String>,
}

/// A network load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancer {
    /// `arn:aws:elasticloadbalancing:…:loadbalancer/net/NAME/ID`.
    pub arn: String,
    /// Its name, unique among load balancers.
    pub name: String,
    /// Its DNS name.
    pub dns_name: String,
    /// `internet-facing` or `internal`.
    pub scheme: String,
    /// `ipv4` or `dualstack`.
    pub ip_address_type: String,
    /// Its VPC.
    pub vpc: String,
    /// Its subnets, one in each zone.
    pub mappings: Vec<Mapping>,
    /// Its security groups; with none it can never get one.
    pub security_groups: Vec<String>,
    /// `on` or `off`; none without security groups.
    pub private_link_rules: Option<String>,
    /// Whether it uses prefixes for source NAT.
    pub source_nat: bool,
    /// Its attributes, all of them.
    pub attributes: BTreeMap<String, String>,
    /// Its tags.
    pub tags: Tags,
    /// When it was made.
    pub created_at: Duration,
    /// When it becomes active.
    pub active_at: Duration,
    /// A state to say instead, with a reason: `failed`, `active_impaired`.
    pub steered: Option<(String, String)>,
    /// Its capacity reservation.
    pub capacity: Capacity,
}

impl LoadBalancer {
    /// Its state and what more there is to say.
    pub fn state(&self, now: Duration) -> (&str, Option<&str>) {
        match &self.steered {
            Some((state, reason)) => (state, Some(reason)),
            None if now < self.active_at => ("provisioning", None),
            None => ("active", None),
        }
    }

    /// Whether traffic flows.
    pub fn is_active(&self, now: Duration) -> bool {
        matches!(self.state(now).0, "active" | "active_impaired")
    }

    /// `net/NAME/ID`, as it stands in other ARNs and descriptions.
    pub fn path(&self) -> &str {
        self.arn
            .split_once(":loadbalancer/")
            .map_or("", |(_, path)| path)
    }

    /// Whether an attribute is `true`.
    pub fn is_set(&self, attribute: &str) -> bool {
        self.attributes
            .get(attribute)
            .is_some_and(|value| value == "true")
    }
}

/// A capacity reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Units asked for.
    pub units: Option<u32>,
    /// When it was last changed.
    pub modified_at: Option<Duration>,
    /// When it is provisioned.
    pub ready_at: Duration,
    /// Times of decreases, which are counted by the day.
    pub decreases: Vec<Duration>,
}

/// A target group that an action forwards to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedGroup {
    /// Its ARN.
    pub arn: String,
    /// 0 to 999; none if it was not said.
    pub weight: Option<u32>,
}

/// What a listener does with traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// Where it goes.
    pub groups: Vec<WeightedGroup>,
    /// Whether a client stays with a group.
    pub sticky: bool,
    /// For how many seconds.
    pub sticky_seconds: Option<u32>,
}

/// A certificate of a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Certificate(pub String);

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// `arn:…:listener/net/NAME/ID/ID`.
    pub arn: String,
    /// Its load balancer's ARN.
    pub load_balancer: String,
    /// Its port.
    pub port: u16,
    /// `TCP`, `TLS`, `UDP`, `TCP_UDP`, `QUIC` or `TCP_QUIC`.
    pub protocol: String,
    /// The default certificate, with TLS.
    pub certificate: Option<Certificate>,
    /// More certificates, chosen by name.
    pub more_certificates: BTreeSet<Certificate>,
    /// The policy, with TLS.
    pub ssl_policy: Option<String>,
    /// The ALPN policy, with TLS.
    pub alpn: Option<String>,
    /// What it does.
    pub forward: Forward,
    /// Its attributes, all of them.
    pub attributes: BTreeMap<String, String>,
    /// Its tags.
    pub tags: Tags,
}

/// How targets are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `TCP`, `HTTP` or `HTTPS`.
    pub protocol: String,
    /// A number, or `traffic-port`.
    pub port: String,
    /// With HTTP and HTTPS.
    pub path: Option<String>,
    /// With HTTP and HTTPS: such as `200-399`.
    pub matcher: Option<String>,
    /// Seconds from check to check.
    pub interval: u32,
    /// Seconds to wait for an answer.
    pub timeout: u32,
    /// Successes in a row.
    pub healthy: u32,
    /// Failures in a row.
    pub unhealthy: u32,
}

/// A target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    /// `arn:…:targetgroup/NAME/ID`.
    pub arn: String,
    /// Its name, unique among target groups.
    pub name: String,
    /// `TCP`, `TLS`, `UDP`, `TCP_UDP`, `QUIC` or `TCP_QUIC`.
    pub protocol: String,
    /// Port of targets that say none.
    pub port: u16,
    /// Its VPC.
    pub vpc: String,
    /// `instance` or `ip`.
    pub target_type: String,
    /// `ipv4` or `ipv6`.
    pub ip_address_type: String,
    /// How targets are checked.
    pub health_check: HealthCheck,
    /// Its attributes, all of them.
    pub attributes: BTreeMap<String, String>,
    /// Its tags.
    pub tags: Tags,
    /// Its targets, those that are draining too.
    pub targets: BTreeMap<TargetKey, Target>,
    /// When a listener began to use it.
    pub used_since: Option<Duration>,
    /// Until when it counts as used although nothing uses it.
    pub released_at: Duration,
}

impl TargetGroup {
    /// How long a target drains.
    pub fn deregistration_delay(&self) -> Duration {
        let seconds = self
            .attributes
            .get("deregistration_delay.timeout_seconds")
            .and_then(|value| value.parse().ok())
            .unwrap_or(300);
        Duration::from_secs(seconds)
    }
}

/// What a target is told from others by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetKey {
    /// An instance's id, or an address.
    pub id: String,
    /// Its port.
    pub port: u16,
}

impl TargetKey {
    /// The address, of a target that is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.id.parse().ok()
    }
}

/// What health checks say of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// They succeed.
    Healthy,
    /// They fail.
    Unhealthy,
}

/// A registered target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The zone that was said, or that its address is in; `all`.
    pub zone: Option<String>,
    /// With QUIC.
    pub quic_server: Option<String>,
    /// When it was registered.
    pub registered_at: Duration,
    /// When it was deregistered; it drains since.
    pub deregistered_at: Option<Duration>,
    /// What its checks say; without a data path none means healthy.
    pub verdict: Option<Verdict>,
}
