//! ELB, network load balancers only.

pub mod account;
pub mod attributes;
pub mod capacity;
pub mod certificates;
pub mod common;
pub mod listeners;
pub mod load_balancers;
pub mod subnets;
pub mod tags;
pub mod target_groups;
pub mod targets;
