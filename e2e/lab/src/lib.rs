//! A Kubernetes cluster on one machine, out of network namespaces.

pub mod node;
pub mod plan;
pub mod vm;
