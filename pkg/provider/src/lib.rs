//! The provider contract: observe, plan, apply.
//!
//! ```text
//!   Service --> desired --+
//!                         v
//!   observe() --------> plan() --> [action, action, ...] --> apply(first) --+
//!      ^                   |                                                |
//!      |                   +--> nothing to do: status()                     |
//!      +--------------------------------------------------------------------+
//! ```
//!
//! `plan` is pure and printed by a dry run; `apply` performs one action, which
//! is idempotent and safe to be the last thing the process ever does. A
//! deletion is a plan like any other: it is done when an observation shows
//! that nothing is left.

mod drive;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use herald_core::{Ingress, Node, ServiceKey, ServiceRequest};
use thiserror::Error;

pub use drive::{DynProvider, Outcome};

/// What should exist for one Service.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each Service, passed by reference"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Desired {
    /// A load balancer as the Service asks for.
    Present {
        /// What the Service asks for.
        service: ServiceRequest,
        /// Nodes that may carry its traffic, by name.
        nodes: Vec<Node>,
    },
    /// Nothing: the Service is gone, or no longer ours.
    Absent {
        /// Which Service it was.
        key: ServiceKey,
        /// Its `metadata.uid`.
        uid: String,
    },
}

impl Desired {
    /// The Service this is about.
    pub const fn key(&self) -> &ServiceKey {
        match self {
            Self::Present { service, .. } => &service.key,
            Self::Absent { key, .. } => key,
        }
    }

    /// `metadata.uid` of the Service this is about.
    pub fn uid(&self) -> &str {
        match self {
            Self::Present { service, .. } => &service.uid,
            Self::Absent { uid, .. } => uid,
        }
    }
}

/// What a Service's status should say once there is nothing left to do (or
/// nothing that can be done now).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<Ingress>,
    /// Whether the load balancer is ready for clients.
    pub ready: bool,
    /// Reason of the condition, `CamelCase`.
    pub reason: &'static str,
    /// Message of the condition: what holds it up and what to do, in a sentence.
    pub message: String,
    /// Look again after this long, where no event will tell of progress.
    pub recheck: Option<Duration>,
}

/// A request that can't be met as it stands. It is told to the user and tried
/// again when something changes; what the Service has is kept.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Refusal {
    /// Reason of the condition, `CamelCase`.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
    /// What the Service keeps meanwhile.
    pub keep: Vec<Ingress>,
}

/// A call that failed.
#[derive(Debug, Error)]
pub enum ProviderError {
    /// The world moved between plan and apply: observe and plan again at once.
    #[error("{0}")]
    Conflict(String),
    /// The cloud asks to go slower.
    #[error("throttled: {message}")]
    Throttled {
        /// What was refused.
        message: String,
        /// How long to wait, if it said so.
        retry_after: Option<Duration>,
    },
    /// Something takes its time, and how long is known: looked at again then,
    /// without a back-off that grows.
    #[error("{message}")]
    Waiting {
        /// Reason of the condition, `CamelCase`.
        reason: &'static str,
        /// What is waited for.
        message: String,
        /// When to look again.
        recheck: Duration,
    },
    /// Anything else that may pass: tried again with back-off.
    #[error("{reason}: {message}")]
    Failed {
        /// Reason of the condition, `CamelCase`.
        reason: &'static str,
        /// What failed and what to do.
        message: String,
    },
}

/// A source of load balancers. One value serves all Services of its class;
/// methods are called concurrently for different Services, never for one.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// What exists for one Service.
    type Observed: Send + Sync;
    /// One idempotent step. `Display` is its line in a plan, a sentence such
    /// as `create load balancer "a1b2" with 2 listeners`.
    type Action: fmt::Display + Send + Sync;

    /// Short name for flags, logs and metrics: `baremetal`, `fake`, `aws`.
    fn name(&self) -> &'static str;

    /// The loadBalancerClass it serves, such as `herald.dev/bare-metal`.
    fn class(&self) -> &'static str;

    /// Whether it makes things outside the cluster, so that a Service needs
    /// the finalizer `herald.dev/cleanup`.
    fn external(&self) -> bool;

    /// What exists now for this Service.
    async fn observe(&self, desired: &Desired) -> Result<Self::Observed, ProviderError>;

    /// The steps from `observed` to `desired`, in order. Empty when there is
    /// nothing to do.
    fn plan(
        &self,
        desired: &Desired,
        observed: &Self::Observed,
    ) -> Result<Vec<Self::Action>, Refusal>;

    /// Performs one action.
    async fn apply(&self, action: &Self::Action) -> Result<(), ProviderError>;

    /// What the status should say, given an observation.
    fn status(&self, desired: &Desired, observed: &Self::Observed) -> Status;
}
