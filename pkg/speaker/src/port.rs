//! One interface: its sockets and its announcer.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use herald_l2::{Announcer, Claim, Counters, Mac};
use herald_net::{ARP, NEIGHBOR_DISCOVERY, PacketError, PacketSocket};
use tokio::sync::{mpsc, watch};

use crate::metrics::{InterfaceLabel, Metrics};

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;

/// Longer than any ARP packet or neighbour message that is well formed.
const FRAME: usize = 1514;

/// An interface that is announced on, not running yet.
pub(crate) struct Port {
    name: String,
    arp: PacketSocket,
    neighbors: PacketSocket,
    announcer: Announcer,
    metrics: Arc<Metrics>,
    counted: Counters,
}

impl Port {
    /// Opens the sockets of an interface.
    pub(crate) fn open(
        name: &str,
        index: u32,
        mac: [u8; 6],
        metrics: Arc<Metrics>,
    ) -> Result<Self, PacketError> {
        Ok(Self {
            name: name.to_owned(),
            arp: PacketSocket::open(index, ETH_P_ARP, ARP)?,
            neighbors: PacketSocket::open(index, ETH_P_IPV6, NEIGHBOR_DISCOVERY)?,
            announcer: Announcer::new(Mac(mac), Instant::now()),
            metrics,
            counted: Counters::default(),
        })
    }

    /// Answers for and announces what `addresses` holds, until its other end
    /// is gone. Claims by others go to `claims`.
    pub(crate) async fn run(
        mut self,
        mut addresses: watch::Receiver<BTreeSet<IpAddr>>,
        claims: mpsc::UnboundedSender<Claim>,
    ) {
        let mut held = BTreeSet::new();
        let (mut one, mut two) = ([0; FRAME], [0; FRAME]);
        self.follow(&mut held, &addresses.borrow_and_update().clone());
        loop {
            self.flush(&claims).await;
            let due = self.announcer.poll_timeout();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let received = tokio::select! {
                changed = addresses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = addresses.borrow_and_update().clone();
                    self.follow(&mut held, &now);
                    continue;
                }
                () = timer => {
                    self.announcer.handle_timeout(Instant::now());
                    continue;
                }
                length = self.arp.receive(&mut one) => length.map(|length| &one[..length]),
                length = self.neighbors.receive(&mut two) => length.map(|length| &two[..length]),
            };
            match received {
                Ok(frame) => self.announcer.handle_frame(frame),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The link went down; the coordinator hears of it too and
                    // ends this port if it stays so.
                    tracing::debug!(interface = self.name, %error, "receiving");
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
        }
    }

    fn follow(&mut self, held: &mut BTreeSet<IpAddr>, wanted: &BTreeSet<IpAddr>) {
        for address in held.difference(wanted) {
            self.announcer.withdraw(address);
        }
        let now = Instant::now();
        for address in wanted.difference(held) {
            self.announcer.announce(*address, now);
        }
        held.clone_from(wanted);
    }

    async fn flush(&mut self, claims: &mpsc::UnboundedSender<Claim>) {
        while let Some(frame) = self.announcer.poll_transmit() {
            let ipv6 = frame.get(12..14) == Some(&ETH_P_IPV6.to_be_bytes());
            let socket = if ipv6 { &self.neighbors } else { &self.arp };
            if let Err(error) = socket.send(&frame).await {
                tracing::debug!(interface = self.name, %error, "sending");
            }
        }
        while let Some(claim) = self.announcer.poll_claim() {
            let _ = claims.send(claim);
            self.metrics.claims.get_or_create(&self.label()).inc();
        }
        self.count();
    }

    fn count(&mut self) {
        let now = self.announcer.counters();
        let before = std::mem::replace(&mut self.counted, now);
        if now == before {
            return;
        }
        let label = self.label();
        for (family, now, before) in [
            (&self.metrics.requests, now.requests_received, before.requests_received),
            (&self.metrics.responses, now.responses_sent, before.responses_sent),
            (&self.metrics.gratuitous, now.gratuitous_sent, before.gratuitous_sent),
        ] {
            family.get_or_create(&label).inc_by(now - before);
        }
    }

    fn label(&self) -> InterfaceLabel {
        InterfaceLabel { interface: self.name.clone() }
    }
}
