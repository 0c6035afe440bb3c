//! ARP and NDP, sans-IO: frames and instants in, frames and events out.
//!
//! An [`Announcer`] stands for one interface. It answers for the addresses it
//! was told to announce, announces them by itself on a schedule, hands them
//! over to another node, and tells who else claims them.

mod announcer;
mod arp;
mod ethernet;
mod ndp;
mod pace;
mod schedule;

pub use announcer::{Announcer, Counters, Event, REFRESH};
pub use arp::{ArpOperation, ArpPacket};
pub use ethernet::{Mac, Malformed};
pub use ndp::{NeighborAdvertisement, NeighborMessage, NeighborSolicitation, solicited_node};
