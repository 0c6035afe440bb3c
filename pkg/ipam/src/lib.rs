//! Address allocation, pure: pools and Services in, decisions out.
//!
//! The same pools, the same holders and the same request give the same answer,
//! whatever came before: pools are tried by priority and then by name, and in a
//! pool the first free address is taken.

mod allocator;
mod free;
mod pool;

pub use allocator::{AllocationError, Allocator, Decision, Taken};
pub use pool::{Admission, Pool, PoolProblem, Usage};
