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

pub mod actions;
pub mod annotations;
pub mod build;
pub mod facts;
pub mod identity;
pub mod settings;
pub mod spec;
