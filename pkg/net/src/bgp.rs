//! TCP sockets of BGP sessions: dialled, and accepted on a port that all peers
//! share.
//!
//! A connection's packets have CS6, network control (RFC 4271 §4 leaves it open;
//! RFC 2474 §4.2.2.2), its way is at most as long as the peer may be away, and each
//! segment can be signed with a password (RFC 2385).
#![expect(unsafe_code, reason = "socket options that no library wraps")]

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// CS6, network control, in the upper six bits.
const TRAFFIC_CLASS: u32 = 0xc0;
/// The highest `SO_PRIORITY` that needs no capability.
const PRIORITY: u32 = 6;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// The longest password that the kernel takes, in octets.
pub const LONGEST_PASSWORD: usize = libc::TCP_MD5SIG_MAXKEYLEN;

/// How far away a peer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// Our packets live for so many hops; the peer's may have come from anywhere.
    Hops(u8),
    /// The peer's packets came over at most so many hops, and ours are such that it
    /// can see the same of them (GTSM, RFC 5082).
    Secured(u8),
}

/// How a peer is dialled.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Its address and port; the scope of a link-local one is the interface.
    pub peer: SocketAddr,
    /// Our address; any if none.
    pub source: Option<IpAddr>,
    /// The interface, or the VRF, that packets leave and come by; any if none.
    pub device: Option<String>,
    /// The password that segments are signed with.
    pub password: Option<Vec<u8>>,
    /// How far away it may be.
    pub distance: Distance,
    /// A connection whose bytes are not acknowledged for so long is dead
    /// (RFC 5482); zero: as the kernel has it.
    pub user_timeout: Duration,
}

/// A step towards a connection that failed.
#[derive(Debug, Error)]
#[error("{step}: {source}")]
pub struct BgpSocketError {
    /// What was being done.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> BgpSocketError {
    move |source| BgpSocketError { step, source }
}

/// Dials a peer. Must be called within a tokio runtime; ends when the kernel gives
/// up, or when it is dropped.
pub async fn dial(dial: &Dial) -> Result<TcpStream, BgpSocketError> {
    let socket = Socket::new(
        Domain::for_address(dial.peer),
        Type::STREAM,
        Some(Protocol::TCP),
    )
    .map_err(failed("opening a socket"))?;
    socket
        .set_nonblocking(true)
        .map_err(failed("opening a socket"))?;
    if let Some(device) = &dial.device {
        socket
            .bind_device(Some(device.as_bytes()))
            .map_err(failed("binding to the interface"))?;
    }
    if let Some(source) = dial.source {
        let scope = match dial.peer {
            SocketAddr::V6(peer) => peer.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let mut local = SocketAddr::new(source, 0);
        if let SocketAddr::V6(local) = &mut local
            && local.ip().is_unicast_link_local()
        {
            local.set_scope_id(scope);
        }
        socket
            .bind(&SockAddr::from(local))
            .map_err(failed("binding to the source address"))?;
    }
    if let Some(password) = &dial.password {
        set_md5(socket.as_raw_fd(), dial.peer.ip(), None, password)
            .map_err(failed("setting the password"))?;
    }
    prepare(&SockRef::from(&socket), dial.peer.ip(), dial.distance)
        .map_err(failed("setting up"))?;
    set_user_timeout(&SockRef::from(&socket), dial.user_timeout).map_err(failed("setting up"))?;
    let socket = TcpSocket::from_std_stream(socket.into());
    socket
        .connect(dial.peer)
        .await
        .map_err(failed("connecting"))
}

/// Sets an accepted connection up as a dialled one.
pub fn settle(
    stream: &TcpStream,
    distance: Distance,
    user_timeout: Duration,
) -> Result<(), BgpSocketError> {
    let peer = stream.peer_addr().map_err(failed("setting up"))?;
    prepare(&SockRef::from(stream), peer.ip(), distance).map_err(failed("setting up"))?;
    set_user_timeout(&SockRef::from(stream), user_timeout).map_err(failed("setting up"))
}

fn set_user_timeout(socket: &SockRef<'_>, timeout: Duration) -> io::Result<()> {
    if timeout.is_zero() {
        return Ok(());
    }
    socket.set_tcp_user_timeout(Some(timeout))
}

fn prepare(socket: &SockRef<'_>, peer: IpAddr, distance: Distance) -> io::Result<()> {
    let (ttl, least) = match distance {
        Distance::Hops(hops) => (hops.max(1), 0),
        // A neighbour's packets have 255.
        Distance::Secured(hops) => (255, 255 - hops.saturating_sub(1)),
    };
    let fd = socket.as_raw_fd();
    if peer.is_ipv4() {
        socket.set_ttl_v4(ttl.into())?;
        socket.set_tos_v4(TRAFFIC_CLASS)?;
        set::<libc::c_int>(fd, libc::IPPROTO_IP, libc::IP_MINTTL, &least.into())?;
    } else {
        socket.set_unicast_hops_v6(ttl.into())?;
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
        set::<libc::c_int>(
            fd,
            libc::IPPROTO_IPV6,
            libc::IPV6_MINHOPCOUNT,
            &least.into(),
        )?;
    }
    // After the traffic class, which sets a priority of its own.
    socket.set_priority(PRIORITY)?;
    socket.set_tcp_nodelay(true)
}

/// `value` is what the option takes.
fn set<T>(fd: RawFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: `value` lives through the call, and `length` is its size; the kernel
    // only reads it, and copies no more. A bad descriptor gives an error.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const *value).cast(), length) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Md5Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; LONGEST_PASSWORD],
}

/// Signs and checks the segments of one peer, or of those in a prefix. An empty
/// password takes it back.
fn set_md5(fd: RawFd, peer: IpAddr, length: Option<u8>, password: &[u8]) -> io::Result<()> {
    if password.len() > LONGEST_PASSWORD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the password is longer than 80 octets",
        ));
    }
    // The scope of a link-local address is not looked at.
    let address = SockAddr::from(SocketAddr::new(peer, 0));
    let mut signature = Md5Signature {
        // SAFETY: all zeroes are a valid value of this plain structure.
        address: unsafe { std::mem::zeroed() },
        flags: u8::from(length.is_some()),
        prefix_length: length.unwrap_or(0),
        key_length: u16::try_from(password.len()).unwrap_or(0),
        interface: 0,
        key: [0; LONGEST_PASSWORD],
    };
    signature.key[..password.len()].copy_from_slice(password);
    // SAFETY: both are at least as large as what is copied: `SockAddr` holds a
    // `sockaddr_storage` of which `len` octets are in use.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut signature.address).cast::<u8>(),
            (address.len() as usize).min(size_of::<libc::sockaddr_storage>()),
        );
    }
    let name = if length.is_some() {
        libc::TCP_MD5SIG_EXT
    } else {
        libc::TCP_MD5SIG
    };
    match set(fd, libc::IPPROTO_TCP, name, &signature) {
        // Taking back what is not there.
        Err(error) if password.is_empty() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// The bytes that a connection has now, past what the runtime knows of it;
/// `WouldBlock` if there are none.
pub fn receive_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
}

/// Ends what we send, or both ways at once.
pub fn shut(stream: &TcpStream, both: bool) -> io::Result<()> {
    let how = if both {
        std::net::Shutdown::Both
    } else {
        std::net::Shutdown::Write
    };
    SockRef::from(stream).shutdown(how)
}

/// Accepts the connections of all peers, of both families.
#[derive(Debug)]
pub struct BgpListener {
    v4: Option<TcpListener>,
    v6: Option<TcpListener>,
}

impl BgpListener {
    /// Listens on a port, in a VRF if one is given. Fails where another program
    /// listens there; a family that the node does not have is left out. Must be
    /// called within a tokio runtime.
    pub fn open(port: u16, device: Option<&str>) -> Result<Self, BgpSocketError> {
        let v4 = listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), device);
        let v6 = listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), device);
        match (v4, v6) {
            (Ok(v4), Ok(v6)) => Ok(Self {
                v4: Some(v4),
                v6: Some(v6),
            }),
            (Ok(v4), Err(error)) if is_missing(&error) => Ok(Self {
                v4: Some(v4),
                v6: None,
            }),
            (Err(error), Ok(v6)) if is_missing(&error) => Ok(Self {
                v4: None,
                v6: Some(v6),
            }),
            (Err(error), _) | (_, Err(error)) => Err(BgpSocketError {
                step: "listening",
                source: error,
            }),
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        let listener = self.v4.as_ref().or(self.v6.as_ref());
        listener
            .and_then(|listener| listener.local_addr().ok())
            .map_or(0, |address| address.port())
    }

    /// Sets the password of connections from a peer, or from those in the first
    /// `length` bits of an address; none takes it back. What is connected stays as
    /// it is.
    pub fn set_password(
        &self,
        peer: IpAddr,
        length: Option<u8>,
        password: Option<&[u8]>,
    ) -> io::Result<()> {
        let listener = if peer.is_ipv4() { &self.v4 } else { &self.v6 };
        match listener {
            Some(listener) => set_md5(
                listener.as_raw_fd(),
                peer,
                length,
                password.unwrap_or_default(),
            ),
            None => Ok(()),
        }
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let accept = async |listener: &Option<TcpListener>| match listener {
            Some(listener) => listener.accept().await,
            None => std::future::pending().await,
        };
        tokio::select! {
            accepted = accept(&self.v4) => accepted,
            accepted = accept(&self.v6) => accepted,
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

fn listen(address: SocketAddr, device: Option<&str>) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    // The answer to a SYN goes out before we know whose it is: it must pass a peer
    // that looks for 255 (RFC 5082 §3).
    if address.is_ipv4() {
        socket.set_ttl_v4(255)?;
        socket.set_tos_v4(TRAFFIC_CLASS)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_unicast_hops_v6(255)?;
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn to(port: u16, host: &str) -> Dial {
        Dial {
            peer: SocketAddr::new(host.parse().unwrap(), port),
            source: None,
            device: None,
            password: None,
            distance: Distance::Hops(1),
            user_timeout: Duration::from_secs(9),
        }
    }

    async fn pair(
        listener: &BgpListener,
        way: &Dial,
    ) -> Option<(Result<TcpStream, BgpSocketError>, TcpStream)> {
        let both = async { tokio::join!(dial(way), listener.accept()) };
        let (dialled, accepted) = tokio::time::timeout(TIMEOUT, both).await.ok()?;
        Some((dialled, accepted.unwrap().0))
    }

    #[tokio::test]
    async fn a_dialled_connection_is_as_it_was_asked_for() {
        let listener = BgpListener::open(0, None).unwrap();
        let way = Dial {
            source: Some([127, 0, 0, 9].into()),
            distance: Distance::Secured(1),
            ..to(listener.port(), "127.0.0.1")
        };
        let (dialled, mut accepted) = pair(&listener, &way).await.unwrap();
        let dialled = dialled.unwrap();
        assert_eq!(
            dialled.local_addr().unwrap().ip(),
            IpAddr::from([127, 0, 0, 9])
        );
        let socket = SockRef::from(&dialled);
        assert_eq!(
            (socket.ttl_v4().unwrap(), socket.tos_v4().unwrap()),
            (255, 0xc0)
        );
        settle(&accepted, Distance::Secured(1), TIMEOUT).unwrap();
        accepted.write_all(b"bytes").await.unwrap();
        dialled.readable().await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receive_now(&dialled, &mut buffer).unwrap(), 5);
        let none = receive_now(&dialled, &mut buffer).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
    }

    /// RFC 5082 §3: what came over a router is not taken.
    #[tokio::test]
    async fn what_comes_from_too_far_is_not_taken() {
        let listener = BgpListener::open(0, None).unwrap();
        let near = Dial {
            distance: Distance::Hops(64),
            ..to(listener.port(), "127.0.0.1")
        };
        let (dialled, mut accepted) = pair(&listener, &near).await.unwrap();
        settle(&accepted, Distance::Secured(1), TIMEOUT).unwrap();
        dialled.unwrap().write_all(b"far").await.unwrap();
        let mut buffer = [0; 3];
        let read = tokio::time::timeout(Duration::from_millis(300), accepted.read(&mut buffer));
        assert!(read.await.is_err(), "its TTL was below 255");
    }

    #[tokio::test]
    async fn a_password_must_be_the_same_on_both_sides() {
        let listener = BgpListener::open(0, None).unwrap();
        let host: IpAddr = "127.0.0.1".parse().unwrap();
        listener.set_password(host, None, Some(b"right")).unwrap();
        let with = |password: Option<&[u8]>| Dial {
            password: password.map(<[u8]>::to_vec),
            ..to(listener.port(), "127.0.0.1")
        };
        let (wrong, none) = (with(Some(b"wrong")), with(None));
        let right = with(Some(b"right"));
        assert!(pair(&listener, &wrong).await.is_none());
        assert!(pair(&listener, &none).await.is_none());
        assert!(pair(&listener, &right).await.unwrap().0.is_ok());
        listener.set_password(host, None, None).unwrap();
        assert!(pair(&listener, &none).await.unwrap().0.is_ok());
        listener
            .set_password([127, 0, 0, 0].into(), Some(8), Some(b"all"))
            .unwrap();
        assert!(
            pair(&listener, &with(Some(b"all")))
                .await
                .unwrap()
                .0
                .is_ok()
        );
        let long = listener.set_password(host, None, Some(&[7; 81]));
        assert_eq!(long.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn both_families_are_listened_for_on_one_port_and_a_taken_one_is_told() {
        let listener = BgpListener::open(0, None);
        let port = listener.as_ref().unwrap().port();
        let taken = BgpListener::open(port, None).unwrap_err();
        assert_eq!(taken.source.kind(), io::ErrorKind::AddrInUse);
    }
}
