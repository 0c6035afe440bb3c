//! Network Load Balancers of AWS: the provider of class `herald.dev/aws-nlb`.
//!
//! ```text
//!   Service, nodes, endpoints --> [build] --> [spec] --+
//!   annotations --> [annotations] ---^                 +--> plan --> apply
//!   subnets, groups --> [facts] -----^     observed ---+
//! ```
//!
//! [`spec`] holds what should exist for one Service, as plain data; [`facts`]
//! what the account holds that this depends on; [`settings`] what the operator
//! was told.

mod account;
mod action;
pub mod actions;
pub mod annotations;
mod apply;
pub mod budget;
pub mod build;
pub mod client;
pub mod cloud;
mod defaults;
mod details;
pub mod facts;
pub mod iam;
pub mod identity;
pub mod metrics;
mod observe;
mod observed;
mod plan;
mod provider;
pub mod record;
pub mod settings;
pub mod spec;
mod status;
mod table;
mod tuning;
mod want;

pub use action::{Action, Named, Step};
pub use client::{ConnectError, Connection};
pub use metrics::Metrics;
pub use observed::Observed;
pub use provider::Aws;
pub use settings::Settings;
pub use tuning::Tuning;
