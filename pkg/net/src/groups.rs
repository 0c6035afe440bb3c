//! Multicast groups on an interface: the kernel then reports them to the segment
//! (MLD, RFC 2710 and RFC 3810), so that switches that snoop forward their
//! frames, and lets the frames in.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv6Addr;

use socket2::{Domain, Socket, Type};

/// Groups that this process has joined on one interface. They are left when
/// this is dropped, and when the interface goes.
#[derive(Debug)]
pub struct Groups {
    interface: u32,
    /// Never bound: they receive nothing and only hold memberships. One socket
    /// holds some hundreds, depending on `net.core.optmem_max`.
    sockets: Vec<Socket>,
    /// By which socket a group is joined.
    joined: BTreeMap<Ipv6Addr, usize>,
}

impl Groups {
    /// No groups yet. Fails where the host has no IPv6.
    pub fn new(interface: u32) -> io::Result<Self> {
        Ok(Self {
            interface,
            sockets: vec![socket()?],
            joined: BTreeMap::new(),
        })
    }

    /// Joins a group; joining it again changes nothing.
    pub fn join(&mut self, group: Ipv6Addr) -> io::Result<()> {
        if self.joined.contains_key(&group) {
            return Ok(());
        }
        let last = self.sockets.len() - 1;
        let result = self.sockets[last].join_multicast_v6(&group, self.interface);
        let by = match result {
            Ok(()) => last,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS)) => {
                // Full, in all likelihood; if not, another fails too.
                let another = socket()?;
                another.join_multicast_v6(&group, self.interface)?;
                self.sockets.push(another);
                last + 1
            }
            // Gone and back under the same number, or joined behind our back.
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => last,
            Err(error) => return Err(error),
        };
        self.joined.insert(group, by);
        Ok(())
    }

    /// Leaves a group.
    pub fn leave(&mut self, group: Ipv6Addr) {
        if let Some(by) = self.joined.remove(&group) {
            // An interface that has gone took its memberships along.
            let _ = self.sockets[by].leave_multicast_v6(&group, self.interface);
        }
    }
}

fn socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV6, Type::DGRAM, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loopback, which every namespace has.
    const LOOPBACK: u32 = 1;

    fn group(i: u32) -> Ipv6Addr {
        let [_, a, b, c] = i.to_be_bytes();
        Ipv6Addr::new(
            0xff02,
            0,
            0,
            0,
            0,
            1,
            0xff00 | u16::from(a),
            u16::from_be_bytes([b, c]),
        )
    }

    #[test]
    fn more_groups_than_one_socket_holds_are_joined() {
        let Ok(mut groups) = Groups::new(LOOPBACK) else {
            eprintln!("skipped: this host has no IPv6");
            return;
        };
        for i in 0..5000 {
            groups.join(group(i)).unwrap();
        }
        for i in 0..5000 {
            groups.leave(group(i));
        }
        assert!(groups.joined.is_empty());
        // Left for good: each can be joined by another socket of ours again.
        groups.join(group(0)).unwrap();
        groups.join(group(0)).unwrap();
        assert_eq!(groups.joined.len(), 1);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let Ok(mut groups) = Groups::new(0x7fff_ffff) else {
            return;
        };
        assert!(groups.join(group(1)).is_err());
        assert!(groups.joined.is_empty());
    }
}
