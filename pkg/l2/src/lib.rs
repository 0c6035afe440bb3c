//! ARP and NDP, sans-IO: frames and instants in, frames and events out.
//!
//! An [`Announcer`] stands for one interface. It answers for the addresses it
//! was told to announce, announces them by itself on a schedule, hands them
//! over to another node, and tells who else claims them. A [`Checker`] asks, as
//! a client would, about addresses that other nodes hold. What is sent when is
//! in `docs/l2.md`. A [`RouterDiscovery`] finds the router at the other end of an
//! interface, for BGP.

mod announcer;
mod arp;
mod check;
mod discovery;
mod ethernet;
mod frame;
mod ndp;
mod pace;
mod router;
mod schedule;

pub use announcer::{Announcer, Counters, Event};
pub use arp::{ArpOperation, ArpPacket};
pub use check::{CheckEvent, Checker, Source, Verdict};
pub use discovery::{Neighbor, RouterDiscovery, RouterTransmit};
pub use ethernet::{Mac, Malformed};
pub use frame::Frame;
pub use ndp::{NeighborAdvertisement, NeighborMessage, NeighborSolicitation, solicited_node};
pub use pace::Rate;
pub use router::{RouterAdvertisement, RouterMessage, RouterSolicitation};
pub use schedule::Profile;
