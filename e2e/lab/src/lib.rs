//! A Kubernetes cluster on one machine, out of network namespaces.

pub mod announcer;
mod apiproxy;
pub mod assets;
pub mod aws;
pub mod capture;
mod cgroup;
pub mod cli;
pub mod controlplane;
mod demo;
pub mod duration;
pub mod faults;
pub mod frames;
pub mod init;
pub mod isolate;
pub mod lab;
pub mod network;
pub mod node;
pub mod plan;
pub mod prober;
pub mod process;
pub mod router;
mod running;
pub mod scenario;
pub mod scenarios;
mod setgroups;
pub mod vm;
