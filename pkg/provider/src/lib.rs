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
use herald_core::{Backend, Ingress, Node, ServiceKey, ServiceReference, ServiceRequest};
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
        /// Its endpoints, by address; empty where the provider does not need them
        /// ([`Provider::needs_endpoints`]).
        endpoints: Vec<Backend>,
        /// Services that [`Provider::references`] named and that exist, by name.
        references: Vec<ServiceReference>,
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
    /// How its pods stand as targets, where the provider knows of pods; for their
    /// readiness gates ([`Provider::readiness_gate`]).
    pub pods: Vec<PodHealth>,
}

/// What a load balancer thinks of a pod that is a target of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodHealth {
    /// Its name; its namespace is the Service's.
    pub pod: String,
    /// Whether the load balancer would send traffic to it.
    pub healthy: bool,
    /// Reason of the pod's condition, `CamelCase`.
    pub reason: String,
    /// Message of the pod's condition.
    pub message: String,
}

/// Something about a request that does not keep it from being served, such as an
/// annotation that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Reason of the event, `CamelCase`.
    pub reason: &'static str,
    /// What is odd and what to do.
    pub message: String,
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

    /// Whether it serves Services of this class: its own, and those of another
    /// implementation in whose place it was put.
    fn serves(&self, class: &str) -> bool {
        class == self.class()
    }

    /// Finalizers of implementations in whose place it was put: they give way to
    /// `herald.dev/cleanup`, as nobody else would ever take them off.
    fn replaced_finalizers(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether it makes things outside the cluster, so that a Service needs
    /// the finalizer `herald.dev/cleanup`.
    fn external(&self) -> bool;

    /// Whether it ever needs endpoints: they are followed only then.
    fn follows_endpoints(&self) -> bool {
        false
    }

    /// Whether it needs the endpoints of this Service, which is then looked at anew
    /// when they change.
    fn needs_endpoints(&self, service: &ServiceRequest) -> bool {
        let _ = service;
        false
    }

    /// Names of other Services in its namespace whose ports and endpoints it needs.
    fn references(&self, service: &ServiceRequest) -> Vec<String> {
        let _ = service;
        Vec::new()
    }

    /// Type of the condition by which this Service's load balancer tells a pod
    /// that it is in service; pods that name it in `spec.readinessGates` wait for it.
    fn readiness_gate(&self, service: &ServiceRequest) -> Option<String> {
        let _ = service;
        None
    }

    /// What is odd about a request, although it is served.
    fn warnings(&self, service: &ServiceRequest) -> Vec<Warning> {
        let _ = service;
        Vec::new()
    }

    /// What has happened to a Service's load balancer that its user should hear of, such
    /// as a change by others that was put right. Each is returned once; it becomes an
    /// event.
    fn news(&self, uid: &str) -> Vec<Warning> {
        let _ = uid;
        Vec::new()
    }

    /// Work that belongs to no Service, for as long as this process may act: it is
    /// dropped then. `fence` is asked before anything is done outside, as in
    /// [`DynProvider::reconcile`]; `stirred` is called when Services are to be looked
    /// at because of what was learnt.
    async fn tend(
        &self,
        fence: &(dyn Fn() -> Result<(), ProviderError> + Sync),
        stirred: &(dyn Fn() + Sync),
    ) {
        let _ = (fence, stirred);
    }

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
