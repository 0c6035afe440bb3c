//! One interface: its sockets, its groups and its announcer.

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_l2::{Announcer, Counters, Event, Mac, solicited_node};
use herald_net::{Groups, PacketError, PacketSocket, Traffic};
use tokio::sync::{mpsc, watch};

use crate::metrics::{InterfaceLabel, Metrics};

const ETH_P_IPV6: u16 = 0x86dd;

/// Longer than any ARP packet or neighbour message that is well formed.
const FRAME: usize = 1514;

/// Frames taken in before the answers go out and timers are looked at.
const BATCH: usize = 32;

/// After an error of a socket, which comes with the link going down.
const PAUSE: Duration = Duration::from_millis(10);

/// What an interface is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The interface's hardware address.
    pub(crate) mac: [u8; 6],
    /// Addresses to hold.
    pub(crate) hold: BTreeSet<IpAddr>,
    /// Addresses that another node is to have. What is in neither set is
    /// withdrawn at once.
    pub(crate) yielding: Arc<BTreeSet<IpAddr>>,
    /// How long to answer for these while the other node is not heard.
    pub(crate) grace: Duration,
    /// Hardware addresses of this node; their frames are not another's word.
    pub(crate) own: Arc<BTreeSet<[u8; 6]>>,
    /// Whether to end when nothing is answered for any more.
    pub(crate) ending: bool,
}

/// An interface that is announced on.
pub(crate) struct Port {
    name: String,
    mac: [u8; 6],
    arp: PacketSocket,
    neighbors: PacketSocket,
    groups: Option<Groups>,
    joined: BTreeSet<Ipv6Addr>,
    announcer: Announcer,
    plan: watch::Receiver<Plan>,
    events: mpsc::UnboundedSender<Event>,
    metrics: Arc<Metrics>,
    counted: Counters,
}

impl Port {
    /// Opens the sockets of an interface.
    pub(crate) fn open(
        name: &str,
        index: u32,
        plan: watch::Receiver<Plan>,
        events: mpsc::UnboundedSender<Event>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, PacketError> {
        let mac = plan.borrow().mac;
        let groups = Groups::new(index)
            .inspect_err(|error| tracing::info!(%error, "IPv6 addresses are not announced"))
            .ok();
        Ok(Self {
            name: name.to_owned(),
            mac,
            arp: PacketSocket::open(index, Traffic::Arp)?,
            neighbors: PacketSocket::open(index, Traffic::NeighborDiscovery)?,
            groups,
            joined: BTreeSet::new(),
            announcer: Announcer::new(Mac(mac), Instant::now()),
            plan,
            events,
            metrics,
            counted: Counters::default(),
        })
    }

    /// Follows the plan until its sender is gone, or until an ending plan is
    /// fulfilled.
    pub(crate) async fn run(mut self) {
        let (mut one, mut two) = ([0; FRAME], [0; FRAME]);
        self.plan.mark_changed();
        loop {
            self.flush().await;
            if self.plan.borrow().ending && self.announcer.addresses().next().is_none() {
                return;
            }
            let due = self.announcer.poll_timeout();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => pending().await,
                }
            };
            let received = tokio::select! {
                changed = self.plan.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow();
                    continue;
                }
                () = timer => {
                    self.announcer.handle_timeout(Instant::now());
                    continue;
                }
                length = self.arp.receive(&mut one) => length.map(|length| (&self.arp, &mut one, length)),
                length = self.neighbors.receive(&mut two) => {
                    length.map(|length| (&self.neighbors, &mut two, length))
                }
            };
            match received {
                Ok((socket, buffer, first)) => {
                    let own = self.plan.borrow().own.clone();
                    let now = Instant::now();
                    handle(&mut self.announcer, &own, &buffer[..first], now);
                    for _ in 1..BATCH {
                        let Ok(length) = socket.try_receive(buffer) else {
                            break;
                        };
                        handle(&mut self.announcer, &own, &buffer[..length], now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The coordinator hears of it too and ends this port if the
                    // link stays down.
                    tracing::debug!(interface = self.name, %error, "receiving");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Brings the announcer in line with the plan.
    fn follow(&mut self) {
        let plan = self.plan.borrow_and_update().clone();
        let now = Instant::now();
        if self.mac != plan.mac {
            self.mac = plan.mac;
            self.announcer.reannounce(Mac(plan.mac), now);
        }
        for address in self.announcer.addresses().collect::<Vec<_>>() {
            if plan.hold.contains(&address) {
                continue;
            }
            if plan.yielding.contains(&address) {
                self.announcer.hand_over(address, plan.grace, now);
            } else {
                self.announcer.withdraw(&address);
            }
        }
        // Before the announcement, so that a switch that snoops lets the
        // questions through.
        self.follow_groups(plan.hold.iter().copied());
        for address in plan.hold {
            self.announcer.announce(address, now);
        }
    }

    /// Joins the solicited-node groups of what is answered for and of `more`,
    /// and leaves the others. Addresses that end alike share a group.
    fn follow_groups(&mut self, more: impl Iterator<Item = IpAddr>) {
        let Some(groups) = &mut self.groups else {
            return;
        };
        let wanted: BTreeSet<Ipv6Addr> = self
            .announcer
            .addresses()
            .chain(more)
            .filter_map(|address| match address {
                IpAddr::V6(address) => Some(solicited_node(address)),
                IpAddr::V4(_) => None,
            })
            .collect();
        for group in self.joined.difference(&wanted) {
            groups.leave(*group);
        }
        for group in wanted.difference(&self.joined) {
            if let Err(error) = groups.join(*group) {
                tracing::warn!(interface = self.name, %group, %error,
                    "cannot join a solicited-node group; switches that snoop may not pass questions on");
            }
        }
        self.joined = wanted;
    }

    /// Sends what the announcer has to say, to the segment and to the
    /// coordinator.
    async fn flush(&mut self) {
        while let Some(frame) = self.announcer.poll_transmit() {
            let ipv6 = frame.get(12..14) == Some(&ETH_P_IPV6.to_be_bytes());
            let socket = if ipv6 { &self.neighbors } else { &self.arp };
            if let Err(error) = socket.send(&frame).await {
                tracing::debug!(interface = self.name, %error, "sending");
            }
        }
        let mut given_up = false;
        while let Some(event) = self.announcer.poll_event() {
            given_up |= !matches!(event, Event::Conflict { .. });
            // Only at the very end is nobody there to hear it.
            let _ = self.events.send(event);
        }
        if given_up {
            self.follow_groups(std::iter::empty());
        }
        self.count();
    }

    fn count(&mut self) {
        let now = self.announcer.counters();
        let before = std::mem::replace(&mut self.counted, now);
        if now == before {
            return;
        }
        let label = InterfaceLabel {
            interface: self.name.clone(),
        };
        for (family, now, before) in [
            (
                &self.metrics.requests,
                now.requests_received,
                before.requests_received,
            ),
            (
                &self.metrics.responses,
                now.responses_sent,
                before.responses_sent,
            ),
            (
                &self.metrics.gratuitous,
                now.gratuitous_sent,
                before.gratuitous_sent,
            ),
            (&self.metrics.claims, now.claims_heard, before.claims_heard),
        ] {
            family.get_or_create(&label).inc_by(now - before);
        }
    }
}

/// Gives a frame to the announcer, unless another interface of this node on
/// the same segment sent it.
fn handle(announcer: &mut Announcer, own: &BTreeSet<[u8; 6]>, frame: &[u8], now: Instant) {
    let source = frame
        .get(6..12)
        .and_then(|source| <[u8; 6]>::try_from(source).ok());
    if source.is_some_and(|source| !own.contains(&source)) {
        announcer.handle_frame(frame, now);
    }
}
