//! Address allocation, pure: pools, obstacles, Services and the time in, decisions
//! out. It knows no Kubernetes and no clock.
//!
//! ```text
//!  set_pools, set_obstacles ──┐
//!  adopt, restore (a restart) ├──> Allocator ──> decide(Service) ──> Decision ──> assign
//!  assign, release ───────────┘        │
//!                                      └──> due(): whose turn it is, and when to ask again
//! ```
//!
//! The same pools, the same holders and the same request give the same answer,
//! whatever came before: pools are tried by priority and then by name, and which
//! free address of a pool is taken is the pool's own rule ([`Selection`]).

mod allocator;
mod claim;
mod decide;
mod error;
mod free;
mod lease;
mod pool;
mod report;
mod stock;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use herald_core::ServiceRequest;

pub use allocator::{Allocator, Decision, Due, Outside};
pub use claim::{Claim, Clash, ClashReason};
pub use error::{AllocationError, WhyNot};
pub use lease::{Lease, LeaseRequest, Sourced};
pub use pool::{
    Admission, Limits, Obstacle, Pool, PoolProblem, PoolState, Reservation, Selection, Usage,
};
pub use report::{Notice, PoolReport};

/// The most addresses of one family that a Service may ask for.
pub const MOST_ADDRESSES: usize = 8;

/// What hands out addresses from pools, seen by those that feed it.
pub trait AddressPools: Send + Sync {
    /// Name of the provider that it is part of.
    fn provider(&self) -> &'static str;

    /// Forgets all pools and who has which address, as at the start of a process.
    fn forget(&self);

    /// Puts these pools in the place of all others.
    fn set_pools(&self, pools: Vec<Pool>);

    /// Puts these in the place of all other addresses that the cluster itself uses,
    /// and says whether a pool is concerned.
    fn set_obstacles(&self, obstacles: Vec<Obstacle>) -> bool;

    /// Takes over the addresses that a Service has in its status, before any
    /// new one is given. Of two Services that can't share an address the first
    /// keeps it; the error says which address another has, and the others are
    /// taken over all the same.
    fn adopt(&self, service: &ServiceRequest, addresses: &[IpAddr]) -> Result<(), Clash>;

    /// Takes over when addresses that nobody has were given back.
    fn restore(&self, resting: &[(IpAddr, SystemTime)]);

    /// Why a pool is left out, if it is.
    fn refusal(&self, pool: &str) -> Option<PoolProblem>;

    /// How each pool in force stands.
    fn reports(&self) -> Vec<PoolReport>;

    /// Which Services should be looked at now, though nothing about them changed.
    fn due(&self) -> Due;

    /// Whether there is a source of this name that a pool may take its addresses from.
    fn has_source(&self, name: &str) -> bool;

    /// Puts these in the place of all other pools that take their addresses from a
    /// source, by name.
    fn set_sourced(&self, pools: BTreeMap<String, Sourced>);

    /// Whether the source of a pool that is on its way out has nothing of it any more.
    fn is_emptied(&self, pool: &str) -> bool;
}
