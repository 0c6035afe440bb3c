//! UDP sockets of BFD (RFC 5881 §4, RFC 5883 §5).
//!
//! Packets come to two ports shared by all sessions; each session sends from a port
//! of its own, which stays the same.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::datagram::receive;

/// Where packets of peers on the link come to.
pub const BFD_PORT: u16 = 3784;
/// Where packets of peers behind routers come to.
pub const BFD_MULTIHOP_PORT: u16 = 4784;
/// RFC 5881 §4: source ports are from here on.
const FIRST_SOURCE: u16 = 49152;
/// CS6, network control, in the upper six bits.
const TRAFFIC_CLASS: u32 = 0xc0;
const PRIORITY: u32 = 6;
/// For a stall of a second with 500 peers at 10 ms.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Packets that are received at a time.
const BUDGET: usize = 1024;
/// More than a packet has, with the longest authentication.
const LONGEST: usize = 128;

/// A packet and how it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdDatagram {
    /// Octets of it, as far as the buffer took them.
    pub length: usize,
    /// Who sent it.
    pub source: IpAddr,
    /// To which of our addresses.
    pub destination: IpAddr,
    /// Index of the interface it came by.
    pub interface: u32,
    /// Its TTL or hop limit; 0 where the kernel did not say.
    pub ttl: u8,
    /// How long ago the kernel got it, by its own stamp.
    pub age: Duration,
}

/// Receives the packets of one family at one port.
#[derive(Debug)]
pub struct BfdReceiver {
    socket: UdpSocket,
}

impl BfdReceiver {
    /// Opens the port. Must be called within a tokio runtime.
    pub fn open(ipv6: bool, multihop: bool) -> io::Result<Self> {
        let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        let any: IpAddr = if ipv6 {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            Ipv4Addr::UNSPECIFIED.into()
        };
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        let port = if multihop {
            BFD_MULTIHOP_PORT
        } else {
            BFD_PORT
        };
        socket.bind(&SockAddr::from(SocketAddr::new(any, port)))?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
        })
    }

    /// Returns when there may be a packet.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Hands over the packets that are there, at most 1,024 of them, so that others can
    /// be sent between. `fresh`: past what the runtime knows, for a last look before a
    /// timer runs out.
    pub fn receive_all(&self, fresh: bool, mut take: impl FnMut(&[u8], &BfdDatagram)) {
        let mut buffer = [0; LONGEST];
        for _ in 0..BUDGET {
            match self.try_receive(&mut buffer, fresh) {
                Ok(came) => take(&buffer[..came.length.min(LONGEST)], &came),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
        }
    }

    /// Receives a packet if one is there; `WouldBlock` if not.
    fn try_receive(&self, buffer: &mut [u8], fresh: bool) -> io::Result<BfdDatagram> {
        if fresh {
            return self.receive(buffer);
        }
        self.socket
            .try_io(Interest::READABLE, || self.receive(buffer))
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<BfdDatagram> {
        let control = nix::cmsg_space!(libc::timespec, libc::c_int, libc::in6_pktinfo);
        let received = receive(self.socket.as_raw_fd(), buffer, control)?;
        let (destination, interface) = received.to.ok_or(io::ErrorKind::InvalidData)?;
        Ok(BfdDatagram {
            length: received.length,
            source: received.source,
            destination,
            interface,
            ttl: received.hops,
            age: received.age,
        })
    }
}

/// Sends the packets of one session.
#[derive(Debug)]
pub struct BfdSender {
    socket: Socket,
    peer: SockAddr,
}

impl BfdSender {
    /// A socket from our address, in a VRF if one is given, from a free port of 49152
    /// and above. `interface` is the index of the interface that a link-local peer
    /// is on.
    pub fn open(
        peer: IpAddr,
        local: Option<IpAddr>,
        interface: Option<u32>,
        vrf: Option<&str>,
        multihop: bool,
    ) -> io::Result<Self> {
        let port = if multihop {
            BFD_MULTIHOP_PORT
        } else {
            BFD_PORT
        };
        let scope = interface.unwrap_or(0);
        let at = |address: IpAddr, port| match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                SocketAddrV6::new(address, port, 0, scope).into()
            }
            address => SocketAddr::new(address, port),
        };
        let peer_at = at(peer, port);
        let socket = Socket::new(
            Domain::for_address(peer_at),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        socket.set_nonblocking(true)?;
        if let Some(vrf) = vrf {
            socket.bind_device(Some(vrf.as_bytes()))?;
        }
        if peer.is_ipv4() {
            socket.set_ttl_v4(255)?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
        } else {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(255)?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
        }
        socket.set_priority(PRIORITY)?;
        let any: IpAddr = if peer.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let local = local.unwrap_or(any);
        let count = u16::MAX - FIRST_SOURCE;
        // From another place each time, so that many sessions need few tries.
        let start = u16::try_from(std::process::id() % u32::from(count)).unwrap_or(0);
        let mut port = FIRST_SOURCE + start;
        for _ in 0..count {
            match socket.bind(&SockAddr::from(at(local, port))) {
                Ok(()) => {
                    return Ok(Self {
                        socket,
                        peer: peer_at.into(),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    port = if port == u16::MAX {
                        FIRST_SOURCE
                    } else {
                        port + 1
                    };
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Sends a packet, or fails at once.
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        self.socket.send_to(payload, &self.peer).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the ports are taken by another program there is nothing to test.
    #[tokio::test]
    async fn a_packet_comes_as_it_was_sent() {
        for (host, multihop) in [("127.0.0.1", false), ("::1", true)] {
            let host: IpAddr = host.parse().unwrap();
            let receiver = match BfdReceiver::open(host.is_ipv6(), multihop) {
                Ok(receiver) => receiver,
                Err(error) => {
                    eprintln!("skipped {host}: {error}");
                    continue;
                }
            };
            let sender = BfdSender::open(host, Some(host), None, None, multihop).unwrap();
            let other = BfdSender::open(host, Some(host), None, None, multihop).unwrap();
            let port = |sender: &BfdSender| {
                let address = sender.socket.local_addr().unwrap();
                address.as_socket().unwrap().port()
            };
            assert!(port(&sender) >= 49152 && port(&sender) != port(&other));
            sender.send(b"packet").unwrap();
            receiver.readable().await.unwrap();
            let mut buffer = [0; 64];
            let came = receiver.try_receive(&mut buffer, false).unwrap();
            assert_eq!(&buffer[..came.length], b"packet");
            assert_eq!((came.source, came.destination, came.ttl), (host, host, 255));
            assert!(came.interface > 0 && came.age < Duration::from_secs(1));
            let none = receiver.try_receive(&mut buffer, true).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
