//! The sessions and their sockets. One task owns them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use herald_api::{BGPSession, BGPStatusStatus, Password};
use herald_bgp::{
    ConnectionId, Drain, Family, Input, NextHop, Offer, Output, PeerId, Peers, Speaker, State, Stop,
};
use herald_net::{BgpListener, BgpSocketError, Dial, Interface, Links};
use jiff::Timestamp;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::routes::Part;
use super::secrets::Passwords;
use super::settings::{Facts, Settings, settings};
use super::stop::Ending;
use super::{BgpConfig, Orders};
use crate::metrics::Metrics;

/// The port is tried again after so long, should another program leave it.
const LISTEN_RETRY: Duration = Duration::from_secs(30);
/// A peer that floods us does not keep the others waiting.
const READ_BUDGET: usize = 1 << 20;
/// How long a connection that we close is read on, so that the peer gets our last
/// words and no reset.
const LINGER: Duration = Duration::from_secs(1);
/// Beyond the wait for a drain: for withdrawals and last words.
const LEAVE: Duration = Duration::from_secs(3);

/// What an engine is given.
pub(super) struct Inputs {
    pub(super) node: String,
    pub(super) config: BgpConfig,
    pub(super) orders: watch::Receiver<Option<Arc<Orders>>>,
    pub(super) passwords: watch::Receiver<Passwords>,
    pub(super) wanted: watch::Sender<BTreeSet<String>>,
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
}

/// A connection that may be read or written.
type Ready = Pin<Box<dyn Future<Output = (PeerId, ConnectionId, bool)> + Send>>;
type Dialled = (PeerId, ConnectionId, Result<TcpStream, BgpSocketError>);

pub(super) struct Engine {
    inputs: Inputs,
    speaker: Speaker,
    ids: BTreeMap<String, PeerId>,
    peers: HashMap<PeerId, Peer>,
    /// Peers that can't be, and why.
    refused: BTreeMap<String, String>,
    routes: BTreeMap<ipnet::IpNet, Vec<Part>>,
    complete: bool,
    ready: FuturesUnordered<Ready>,
    dialled: (
        mpsc::UnboundedSender<Dialled>,
        mpsc::UnboundedReceiver<Dialled>,
    ),
    listener: Option<BgpListener>,
    signed: BTreeMap<IpAddr, Password>,
    listen_again: Option<Instant>,
    listen_problem: Option<String>,
    interfaces: BTreeMap<u32, Interface>,
    ending: Option<(Ending, Instant)>,
}

impl Engine {
    pub(super) fn new(inputs: Inputs) -> Self {
        Self {
            inputs,
            speaker: Speaker::new(seed()),
            ids: BTreeMap::new(),
            peers: HashMap::new(),
            refused: BTreeMap::new(),
            routes: BTreeMap::new(),
            complete: false,
            ready: FuturesUnordered::new(),
            dialled: mpsc::unbounded_channel(),
            listener: None,
            signed: BTreeMap::new(),
            listen_again: None,
            listen_problem: None,
            interfaces: BTreeMap::new(),
            ending: None,
        }
    }

    /// Runs until it is told how to end, and has done so.
    pub(super) async fn run(mut self) {
        let mut links = Links::subscribe().ok();
        self.look(&mut links).await;
        self.inputs.orders.mark_changed();
        loop {
            self.perform();
            self.report();
            if self.is_over() {
                return;
            }
            let due = [
                self.speaker.poll_timeout(),
                self.listen_again,
                self.ending.as_ref().map(|(_, until)| *until),
            ];
            let due = due.into_iter().flatten().min();
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
                Ok(()) = self.inputs.end.changed() => self.end(),
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
    }

    async fn look(&mut self, links: &mut Option<Links>) {
        if let Some(links) = links
            && let Ok(interfaces) = links.list().await
        {
            self.interfaces = interfaces;
        }
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
        let (wanted, refused) = self.wanted(&orders, &passwords);
        self.refused = refused;
        let gone: Vec<String> = self
            .ids
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.remove(&name, now);
        }
        for (name, (settings, password)) in wanted {
            self.set(&name, settings, password, now);
        }
        self.sign();
        if !self.ids.is_empty() && self.listener.is_none() && self.listen_again.is_none() {
            self.listen();
        }
        self.follow_routes(&orders, now);
        if !std::mem::replace(&mut self.complete, true) {
            self.speaker.set_complete();
        }
        self.follow_drain(&orders, now);
    }

    #[expect(clippy::type_complexity, reason = "both halves are used at once")]
    fn wanted(
        &self,
        orders: &Orders,
        passwords: &Passwords,
    ) -> (
        BTreeMap<String, (Settings, Option<Password>)>,
        BTreeMap<String, String>,
    ) {
        let facts = Facts {
            node: &self.inputs.node,
            router_id: orders.router_id,
            addresses: &orders.addresses,
            interfaces: &self.interfaces,
            aliases: &orders.aliases,
        };
        let (mut wanted, mut refused) = (BTreeMap::new(), BTreeMap::new());
        let mut secrets = BTreeSet::new();
        let mut ends = BTreeMap::new();
        for (name, view) in &orders.peers {
            let settings = match settings(&view.spec, &facts) {
                Ok(settings) => settings,
                Err(problem) => {
                    refused.insert(name.clone(), problem);
                    continue;
                }
            };
            let end = (settings.peer, settings.device.clone());
            if let Some(other) = ends.insert(end.clone(), name.clone()) {
                ends.insert(end, other.clone());
                let problem = format!(
                    "BGPPeer {other} has this address and port already; take one of them away"
                );
                refused.insert(name.clone(), problem);
                continue;
            }
            let mut password = view.spec.password.clone();
            if let Some(secret) = &settings.secret {
                secrets.insert(secret.clone());
                match passwords.get(secret) {
                    Some(Ok(read)) => password = Some(read.clone()),
                    Some(Err(problem)) => {
                        refused.insert(name.clone(), problem.clone());
                        continue;
                    }
                    None => {
                        refused.insert(name.clone(), format!("Secret {secret} is being read"));
                        continue;
                    }
                }
            }
            wanted.insert(name.clone(), (settings, password));
        }
        self.inputs.wanted.send_if_modified(|wanted| {
            let changed = *wanted != secrets;
            *wanted = secrets;
            changed
        });
        (wanted, refused)
    }

    fn remove(&mut self, name: &str, now: Instant) {
        if let Some(id) = self.ids.remove(name) {
            self.speaker.remove_peer(id, &Stop::Deconfigured, now);
            self.perform();
            self.peers.remove(&id);
            // What was for all its peers must not go on for it.
            self.routes.clear();
            self.inputs.metrics.bgp.forget(name);
        }
    }

    fn set(&mut self, name: &str, settings: Settings, password: Option<Password>, now: Instant) {
        if let Some(peer) = self.ids.get(name).and_then(|id| self.peers.get(id)) {
            let same_end = peer.settings.peer == settings.peer
                && peer.settings.source == settings.source
                && peer.settings.device == settings.device
                && peer.settings.distance == settings.distance;
            if !same_end {
                self.remove(name, now);
            }
        }
        if let Some(id) = self.ids.get(name)
            && let Some(peer) = self.peers.get_mut(id)
        {
            if peer.settings.config != settings.config {
                let config = settings.config.clone();
                match self.speaker.set_peer(*id, config, now) {
                    Ok(change) => tracing::info!(peer = name, ?change, "BGP peer changed"),
                    Err(error) => tracing::error!(peer = name, %error, "BGP peer not changed"),
                }
            }
            peer.settings = settings;
            // For the next connection; what is up stays so.
            peer.password = password;
            return;
        }
        match self.speaker.add_peer(settings.config.clone(), now) {
            Ok(id) => {
                tracing::info!(peer = name, address = %settings.peer, "BGP peer");
                let peer = Peer {
                    name: name.to_owned(),
                    settings,
                    password,
                    connections: HashMap::new(),
                    dials: HashMap::new(),
                    since: Timestamp::now(),
                    last_error: None,
                    draining: false,
                };
                self.ids.insert(name.to_owned(), id);
                self.peers.insert(id, peer);
                // Offers name peers, and this one is new.
                self.routes.clear();
            }
            Err(error) => {
                self.refused.insert(name.to_owned(), error.to_string());
            }
        }
    }

    fn follow_routes(&mut self, orders: &Orders, now: Instant) {
        let want = &orders.routes.prefixes;
        let gone: Vec<_> = self.announced(want);
        for prefix in gone {
            self.speaker.withdraw(prefix, now);
        }
        for (prefix, parts) in want {
            if self.routes.get(prefix) == Some(parts) {
                continue;
            }
            let made = self.offers(parts);
            if let Err(error) = self.speaker.announce(*prefix, &made, now) {
                tracing::error!(%error, "a route is not announced");
                self.speaker.withdraw(*prefix, now);
            }
        }
        self.routes.clone_from(want);
    }

    /// Prefixes that peers may have and that are not wanted.
    fn announced(&self, want: &BTreeMap<ipnet::IpNet, Vec<Part>>) -> Vec<ipnet::IpNet> {
        let mut all: BTreeSet<ipnet::IpNet> = self.routes.keys().copied().collect();
        for id in self.peers.keys() {
            all.extend(self.speaker.routes_for(*id).map(|(prefix, _)| prefix));
        }
        all.into_iter().filter(|p| !want.contains_key(p)).collect()
    }

    fn offers(&self, parts: &[Part]) -> Vec<Offer> {
        let offer = |part: &Part| {
            let ids = part.peers.iter().filter_map(|name| self.ids.get(name));
            Offer {
                peers: Peers::Only(ids.copied().collect()),
                attributes: part.attributes.clone(),
            }
        };
        parts.iter().map(offer).collect()
    }

    fn follow_drain(&mut self, orders: &Orders, now: Instant) {
        for (id, peer) in &mut self.peers {
            match &orders.drain {
                Some(reason) if !peer.draining => {
                    peer.draining = true;
                    let drain = Drain {
                        wait: self.inputs.config.drain_wait,
                        text: reason.clone(),
                    };
                    self.speaker.drain(*id, drain, now);
                }
                None if peer.draining => {
                    peer.draining = false;
                    // One that is still on its way out is begun anew when it is out.
                    self.speaker.handle(*id, Input::Start, now);
                }
                _ => {}
            }
        }
    }

    /// Ends the sessions as it is told.
    fn end(&mut self) {
        let Some(ending) = self.inputs.end.borrow_and_update().clone() else {
            return;
        };
        let now = Instant::now();
        let wait = self.inputs.config.drain_wait;
        let text = match &ending {
            Ending::Leave(text) => text.clone(),
            Ending::Restart => "the speaker is restarted".to_owned(),
        };
        for (id, peer) in &mut self.peers {
            let session = self.speaker.session(*id).and_then(|s| s.established());
            let keeps = session.is_some_and(|(terms, _)| terms.graceful_restart.is_some());
            if ending == Ending::Restart && keeps {
                self.speaker.handle(*id, Input::Stop(&Stop::Restart), now);
            } else if !peer.draining {
                let text = text.clone();
                self.speaker.drain(*id, Drain { wait, text }, now);
            }
            peer.draining = true;
        }
        self.ending = Some((ending, now + wait + LEAVE));
    }

    fn is_over(&self) -> bool {
        let Some((_, until)) = &self.ending else {
            return false;
        };
        let stopped = |id: &PeerId| {
            let session = self.speaker.session(*id);
            session.is_none_or(|session| session.state() == State::Idle)
        };
        *until <= Instant::now() || self.peers.keys().all(stopped)
    }

    /// Does what the sessions want done.
    fn perform(&mut self) {
        while let Some((id, output)) = self.speaker.poll_output() {
            match output {
                Output::Connect(connection) => self.dial(id, connection),
                Output::Transmit(connection) => self.write(id, connection),
                Output::Close { connection, last } => self.close(id, connection, &last),
                Output::Up(terms) => {
                    let Some(peer) = self.peers.get_mut(&id) else {
                        continue;
                    };
                    tracing::info!(
                        peer = peer.name, asn = terms.peer_as, id = %terms.peer_id,
                        "BGP session up"
                    );
                    peer.since = Timestamp::now();
                    peer.last_error = None;
                    self.next_hop_of_ipv4(id, terms.local_address, terms.ipv4_over_ipv6);
                }
                Output::Down(why) => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        tracing::warn!(peer = peer.name, %why, "BGP session down");
                        peer.since = Timestamp::now();
                        peer.last_error = Some(why.to_string());
                    }
                }
                Output::Failed(why) => {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        let why = why.to_string();
                        if peer.last_error.as_ref() != Some(&why) {
                            tracing::warn!(peer = peer.name, why, "no BGP session");
                            peer.last_error = Some(why);
                        }
                    }
                }
                Output::Refresh(_) => {}
                Output::Stopped => {
                    let stays = self.peers.get(&id).is_some_and(|peer| !peer.draining);
                    if stays && self.ending.is_none() {
                        self.speaker.handle(id, Input::Start, Instant::now());
                    }
                }
            }
        }
    }

    /// Over IPv6 to a peer that takes no IPv6 next hops of IPv4 routes they have the
    /// node's IPv4 address.
    fn next_hop_of_ipv4(&mut self, id: PeerId, local: IpAddr, taken: bool) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let config = &peer.settings.config;
        let lacks = local.is_ipv6() && !taken && config.families.has(Family::Ipv4);
        if !lacks || config.next_hop_v4.is_some() {
            return;
        }
        let near = self
            .interfaces
            .values()
            .filter(|i| i.addresses.iter().any(|(own, _)| *own == local));
        let v4 = near
            .flat_map(|i| &i.addresses)
            .find_map(|(own, _)| match own {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(_) => None,
            });
        if let Some(v4) = v4 {
            let mut config = config.clone();
            config.next_hop_v4 = Some(NextHop::V4(v4));
            if let Err(error) = self.speaker.set_peer(id, config, Instant::now()) {
                tracing::error!(%error, "no next hop for IPv4 routes");
            }
        }
    }

    fn dial(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let dial = Dial {
            peer: peer.settings.peer,
            source: peer.settings.source,
            device: peer.settings.device.clone(),
            password: peer.password.as_ref().map(|p| p.0.clone().into_bytes()),
            distance: peer.settings.distance,
            user_timeout: peer.settings.config.hold_time,
        };
        let answer = self.dialled.0.clone();
        let task = tokio::spawn(async move {
            let result = herald_net::dial(&dial).await;
            let _ = answer.send((id, connection, result));
        });
        peer.dials.insert(connection, task.abort_handle());
    }

    fn connected(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        result: Result<TcpStream, BgpSocketError>,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        // One that was given up meanwhile is closed.
        if peer.dials.remove(&connection).is_none() {
            return;
        }
        let now = Instant::now();
        match result.and_then(|stream| {
            let local = stream.local_addr();
            local
                .map(|local| (stream, local))
                .map_err(|source| BgpSocketError {
                    step: "connecting",
                    source,
                })
        }) {
            Ok((stream, local)) => {
                self.take(id, connection, stream);
                let local = local.ip();
                self.speaker
                    .handle(id, Input::Connected { connection, local }, now);
            }
            Err(error) => {
                let why = error.to_string();
                let why = why.as_str();
                self.speaker
                    .handle(id, Input::ConnectFailed { connection, why }, now);
            }
        }
    }

    fn take(&mut self, id: PeerId, connection: ConnectionId, stream: TcpStream) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let stream = Arc::new(stream);
            peer.connections.insert(connection, Arc::clone(&stream));
            self.ready.push(when_ready(id, connection, stream, true));
        }
    }

    /// A connection to the port that all peers share.
    fn accept(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let Ok((stream, from)) = accepted else {
            return;
        };
        let candidates: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.settings.peer.ip() == from.ip() && peer.settings.device.is_none()
            })
            .map(|(id, _)| *id)
            .collect();
        let passive = candidates.iter().find(|id| {
            let peer = self.peers.get(id);
            peer.is_some_and(|peer| peer.settings.config.passive)
        });
        // Of several behind one address only one may dial us: who it is, is not known
        // before its OPEN.
        let id = match (&candidates[..], passive) {
            ([only], _) => *only,
            (_, Some(passive)) => *passive,
            _ => {
                tracing::debug!(%from, "a connection from no peer, or from one of several");
                return;
            }
        };
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let settings = &peer.settings;
        let local = stream.local_addr();
        let set = herald_net::settle(&stream, settings.distance, settings.config.hold_time);
        let (Ok(local), Ok(())) = (local, set) else {
            return;
        };
        if let Some(connection) = self.speaker.accept(id, local.ip(), Instant::now()) {
            self.take(id, connection, stream);
            // What the session said before the stream was known.
            self.write(id, connection);
        }
    }

    fn stream(&self, id: PeerId, connection: ConnectionId) -> Option<Arc<TcpStream>> {
        self.peers.get(&id)?.connections.get(&connection).cloned()
    }

    fn write(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(stream) = self.stream(id, connection) else {
            return;
        };
        let now = Instant::now();
        loop {
            let pending = self.speaker.pending(id, connection, now);
            if pending.is_empty() {
                return;
            }
            match stream.try_write(pending) {
                Ok(count) if count > 0 => {
                    self.speaker.transmitted(id, connection, count, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.push(when_ready(id, connection, stream, false));
                    return;
                }
                _ => return self.lost(id, connection),
            }
        }
    }

    fn read(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(stream) = self.stream(id, connection) else {
            return;
        };
        let mut buffer = vec![0; 1 << 16];
        let mut read = 0;
        while read < READ_BUDGET {
            match stream.try_read(&mut buffer) {
                Ok(count) if count > 0 => {
                    read += count;
                    self.received(id, connection, &buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => return self.lost(id, connection),
            }
        }
        if self.stream(id, connection).is_some() {
            self.ready.push(when_ready(id, connection, stream, true));
        }
    }

    /// What arrived in time must not be late because we are.
    fn drain_sockets(&mut self) {
        let mut buffer = vec![0; 1 << 16];
        let all: Vec<(PeerId, ConnectionId, Arc<TcpStream>)> = self
            .peers
            .iter()
            .flat_map(|(id, peer)| {
                let streams = peer.connections.iter();
                streams.map(|(connection, stream)| (*id, *connection, Arc::clone(stream)))
            })
            .collect();
        for (id, connection, stream) in all {
            let mut read = 0;
            while read < READ_BUDGET
                && let Ok(count @ 1..) = herald_net::receive_now(&stream, &mut buffer)
            {
                read += count;
                self.received(id, connection, &buffer[..count]);
            }
        }
    }

    fn received(&mut self, id: PeerId, connection: ConnectionId, bytes: &[u8]) {
        let input = Input::Received { connection, bytes };
        self.speaker.handle(id, input, Instant::now());
    }

    fn lost(&mut self, id: PeerId, connection: ConnectionId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.connections.remove(&connection);
        }
        self.speaker
            .handle(id, Input::Closed { connection }, Instant::now());
    }

    fn close(&mut self, id: PeerId, connection: ConnectionId, last: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let Some(dial) = peer.dials.remove(&connection) {
            dial.abort();
        }
        if let Some(stream) = peer.connections.remove(&connection) {
            let _ = stream.try_write(last);
            tokio::spawn(linger(stream));
        }
    }

    fn listen(&mut self) {
        self.listen_again = None;
        let port = self.inputs.config.listen_port;
        if port == 0 || self.listener.is_some() {
            return;
        }
        match BgpListener::open(port, None) {
            Ok(listener) => {
                tracing::info!(port, "listening for BGP peers");
                self.listener = Some(listener);
                self.listen_problem = None;
                self.signed.clear();
                self.sign();
            }
            Err(error) => {
                let problem = if error.source.kind() == io::ErrorKind::AddrInUse {
                    format!(
                        "port {port} of this node is another program's, so that peers are only \
                         dialled; stop that, or set --bgp-listen-port"
                    )
                } else {
                    format!("peers are only dialled: {error} on port {port}")
                };
                if self.listen_problem.as_ref() != Some(&problem) {
                    tracing::warn!(problem);
                }
                self.listen_problem = Some(problem);
                self.listen_again = Some(Instant::now() + LISTEN_RETRY);
            }
        }
    }

    /// Sets the passwords of the shared port.
    fn sign(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        let want: BTreeMap<IpAddr, Password> = self
            .peers
            .values()
            .filter_map(|peer| Some((peer.settings.peer.ip(), peer.password.clone()?)))
            .collect();
        for peer in self.signed.keys().filter(|peer| !want.contains_key(peer)) {
            let _ = listener.set_password(*peer, None, None);
        }
        for (peer, password) in &want {
            if self.signed.get(peer) != Some(password)
                && let Err(error) = listener.set_password(*peer, None, Some(password.0.as_bytes()))
            {
                tracing::error!(%peer, %error, "connections of this peer can't be accepted");
            }
        }
        self.signed = want;
    }

    /// How all is, for the status and the metrics.
    fn report(&self) {
        let Some(orders) = self.inputs.orders.borrow().clone() else {
            return;
        };
        let mut peers: Vec<BGPSession> = self
            .ids
            .iter()
            .filter_map(|(name, id)| Some(self.session(name, *id, self.peers.get(id)?)))
            .collect();
        peers.extend(self.refused.iter().map(|(name, problem)| BGPSession {
            peer: name.clone(),
            state: "Idle".into(),
            since: Timestamp::UNIX_EPOCH.to_string(),
            problem: Some(problem.clone()),
            ..BGPSession::default()
        }));
        peers.sort_by(|one, two| one.peer.cmp(&two.peer));
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let up = peers.iter().filter(|p| p.state == "Established").count();
        let mut problems = orders.problems.clone();
        problems.extend(self.listen_problem.clone());
        let status = BGPStatusStatus {
            router_id: orders.router_id.to_string(),
            listen_port: self.listener.as_ref().map_or(0, BgpListener::port),
            configured: number(peers.len()),
            established: number(up),
            routes: number(self.routes.len()),
            problems,
            peers,
        };
        for peer in &status.peers {
            let told = usize::try_from(peer.prefixes_sent).unwrap_or(0);
            let up = peer.state == "Established";
            let updates = self
                .ids
                .get(&peer.peer)
                .and_then(|id| self.speaker.session(*id));
            let updates = updates.map_or(0, |session| session.counters().updates_sent);
            self.inputs
                .metrics
                .bgp
                .set(&peer.peer, up, told, updates, self.routes.len());
        }
        self.inputs.status.send_if_modified(|told| {
            let changed = told.as_ref() != Some(&status);
            *told = Some(status);
            changed
        });
    }

    fn session(&self, name: &str, id: PeerId, peer: &Peer) -> BGPSession {
        let session = self.speaker.session(id);
        let up = session.and_then(|session| session.established());
        let state = match session.map_or(State::Idle, herald_bgp::Session::state) {
            State::Established => "Established",
            State::Idle => "Idle",
            _ => "Active",
        };
        let terms = up.map(|(terms, _)| terms);
        let family = |family: Family| match family {
            Family::Ipv4 => "ipv4".to_owned(),
            Family::Ipv6 => "ipv6".to_owned(),
        };
        BGPSession {
            peer: name.to_owned(),
            address: Some(peer.settings.peer.ip().to_string()),
            port: Some(peer.settings.peer.port()),
            interface: None,
            state: state.into(),
            since: peer.since.to_string(),
            last_error: peer.last_error.clone(),
            problem: peer.settings.problem.clone(),
            prefixes_sent: i32::try_from(self.speaker.told(id)).unwrap_or(i32::MAX),
            families: terms.map_or_else(Vec::new, |t| t.families.iter().map(family).collect()),
            local_address: terms.map(|terms| terms.local_address.to_string()),
            remote_asn: terms.map(|terms| terms.peer_as),
            remote_router_id: terms.map(|terms| terms.peer_id.to_string()),
            remote_name: terms.and_then(|terms| terms.hostname.clone()),
            hold_time: terms.and_then(|terms| u32::try_from(terms.hold_time.as_secs()).ok()),
            graceful_restart: terms.is_some_and(|terms| terms.graceful_restart.is_some()),
            bfd: None,
        }
    }
}

fn when_ready(id: PeerId, connection: ConnectionId, stream: Arc<TcpStream>, read: bool) -> Ready {
    let interest = if read {
        Interest::READABLE
    } else {
        Interest::WRITABLE
    };
    Box::pin(async move {
        let _ = stream.ready(interest).await;
        (id, connection, read)
    })
}

/// Ends our side, and reads what still comes, so that the peer gets what was said.
async fn linger(stream: Arc<TcpStream>) {
    let _ = herald_net::shut(&stream, false);
    let mut buffer = vec![0; 1 << 12];
    let rest = async {
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(1..) => {}
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
    let _ = herald_net::shut(&stream, true);
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Only jitter depends on it.
    let _ = getrandom::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}
