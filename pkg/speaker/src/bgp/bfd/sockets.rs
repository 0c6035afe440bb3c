//! The sockets that all sessions share, and those that they have for themselves.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use herald_bfd::{Arrival, Dropped, SessionId, Take, Transmit, Wire};
use herald_net::{BfdDatagram, BfdReceiver, BfdSender};

/// A port that all sessions of a kind share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    ipv6: bool,
    pub(super) multihop: bool,
}

impl Port {
    const ALL: [Self; 4] = [
        Self::new(false, false),
        Self::new(false, true),
        Self::new(true, false),
        Self::new(true, true),
    ];

    pub(super) const fn new(ipv6: bool, multihop: bool) -> Self {
        Self { ipv6, multihop }
    }

    const fn index(self) -> usize {
        2 * self.ipv6 as usize + self.multihop as usize
    }
}

/// Where a packet came from that its session does not take, for its TTL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Far {
    pub(super) port: Port,
    pub(super) source: IpAddr,
    pub(super) ttl: u8,
}

#[derive(Default)]
pub(super) struct Sockets {
    /// Those of sessions that say their last words, too.
    pub(super) senders: HashMap<SessionId, BfdSender>,
    receivers: [Option<BfdReceiver>; 4],
    /// The last such packet.
    pub(super) dropped: Option<Far>,
}

impl Sockets {
    /// Opens a port, unless it is; or says why it can't be.
    pub(super) fn listen(&mut self, port: Port) -> Result<(), String> {
        let receiver = &mut self.receivers[port.index()];
        if receiver.is_none() {
            let opened = BfdReceiver::open(port.ipv6, port.multihop);
            *receiver = Some(opened.map_err(|error| port_problem(port, &error))?);
        }
        Ok(())
    }

    /// Closes the other ports.
    pub(super) fn listen_only(&mut self, wanted: impl Fn(Port) -> bool) {
        for port in Port::ALL {
            if !wanted(port) {
                self.receivers[port.index()] = None;
            }
        }
    }

    /// Returns when a packet may have come.
    pub(super) async fn readable(&self) {
        let [a, b, c, d] = &self.receivers;
        tokio::select! {
            () = readable(a.as_ref()) => {}
            () = readable(b.as_ref()) => {}
            () = readable(c.as_ref()) => {}
            () = readable(d.as_ref()) => {}
        }
    }
}

impl Wire for Sockets {
    fn send(&mut self, transmit: &Transmit) {
        if let Some(sender) = self.senders.get(&transmit.session) {
            let _ = sender.send(&transmit.payload);
        }
    }

    fn receive(&mut self, fresh: bool, take: Take<'_>) {
        for port in Port::ALL {
            let Some(receiver) = &self.receivers[port.index()] else {
                continue;
            };
            receiver.receive_all(fresh, |payload, came| {
                if let Err(Dropped::Path(ttl)) = take(payload, &arrival(port, came)) {
                    let source = came.source;
                    self.dropped = Some(Far { port, source, ttl });
                }
            });
        }
    }
}

fn arrival(port: Port, came: &BfdDatagram) -> Arrival {
    let now = Instant::now();
    Arrival {
        multihop: port.multihop,
        source: came.source,
        destination: came.destination,
        interface: came.interface,
        ttl: came.ttl,
        at: now.checked_sub(came.age).unwrap_or(now),
    }
}

async fn readable(receiver: Option<&BfdReceiver>) {
    match receiver {
        Some(receiver) => drop(receiver.readable().await),
        None => std::future::pending().await,
    }
}

fn port_problem(port: Port, error: &io::Error) -> String {
    let number = if port.multihop {
        herald_net::BFD_MULTIHOP_PORT
    } else {
        herald_net::BFD_PORT
    };
    if error.kind() == io::ErrorKind::AddrInUse {
        format!("UDP port {number} of this node is another program's, such as bfdd; stop that")
    } else {
        format!("UDP port {number} can't be opened: {error}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_its_place() {
        for (index, port) in Port::ALL.into_iter().enumerate() {
            assert_eq!(port.index(), index);
        }
    }
}
