//! Packet sockets (Linux `packet(7)`): whole Ethernet frames of one type on one
//! interface, filtered in the kernel.

#![allow(unsafe_code, reason = "system calls that no library wraps")]

use std::io::{self, Read as _, Write as _};
use std::mem;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::filter::Traffic;

/// A packet socket could not be opened.
#[derive(Debug, Error)]
#[error(
    "cannot open a packet socket on interface {interface}: {step}; the process needs the capability NET_RAW"
)]
pub struct PacketError {
    /// Index of the interface.
    pub interface: u32,
    /// What was being done.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// A socket that receives and sends whole Ethernet frames on one interface. It
/// sees no frame that its own host sends.
#[derive(Debug)]
pub struct PacketSocket(AsyncFd<Socket>);

impl PacketSocket {
    /// Opens a socket for one kind of traffic on the interface with this index.
    /// Must be called within a tokio runtime.
    pub fn open(interface: u32, traffic: Traffic) -> Result<Self, PacketError> {
        let failed = |step| {
            move |source| PacketError {
                interface,
                step,
                source,
            }
        };
        // Protocol 0: no frame arrives before the filter is in place.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))
            .map_err(failed("opening"))?;
        socket
            .set_nonblocking(true)
            .map_err(failed("setting non-blocking"))?;
        let program: Vec<SockFilter> = traffic
            .filter(interface)
            .into_iter()
            .map(|(code, jt, jf, k)| SockFilter::new(code, jt, jf, k))
            .collect();
        socket
            .attach_filter(&program)
            .map_err(failed("attaching the filter"))?;
        ignore_outgoing(&socket).map_err(failed("ignoring our own frames"))?;
        let address =
            link_address(interface, traffic.ethertype()).map_err(failed("making its address"))?;
        socket.bind(&address).map_err(failed("binding"))?;
        // SAFETY: the socket is owned by the AsyncFd for all of its life, is
        // never replaced, and its descriptor is not closed before it.
        let registered = unsafe { AsyncFd::register(socket) };
        registered
            .map(Self)
            .map_err(|error| failed("registering")(error.into()))
    }

    /// Receives a frame; a longer one than `buffer` is cut.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0
            .async_io(Interest::READABLE, |mut socket: &Socket| {
                socket.read(buffer)
            })
            .await
    }

    /// Receives a frame if one is there.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.get_ref().read(buffer)
    }

    /// Sends a frame.
    pub async fn send(&self, frame: &[u8]) -> io::Result<usize> {
        self.0
            .async_io(Interest::WRITABLE, |mut socket: &Socket| {
                socket.write(frame)
            })
            .await
    }
}

fn ignore_outgoing(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the length of the call, and the kernel
    // reads `length` bytes from `on`, which is that long.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A `sockaddr_ll` for all frames of one type on one interface.
fn link_address(interface: u32, ethertype: u16) -> io::Result<SockAddr> {
    let index = libc::c_int::try_from(interface).map_err(io::Error::other)?;
    let family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    let length =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: a sockaddr_ll is plain integers, for which all zeros is a value;
    // the storage is at least as large and as aligned (it holds any socket
    // address); and the length that is set is that of what was written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, storage_length| {
            let mut link: libc::sockaddr_ll = mem::zeroed();
            link.sll_family = family;
            link.sll_protocol = ethertype.to_be();
            link.sll_ifindex = index;
            storage.cast::<libc::sockaddr_ll>().write(link);
            *storage_length = length;
            Ok(())
        })?
    };
    Ok(address)
}
