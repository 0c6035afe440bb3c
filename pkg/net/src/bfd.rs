//! UDP sockets of BFD (RFC 5881 §4, RFC 5883 §5): one that listens for all
//! sessions of a port and family, and one to send from for each session.
//!
//! They are used from a thread of their own and know no async runtime.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use thiserror::Error;

/// UDP port of single-hop sessions.
const PORT_SINGLE: u16 = 3784;

/// UDP port of multihop sessions.
const PORT_MULTI: u16 = 4784;

/// Where source ports come from (RFC 5881 §4). Some peers drop others.
const SOURCE_PORTS: RangeInclusive<u16> = 49152..=65535;

/// CS6, network control, in the upper six bits.
const TRAFFIC_CLASS: u32 = 0xc0;

/// The highest `SO_PRIORITY` that needs no capability: the queues of our own
/// interfaces send these first.
const PRIORITY: u32 = 6;

/// For a stall of a second with 500 sessions at 50 ms, where the kernel
/// charges some 800 bytes for each datagram.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A socket for BFD could not be opened.
#[derive(Debug, Error)]
#[error("cannot open a BFD socket at {address}: {step}{}", hint(source))]
pub struct BfdSocketError {
    /// The address that it was to be bound to.
    pub address: SocketAddr,
    /// What was being done.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another BFD daemon of this node, such as bird or bfdd, has the port: stop it, \
             or take the BFD profile off the peer"
        }
        io::ErrorKind::AddrNotAvailable => "; this node does not have the address",
        io::ErrorKind::PermissionDenied => "; the process needs the capability NET_RAW",
        _ => "",
    }
}

/// A datagram and how it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdDatagram {
    /// Bytes of the payload, as far as the buffer took them.
    pub length: usize,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// Index of the interface it came by.
    pub interface: u32,
    /// Its TTL or hop limit.
    pub ttl: u8,
    /// When the kernel got it, by its own stamp. A clock that was set
    /// meanwhile makes this wrong, but never later than now.
    pub at: Instant,
}

/// Receives what comes for all sessions of one port and family.
#[derive(Debug)]
pub struct BfdListener {
    socket: Socket,
    /// Room for the control messages that are asked for.
    control: Vec<u8>,
}

impl BfdListener {
    /// Listens on the single-hop or the multihop port, on every address of the
    /// family.
    pub fn open(multihop: bool, ipv6: bool) -> Result<Self, BfdSocketError> {
        let any: IpAddr = if ipv6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let address = SocketAddr::new(any, if multihop { PORT_MULTI } else { PORT_SINGLE });
        let failed = failed(address);
        let socket = open(address).map_err(failed("opening"))?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)
            .map_err(|error| failed("asking for time stamps")(error.into()))?;
        let asked = if ipv6 {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
                .and_then(|()| setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true))
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
                .and_then(|()| setsockopt(&socket, sockopt::Ipv4RecvTtl, &true))
        };
        asked.map_err(|error| failed("asking for the TTL")(error.into()))?;
        // Beyond the system's limit where we may.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket
                .set_recv_buffer_size(RECEIVE_BUFFER)
                .map_err(failed("sizing its buffer"))?;
        }
        socket
            .bind(&SockAddr::from(address))
            .map_err(failed("binding"))?;
        let control = nix::cmsg_space!(libc::timespec, libc::in6_pktinfo, libc::c_int);
        Ok(Self { socket, control })
    }

    /// Receives a datagram if one is there; `WouldBlock` if not. One that came
    /// without what is asked for of the kernel is passed over.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<BfdDatagram> {
        loop {
            if let Some(datagram) = self.receive_any(buffer)? {
                return Ok(datagram);
            }
        }
    }

    fn receive_any(&mut self, buffer: &mut [u8]) -> io::Result<Option<BfdDatagram>> {
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut self.control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let (mut to, mut ttl, mut age) = (None, None, Duration::ZERO);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let address = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    to = Some((address.into(), info.ipi_ifindex.cast_unsigned()));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    to = Some((address.into(), info.ipi6_ifindex));
                }
                ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                    ttl = u8::try_from(value).ok();
                }
                ControlMessageOwned::ScmTimestampns(stamp) => {
                    age = SystemTime::now()
                        .duration_since(SystemTime::UNIX_EPOCH + Duration::from(stamp))
                        .unwrap_or_default();
                }
                _ => {}
            }
        }
        let source: Option<IpAddr> = message.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
        });
        let now = Instant::now();
        let (Some((destination, interface)), Some(ttl), Some(source)) = (to, ttl, source) else {
            return Ok(None);
        };
        Ok(Some(BfdDatagram {
            length: message.bytes,
            source,
            destination,
            interface,
            ttl,
            at: now.checked_sub(age).unwrap_or(now),
        }))
    }
}

impl AsFd for BfdListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends the packets of one session, from a source port of its own and with a
/// TTL of 255. It receives nothing.
#[derive(Debug)]
pub struct BfdSender {
    socket: Socket,
    to: SockAddr,
    port: u16,
}

impl BfdSender {
    /// A socket from `local`, or from the address that the route gives, to
    /// `peer` by `interface` or whichever the route gives. Its source port is
    /// none for which `taken` holds: it must be this session's alone
    /// (RFC 5881 §4). `start` is where to begin to look for one.
    pub fn open(
        multihop: bool,
        peer: IpAddr,
        local: Option<IpAddr>,
        interface: Option<u32>,
        start: u16,
        taken: impl Fn(u16) -> bool,
    ) -> Result<Self, BfdSocketError> {
        let any: IpAddr = match peer {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let from = local.unwrap_or(any);
        let failed = failed(SocketAddr::new(from, 0));
        let socket = open(SocketAddr::new(from, 0)).map_err(failed("opening"))?;
        // What is sent to the source port is for nobody.
        socket
            .attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])
            .map_err(failed("attaching the filter"))?;
        set_outgoing(&socket, peer.is_ipv6(), interface)
            .map_err(failed("setting how packets leave"))?;
        let port = bind(&socket, from, interface, start, taken).map_err(failed("binding"))?;
        let to = scoped(
            peer,
            if multihop { PORT_MULTI } else { PORT_SINGLE },
            interface,
        );
        Ok(Self {
            socket,
            to: SockAddr::from(to),
            port,
        })
    }

    /// Its source port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Sends a packet, or fails at once where that is not possible now.
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        self.socket.send_to(payload, &self.to).map(drop)
    }
}

fn failed(
    address: SocketAddr,
) -> impl Fn(&'static str) -> Box<dyn FnOnce(io::Error) -> BfdSocketError> {
    move |step| {
        Box::new(move |source| BfdSocketError {
            address,
            step,
            source,
        })
    }
}

/// A non-blocking UDP socket of the address's family, and of no other.
fn open(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// RFC 5881 §5 and RFC 5883 §3 want the TTL 255, so that the peer can tell how
/// far a packet came.
fn set_outgoing(socket: &Socket, ipv6: bool, interface: Option<u32>) -> io::Result<()> {
    let interface = interface.and_then(NonZeroU32::new);
    if ipv6 {
        socket.set_unicast_hops_v6(255)?;
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
        socket.bind_device_by_index_v6(interface)?;
    } else {
        socket.set_ttl_v4(255)?;
        socket.set_tos_v4(TRAFFIC_CLASS)?;
        socket.bind_device_by_index_v4(interface)?;
    }
    // After the traffic class, which sets a priority of its own.
    socket.set_priority(PRIORITY)
}

/// Binds to the first source port that is free, from `start` on.
fn bind(
    socket: &Socket,
    from: IpAddr,
    interface: Option<u32>,
    start: u16,
    taken: impl Fn(u16) -> bool,
) -> io::Result<u16> {
    let count = SOURCE_PORTS.end() - SOURCE_PORTS.start();
    for step in 0..=count {
        let offset = (u32::from(start) + u32::from(step)) % (u32::from(count) + 1);
        let port = SOURCE_PORTS.start() + u16::try_from(offset).unwrap_or(0);
        if taken(port) {
            continue;
        }
        match socket.bind(&SockAddr::from(scoped(from, port, interface))) {
            Ok(()) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// A socket address, with the interface as the scope of a link-local one.
fn scoped(address: IpAddr, port: u16, interface: Option<u32>) -> SocketAddr {
    match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            SocketAddrV6::new(address, port, 0, interface.unwrap_or(0)).into()
        }
        address => SocketAddr::new(address, port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait_readable;

    /// From a sender to a listener over the loopback, one family after the
    /// other: the ports are this test's alone in the crate.
    #[test]
    fn what_is_sent_comes_with_its_ttl_addresses_and_time() {
        let pairs: [(IpAddr, IpAddr); 2] = [
            ([127, 0, 0, 1].into(), [127, 0, 0, 2].into()),
            (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        ];
        for (local, peer) in pairs {
            let mut listener = match BfdListener::open(true, peer.is_ipv6()) {
                Ok(listener) => listener,
                Err(error) => {
                    eprintln!("skipped for {peer}: {error}: {}", error.source);
                    continue;
                }
            };
            let before = Instant::now();
            let sender =
                BfdSender::open(true, peer, Some(local), Some(1), 5, |port| port == 49157).unwrap();
            assert!(SOURCE_PORTS.contains(&sender.port()) && sender.port() != 49157);
            sender.send(&[7; 24]).unwrap();
            let after = Instant::now();
            assert_eq!(
                wait_readable(&[listener.as_fd()], Some(Duration::from_secs(10))).unwrap(),
                1
            );
            // The stamp is the kernel's, not that of our reading.
            std::thread::sleep(Duration::from_millis(20));
            let mut buffer = [0; 64];
            let datagram = listener.receive(&mut buffer).unwrap();
            assert_eq!(buffer[..datagram.length], [7; 24]);
            assert_eq!((datagram.source, datagram.destination), (local, peer));
            assert_eq!((datagram.ttl, datagram.interface), (255, 1));
            let slack = Duration::from_millis(5);
            assert!(datagram.at + slack >= before && datagram.at <= after + slack);
            assert_eq!(
                listener.receive(&mut buffer).unwrap_err().kind(),
                io::ErrorKind::WouldBlock
            );
            let taken = BfdListener::open(true, peer.is_ipv6()).unwrap_err();
            assert!(taken.to_string().contains("another BFD daemon"));
        }
    }

    #[test]
    fn an_address_that_is_not_ours_is_named() {
        let elsewhere = IpAddr::from([192, 0, 2, 77]);
        let error = BfdSender::open(false, elsewhere, Some(elsewhere), None, 0, |_| false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("192.0.2.77") && error.contains("does not have"));
    }
}
