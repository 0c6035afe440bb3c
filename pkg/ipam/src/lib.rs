//! Address allocation, pure: pools and Services in, decisions out.
//!
//! The same pools, the same holders and the same request give the same answer,
//! whatever came before: pools are tried by priority and then by name, and in a
//! pool the first free address is taken.

mod allocator;
mod free;
mod pool;

pub use allocator::{AllocationError, Allocator, Decision, Taken};
use std::net::IpAddr;

use herald_core::ServiceKey;

pub use pool::{Admission, Pool, PoolProblem, Usage};

/// What hands out addresses from pools, seen by those that feed it.
pub trait AddressPools: Send + Sync {
    /// Name of the provider that it is part of.
    fn provider(&self) -> &'static str;

    /// Forgets all pools and who has which address, as at the start of a process.
    fn forget(&self);

    /// Puts these pools in the place of all others.
    fn set_pools(&self, pools: Vec<Pool>);

    /// Takes over the addresses that a Service has in its status, before any
    /// new one is given. Of two Services with one address the first keeps it;
    /// the error says which address another has.
    fn adopt(&self, uid: &str, key: &ServiceKey, addresses: &[IpAddr]) -> Result<(), Taken>;

    /// Why a pool is left out, if it is.
    fn refusal(&self, pool: &str) -> Option<PoolProblem>;

    /// How much of each pool in force is in use.
    fn usage(&self) -> Vec<(String, Usage)>;
}
