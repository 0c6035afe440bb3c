//! One interface: its part in the election on the segment behind it, and the port
//! that does what came out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use herald_election::{
    Cause, Counters, Election, Event, GroupId, Heartbeat, KeyRing, Liveness, NodeId, Profile,
    Silence,
};
use herald_l2::{Profile as Announcing, Source, Verdict};
use herald_net::{Datagram, Detour, Interface};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::beats::{BUFFER, Beat, Beats};
use crate::chain;
use crate::events::Note;
use crate::keys::Keys;
use crate::metrics::{InterfaceLabel, LivenessLabel, Metrics, ReasonLabel};
use crate::port::{Plan, Port, PortEvent, Question};
use crate::report::{Owned, Report, SegmentStatus, cause_name, liveness_name};
use crate::traps::{OnHost, Subject, Traps};
use crate::view::{SegmentView, Vip};

/// How long an address is answered for after another node became its owner, if
/// that one is not heard. Packets that still come are forwarded all the same.
const YIELD: Duration = Duration::from_secs(2);

/// How long an address counts as new to everybody, so that a port that is busy
/// sees it as such.
const FRESH: Duration = Duration::from_secs(1);

/// After a change, until settings of the node and what to check are looked at;
/// and between two looks, as settings tell nobody when they change.
const LOOK_SOON: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// So many nodes check an address: one alone may be the one that has it on an
/// interface, and does not hear its own kernel.
const CHECKERS: usize = 2;

/// Datagrams taken in before timers are looked at.
const BATCH: usize = 32;

/// Before a socket is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// All that can be seen of a peer.
const LIVENESS: [Liveness; 7] = [
    Liveness::Up,
    Liveness::OneWay,
    Liveness::Relayed,
    Liveness::Stalled,
    Liveness::Deaf,
    Liveness::Down,
    Liveness::Left,
];

/// What a segment is told. All of it, whenever something is different.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// None while no addresses may come to be on it.
    pub(crate) view: Option<Arc<SegmentView>>,
    /// The number of the view.
    pub(crate) number: u64,
    pub(crate) interface: Interface,
    /// Another number than before: the link was away or is another one.
    pub(crate) link: u64,
    /// Hardware addresses of this node.
    pub(crate) own: Arc<BTreeSet<[u8; 6]>>,
    pub(crate) on_host: Arc<OnHost>,
    /// Hand everything over, and end.
    pub(crate) stop: bool,
}

/// What all segments of a node have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) node: String,
    /// While no group has another.
    pub(crate) profile: Profile,
    /// Heartbeats go to each peer, and not to the group.
    pub(crate) unicast: bool,
    pub(crate) drain_timeout: Duration,
    /// How addresses are announced.
    pub(crate) announcing: Announcing,
    /// Whether to check that what others own is answered for.
    pub(crate) check: bool,
    pub(crate) keys: Keys,
    pub(crate) notes: mpsc::Sender<Note>,
    pub(crate) reports: mpsc::UnboundedSender<Report>,
    /// Heartbeats that came by an interface that they are not about.
    pub(crate) strays: mpsc::UnboundedSender<Arc<Heartbeat>>,
    pub(crate) metrics: Arc<Metrics>,
    /// The sessions of this process, by interface.
    pub(crate) sessions: Arc<Mutex<BTreeMap<u64, u32>>>,
}

/// A group that is ours.
struct Holding {
    since: Timestamp,
    cause: Cause,
    /// Because of a stall of our own.
    silent: bool,
    /// How often it was to be announced anew.
    times: u32,
}

/// An interface's part in the election.
pub(crate) struct Segment {
    common: Common,
    me: NodeId,
    orders: watch::Receiver<Orders>,
    view: Option<Arc<SegmentView>>,
    interface: Interface,
    beats: Beats,
    detour: Detour,
    strays: mpsc::UnboundedReceiver<Arc<Heartbeat>>,
    plan: watch::Sender<Plan>,
    questions: mpsc::UnboundedSender<Question>,
    port_events: mpsc::UnboundedReceiver<PortEvent>,
    _port: AbortOnDropHandle<()>,
    election: Option<Election>,
    session: u64,
    /// Another interface of this node is on the same segment, and speaks for it.
    twin: bool,
    holding: BTreeMap<GroupId, Holding>,
    /// Addresses that others have now, and that we answer for until we hear them.
    yielding: BTreeSet<IpAddr>,
    /// Addresses that no node had before, and since when.
    fresh: BTreeMap<IpAddr, Instant>,
    /// Addresses that this node has announced. After a flap of its link they may
    /// seem to be nobody's, while another node still answers for them.
    had: BTreeSet<IpAddr>,
    /// Addresses of others of which this node checks that they are answered for.
    check: BTreeSet<IpAddr>,
    traps: Traps,
    look_at: Instant,
    peers: BTreeMap<NodeId, Liveness>,
    counted: Counters,
    /// Whether something is to be reported, and whether we were ready when we last
    /// did.
    unreported: bool,
    was_ready: bool,
    /// Since when we are stopping.
    stopping: Option<Instant>,
    open_again: Option<Instant>,
}

impl Segment {
    /// Opens the port of an interface. Must be called within a tokio runtime.
    pub(crate) fn open(
        common: Common,
        orders: watch::Receiver<Orders>,
        strays: mpsc::UnboundedReceiver<Arc<Heartbeat>>,
    ) -> Result<Self, herald_net::PacketError> {
        let (interface, own) = {
            let orders = orders.borrow();
            (orders.interface.clone(), orders.own.clone())
        };
        let (plan, follow) = watch::channel(Plan {
            announcing: common.announcing,
            mac: interface.mac.unwrap_or_default(),
            own,
            ..Plan::default()
        });
        let (questions, asked) = mpsc::unbounded_channel();
        let (events, port_events) = mpsc::unbounded_channel();
        let port = Port::open(
            &interface.name,
            interface.index,
            follow,
            asked,
            events,
            &common.metrics,
        )?;
        Ok(Self {
            me: NodeId::of(&common.node),
            beats: Beats::new(&interface, common.metrics.clone()),
            traps: Traps::new(common.node.clone(), interface.index, interface.name.clone()),
            fresh: BTreeMap::new(),
            had: BTreeSet::new(),
            check: BTreeSet::new(),
            look_at: Instant::now() + LOOK_SOON,
            detour: Detour::open(),
            view: None,
            interface,
            orders,
            strays,
            plan,
            questions,
            port_events,
            _port: AbortOnDropHandle::new(tokio::spawn(port.run())),
            election: None,
            session: 0,
            twin: false,
            holding: BTreeMap::new(),
            yielding: BTreeSet::new(),
            peers: BTreeMap::new(),
            counted: Counters::default(),
            unreported: true,
            was_ready: false,
            stopping: None,
            open_again: Some(Instant::now()),
            common,
        })
    }

    /// Takes part until it is told to stop and everything is handed over, or the
    /// interface is taken away.
    pub(crate) async fn run(mut self) {
        let (mut four, mut six) = ([0; BUFFER], [0; BUFFER]);
        self.orders.mark_changed();
        while !self.is_done() {
            let due = self.due();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.follow();
                }
                () = changed(&mut self.common.keys) => self.begin_or_end(),
                // Before what waits in the sockets: a late timer is a stall of ours.
                () = timer => self.due_now(),
                Some(heartbeat) = self.strays.recv() => self.stray(&heartbeat),
                Some(event) = self.port_events.recv() => self.heard(event),
                (ipv6, datagram) = self.beats.receive(&mut four, &mut six) => {
                    let buffer = if ipv6 { &mut six } else { &mut four };
                    match datagram {
                        Ok(datagram) => self.take_in(ipv6, datagram, buffer),
                        Err(error) => {
                            tracing::debug!(interface = self.interface.name, %error, "receiving heartbeats");
                        }
                    }
                }
            }
            self.pump();
        }
        self.end();
    }

    /// Whether all is handed over.
    fn is_done(&self) -> bool {
        let Some(since) = self.stopping else {
            return false;
        };
        // The port takes as long as the grace for what nobody is heard to take.
        let left = self.holding.is_empty() && self.yielding.is_empty();
        left || Instant::now() >= since + self.common.drain_timeout || self.is_last()
    }

    /// Whether nobody else could have what is left.
    fn is_last(&self) -> bool {
        let (Some(election), Some(view)) = (&self.election, &self.view) else {
            return true;
        };
        let up = |node, profile| election.liveness(node, profile) == Some(Liveness::Up);
        self.yielding.is_empty()
            && !view.election.groups.iter().any(|group| {
                let mut candidates = group.candidates.iter();
                self.holding.contains_key(&group.id)
                    && candidates.any(|c| c.node != self.me && up(c.node, group.profile))
            })
    }

    fn due(&self) -> Option<Instant> {
        let election = self.election.as_ref().and_then(Election::poll_timeout);
        let end = self.stopping.map(|since| since + self.common.drain_timeout);
        [election, self.open_again, end, Some(self.look_at)]
            .into_iter()
            .flatten()
            .min()
    }

    fn due_now(&mut self) {
        let now = Instant::now();
        if self.open_again.is_some_and(|at| at <= now) {
            self.open_sockets();
        }
        if let Some(election) = &mut self.election
            && election.poll_timeout().is_some_and(|at| at <= now)
        {
            election.handle_timeout(now);
        }
        if self.look_at <= now {
            self.look_around(now);
        }
    }

    /// Looks at the node's settings, and at what others own.
    fn look_around(&mut self, now: Instant) {
        self.look_at = now + LOOK_AGAIN;
        let Some(view) = self.view.clone() else {
            return;
        };
        let subjects = view.groups.iter().flat_map(|(group, vips)| {
            let own = self.holding.contains_key(group);
            vips.iter().flat_map(move |(address, services)| {
                services.iter().map(move |service| Subject {
                    address: *address,
                    service,
                    own,
                })
            })
        });
        let on_host = self.orders.borrow().on_host.clone();
        let notes = self.traps.look(&on_host, subjects, &self.common.metrics);
        for note in notes {
            self.note(note);
        }
        let check = if self.stopping.is_none() && self.common.check {
            self.to_check(&view)
        } else {
            BTreeSet::new()
        };
        if check != self.check {
            self.check = check;
            let own = self.plan.borrow().own.clone();
            self.publish(&own);
            self.look_at = now + LOOK_AGAIN;
        }
    }

    /// The addresses of others that this node checks: of each group the live
    /// candidates that follow the owner in the order of their numbers.
    fn to_check(&self, view: &SegmentView) -> BTreeSet<IpAddr> {
        let Some(election) = &self.election else {
            return BTreeSet::new();
        };
        let checks = |group: &&herald_election::Group| {
            let Some(owner) = election.owner(group.id).filter(|owner| *owner != self.me) else {
                return false;
            };
            let up = |node| {
                node == self.me || election.liveness(node, group.profile) == Some(Liveness::Up)
            };
            let others = group.candidates.iter().map(|candidate| candidate.node);
            let mut others: Vec<NodeId> =
                others.filter(|node| *node != owner && up(*node)).collect();
            // Those behind the owner come first.
            others.sort_unstable_by_key(|node| (*node < owner, *node));
            others.iter().take(CHECKERS).any(|node| *node == self.me)
        };
        let groups = view.election.groups.iter().filter(checks);
        groups
            .filter_map(|group| view.groups.get(&group.id))
            .flatten()
            .map(|(address, _)| *address)
            .collect()
    }

    fn open_sockets(&mut self) {
        match self.beats.open() {
            Ok(()) => self.open_again = None,
            Err(error) => {
                let (interface, error) = (&self.interface.name, chain(&error));
                tracing::warn!(interface, error, "no heartbeats here yet; trying again");
                self.open_again = Some(Instant::now() + RETRY);
            }
        }
        self.begin_or_end();
    }

    /// Takes new orders.
    fn follow(&mut self) {
        let orders = self.orders.borrow_and_update().clone();
        let now = Instant::now();
        self.beats.follow(&orders.interface);
        self.interface = orders.interface;
        let before = std::mem::replace(&mut self.view, orders.view);
        self.note_new_addresses(before.as_deref(), now);
        self.begin_or_end();
        if let (Some(election), Some(view)) = (&mut self.election, &self.view) {
            election.set_link(self.interface.running, now);
            match &before {
                Some(before) if Arc::ptr_eq(before, view) => {
                    election.set_view_number(orders.number, now);
                }
                _ => {
                    let mut next = view.election.clone();
                    next.number = orders.number;
                    election.set_view(next, now);
                    if before.is_some_and(|before| is_asked_for(&before.rebalance, &view.rebalance))
                    {
                        tracing::info!(
                            interface = self.interface.name,
                            "addresses go back to the nodes that should have them"
                        );
                        election.rebalance(now);
                    }
                    self.peers.retain(|node, _| view.names.contains_key(node));
                    self.count_peers();
                }
            }
        }
        if orders.stop && self.stopping.is_none() {
            self.stopping = Some(now);
            if let Some(election) = &mut self.election {
                election.drain(now);
            }
        }
        self.unreported = true;
        // What is announced of our groups may be different, and so may our address.
        self.publish(&orders.own);
    }

    /// Addresses that came to a group of ours have been nobody's before.
    fn note_new_addresses(&mut self, before: Option<&SegmentView>, now: Instant) {
        let (Some(before), Some(view)) = (before, self.view.as_deref()) else {
            return;
        };
        let vips = view.groups.values().flatten();
        let there: BTreeSet<IpAddr> = vips.map(|vip| vip.0).collect();
        self.had.retain(|address| there.contains(address));
        for group in self.holding.keys() {
            let known = before.groups.get(group).map_or(&[][..], Vec::as_slice);
            let vips = view.groups.get(group).into_iter().flatten();
            for (address, _) in vips.filter(|vip| !known.iter().any(|known| known.0 == vip.0)) {
                self.fresh.insert(*address, now);
            }
        }
    }

    /// Begins an election where there is one to take part in, and ends it where
    /// there is none.
    fn begin_or_end(&mut self) {
        let keys = self.common.keys.borrow().is_some();
        let wanted = self.view.is_some() && !self.twin && self.beats.is_open() && keys;
        match (&self.view, wanted, self.election.is_some()) {
            (Some(view), true, false) => {
                let now = Instant::now();
                let Some(session) = draw() else {
                    tracing::error!("the system gives no random numbers");
                    return;
                };
                let config = herald_election::Config {
                    node: self.me,
                    session,
                    profile: self.common.profile,
                };
                self.session = session;
                self.sessions().insert(session, self.interface.index);
                let mut election = Election::new(config, now);
                election.set_link(self.interface.running, now);
                let mut first = view.election.clone();
                first.number = self.orders.borrow().number;
                election.set_view(first, now);
                self.counted = Counters::default();
                self.election = Some(election);
                tracing::info!(
                    interface = self.interface.name,
                    "taking part in the election"
                );
            }
            (_, false, true) => {
                self.leave();
            }
            _ => {}
        }
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, u32>> {
        let sessions = &self.common.sessions;
        sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&mut self) {
        if let Some(election) = &mut self.election {
            election.leave(Instant::now());
            self.pump();
            self.election = None;
            self.sessions().remove(&self.session);
            self.peers.clear();
            self.unreported = true;
            tracing::info!(interface = self.interface.name, "left the election");
        }
    }

    fn end(&mut self) {
        self.leave();
        let name = self.interface.name.clone();
        let _ = self.common.reports.send(Report::Segment(name, None));
    }

    /// Takes in a datagram, and those that wait behind it.
    fn take_in(&mut self, ipv6: bool, first: Datagram, buffer: &mut [u8]) {
        let Some(keys) = self.common.keys.borrow().clone() else {
            return;
        };
        let mut datagram = first;
        for _ in 0..BATCH {
            self.take_one(&datagram, &buffer[..datagram.length], &keys);
            match self.beats.try_receive(ipv6, buffer) {
                Some(next) => datagram = next,
                None => break,
            }
        }
    }

    fn take_one(&mut self, datagram: &Datagram, bytes: &[u8], keys: &KeyRing) {
        let now = Instant::now();
        let Some(Beat {
            heartbeat,
            at,
            on_link,
        }) = self.beats.read(datagram, bytes, keys, now)
        else {
            return;
        };
        let known = self
            .election
            .as_ref()
            .is_some_and(|election| election.knows(heartbeat.sender, heartbeat.session));
        // By another way than the link comes only a last word, to whom it concerns.
        if heartbeat.leaving && !known && heartbeat.sender != self.me {
            let _ = self.common.strays.send(Arc::new(heartbeat));
            return;
        }
        if !on_link {
            if heartbeat.leaving {
                self.stray(&heartbeat);
            } else {
                let error =
                    "a heartbeat that came through a router; something forwards UDP port 7474";
                self.beats.reject("off-link", &error);
            }
            return;
        }
        if heartbeat.sender == self.me && self.is_twin(heartbeat.session) {
            return;
        }
        if let Some(election) = &mut self.election {
            election.handle_heartbeat_late(&heartbeat, at, now);
        }
    }

    /// Whether a heartbeat of our own node comes from another interface of this
    /// process. Then both are on one segment, and the first of them speaks.
    fn is_twin(&mut self, session: u64) -> bool {
        let Some(other) = self.sessions().get(&session).copied() else {
            return false;
        };
        if other < self.interface.index {
            tracing::warn!(
                interface = self.interface.name,
                other,
                "on the same segment as the interface with this index, which announces instead; \
                 bond the two, or exclude one with --exclude-interfaces"
            );
            self.twin = true;
            self.begin_or_end();
        }
        true
    }

    /// A last word that came by another way.
    fn stray(&mut self, heartbeat: &Heartbeat) {
        if let Some(election) = &mut self.election
            && election.knows(heartbeat.sender, heartbeat.session)
        {
            election.handle_heartbeat(heartbeat, Instant::now());
        }
    }

    /// What the port has to say.
    fn heard(&mut self, event: PortEvent) {
        match event {
            PortEvent::Answered(host) => {
                if let (Some(node), Some(election)) = (self.beats.node_at(host), &mut self.election)
                {
                    election.node_answered(node, Instant::now());
                }
            }
            PortEvent::Announcer(herald_l2::Event::Succeeded { address, mac }) => {
                tracing::info!(%address, %mac, "handed over");
                self.yielding.remove(&address);
            }
            PortEvent::Announcer(herald_l2::Event::Unclaimed { address }) => {
                tracing::warn!(%address, "given up, but its new owner was not heard here");
                self.yielding.remove(&address);
            }
            PortEvent::Announcer(event) => self.heard_claim(event),
            PortEvent::Verdict(address, verdict) => self.heard_verdict(address, verdict),
        }
    }

    /// Another host says something of an address that is ours.
    fn heard_claim(&self, event: herald_l2::Event) {
        use herald_l2::Event as Claim;
        match event {
            Claim::Conflict { address, mac } => self.warn(
                address,
                "AddressConflict",
                &format!(
                    "a host with hardware address {mac} also claims {address}, which node {} announces; \
                     find it and take the address off it, or take the address out of the pool",
                    self.common.node
                ),
            ),
            Claim::InUse { address, mac } => self.warn(
                address,
                "AddressInUse",
                &format!(
                    "{address} is not announced: a host with hardware address {mac} has it already; \
                     find it and take the address off it, or take the address out of the pool"
                ),
            ),
            Claim::ConflictEnded { address } => {
                tracing::info!(%address, "no other host claims the address any more");
            }
            Claim::Contested { address, mac } => {
                tracing::warn!(%address, %mac, "another speaker announces the address too");
            }
            Claim::Succeeded { .. } | Claim::Unclaimed { .. } => {}
        }
    }

    /// How an address is answered for that another node has.
    fn heard_verdict(&self, address: IpAddr, verdict: Verdict) {
        let node = &self.common.node;
        match verdict {
            Verdict::Answered(mac) => tracing::debug!(%address, %mac, "answered for"),
            Verdict::Silent => self.warn(
                address,
                "AddressUnanswered",
                &format!(
                    "nobody answers for {address} when node {node} asks, though another node has it; \
                     see whether that node's speaker is well and what the switch filters"
                ),
            ),
            Verdict::Several(one, other) => self.warn(
                address,
                "AddressAnsweredTwice",
                &format!(
                    "hosts with hardware addresses {one} and {other} both answer for {address} when \
                     node {node} asks; only one node should"
                ),
            ),
        }
    }

    /// Warns the owners of the Services that have an address.
    fn warn(&self, address: IpAddr, reason: &'static str, text: &str) {
        tracing::error!(%address, "{text}");
        let groups = self.view.iter().flat_map(|view| view.groups.values());
        for vip in groups.flatten().filter(|vip| vip.0 == address) {
            self.tell(std::slice::from_ref(vip), true, reason, text);
        }
    }

    fn addresses(&self, group: GroupId) -> &[Vip] {
        let view = self.view.as_ref();
        view.and_then(|view| view.groups.get(&group))
            .map_or(&[], Vec::as_slice)
    }

    fn name_of(&self, node: NodeId) -> String {
        let view = self.view.as_ref();
        view.and_then(|view| view.names.get(&node))
            .cloned()
            .unwrap_or_else(|| node.to_string())
    }

    /// Sends what the election has to say, does what it decided, and tells.
    fn pump(&mut self) {
        let now = Instant::now();
        let keys = self.common.keys.borrow().clone();
        let mut changed = false;
        while let Some(transmit) = self.election.as_mut().and_then(Election::poll_transmit) {
            if let Some(keys) = &keys {
                let datagram = keys.seal(transmit.heartbeat.to_bytes());
                self.send(&datagram, transmit.detour, now);
            }
        }
        while let Some(event) = self.election.as_mut().and_then(Election::poll_event) {
            changed |= self.decided(&event, now);
        }
        if changed {
            let own = self.plan.borrow().own.clone();
            self.publish(&own);
        }
        let ready = self.election.as_ref().is_some_and(Election::is_ready);
        if self.unreported || ready != self.was_ready {
            self.was_ready = ready;
            self.report();
        }
        self.count();
    }

    fn send(&self, datagram: &[u8], detour: bool, now: Instant) {
        let peers = self.view.iter().flat_map(|view| &view.peers);
        if detour {
            for host in peers.flat_map(|peer| &peer.elsewhere) {
                if let Err(error) = self.detour.send_to(datagram, *host) {
                    tracing::debug!(%host, %error, "a last word by another way");
                }
            }
        } else if self.common.unicast {
            for host in peers.filter_map(|peer| peer.here.first()) {
                self.beats.send_to(datagram, *host);
            }
        } else {
            self.beats.send_to_all(datagram, now);
        }
    }

    /// Does what the election decided; says whether the port has to know.
    fn decided(&mut self, event: &Event, now: Instant) -> bool {
        self.unreported |= !matches!(event, Event::Probe { .. } | Event::Stalled { .. });
        let interface = self.interface.name.clone();
        match *event {
            Event::Announce { group, cause } => {
                self.announce(group, cause, now);
                true
            }
            Event::Reannounce { group } => match self.holding.get_mut(&group) {
                Some(holding) => {
                    holding.times += 1;
                    true
                }
                None => false,
            },
            Event::HandOver { group, to } => {
                let addresses: Vec<IpAddr> = self.addresses(group).iter().map(|v| v.0).collect();
                tracing::info!(interface, %group, ?addresses, to = self.name_of(to), "handing over");
                self.holding.remove(&group);
                self.yielding.extend(addresses);
                true
            }
            Event::Withdraw { group, why } => {
                let addresses: Vec<IpAddr> = self.addresses(group).iter().map(|v| v.0).collect();
                tracing::info!(interface, %group, ?addresses, ?why, "silent");
                if why == Silence::Stalled {
                    if let Some(holding) = self.holding.get_mut(&group) {
                        holding.silent = true;
                    }
                } else {
                    self.holding.remove(&group);
                }
                for address in addresses {
                    self.yielding.remove(&address);
                }
                true
            }
            Event::Probe { node } => {
                self.ask(node);
                false
            }
            Event::Peer { node, liveness } => {
                let name = self.name_of(node);
                tracing::info!(
                    interface,
                    node = name,
                    liveness = liveness_name(liveness),
                    "peer"
                );
                self.peers.insert(node, liveness);
                self.count_peers();
                self.look_at = self.look_at.min(now + LOOK_SOON);
                false
            }
            Event::Stalled { late } => {
                let late = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(
                    interface,
                    late_ms = late,
                    "this speaker did not run in time"
                );
                let label = InterfaceLabel { interface };
                self.common.metrics.stalls.get_or_create(&label).inc();
                false
            }
            Event::Impostor => {
                tracing::error!(
                    interface,
                    node = self.common.node,
                    "another speaker says that it is this node; two nodes have one name, or two \
                     speakers run on this node"
                );
                false
            }
        }
    }

    fn announce(&mut self, group: GroupId, cause: Cause, now: Instant) {
        let before = self.holding.remove(&group);
        let resumed = cause == Cause::Resumed;
        let kept = before.filter(|_| resumed);
        let holding = kept.map_or_else(
            || Holding {
                since: Timestamp::now(),
                cause,
                silent: false,
                times: 0,
            },
            |kept| Holding {
                silent: false,
                ..kept
            },
        );
        self.holding.insert(group, holding);
        let addresses = self.addresses(group).to_vec();
        for vip in &addresses {
            self.yielding.remove(&vip.0);
            let first = self.had.insert(vip.0);
            if first && cause == Cause::Vacant {
                self.fresh.insert(vip.0, now);
            }
        }
        let interface = self.interface.name.clone();
        let label = ReasonLabel {
            interface: interface.clone(),
            reason: cause_name(cause),
        };
        self.common.metrics.moves.get_or_create(&label).inc();
        if let Cause::Lost(from) = cause
            && let Some(heard) = self.beats.last_heard(from)
        {
            let took = now.saturating_duration_since(heard);
            self.common.metrics.takeover.observe(took.as_secs_f64());
            tracing::info!(interface, %group, after_ms = took.as_millis(), "taken over");
        }
        if !resumed {
            self.tell_owner(&addresses, cause);
        }
    }

    /// An event on each Service, once for all of its addresses.
    fn tell_owner(&self, addresses: &[Vip], cause: Cause) {
        let why = match cause {
            Cause::Vacant | Cause::Resumed => String::new(),
            Cause::Lost(from) => format!("; node {} is lost", self.name_of(from)),
            Cause::Drained(from) => format!("; node {} gave it up", self.name_of(from)),
            Cause::Ineligible(from) => {
                format!("; node {} may not have it any more", self.name_of(from))
            }
            Cause::Rebalanced(from) => format!("; it comes back from node {}", self.name_of(from)),
        };
        let mut services: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
        for (address, refs) in addresses {
            for service in refs {
                services.entry(service.clone()).or_default().push(*address);
            }
        }
        let (node, interface) = (&self.common.node, &self.interface.name);
        for (service, addresses) in services {
            let addresses = join(&addresses, " and ");
            tracing::info!(service = %service.key, addresses, interface, "announcing{why}");
            let note = Note {
                service: service.key.clone(),
                uid: service.uid.clone(),
                warning: false,
                reason: "Announcing",
                text: format!("announcing {addresses} from node {node} on {interface}{why}"),
            };
            self.note(note);
        }
    }

    fn tell(&self, vips: &[Vip], warning: bool, reason: &'static str, text: &str) {
        for (_, services) in vips {
            for service in services {
                self.note(Note {
                    service: service.key.clone(),
                    uid: service.uid.clone(),
                    warning,
                    reason,
                    text: text.to_owned(),
                });
            }
        }
    }

    fn note(&self, note: Note) {
        if let Err(error) = self.common.notes.try_send(note) {
            let note = error.into_inner();
            tracing::debug!(service = %note.service, reason = note.reason, "too many events at once");
        }
    }

    /// Asks whether a node is there. By ARP, so of nodes that are heard by IPv4.
    fn ask(&self, node: NodeId) {
        let Some(to) = self.beats.whereabouts(node) else {
            return;
        };
        let from = self.interface.addresses.iter().find_map(|(own, length)| {
            let IpAddr::V4(address) = own else {
                return None;
            };
            let same = herald_net::same_subnet(own, &to.into(), *length);
            same.then_some(*address)
        });
        let from = from.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let _ = self.questions.send(Question { from, to });
    }

    /// Gives the port its plan.
    fn publish(&mut self, own: &Arc<BTreeSet<[u8; 6]>>) {
        let mut hold = BTreeMap::new();
        for (group, holding) in self.holding.iter().filter(|(_, holding)| !holding.silent) {
            for (address, _) in self.addresses(*group) {
                hold.insert(*address, holding.times);
            }
        }
        self.yielding.retain(|address| !hold.contains_key(address));
        let now = Instant::now();
        self.fresh.retain(|_, since| *since + FRESH > now);
        self.look_at = self.look_at.min(now + LOOK_SOON);
        let plan = Plan {
            announcing: self.common.announcing,
            link: self.orders.borrow().link,
            source: source(&self.interface),
            fresh: self.fresh.keys().copied().collect(),
            check: self.check.clone(),
            // Heartbeats do not tell hardware addresses.
            peers: Arc::default(),
            mac: self.interface.mac.unwrap_or_default(),
            hold,
            yielding: Arc::new(self.yielding.clone()),
            grace: if self.stopping.is_some() {
                self.common.drain_timeout
            } else {
                YIELD
            },
            own: own.clone(),
        };
        self.plan.send_if_modified(|before| {
            let changed = *before != plan;
            *before = plan;
            changed
        });
    }

    /// Tells how the segment is.
    fn report(&mut self) {
        self.unreported = false;
        let status = if self.twin {
            // The other interface says all there is to say.
            Some(SegmentStatus {
                ready: true,
                ..SegmentStatus::default()
            })
        } else {
            self.status()
        };
        let name = self.interface.name.clone();
        let _ = self.common.reports.send(Report::Segment(name, status));
    }

    fn status(&self) -> Option<SegmentStatus> {
        self.election.as_ref().map(|election| SegmentStatus {
            ready: election.is_ready() || !self.interface.running,
            peers: self
                .peers
                .iter()
                .map(|(node, liveness)| (self.name_of(*node), *liveness))
                .collect(),
            owned: self
                .holding
                .iter()
                .filter(|(_, holding)| !holding.silent)
                .map(|(group, holding)| (*group, self.owned(*group, holding)))
                .collect(),
        })
    }

    fn owned(&self, group: GroupId, holding: &Holding) -> Owned {
        let from = match holding.cause {
            Cause::Lost(node)
            | Cause::Drained(node)
            | Cause::Ineligible(node)
            | Cause::Rebalanced(node) => Some(self.name_of(node)),
            Cause::Vacant | Cause::Resumed => None,
        };
        Owned {
            vips: self.addresses(group).to_vec(),
            since: holding.since,
            cause: cause_name(holding.cause),
            from,
        }
    }

    fn count(&mut self) {
        let Some(election) = &self.election else {
            return;
        };
        let now = election.counters();
        let before = std::mem::replace(&mut self.counted, now);
        let label = InterfaceLabel {
            interface: self.interface.name.clone(),
        };
        let metrics = &self.common.metrics;
        if now.received > before.received {
            let counter = metrics.beats_received.get_or_create(&label);
            counter.inc_by(now.received - before.received);
        }
        if now.replayed > before.replayed {
            let label = ReasonLabel {
                interface: label.interface,
                reason: "replayed",
            };
            let counter = metrics.beats_rejected.get_or_create(&label);
            counter.inc_by(now.replayed - before.replayed);
        }
    }

    fn count_peers(&self) {
        for liveness in LIVENESS {
            let count = self.peers.values().filter(|l| **l == liveness).count();
            let label = LivenessLabel {
                interface: self.interface.name.clone(),
                liveness: liveness_name(liveness),
            };
            let gauge = self.common.metrics.peers.get_or_create_owned(&label);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// Whether an advertisement that was there before asks anew for addresses to go
/// back.
fn is_asked_for(
    before: &BTreeMap<String, Option<String>>,
    now: &BTreeMap<String, Option<String>>,
) -> bool {
    now.iter().any(|(name, value)| {
        value.is_some() && before.get(name).is_some_and(|before| before != value)
    })
}

/// Returns when there are other keys. Those that are known are good for as long as
/// nobody says otherwise.
async fn changed(keys: &mut Keys) {
    if keys.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// The addresses that questions on an interface come from.
fn source(interface: &Interface) -> Source {
    let mut source = Source::default();
    for (address, _) in &interface.addresses {
        match address {
            IpAddr::V4(address) if source.v4.is_unspecified() => source.v4 = *address,
            IpAddr::V6(address) if address.is_unicast_link_local() => source.v6 = *address,
            _ => {}
        }
    }
    source
}

/// A number that no other session has.
fn draw() -> Option<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    Some(u64::from_ne_bytes(bytes))
}

fn join(parts: &[IpAddr], between: &str) -> String {
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    parts.join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_back_when_an_advertisement_asks_for_it_anew() {
        let map = |entries: &[(&str, Option<&str>)]| -> BTreeMap<String, Option<String>> {
            let entries = entries.iter();
            entries
                .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
                .collect()
        };
        let plain = map(&[("a", None)]);
        let asked = map(&[("a", Some("1"))]);
        let again = map(&[("a", Some("2"))]);
        assert!(is_asked_for(&plain, &asked) && is_asked_for(&asked, &again));
        assert!(!is_asked_for(&asked, &asked));
        assert!(!is_asked_for(&asked, &plain), "taken off");
        assert!(!is_asked_for(&map(&[]), &asked), "a new one");
        assert!(!is_asked_for(&asked, &map(&[])), "one that is gone");
    }
}
