//! One interface: its sockets, its groups and its announcer.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_l2::{Announcer, ArpOperation, ArpPacket, Counters, Event, Mac, solicited_node};
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
    /// Addresses to hold. Whenever the number of one grows, it is announced anew.
    pub(crate) hold: BTreeMap<IpAddr, u32>,
    /// Addresses that another node is to have. What is in neither set is
    /// withdrawn at once.
    pub(crate) yielding: Arc<BTreeSet<IpAddr>>,
    /// How long to answer for these while the other node is not heard.
    pub(crate) grace: Duration,
    /// Hardware addresses of this node; their frames are not another's word.
    pub(crate) own: Arc<BTreeSet<[u8; 6]>>,
}

/// What a port has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortEvent {
    /// Of an address that it announces or announced.
    Announcer(Event),
    /// A host answered for its own address.
    Answered(Ipv4Addr),
}

/// A question whether a host is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Our own address.
    pub(crate) from: Ipv4Addr,
    /// The host's.
    pub(crate) to: Ipv4Addr,
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
    questions: mpsc::UnboundedReceiver<Question>,
    /// Hosts that were asked and have not answered.
    asked: BTreeSet<Ipv4Addr>,
    /// How often each address that is held was told to be announced.
    told: BTreeMap<IpAddr, u32>,
    events: mpsc::UnboundedSender<PortEvent>,
    metrics: Arc<Metrics>,
    counted: Counters,
}

impl Port {
    /// Opens the sockets of an interface.
    pub(crate) fn open(
        name: &str,
        index: u32,
        plan: watch::Receiver<Plan>,
        questions: mpsc::UnboundedReceiver<Question>,
        events: mpsc::UnboundedSender<PortEvent>,
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
            questions,
            asked: BTreeSet::new(),
            told: BTreeMap::new(),
            events,
            metrics,
            counted: Counters::default(),
        })
    }

    /// Follows the plan until its sender is gone.
    pub(crate) async fn run(mut self) {
        let (mut one, mut two) = ([0; FRAME], [0; FRAME]);
        self.plan.mark_changed();
        loop {
            self.flush().await;
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
                Some(question) = self.questions.recv() => {
                    self.ask(question).await;
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
                    let mut length = first;
                    for _ in 0..BATCH {
                        let frame = &buffer[..length];
                        handle(&mut self.announcer, &own, frame, now);
                        if let Some(host) = answered(&mut self.asked, frame) {
                            let _ = self.events.send(PortEvent::Answered(host));
                        }
                        let Ok(more) = socket.try_receive(buffer) else {
                            break;
                        };
                        length = more;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The segment hears of it too, if the link is down.
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
            if let Some(times) = plan.hold.get(&address) {
                if self.told.get(&address).is_some_and(|told| told < times) {
                    // Anew, from the first announcement on.
                    self.announcer.withdraw(&address);
                }
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
        self.follow_groups(plan.hold.keys().copied());
        for address in plan.hold.keys() {
            self.announcer.announce(*address, now);
        }
        self.told = plan.hold;
    }

    /// Asks on the segment who has a host's address. Its kernel answers, whatever
    /// its processes do.
    async fn ask(&mut self, question: Question) {
        self.asked.insert(question.to);
        let request = ArpPacket {
            destination: Mac::BROADCAST,
            source: Mac(self.mac),
            operation: ArpOperation::Request,
            sender_mac: Mac(self.mac),
            sender_ip: question.from,
            target_mac: Mac::ZERO,
            target_ip: question.to,
        };
        if let Err(error) = self.arp.send(&request.to_frame()).await {
            tracing::debug!(interface = self.name, %error, "asking for a host");
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
            let _ = self.events.send(PortEvent::Announcer(event));
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

/// The host that a frame answers for, if it was asked for.
fn answered(asked: &mut BTreeSet<Ipv4Addr>, frame: &[u8]) -> Option<Ipv4Addr> {
    if asked.is_empty() {
        return None;
    }
    let packet = ArpPacket::parse(frame).ok()?;
    let host = packet.sender_ip;
    (packet.operation == ArpOperation::Reply && asked.remove(&host)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_were_asked_for_count() {
        let host = Ipv4Addr::new(10, 20, 0, 12);
        let reply = ArpPacket {
            operation: ArpOperation::Reply,
            ..ArpPacket::announcement(Mac([2, 0, 0, 0, 0, 1]), host)
        };
        let mut asked = BTreeSet::new();
        assert_eq!(answered(&mut asked, &reply.to_frame()), None);
        asked.insert(host);
        let request = ArpPacket::announcement(Mac([2, 0, 0, 0, 0, 1]), host);
        assert_eq!(answered(&mut asked, &request.to_frame()), None);
        assert_eq!(answered(&mut asked, b"short"), None);
        assert_eq!(answered(&mut asked, &reply.to_frame()), Some(host));
        assert_eq!(answered(&mut asked, &reply.to_frame()), None, "once");
    }
}
