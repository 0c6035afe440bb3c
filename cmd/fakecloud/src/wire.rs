//! What travels over HTTP, as JSON with `camelCase` names.
//!
//! docs/fakecloud.md describes every field for those who call; unknown fields
//! are refused so that a mistyped one is not silently without effect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_core::{IpFamily, Protocol};
use serde::{Deserialize, Serialize};

/// What clients are given to reach a load balancer. Fixed at creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AddressType {
    /// Its addresses.
    #[default]
    Address,
    /// A name that stands for its addresses.
    Hostname,
}

/// A port on which a load balancer listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// What clients dial, 1 to 65535.
    pub port: u16,
    /// `TCP` or `UDP`; the same port may have both.
    pub protocol: Protocol,
    /// The port of the targets (a node port), 1 to 65535.
    pub target_port: u16,
}

/// An address to send traffic to. Frontends of a family use the targets of
/// that family only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// Where it is.
    pub address: IpAddr,
    /// What to call it, such as a node's name.
    #[serde(default)]
    pub name: String,
}

/// How a health check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckProtocol {
    /// A TCP connection that opens.
    Tcp,
    /// A `GET` answered with a status from 200 to 399.
    Http,
}

/// How targets are checked. A check that takes longer than `interval_millis`
/// has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// How to ask.
    pub protocol: CheckProtocol,
    /// Port of the target, 1 to 65535.
    pub port: u16,
    /// What to `GET`.
    #[serde(default = "default_path")]
    pub path: String,
    /// Milliseconds from the start of a check to the start of the next, 10 to
    /// 300 000.
    #[serde(default = "default_interval")]
    pub interval_millis: u64,
    /// Successes in a row after which an unhealthy target is healthy, 1 to 10.
    /// A new target needs one.
    #[serde(default = "default_threshold")]
    pub healthy_threshold: u32,
    /// Failures in a row after which a target is unhealthy, 1 to 10.
    #[serde(default = "default_threshold")]
    pub unhealthy_threshold: u32,
}

fn default_path() -> String {
    "/healthz".into()
}

const fn default_interval() -> u64 {
    1000
}

const fn default_threshold() -> u32 {
    2
}

/// Body of `POST /v1/load-balancers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateLoadBalancer {
    /// Unique; a DNS label of at most 32 characters.
    pub name: String,
    /// The same token with the same body gives what the first call made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_token: Option<String>,
    /// Anything the caller wants to find it by.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What clients are given.
    #[serde(default)]
    pub address_type: AddressType,
    /// Families it gets an address of.
    pub families: BTreeSet<IpFamily>,
    /// Ports on which it listens.
    pub listeners: Vec<Listener>,
    /// Where it sends to.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// How targets are checked.
    pub health_check: HealthCheck,
}

/// Body of `PUT /v1/load-balancers/{id}/families`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetFamilies {
    /// All families; the addresses of those that stay do not change.
    pub families: BTreeSet<IpFamily>,
}

/// Body of `PUT /v1/load-balancers/{id}/listeners`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetListeners {
    /// All listeners.
    pub listeners: Vec<Listener>,
}

/// Body of `PUT /v1/load-balancers/{id}/targets`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetTargets {
    /// All targets.
    pub targets: Vec<Target>,
}

/// Body of `PUT /v1/load-balancers/{id}/health-check`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetHealthCheck {
    /// How targets are checked from now on; their health so far stays.
    pub health_check: HealthCheck,
}

/// Where a load balancer is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoadBalancerState {
    /// Being made; carries no traffic.
    Provisioning,
    /// Carries traffic.
    Active,
    /// Could not be made; it stays, without traffic, until it is deleted.
    Failed,
    /// Being deleted; carries no traffic, its name is still taken.
    Deleting,
}

/// What the health checks say about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TargetHealth {
    /// Not checked yet; gets no traffic.
    Initial,
    /// Gets traffic.
    Healthy,
    /// Gets no new traffic.
    Unhealthy,
}

/// A target of a load balancer and its health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Where it is.
    pub address: IpAddr,
    /// What it is called.
    pub name: String,
    /// What the health checks say.
    pub health: TargetHealth,
    /// Why the last check failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// Given by the cloud, never used twice.
    pub id: String,
    /// Given by its maker.
    pub name: String,
    /// Given by its maker.
    pub tags: BTreeMap<String, String>,
    /// What clients are given.
    pub address_type: AddressType,
    /// Families it has an address of.
    pub families: BTreeSet<IpFamily>,
    /// Ports on which it listens.
    pub listeners: Vec<Listener>,
    /// Where it sends to.
    pub targets: Vec<TargetStatus>,
    /// How targets are checked.
    pub health_check: HealthCheck,
    /// Where it is in its life.
    pub state: LoadBalancerState,
    /// What holds it up or what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Milliseconds since it came into that state.
    pub state_age_millis: u64,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// With `addressType: hostname`, the name that stands for its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// Answer of `GET /v1/load-balancers`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerPage {
    /// By id, oldest first.
    pub items: Vec<LoadBalancer>,
    /// Give it as `pageToken` for what follows; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// One line of `GET /v1/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostEntry {
    /// Name of an active load balancer with `addressType: hostname`.
    pub hostname: String,
    /// What it stands for.
    pub addresses: Vec<IpAddr>,
}
