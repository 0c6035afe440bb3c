//! What travels over HTTP, as far as the provider sends or reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use herald_core::{IpFamily, Protocol};
use serde::{Deserialize, Serialize};

/// What clients are given to reach a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AddressType {
    /// Its addresses.
    Address,
    /// A name that stands for its addresses.
    Hostname,
}

impl fmt::Display for AddressType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::Hostname => "hostname",
        })
    }
}

/// A port on which a load balancer listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// What clients dial.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The node port.
    pub target_port: u16,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol, self.port, self.target_port)
    }
}

/// An address to send traffic to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// A node's address.
    pub address: IpAddr,
    /// The node's name.
    pub name: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// How a health check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckProtocol {
    /// A TCP connection that opens.
    Tcp,
    /// A `GET` that succeeds.
    Http,
}

/// How targets are checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// How to ask.
    pub protocol: CheckProtocol,
    /// Port of the node.
    pub port: u16,
    /// What to `GET`.
    pub path: String,
    /// Milliseconds between checks.
    pub interval_millis: u64,
    /// Successes in a row that make a target healthy.
    pub healthy_threshold: u32,
    /// Failures in a row that make it unhealthy.
    pub unhealthy_threshold: u32,
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            CheckProtocol::Tcp => write!(f, "TCP {}", self.port),
            CheckProtocol::Http => write!(f, "HTTP {} {}", self.port, self.path),
        }
    }
}

/// Where a load balancer is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoadBalancerState {
    /// Being made; carries no traffic.
    Provisioning,
    /// Carries traffic.
    Active,
    /// Could not be made.
    Failed,
    /// Being deleted; its name is still taken.
    Deleting,
}

/// A load balancer as the cloud tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// Given by the cloud.
    pub id: String,
    /// Given by us.
    pub name: String,
    /// Given by us.
    pub tags: BTreeMap<String, String>,
    /// What clients are given.
    pub address_type: AddressType,
    /// Families it has an address of.
    pub families: BTreeSet<IpFamily>,
    /// Ports on which it listens.
    pub listeners: Vec<Listener>,
    /// Where it sends to.
    pub targets: Vec<Target>,
    /// How targets are checked.
    pub health_check: HealthCheck,
    /// Where it is in its life.
    pub state: LoadBalancerState,
    /// What holds it up or what failed.
    pub state_reason: Option<String>,
    /// Milliseconds since it came into that state.
    pub state_age_millis: u64,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The name that stands for them.
    pub hostname: Option<String>,
}

/// Answer of `GET /v1/load-balancers`.
#[derive(Debug, Deserialize)]
pub struct LoadBalancerPage {
    /// What matched.
    pub items: Vec<LoadBalancer>,
}

/// Body of `POST /v1/load-balancers`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateLoadBalancer<'a> {
    /// Unique.
    pub name: &'a str,
    /// The same call again gives what the first made.
    pub client_token: &'a str,
    /// Whose it is.
    pub tags: &'a BTreeMap<String, String>,
    /// What clients are given.
    pub address_type: AddressType,
    /// Families it gets an address of.
    pub families: &'a BTreeSet<IpFamily>,
    /// Ports on which it listens.
    pub listeners: &'a [Listener],
    /// Where it sends to.
    pub targets: &'a [Target],
    /// How targets are checked.
    pub health_check: &'a HealthCheck,
}

/// Body of every refused call.
#[derive(Debug, Deserialize)]
pub struct ErrorBody {
    /// What was refused.
    pub error: ErrorDetail,
}

/// Why a call was refused.
#[derive(Debug, Deserialize)]
pub struct ErrorDetail {
    /// What to decide by.
    pub code: String,
    /// What people read.
    pub message: String,
}
