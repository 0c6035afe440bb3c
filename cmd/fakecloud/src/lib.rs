//! A pretend cloud with a real data path.
//!
//! `herald-fakecloud` serves an HTTP API for network load balancers (latency,
//! quotas, faults on demand) and carries TCP and UDP from their addresses to
//! the healthy ones among their targets. It stands in for a cloud provider in
//! tests and demos, outlives the operator, and keeps nothing on disk.
//!
//! ```text
//!   HTTP --> api --> gate (call log, rate limit, faults) --> state <-- health
//!                                                              |
//!   clients --> addresses, proxy_tcp, proxy_udp <-- datapath --+
//! ```
//!
//! `state`, `faults`, `calls`, `throttle` and `route` are pure; docs/fakecloud.md
//! describes the API.

pub mod addresses;
pub mod api;
pub mod calls;
pub mod carrier;
pub mod datapath;
pub mod error;
pub mod faults;
pub mod gate;
pub mod health;
pub mod hosts;
pub mod metrics;
pub mod pool;
pub mod proxy_tcp;
pub mod proxy_udp;
pub mod route;
pub mod server;
pub mod shared;
pub mod state;
pub mod throttle;
pub mod wire;

pub use server::{Config, RateLimit, Server, StartError};
