//! Sockets, filters and netlink: the only crate with `unsafe`.

mod bfd;
mod bgp;
mod datagram;
mod filter;
mod groups;
mod heartbeat;
mod links;
mod packet;
mod routers;
mod thread;

pub use bfd::{BFD_MULTIHOP_PORT, BFD_PORT, BfdDatagram, BfdReceiver, BfdSender};
pub use bgp::{
    BgpListener, BgpSocketError, Dial, Distance, LONGEST_PASSWORD, dial, receive_now, settle, shut,
};
pub use filter::Traffic;
pub use groups::Groups;
pub use heartbeat::{
    Datagram, Detour, HEARTBEAT_GROUP_V4, HEARTBEAT_GROUP_V6, HEARTBEAT_PORT, HeartbeatError,
    HeartbeatSocket, ON_LINK,
};
pub use links::{Interface, LinkError, Links, News, same_subnet};
pub use packet::{Inbox, PacketError, PacketSocket};
pub use routers::{RouterDatagram, RouterSocket};
pub use thread::{Precedence, take_precedence};
