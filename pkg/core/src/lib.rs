//! Herald's domain: what a Service asks for, what it gets, and what stands
//! behind it, in words of our own so that nothing below the operator and the
//! speaker knows Kubernetes.
//!
//! ```text
//!  [ServiceRequest] --wants--> [LoadBalancer] --has--> [Ingress] (status)
//!        |                           |
//!     [ServicePort]               targets --> [Node]  [Endpoint]  [Backend]
//! ```

mod address;
mod chain;
mod endpoint;
mod labels;
mod node;
mod service;

pub use address::{AddressRange, InvalidAddressRange, IpFamily};
pub use chain::chain;
pub use endpoint::{Backend, Endpoint, EndpointPort};
pub use labels::Labels;
pub use node::{Node, Taint};
pub use service::{
    Ingress, IngressPoint, IngressPort, IpFamilyPolicy, IpMode, Protocol, ServiceKey, ServicePort,
    ServiceReference, ServiceRequest, TargetPort, TrafficPolicy,
};
