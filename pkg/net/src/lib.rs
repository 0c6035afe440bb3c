//! Sockets, filters and netlink: the only crate with `unsafe`.

mod bfd;
mod bfd_thread;
mod filter;
mod groups;
mod links;
mod packet;

pub use bfd::{BfdDatagram, BfdListener, BfdSender, BfdSocketError};
pub use bfd_thread::{real_time, wait_readable};
pub use filter::Traffic;
pub use groups::Groups;
pub use links::{Interface, LinkError, Links};
pub use packet::{PacketError, PacketSocket};
