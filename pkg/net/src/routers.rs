//! `ICMPv6` sockets for router discovery (RFC 4861 §6) on one interface.
#![expect(unsafe_code, reason = "system calls that no library wraps")]

use std::io;
use std::mem::size_of_val;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::datagram::receive;

/// Nothing with less was sent on this link.
const HOPS: u32 = 255;
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ROUTER_SOLICITATION: usize = 133;
const ROUTER_ADVERTISEMENT: usize = 134;
/// `ICMP6_FILTER` of linux/icmpv6.h.
const ICMP6_FILTER: libc::c_int = 1;

/// A message and how it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterDatagram {
    /// Octets of it, as far as the buffer took them.
    pub length: usize,
    /// Who sent it.
    pub source: Ipv6Addr,
    /// Its hop limit.
    pub hops: u8,
}

/// Receives and sends router solicitations and advertisements on one interface. It
/// does not receive what this host sends.
#[derive(Debug)]
pub struct RouterSocket {
    socket: AsyncFd<Socket>,
    interface: u32,
}

impl RouterSocket {
    /// Opens a socket on the interface with this index; the process needs the
    /// capability `NET_RAW`. Must be called within a tokio runtime.
    pub fn open(interface: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_nonblocking(true)?;
        pass_router_messages(&socket)?;
        socket.bind_device_by_index_v6(NonZeroU32::new(interface))?;
        socket.set_multicast_hops_v6(HOPS)?;
        socket.set_unicast_hops_v6(HOPS)?;
        socket.set_multicast_if_v6(interface)?;
        socket.set_multicast_loop_v6(false)?;
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        // All nodes are in the other group.
        socket.join_multicast_v6(&ALL_ROUTERS, interface)?;
        // SAFETY: the socket is owned by the AsyncFd for all of its life, is never
        // replaced, and its descriptor is not closed before it.
        let registered = unsafe { AsyncFd::register(socket) };
        Ok(Self {
            socket: registered?,
            interface,
        })
    }

    /// Receives a message whose checksum is right.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<RouterDatagram> {
        self.socket
            .async_io(Interest::READABLE, |socket: &Socket| {
                let control = nix::cmsg_space!(libc::c_int);
                let received = receive(socket.as_raw_fd(), buffer, control)?;
                let IpAddr::V6(source) = received.source else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                Ok(RouterDatagram {
                    length: received.length,
                    source,
                    hops: received.hops,
                })
            })
            .await
    }

    /// Sends a message to a group on the link, or fails at once. The kernel fills in
    /// the checksum, and a link-local source.
    pub fn send(&self, message: &[u8], to: Ipv6Addr) -> io::Result<()> {
        let to = SocketAddrV6::new(to, 0, 0, self.interface);
        let socket = self.socket.get_ref();
        socket.send_to(message, &SockAddr::from(to)).map(drop)
    }
}

/// RFC 3542 §3.2: a bit for each type, set for those that are blocked.
fn pass_router_messages(socket: &Socket) -> io::Result<()> {
    let mut blocked = [u32::MAX; 8];
    for kind in [ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT] {
        blocked[kind / 32] &= !(1 << (kind % 32));
    }
    let length = libc::socklen_t::try_from(size_of_val(&blocked)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the length of the call, and the kernel reads
    // `length` bytes from `blocked`, which is that long.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_ICMPV6,
            ICMP6_FILTER,
            (&raw const blocked).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
