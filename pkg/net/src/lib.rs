//! Sockets, filters and netlink: the only crate with `unsafe`.

mod filter;
mod groups;
mod links;
mod packet;

pub use filter::Traffic;
pub use groups::Groups;
pub use links::{Interface, LinkError, Links, News};
pub use packet::{Inbox, PacketError, PacketSocket};
