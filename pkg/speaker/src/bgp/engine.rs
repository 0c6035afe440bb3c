//! The sessions and their sockets. One task owns them.
//!
//! ```text
//!  orders ──> peers, routes ──> [herald_bgp::Speaker] ──outputs──> connections
//!                                 ^            ^                       │
//!                       connections, listener  └── paths: what BFD says of them
//!  report <── how all is, now and then
//! ```

mod connections;
mod dynamic;
mod listener;
mod outputs;
mod paths;
mod peers;
mod report;
mod routes;
mod tell;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use herald_api::{BGPStatusStatus, Password};
use herald_bgp::{ConnectionId, GroupId, Offer, PeerId, Speaker};
use herald_net::{BgpListener, BgpSocketError, Interface, Links};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::bfd;
use super::neighbors::{Neighbors, Seeker};
use super::secrets::Passwords;
use super::settings::{Refused, Settings};
use super::stop::Ending;
use super::{BgpConfig, Orders};
use crate::events::PeerNote;
use crate::metrics::Metrics;
use dynamic::Template;
use tell::Allowance;

/// Octets that are read at a time.
const BUFFER: usize = 1 << 16;

/// For peers to see that their connections are closed.
const CLOSED: Duration = Duration::from_millis(100);

/// What an engine is given.
pub(super) struct Inputs {
    pub(super) node: String,
    pub(super) namespace: String,
    pub(super) notes: mpsc::Sender<PeerNote>,
    pub(super) config: BgpConfig,
    pub(super) orders: watch::Receiver<Option<Arc<Orders>>>,
    pub(super) passwords: watch::Receiver<Passwords>,
    pub(super) wanted: watch::Sender<BTreeSet<String>>,
    pub(super) paths: bfd::Client,
    pub(super) status: watch::Sender<Option<BGPStatusStatus>>,
    pub(super) end: watch::Receiver<Option<Ending>>,
    pub(super) metrics: Arc<Metrics>,
}

/// A peer with a session, or with an attempt at one.
struct Peer {
    name: String,
    settings: Settings,
    password: Option<Password>,
    connections: HashMap<ConnectionId, Arc<TcpStream>>,
    dials: HashMap<ConnectionId, AbortHandle>,
    since: Timestamp,
    last_error: Option<String>,
    draining: bool,
    /// Its session has ended, and no other begins for now.
    stopped: bool,
    /// One of `listenRanges`, which are there for as long as they dial.
    dynamic: bool,
    /// Of a dynamic one: since when it has no connection.
    idle: Option<Instant>,
}

impl Peer {
    fn new(name: &str, settings: Settings, password: Option<Password>) -> Self {
        Self {
            name: name.to_owned(),
            settings,
            password,
            connections: HashMap::new(),
            dials: HashMap::new(),
            since: Timestamp::now(),
            last_error: None,
            draining: false,
            stopped: false,
            dynamic: false,
            idle: None,
        }
    }
}

/// A connection that may be read or written.
type Ready = Pin<Box<dyn Future<Output = (PeerId, ConnectionId, bool)> + Send>>;
type Dialled = (PeerId, ConnectionId, Result<TcpStream, BgpSocketError>);

pub(super) struct Engine {
    inputs: Inputs,
    speaker: Speaker,
    /// By the names of `BGPPeer`s; of dynamic ones with their address.
    ids: BTreeMap<String, PeerId>,
    peers: HashMap<PeerId, Peer>,
    /// By the names of `BGPPeer`s, for as long as they are: what their sessions are
    /// offered is told by these, and not by the sessions that come and go.
    groups: BTreeMap<String, GroupId>,
    /// Ranges that peers may dial from, by the names of `BGPPeer`s.
    templates: BTreeMap<String, Template>,
    /// Peers that can't be, and why.
    refused: BTreeMap<String, Refused>,
    /// What is announced.
    routes: BTreeMap<IpNet, Arc<[Offer]>>,
    complete: bool,
    ready: FuturesUnordered<Ready>,
    dialled: (
        mpsc::UnboundedSender<Dialled>,
        mpsc::UnboundedReceiver<Dialled>,
    ),
    allowances: BTreeMap<String, Allowance>,
    listener: Option<BgpListener>,
    /// The passwords of the port: of addresses, and of ranges by their length.
    signed: BTreeMap<(IpAddr, Option<u8>), Password>,
    listen_again: Option<Instant>,
    listen_problem: Option<String>,
    interfaces: BTreeMap<u32, Interface>,
    seeker: Seeker,
    /// What is at the other end of interfaces.
    neighbors: Neighbors,
    ending: Option<(Ending, Instant)>,
    /// When the status is to be made anew, because something is different.
    report_at: Option<Instant>,
    buffer: Box<[u8]>,
}

impl Engine {
    pub(super) fn new(inputs: Inputs) -> Self {
        Self {
            inputs,
            speaker: Speaker::new(super::seed()),
            ids: BTreeMap::new(),
            peers: HashMap::new(),
            groups: BTreeMap::new(),
            templates: BTreeMap::new(),
            refused: BTreeMap::new(),
            routes: BTreeMap::new(),
            complete: false,
            ready: FuturesUnordered::new(),
            dialled: mpsc::unbounded_channel(),
            allowances: BTreeMap::new(),
            listener: None,
            signed: BTreeMap::new(),
            listen_again: None,
            listen_problem: None,
            interfaces: BTreeMap::new(),
            seeker: Seeker::new(),
            neighbors: Neighbors::new(),
            ending: None,
            report_at: None,
            buffer: vec![0; BUFFER].into(),
        }
    }

    /// Runs until it is told how to end, and has done so.
    pub(super) async fn run(mut self) {
        let mut links = Links::subscribe().ok();
        self.look(&mut links).await;
        self.inputs.orders.mark_changed();
        loop {
            self.perform();
            if self.is_over() {
                self.report();
                // A peer that keeps our routes over a restart must know of it before
                // BFD's last words, which some take for a failure.
                tokio::time::sleep(CLOSED).await;
                return;
            }
            let due = self.due();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let accept = async {
                match &self.listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            let changed = async {
                match &mut links {
                    Some(links) => links.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.inputs.orders.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow();
                }
                Ok(()) = self.inputs.passwords.changed() => self.follow(),
                () = self.seeker.changed() => self.follow(),
                Ok(()) = self.inputs.end.changed() => self.end(),
                Some(news) = self.inputs.paths.news() => self.heed(&news),
                well = changed => {
                    if !well {
                        links = Links::subscribe().ok();
                    }
                    self.look(&mut links).await;
                    self.follow();
                }
                accepted = accept => self.accept(accepted),
                Some((peer, connection, result)) = self.dialled.1.recv() => {
                    self.connected(peer, connection, result);
                }
                Some((peer, connection, read)) = self.ready.next(), if !self.ready.is_empty() => {
                    if read {
                        self.read(peer, connection);
                    } else {
                        self.write(peer, connection);
                    }
                }
                () = timer => {}
            }
            self.turn();
        }
    }

    fn due(&self) -> Option<Instant> {
        let due = [
            self.speaker.poll_timeout(),
            self.listen_again,
            self.report_at,
            self.ending.as_ref().map(|(_, until)| *until),
            self.idle_until(),
        ];
        due.into_iter().flatten().min()
    }

    /// What is due, after all that has come is taken in.
    fn turn(&mut self) {
        let now = Instant::now();
        if self.speaker.poll_timeout().is_some_and(|due| due <= now) {
            self.drain_sockets();
            self.speaker.handle_timeout(now);
        }
        if self.listen_again.is_some_and(|at| at <= now) {
            self.listen();
        }
        if self.idle_until().is_some_and(|at| at <= now) {
            self.forget_idle(now);
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report();
        }
    }

    async fn look(&mut self, links: &mut Option<Links>) {
        if let Some(links) = links
            && let Ok(interfaces) = links.list().await
        {
            self.interfaces = interfaces;
        }
    }

    /// Something is different that the status tells.
    fn touch(&mut self) {
        self.report_at
            .get_or_insert_with(|| Instant::now() + report::GATHER);
    }

    /// Makes peers and routes what the orders say.
    fn follow(&mut self) {
        let Some(orders) = self.inputs.orders.borrow_and_update().clone() else {
            return;
        };
        if self.ending.is_some() {
            return;
        }
        let passwords = self.inputs.passwords.borrow_and_update().clone();
        let now = Instant::now();
        self.seek_neighbors(&orders);
        self.follow_peers(&orders, &passwords, now);
        self.sign();
        let some = !self.ids.is_empty() || !self.templates.is_empty();
        if some && self.listener.is_none() && self.listen_again.is_none() {
            self.listen();
        }
        self.follow_routes(&orders, now);
        if !std::mem::replace(&mut self.complete, true) {
            self.speaker.set_complete();
        }
        self.follow_drain(&orders, now);
        self.watch_paths();
        self.touch();
    }
}

/// How long an end may take, beyond the wait for a drain: for withdrawals and last
/// words.
const LEAVE: Duration = Duration::from_secs(3);
