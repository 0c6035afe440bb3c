//! A datagram and what the kernel says of how it came.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::time::{Duration, SystemTime};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

/// How a datagram came. What a socket was not told to say is not there.
pub(crate) struct Received {
    /// Octets of it, as far as the buffer took them.
    pub(crate) length: usize,
    pub(crate) source: IpAddr,
    /// TTL or hop limit; 0 where the kernel did not say.
    pub(crate) hops: u8,
    /// How long ago the kernel got it.
    pub(crate) age: Duration,
    /// To which of our addresses, and the index of the interface.
    pub(crate) to: Option<(IpAddr, u32)>,
}

/// Receives a datagram if one is there; `WouldBlock` if not. `control` has room for
/// what the socket says of it (`nix::cmsg_space!`).
pub(crate) fn receive(
    socket: RawFd,
    buffer: &mut [u8],
    mut control: Vec<u8>,
) -> io::Result<Received> {
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket,
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let (mut hops, mut age, mut to) = (0, Duration::ZERO, None);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                hops = u8::try_from(value).unwrap_or(0);
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let address = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                let interface = u32::try_from(info.ipi_ifindex).unwrap_or(0);
                to = Some((address.into(), interface));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                to = Some((address.into(), info.ipi6_ifindex));
            }
            ControlMessageOwned::ScmTimestampns(stamp) => {
                age = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH + Duration::from(stamp))
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    let source = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    });
    Ok(Received {
        length: message.bytes,
        source: source.ok_or(io::ErrorKind::InvalidData)?,
        hops,
        age,
        to,
    })
}
