//! Sockets, filters and netlink: the only crate with `unsafe`.

mod filter;
mod groups;
mod links;
mod packet;

pub use filter::Traffic;
pub use groups::Groups;
pub use links::{Interface, LinkError, Links};
pub use packet::{PacketError, PacketSocket};
