//! What may happen to a Service's load balancer, case by case, against the strict
//! stand-in.

#[path = "../common/mod.rs"]
mod common;

mod replacement;
mod shared;
