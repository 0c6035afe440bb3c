//! EC2, as far as a load-balancer controller goes.

pub mod instances;
pub mod network;
pub mod query;
pub mod rules;
pub mod security_groups;
pub mod tags;
