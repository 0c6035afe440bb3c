//! Scenarios: tests of the whole path on real parts, seen from a client
//! outside the cluster.
//!
//! ```text
//!   herald-lab scenario              the runner: which cases, which labs, verdicts
//!    ├─ __group (fresh namespaces)   one lab: its cases one after the other
//!    │    └─ Context                 what a scenario can say and ask
//!    └─ __group (fresh namespaces)   side by side with the first
//! ```
//!
//! The list is [`crate::scenarios::ALL`]. A scenario is a function of a
//! [`Context`]; what the context's verbs mean is in the files of this folder,
//! one for each part of the world: workloads, Services, pools, clients,
//! Herald itself, the pretend cloud, the audit log.

mod apiproxy;
pub mod audit;
mod aws;
pub mod clients;
mod cloud;
mod command;
mod context;
pub mod crowd;
mod effort;
mod exchange;
mod group;
mod grouping;
pub mod herald;
mod l2;
mod metrics;
mod outcome;
mod pools;
mod report;
mod runner;
pub mod services;
mod spec;
pub mod statistics;
pub mod traffic;
pub mod wait;
pub mod workloads;

pub use aws::{Account, Parameters, texts};
pub use clients::Client;
pub use cloud::Cloud;
pub(crate) use command::default_logs;
pub use command::{ScenarioArguments, list};
pub use context::{Context, HERALD};
pub use effort::Effort;
pub use group::run as run_group;
pub use grouping::{Group, Selection, cases, groups};
pub use metrics::Metrics;
pub use outcome::{Figure, Outcome, Sample, Summary, Verdict};
pub use report::Event;
pub use services::Family;
pub use spec::{Case, Isolation, Kernel, Needs, Overlay, ProxyMode, Scenario};
