//! UDP sockets of the speakers' heartbeats: one for each interface and family,
//! to all on the link and to single hosts.
//!
//! What is sent never leaves the link: the groups are link-local and not
//! forwarded (RFC 5771 §4, RFC 4291 §2.7). That a datagram comes from the link is
//! seen by its TTL or hop limit, which is 255 and which any router would lower
//! (RFC 5082).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::datagram::receive;

/// The UDP port of heartbeats.
pub const HEARTBEAT_PORT: u16 = 7474;

/// The IPv4 group: one of the local network control block, which switches flood
/// whatever they snoop (RFC 4541 §2.1.2), set aside for such uses (RFC 4727 §2.2).
pub const HEARTBEAT_GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 254);

/// The IPv6 group, of link-local scope (RFC 4727 §3.2).
pub const HEARTBEAT_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x114);

/// The TTL or hop limit of what comes from the link.
pub const ON_LINK: u8 = 255;

/// CS6, network control, in the upper six bits.
const TRAFFIC_CLASS: u32 = 0xc0;

/// The highest `SO_PRIORITY` that needs no capability: the queues of our own
/// interfaces send these first.
const PRIORITY: u32 = 6;

/// For a stall of a second with 50 others at 15 ms, where the kernel charges some
/// 2,300 bytes for a full datagram.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The sockets of an interface could not be opened.
#[derive(Debug, Error)]
#[error(
    "cannot open a socket for heartbeats on interface {interface}: {step}{}",
    hint(source)
)]
pub struct HeartbeatError {
    /// Index of the interface.
    pub interface: u32,
    /// What was being done.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::AddrInUse {
        "; UDP port 7474 of this node is in use: by another speaker, which has to end first"
    } else {
        ""
    }
}

/// A datagram and how it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Octets of it, as far as the buffer took them.
    pub length: usize,
    /// Who sent it.
    pub source: IpAddr,
    /// Its TTL or hop limit; 0 where the kernel did not say.
    pub hops: u8,
    /// How long ago the kernel got it, by its own stamp. A clock that was set
    /// meanwhile makes this wrong, but never negative.
    pub age: Duration,
}

/// Sends and receives heartbeats of one family on one interface. It does not
/// receive what this socket sends.
#[derive(Debug)]
pub struct HeartbeatSocket {
    socket: Socket,
    interface: u32,
    ipv6: bool,
}

impl HeartbeatSocket {
    /// Opens the socket of an interface and joins the family's group on it.
    pub fn open(interface: u32, ipv6: bool) -> Result<Self, HeartbeatError> {
        let failed = |step| {
            move |source: io::Error| HeartbeatError {
                interface,
                step,
                source,
            }
        };
        let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket =
            Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(failed("opening"))?;
        socket
            .set_nonblocking(true)
            .map_err(failed("setting non-blocking"))?;
        // First of all: by this it has the port beside those of other interfaces.
        let device = NonZeroU32::new(interface);
        let any: IpAddr = if ipv6 {
            socket
                .set_only_v6(true)
                .and_then(|()| socket.bind_device_by_index_v6(device))
                .map_err(failed("binding to the interface"))?;
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            socket
                .bind_device_by_index_v4(device)
                .map_err(failed("binding to the interface"))?;
            Ipv4Addr::UNSPECIFIED.into()
        };
        set_outgoing(&socket, interface, ipv6).map_err(failed("setting how datagrams leave"))?;
        set_incoming(&socket, ipv6).map_err(failed("asking for times and hops"))?;
        join(&socket, interface, ipv6).map_err(failed("joining the group"))?;
        socket
            .bind(&SockAddr::from(SocketAddr::new(any, HEARTBEAT_PORT)))
            .map_err(failed("binding"))?;
        Ok(Self {
            socket,
            interface,
            ipv6,
        })
    }

    /// Receives a datagram. What comes while nobody waits here wakes nobody: who has
    /// many peers may let some gather. Must be called within a tokio runtime.
    #[expect(
        unsafe_code,
        reason = "the runtime can't see that the descriptor stays open"
    )]
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        // SAFETY: the descriptor is borrowed of the socket, which stays open for as long as
        // this borrow of it.
        let waiting =
            unsafe { AsyncFd::register_with_interest(self.socket.as_fd(), Interest::READABLE)? };
        loop {
            let mut ready = waiting.readable().await?;
            match ready.try_io(|_| self.try_receive(buffer)) {
                Ok(received) => return received,
                Err(_would_block) => {}
            }
        }
    }

    /// Receives a datagram if one is there; `WouldBlock` if not.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        let control = nix::cmsg_space!(libc::timespec, libc::c_int);
        let received = receive(self.socket.as_raw_fd(), buffer, control)?;
        Ok(Datagram {
            length: received.length,
            source: received.source,
            hops: received.hops,
            age: received.age,
        })
    }

    /// Sends to everybody on the link, or fails at once.
    pub fn send_to_group(&self, datagram: &[u8]) -> io::Result<()> {
        let group = if self.ipv6 {
            HEARTBEAT_GROUP_V6.into()
        } else {
            HEARTBEAT_GROUP_V4.into()
        };
        self.send_to(datagram, group)
    }

    /// Sends to one host of the socket's family on the link, or fails at once.
    pub fn send_to(&self, datagram: &[u8], host: IpAddr) -> io::Result<()> {
        let address: SocketAddr = match host {
            IpAddr::V4(host) => SocketAddrV4::new(host, HEARTBEAT_PORT).into(),
            IpAddr::V6(host) => SocketAddrV6::new(host, HEARTBEAT_PORT, 0, self.interface).into(),
        };
        self.socket.send_to(datagram, &address.into()).map(drop)
    }
}

fn set_outgoing(socket: &Socket, interface: u32, ipv6: bool) -> io::Result<()> {
    let hops = u32::from(ON_LINK);
    if ipv6 {
        socket.set_unicast_hops_v6(hops)?;
        socket.set_multicast_hops_v6(hops)?;
        socket.set_multicast_if_v6(interface)?;
        socket.set_multicast_loop_v6(false)?;
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
    } else {
        socket.set_ttl_v4(hops)?;
        socket.set_multicast_ttl_v4(hops)?;
        socket.set_multicast_loop_v4(false)?;
        socket.set_tos_v4(TRAFFIC_CLASS)?;
    }
    // After the traffic class, which sets a priority of its own.
    socket.set_priority(PRIORITY)
}

fn set_incoming(socket: &Socket, ipv6: bool) -> io::Result<()> {
    setsockopt(socket, sockopt::ReceiveTimestampns, &true)?;
    if ipv6 {
        setsockopt(socket, sockopt::Ipv6RecvHopLimit, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?;
    }
    // Beyond the system's limit where we may.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    Ok(())
}

fn join(socket: &Socket, interface: u32, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        socket.set_multicast_all_v6(false)?;
        socket.join_multicast_v6(&HEARTBEAT_GROUP_V6, interface)
    } else {
        socket.set_multicast_all_v4(false)?;
        let by = InterfaceIndexOrAddress::Index(interface);
        socket.join_multicast_v4_n(&HEARTBEAT_GROUP_V4, &by)
    }
}

/// Sends heartbeats by whatever way the routes give: for a last word when the
/// link of the segment is down.
#[derive(Debug, Default)]
pub struct Detour {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Detour {
    /// Opens a socket of each family that this host has.
    pub fn open() -> Self {
        let open = |any: IpAddr| {
            let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
            socket.set_nonblocking(true).ok()?;
            Some(socket)
        };
        Self {
            v4: open(Ipv4Addr::UNSPECIFIED.into()),
            v6: open(Ipv6Addr::UNSPECIFIED.into()),
        }
    }

    /// Sends a datagram to the speaker at an address, or fails at once.
    pub fn send_to(&self, datagram: &[u8], host: IpAddr) -> io::Result<()> {
        let socket = if host.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        socket
            .send_to(datagram, SocketAddr::new(host, HEARTBEAT_PORT))
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const INSIDE: &str = "HERALD_TEST_INSIDE_NAMESPACE";

    /// Two interfaces on one link, in a network namespace of the test's own.
    const LINK: &str = "ip link set lo up; ip link add left type veth peer name right;
        ip addr add 10.0.0.1/24 dev left; ip addr add 10.0.0.2/24 dev right;
        ip addr add fe80::a/64 dev left nodad; ip addr add fe80::b/64 dev right nodad;
        sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.left.rp_filter=0 \
            net.ipv4.conf.right.rp_filter=0 net.ipv4.conf.all.accept_local=1;
        ip link set left up; ip link set right up";

    /// Whether we are in a namespace made for the test; if not, runs it in one.
    fn inside(name: &str) -> bool {
        if std::env::var_os(INSIDE).is_some() {
            let made = Command::new("sh").args(["-ec", LINK]).status().unwrap();
            assert!(made.success());
            return true;
        }
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--net", "--fork", "--kill-child", "--"]);
            command
        };
        if !unshare()
            .arg("true")
            .output()
            .is_ok_and(|o| o.status.success())
        {
            eprintln!("skipped: no namespaces here");
            return false;
        }
        let again = unshare()
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                &format!("heartbeat::tests::{name}"),
            ])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(again.success(), "{name} failed in its namespace");
        false
    }

    fn index(name: &str) -> u32 {
        // sysfs shows the namespace that it was mounted in, so not from there.
        let text = Command::new("ip")
            .args(["-o", "link", "show", name])
            .output()
            .unwrap();
        let text = String::from_utf8(text.stdout).unwrap();
        text.split(':').next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_group_hears_what_is_sent_on_its_link_with_hops_and_time() {
        if !inside("a_group_hears_what_is_sent_on_its_link_with_hops_and_time") {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            for ipv6 in [false, true] {
                let one = HeartbeatSocket::open(index("left"), ipv6).unwrap();
                let two = HeartbeatSocket::open(index("right"), ipv6).unwrap();
                let mut buffer = [0; 64];
                let to: IpAddr = if ipv6 {
                    "fe80::b".parse().unwrap()
                } else {
                    "10.0.0.2".parse().unwrap()
                };
                one.send_to_group(b"all").unwrap();
                let datagram = two.receive(&mut buffer).await.unwrap();
                assert_eq!(&buffer[..datagram.length], b"all");
                assert_eq!(datagram.hops, ON_LINK);
                let from = if ipv6 { "fe80::a" } else { "10.0.0.1" };
                assert_eq!(datagram.source, from.parse::<IpAddr>().unwrap());
                assert_eq!(
                    one.try_receive(&mut buffer).unwrap_err().kind(),
                    io::ErrorKind::WouldBlock,
                    "a socket hears itself"
                );
                // The kernel's own stamp tells how long one waited to be read.
                one.send_to_group(b"old").unwrap();
                std::thread::sleep(Duration::from_millis(60));
                let datagram = two.receive(&mut buffer).await.unwrap();
                assert!(datagram.age >= Duration::from_millis(50), "{datagram:?}");
                // Unicast to a host of the same machine goes by the loopback, which
                // the sockets are not bound to; that it is sent is all to be seen.
                let _ = one.send_to(b"one", to);
                let taken = HeartbeatSocket::open(index("left"), ipv6).unwrap_err();
                assert!(taken.to_string().contains("port 7474"), "{taken}");
            }
        });
    }
}
