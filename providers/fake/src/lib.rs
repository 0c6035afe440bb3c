//! A pretend cloud's load balancers: the provider of class `herald.dev/fake`.
//!
//! It speaks to `herald-fakecloud` over HTTP as a provider speaks to a real
//! cloud, and knows of it only what docs/fakecloud.md says.
//!
//! ```text
//!   Service, nodes --> [spec] --+
//!                               +--> [plan] --> actions --> [client] --> cloud
//!   cloud --> [client] --observed                                          |
//!        ^-----------------------------------------------------------------+
//! ```
//!
//! A Service's load balancer is known by its name, which follows from the
//! cluster and the Service's UID, and which the cloud gives to one load
//! balancer only: whatever answer was lost, a second one can't come to be.

mod client;
mod identity;
mod plan;
mod provider;
mod spec;
mod status;
mod wire;

pub use client::InvalidEndpoint;
pub use plan::{Action, Observed};
pub use provider::FakeCloud;
pub use spec::{ADDRESS_TYPE_ANNOTATION, Spec};
pub use wire::{
    AddressType, CheckProtocol, HealthCheck, Listener, LoadBalancer, LoadBalancerState, Target,
};
