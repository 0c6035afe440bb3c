//! Who owns a VIP on a segment, pure: heartbeats, instants and the API's view
//! in; heartbeats, timers and decisions out.
//!
//! ```text
//!            View (groups, candidates, voters)
//!                         │
//!  datagram ─KeyRing─> Heartbeat ─> [Election] ─> Heartbeat ─KeyRing─> datagram
//!                                    │     │
//!               Event: Announce, HandOver, Withdraw, Probe ...
//!
//!  auth  seals             peers  who is there, who hears whom
//!  wire  heartbeat codec   claim  what each owns, told in pages
//!  order candidates        decide who should have a group
//!  group its state         votes  policy strict
//!  mute  owners that do not answer
//! ```
//!
//! Who *may* own a group of addresses comes from the API; who *does* is settled
//! among the speakers on the segment itself: the first live candidate takes
//! what nobody has, and keeps it. The rules, and what each is for, are in
//! `docs/ownership.md`; what must never happen is in the simulator,
//! `e2e/sim/src/invariants.rs`.

mod auth;
mod claim;
mod decide;
mod election;
mod group;
mod id;
mod mute;
mod order;
mod peers;
mod profile;
mod votes;
mod wire;

pub use auth::{AuthError, KeyError, KeyRing, SHORTEST_KEY, TRAILER};
pub use claim::{Claim, Page, Standing};
pub use election::{Config, Counters, Election, Event, HOLD_DOWN, Reception, Transmit};
pub use group::{Cause, DAMPING, Group, MOST_MOVES, Policy, Rebalance, Silence, View};
pub use id::{GroupId, NodeId};
pub use order::{Candidate, owner, spread};
pub use peers::Liveness;
pub use profile::Profile;
pub use wire::{
    Heard, Heartbeat, MAX_DATAGRAM, MAX_HEARD, MAX_OBJECTIONS, MAX_UNANSWERED, Opinion, Unanswered,
    WireError,
};
