//! Sockets, filters and netlink: the only crate with `unsafe`.

mod filter;
mod groups;
mod links;
mod packet;

pub use filter::{ARP, Instruction, NEIGHBOR_DISCOVERY};
pub use groups::Groups;
pub use links::{Interface, LinkError, Links};
pub use packet::{PacketError, PacketSocket};
