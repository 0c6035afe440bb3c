//! Multicast groups on interfaces: the kernel then reports them to the segment
//! (MLD, RFC 2710 and RFC 3810), so that switches that snoop forward their
//! frames, and lets the frames in.

use std::collections::HashMap;
use std::io;
use std::net::Ipv6Addr;

use socket2::{Domain, Socket, Type};

/// Groups that this process has joined, counted. They are left when it ends.
#[derive(Debug)]
pub struct Groups {
    socket: Socket,
    joined: HashMap<(u32, Ipv6Addr), usize>,
}

impl Groups {
    /// No groups yet. Fails where the host has no IPv6.
    pub fn new() -> io::Result<Self> {
        // Never bound: it receives nothing and only holds memberships.
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        Ok(Self {
            socket,
            joined: HashMap::new(),
        })
    }

    /// Joins a group on the interface with this index; joining twice needs
    /// leaving twice.
    pub fn join(&mut self, interface: u32, group: Ipv6Addr) -> io::Result<()> {
        let count = self.joined.entry((interface, group)).or_default();
        if *count == 0
            && let Err(error) = self.socket.join_multicast_v6(&group, interface)
        {
            self.joined.remove(&(interface, group));
            return Err(error);
        }
        *count += 1;
        Ok(())
    }

    /// Leaves a group.
    pub fn leave(&mut self, interface: u32, group: Ipv6Addr) {
        let Some(count) = self.joined.get_mut(&(interface, group)) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.joined.remove(&(interface, group));
            // An interface that has gone took its memberships along.
            let _ = self.socket.leave_multicast_v6(&group, interface);
        }
    }
}
