//! What may happen to a Service's load balancer, case by case, against the strict
//! stand-in.

#[path = "../common/mod.rs"]
mod common;

mod capacity;
mod drift;
mod gates;
mod listeners;
mod policy;
mod protection;
mod replacement;
mod shared;
mod trouble;
