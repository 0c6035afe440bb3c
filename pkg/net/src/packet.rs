//! Packet sockets (Linux `packet(7)`): whole Ethernet frames of one type on one
//! interface, filtered in the kernel.

#![allow(unsafe_code, reason = "system calls that no library wraps")]

use std::io;
use std::mem;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::filter::Traffic;

/// Frames that one system call takes in or sends at the most.
const BATCH: usize = 64;

/// Longer than any ARP packet or neighbour message that is well formed and
/// not signed (RFC 3971); more of a frame is cut off.
const FRAME: usize = 512;

/// Room for frames that come in faster than they are read, as far as
/// `net.core.rmem_max` allows.
const RECEIVE_BUFFER: usize = 1 << 20;

/// `SO_PRIORITY`: before bulk data, in queues that heed it. The highest that
/// needs no further capability.
const PRIORITY: u32 = 6;

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
        socket
            .set_recv_buffer_size(RECEIVE_BUFFER)
            .map_err(failed("making room for frames"))?;
        socket
            .set_priority(PRIORITY)
            .map_err(failed("setting its priority"))?;
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

    /// Waits until there are frames and takes in as many as there are and the
    /// inbox holds. What was in there is gone.
    pub async fn receive(&self, inbox: &mut Inbox) -> io::Result<()> {
        inbox.lengths.clear();
        self.0
            .async_io(Interest::READABLE, |socket: &Socket| {
                receive(socket, &mut inbox.frames, &mut inbox.lengths)
            })
            .await
    }

    /// Sends frames, in their order. One that the kernel refuses is the error;
    /// those behind it are not sent.
    pub async fn send(&self, frames: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let mut rest = frames;
        while !rest.is_empty() {
            let sent = self
                .0
                .async_io(Interest::WRITABLE, |socket: &Socket| send(socket, rest))
                .await?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Room for the frames that are received together.
#[derive(Debug)]
pub struct Inbox {
    frames: Vec<[u8; FRAME]>,
    /// Of those frames that were received last.
    lengths: Vec<usize>,
}

impl Inbox {
    /// Empty.
    pub fn new() -> Self {
        Self {
            frames: vec![[0; FRAME]; BATCH],
            lengths: Vec::with_capacity(BATCH),
        }
    }

    /// What was received last. A frame longer than 512 bytes is cut.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let frames = self.frames.iter().zip(&self.lengths);
        frames.filter_map(|(frame, length)| frame.get(..*length))
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

/// A header for `recvmmsg` or `sendmmsg` that has one piece of data.
const fn header(data: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: an mmsghdr is plain integers and raw pointers, for which all
    // zeros is a value.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_iov = data;
    header.msg_hdr.msg_iovlen = 1;
    header
}

const NOTHING: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// Takes in frames that are there; `lengths` is told how long each is.
fn receive(
    socket: &Socket,
    frames: &mut [[u8; FRAME]],
    lengths: &mut Vec<usize>,
) -> io::Result<()> {
    let mut pieces = [NOTHING; BATCH];
    for (piece, frame) in pieces.iter_mut().zip(frames.iter_mut()) {
        piece.iov_base = frame.as_mut_ptr().cast();
        piece.iov_len = frame.len();
    }
    let count = frames.len().min(BATCH);
    let mut headers = pieces.each_mut().map(header);
    let length = libc::c_uint::try_from(count).map_err(io::Error::other)?;
    // SAFETY: `headers` has at least `length` headers. Each points to its piece
    // in `pieces`, and each of the first `length` pieces to a frame in `frames`,
    // which we hold exclusively, with its length; all of them outlive the call.
    // Names and control data are null with length 0. No time limit is given.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            length,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let said = headers.iter().take(received);
    lengths.extend(said.map(|header| usize::try_from(header.msg_len).unwrap_or(0).min(FRAME)));
    Ok(())
}

/// Sends the first frames; how many it were.
fn send(socket: &Socket, frames: &[impl AsRef<[u8]>]) -> io::Result<usize> {
    let mut pieces = [NOTHING; BATCH];
    for (piece, frame) in pieces.iter_mut().zip(frames) {
        let frame = frame.as_ref();
        piece.iov_base = frame.as_ptr().cast_mut().cast();
        piece.iov_len = frame.len();
    }
    let count = frames.len().min(BATCH);
    let mut headers = pieces.each_mut().map(header);
    let length = libc::c_uint::try_from(count).map_err(io::Error::other)?;
    // SAFETY: `headers` has at least `length` headers. Each points to its piece
    // in `pieces`, and each of the first `length` pieces to a frame in `frames`,
    // with its length; all of them outlive the call, and the kernel only reads
    // from what is sent. Names and control data are null with length 0.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            length,
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
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
