//! One interface: its sockets, its groups, its announcer and its checker.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_l2::{
    Announcer, CheckEvent, Checker, Event, Frame, Mac, Profile, Source, Verdict, solicited_node,
};
use herald_net::{Groups, Inbox, PacketError, PacketSocket, Traffic};
use tokio::sync::{mpsc, watch};

use crate::metrics::{Metrics, PortMetrics};

const ETH_P_IPV6: u16 = 0x86dd;

/// After an error of a socket, which comes with the link going down.
const PAUSE: Duration = Duration::from_millis(10);

/// A group that could not be joined is tried again after this: the interface
/// may just have got IPv6.
const JOIN_AGAIN: Duration = Duration::from_secs(1);

/// What an interface is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// How to announce; that of the first plan holds.
    pub(crate) announcing: Profile,
    /// The interface's hardware address.
    pub(crate) mac: [u8; 6],
    /// Another number than before: the link was away or is another one, so that
    /// everything is announced anew.
    pub(crate) link: u64,
    /// From which addresses to ask.
    pub(crate) source: Source,
    /// Addresses to hold. Whenever the number of one grows, it is announced anew.
    pub(crate) hold: BTreeMap<IpAddr, u32>,
    /// Of these the ones that no node had before: another host is asked for
    /// first.
    pub(crate) fresh: BTreeSet<IpAddr>,
    /// Addresses that another node is to have. What is in neither set is
    /// withdrawn at once.
    pub(crate) yielding: Arc<BTreeSet<IpAddr>>,
    /// How long to answer for these while the other node is not heard.
    pub(crate) grace: Duration,
    /// Addresses of which to check that their owner answers for them, and a number
    /// for each owner.
    pub(crate) check: BTreeMap<IpAddr, u64>,
    /// Addresses that other nodes have for their own.
    pub(crate) controls: BTreeSet<IpAddr>,
    /// Hardware addresses of this node; their frames are not another's word.
    pub(crate) own: Arc<BTreeSet<[u8; 6]>>,
    /// Hardware addresses of other speakers on the segment, as far as they are
    /// known; their claims are no conflict.
    pub(crate) peers: Arc<BTreeSet<[u8; 6]>>,
}

/// What a port has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortEvent {
    /// Of an address that it announces or announced.
    Announcer(Event),
    /// How an address is answered for that another node has.
    Verdict(IpAddr, Verdict),
    /// Whether the owner with this number answers none of our questions.
    Mute(u64, bool),
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
    arp: PacketSocket,
    neighbors: PacketSocket,
    groups: Option<Groups>,
    joined: BTreeSet<Ipv6Addr>,
    /// When to try again to join what could not be.
    join_again: Option<Instant>,
    announcer: Announcer,
    checker: Checker,
    plan: watch::Receiver<Plan>,
    questions: mpsc::UnboundedReceiver<Question>,
    /// The last plan that was followed.
    followed: Plan,
    events: mpsc::UnboundedSender<PortEvent>,
    metrics: PortMetrics,
    /// Frames to send, for each socket.
    outbox: [Vec<Frame>; 2],
}

impl Port {
    /// Opens the sockets of an interface.
    pub(crate) fn open(
        name: &str,
        index: u32,
        plan: watch::Receiver<Plan>,
        questions: mpsc::UnboundedReceiver<Question>,
        events: mpsc::UnboundedSender<PortEvent>,
        metrics: &Metrics,
    ) -> Result<Self, PacketError> {
        let (mac, profile) = {
            let plan = plan.borrow();
            (Mac(plan.mac), plan.announcing)
        };
        let groups = Groups::new(index)
            .inspect_err(|error| tracing::info!(%error, "IPv6 addresses are not announced"))
            .ok();
        let followed = Plan {
            mac: mac.0,
            link: plan.borrow().link,
            ..Plan::default()
        };
        Ok(Self {
            name: name.to_owned(),
            arp: PacketSocket::open(index, Traffic::Arp)?,
            neighbors: PacketSocket::open(index, Traffic::NeighborDiscovery)?,
            groups,
            joined: BTreeSet::new(),
            join_again: None,
            announcer: Announcer::new(mac, profile, Instant::now()),
            checker: Checker::new(mac, profile.questions),
            plan,
            questions,
            followed,
            events,
            metrics: metrics.port(name),
            outbox: [Vec::new(), Vec::new()],
        })
    }

    /// Follows the plan until its sender is gone.
    pub(crate) async fn run(mut self) {
        let (mut arp, mut neighbors) = (Inbox::new(), Inbox::new());
        self.plan.mark_changed();
        loop {
            self.flush().await;
            let due = self.due();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => pending().await,
                }
            };
            let (result, inbox) = tokio::select! {
                changed = self.plan.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow();
                    continue;
                }
                () = timer => {
                    self.handle_timeout(Instant::now());
                    continue;
                }
                Some(question) = self.questions.recv() => {
                    self.checker.ask(question.from, question.to, Instant::now());
                    continue;
                }
                result = self.arp.receive(&mut arp) => (result, &arp),
                result = self.neighbors.receive(&mut neighbors) => (result, &neighbors),
            };
            match result {
                Ok(()) => {
                    self.handle(inbox, Instant::now());
                    self.flush().await;
                    // In a flood of frames the heartbeats on this thread come
                    // to their turn too.
                    tokio::task::yield_now().await;
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

    /// Takes frames in, unless another interface of this node on the same
    /// segment sent them.
    fn handle(&mut self, inbox: &Inbox, now: Instant) {
        for frame in inbox.frames() {
            let source = frame
                .get(6..12)
                .and_then(|source| <[u8; 6]>::try_from(source).ok());
            if source.is_none_or(|source| self.followed.own.contains(&source)) {
                continue;
            }
            self.announcer.handle_frame(frame, now);
            self.checker.handle_frame(frame, now);
        }
    }

    fn due(&self) -> Option<Instant> {
        [
            self.announcer.poll_timeout(),
            self.checker.poll_timeout(),
            self.join_again,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.announcer.handle_timeout(now);
        self.checker.handle_timeout(now);
        if self.join_again.is_some_and(|at| at <= now) {
            self.follow_groups(std::iter::empty());
        }
    }

    /// Brings announcer and checker in line with the plan.
    fn follow(&mut self) {
        let plan = self.plan.borrow_and_update().clone();
        let now = Instant::now();
        if (self.followed.mac, self.followed.link) != (plan.mac, plan.link) {
            self.announcer.reannounce(Mac(plan.mac), now);
        }
        let peers = plan.peers.iter().copied().map(Mac).collect();
        self.announcer.set_peers(peers);
        for address in self.announcer.addresses().collect::<Vec<_>>() {
            if plan.hold.contains_key(&address) {
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
        for (address, times) in &plan.hold {
            let told = self.followed.hold.get(address);
            if plan.fresh.contains(address) {
                self.announcer.acquire(*address, now);
            } else if told.is_some_and(|told| told < times) {
                self.announcer.announce_again(*address, now);
            } else {
                self.announcer.announce(*address, now);
            }
        }
        self.checker.set_source(Mac(plan.mac), plan.source);
        self.checker.set_controls(&plan.controls);
        self.checker.set_targets(&plan.check, now);
        self.metrics.checked(self.checker.faults());
        self.followed = plan;
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
        self.joined.retain(|group| {
            let stays = wanted.contains(group);
            if !stays {
                groups.leave(*group);
            }
            stays
        });
        let told = self.join_again.take().is_some();
        for group in wanted {
            if self.joined.contains(&group) {
                continue;
            }
            match groups.join(group) {
                Ok(()) => {
                    self.joined.insert(group);
                }
                Err(error) => {
                    if !told && self.join_again.is_none() {
                        tracing::warn!(interface = self.name, %group, %error,
                            "cannot join a solicited-node group; trying again. Switches that snoop \
                             may not pass questions on meanwhile");
                    }
                    self.join_again = Some(Instant::now() + JOIN_AGAIN);
                }
            }
        }
    }

    /// Sends what there is to say, to the hosts and to the segment's task.
    async fn flush(&mut self) {
        let announcer = std::iter::from_fn(|| self.announcer.poll_transmit());
        let checker = std::iter::from_fn(|| self.checker.poll_transmit());
        for frame in announcer.chain(checker) {
            let ipv6 = frame.get(12..14) == Some(&ETH_P_IPV6.to_be_bytes());
            self.outbox[usize::from(ipv6)].push(frame);
        }
        for (socket, frames) in [&self.arp, &self.neighbors]
            .into_iter()
            .zip(&mut self.outbox)
        {
            if !frames.is_empty()
                && let Err(error) = socket.send(frames).await
            {
                tracing::debug!(interface = self.name, %error, "sending");
            }
            frames.clear();
        }
        // Only at the very end is nobody there to hear.
        let mut given_up = false;
        while let Some(event) = self.announcer.poll_event() {
            given_up |= matches!(event, Event::Succeeded { .. } | Event::Unclaimed { .. });
            let _ = self.events.send(PortEvent::Announcer(event));
        }
        if given_up {
            self.follow_groups(std::iter::empty());
        }
        while let Some(event) = self.checker.poll_event() {
            let event = match event {
                CheckEvent::Verdict { address, verdict } => {
                    self.metrics.checked(self.checker.faults());
                    PortEvent::Verdict(address, verdict)
                }
                CheckEvent::Mute { owner, mute } => PortEvent::Mute(owner, mute),
                CheckEvent::Answer { address, .. } => PortEvent::Answered(address),
            };
            let _ = self.events.send(event);
        }
        self.metrics
            .count(self.announcer.counters(), self.announcer.conflicts());
    }
}
