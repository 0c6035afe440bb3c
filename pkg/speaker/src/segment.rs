//! One interface: its part in the election on the segment behind it, and the port
//! that does what came out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use herald_core::chain;
use herald_election::{Cause, Counters, Election, GroupId, Heartbeat, Liveness, NodeId, Profile};
use herald_l2::Profile as Announcing;
use herald_net::{Datagram, Detour, Interface};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::beats::{BUFFER, Beats};
use crate::duties::Vip;
use crate::events::Note;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::port::{Plan, Port, PortEvent, Question};
use crate::report::Report;
use crate::traps::{OnHost, Traps};
use crate::view::SegmentView;
use told::Told;

mod act;
mod heard;
mod intake;
mod look;
mod tell;
mod told;

/// After a change, until settings of the node and what to check are looked at.
const LOOK_SOON: Duration = Duration::from_secs(1);

/// Before a socket is tried again.
const RETRY: Duration = Duration::from_millis(500);

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
    /// What was told of that.
    told: Told,
    /// Addresses that others have now, and that we answer for until we hear them.
    yielding: BTreeSet<IpAddr>,
    /// Addresses that no node had before, and since when.
    fresh: BTreeMap<IpAddr, Instant>,
    /// Addresses of others of which this node checks that they are answered for.
    check: BTreeMap<IpAddr, NodeId>,
    /// Of these the ones that nobody answers for, and owners that answer for none.
    silent: BTreeSet<IpAddr>,
    mute: BTreeSet<NodeId>,
    traps: Traps,
    look_at: Instant,
    peers: BTreeMap<NodeId, Liveness>,
    counted: Counters,
    /// When heartbeats are read next.
    read_at: Instant,
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
            check: BTreeMap::new(),
            silent: BTreeSet::new(),
            mute: BTreeSet::new(),
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
            told: Told::default(),
            yielding: BTreeSet::new(),
            peers: BTreeMap::new(),
            counted: Counters::default(),
            read_at: Instant::now(),
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
                () = timer => self.due_now(&mut four),
                Some(heartbeat) = self.strays.recv() => self.stray(&heartbeat),
                Some(event) = self.port_events.recv() => self.heard(event),
                (ipv6, datagram) = received(self.read_at, &self.beats, &mut four, &mut six) => {
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

    fn due_now(&mut self, buffer: &mut [u8]) {
        // Nobody is missed whose word is here.
        self.take_waiting(buffer);
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
                    self.beats.retain(|node| view.names.contains_key(node));
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
        self.told.more = true;
        // What is announced of our groups may be different, and so may our address.
        self.publish(&orders.own);
    }

    /// Addresses that came to a group of ours have been nobody's before.
    fn note_new_addresses(&mut self, before: Option<&SegmentView>, now: Instant) {
        let (Some(before), Some(view)) = (before, self.view.as_deref()) else {
            return;
        };
        for group in self.holding.keys() {
            let known = before.groups.get(group).cloned().unwrap_or_default();
            let vips = view
                .groups
                .get(group)
                .into_iter()
                .flat_map(|vips| vips.iter());
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
            self.silent.clear();
            self.unreported = true;
            tracing::info!(interface = self.interface.name, "left the election");
        }
    }

    fn end(&mut self) {
        self.leave();
        let name = self.interface.name.clone();
        let _ = self.common.reports.send(Report::Segment(name, None));
    }

    fn addresses(&self, group: GroupId) -> Arc<[Vip]> {
        let view = self.view.as_ref();
        view.and_then(|view| view.groups.get(&group))
            .cloned()
            .unwrap_or_default()
    }

    fn name_of(&self, node: NodeId) -> String {
        let view = self.view.as_ref();
        view.and_then(|view| view.names.get(&node))
            .cloned()
            .unwrap_or_else(|| node.to_string())
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

/// A datagram of either family, not before this time.
async fn received(
    from: Instant,
    beats: &Beats,
    four: &mut [u8],
    six: &mut [u8],
) -> (bool, std::io::Result<Datagram>) {
    tokio::time::sleep_until(from.into()).await;
    beats.receive(four, six).await
}

/// Returns when there are other keys. Those that are known are good for as long as
/// nobody says otherwise.
async fn changed(keys: &mut Keys) {
    if keys.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// A number that no other session has.
fn draw() -> Option<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    Some(u64::from_ne_bytes(bytes))
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
