//! A node: its init, kube-proxy and the agent that runs the pods bound to it.

pub mod spec;
