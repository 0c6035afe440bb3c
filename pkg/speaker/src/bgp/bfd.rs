//! BFD with the peers, on a thread of its own.
//!
//! A detection time is a few lost packets long, so that nothing may come between a
//! session and its clock: this thread does no more than packets. It writes no log and
//! asks no API, and it waits for nobody; what it has to say, it says through a channel
//! without a bound, and BGP's thread, which hears it, does the rest.

mod sockets;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_api::BFDSession;
use herald_bfd::{Diagnostic, Event, Hops, Path, SessionConfig, SessionId, Sessions};
use herald_net::BfdSender;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::metrics::Metrics;
use sockets::{Far, Port, Sockets};

/// What could not be opened is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);
/// Between two looks at the counters.
const MEASURE: Duration = Duration::from_secs(1);
/// Peers are told for so long at most that we end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The way that a session watches. BGP sessions with one peer have it in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub(super) peer: IpAddr,
    pub(super) local: Option<IpAddr>,
    /// Index of the interface, where the peer's address needs one.
    pub(super) interface: Option<u32>,
    /// The VRF.
    pub(super) device: Option<String>,
    /// Of a peer behind routers: the smallest TTL that is taken.
    pub(super) minimum_ttl: Option<u8>,
}

impl Way {
    fn path(&self) -> Path {
        Path {
            peer: self.peer,
            local: self.local,
            interface: self.interface,
            hops: self
                .minimum_ttl
                .map_or(Hops::Single, |minimum_ttl| Hops::Multi { minimum_ttl }),
        }
    }

    const fn port(&self) -> Port {
        Port::new(self.peer.is_ipv6(), self.minimum_ttl.is_some())
    }

    /// What a packet with this TTL comes from too far for, in words; none where it is
    /// near enough.
    fn too_far(&self, ttl: u8) -> Option<String> {
        let came = format!("the peer's packets come with a TTL of {ttl}");
        match self.minimum_ttl {
            Some(least) if ttl < least => Some(format!(
                "{came}, and none below {least} is taken: set minimumTtl of the BFDProfile to {ttl}"
            )),
            None if ttl < 255 => Some(format!(
                "{came}, as if from behind a router: set bfdMultiHop where it is, or have the \
                 peer take this node for a neighbor on the link"
            )),
            _ => None,
        }
    }
}

/// How a way is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) config: SessionConfig,
    /// Whether to hold the session down, which says nothing of the path.
    pub(super) admin_down: bool,
    /// Whose way it is, for the metrics.
    pub(super) names: Vec<String>,
}

/// All that is watched.
pub(super) type Wanted = BTreeMap<Way, Watched>;

/// A session is in another state.
#[derive(Clone, Debug)]
pub(super) struct News {
    pub(super) way: Way,
    pub(super) session: BFDSession,
    /// Whether the path has failed.
    pub(super) failed: bool,
}

/// BGP's end. When it is dropped, peers are told so, and the thread ends.
pub(super) struct Client {
    wanted: watch::Sender<Wanted>,
    news: mpsc::UnboundedReceiver<News>,
    sessions: BTreeMap<Way, BFDSession>,
}

impl Client {
    /// Has these ways watched, and no others.
    pub(super) fn watch(&mut self, wanted: Wanted) {
        self.sessions.retain(|way, _| wanted.contains_key(way));
        self.wanted.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }

    /// What is new. None when the thread has broken off.
    pub(super) async fn news(&mut self) -> Option<News> {
        loop {
            let news = self.news.recv().await?;
            let known = self.sessions.get(&news.way);
            let same = known.is_some_and(|known| {
                known.state == news.session.state && known.diagnostic == news.session.diagnostic
            });
            // It may have been let go meanwhile.
            if !same && self.wanted.borrow().contains_key(&news.way) {
                self.sessions.insert(news.way.clone(), news.session.clone());
                return Some(news);
            }
        }
    }

    /// How the session of a way is.
    pub(super) fn session(&self, way: &Way) -> Option<BFDSession> {
        self.sessions.get(way).cloned()
    }
}

/// Starts the thread. The receiver tells when it has ended.
pub(super) fn start(metrics: Arc<Metrics>) -> (Client, oneshot::Receiver<()>) {
    let (wanted, want) = watch::channel(Wanted::new());
    let (tell, news) = mpsc::unbounded_channel();
    let (ended, end) = oneshot::channel();
    let body = move || {
        herald_net::take_precedence();
        match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime.block_on(Watcher::new(metrics, want, tell).run()),
            Err(error) => tracing::error!(%error, "no BFD: its thread has no runtime"),
        }
        let _ = ended.send(());
    };
    if let Err(error) = std::thread::Builder::new().name("bfd".into()).spawn(body) {
        tracing::error!(%error, "no BFD: its thread can't be started");
    }
    let sessions = BTreeMap::new();
    let client = Client {
        wanted,
        news,
        sessions,
    };
    (client, end)
}

struct Known {
    id: SessionId,
    watched: Watched,
}

struct Watcher {
    metrics: Arc<Metrics>,
    wanted: watch::Receiver<Wanted>,
    tell: mpsc::UnboundedSender<News>,
    sessions: Sessions,
    sockets: Sockets,
    known: BTreeMap<Way, Known>,
    ways: HashMap<SessionId, Way>,
    /// Whose packets were dropped for their TTL, which is told once.
    too_far: BTreeSet<Way>,
    /// When to try again what could not be opened.
    again: Option<Instant>,
    measure_at: Option<Instant>,
    /// When to end, whatever peers were told.
    until: Option<Instant>,
}

impl Watcher {
    fn new(
        metrics: Arc<Metrics>,
        wanted: watch::Receiver<Wanted>,
        tell: mpsc::UnboundedSender<News>,
    ) -> Self {
        Self {
            metrics,
            wanted,
            tell,
            sessions: Sessions::new(super::seed()),
            sockets: Sockets::default(),
            known: BTreeMap::new(),
            ways: HashMap::new(),
            too_far: BTreeSet::new(),
            again: None,
            measure_at: None,
            until: None,
        }
    }

    async fn run(mut self) {
        loop {
            let due = [
                self.sessions.poll_timeout(),
                self.again,
                self.measure_at,
                self.until,
            ];
            let due = due.into_iter().flatten().min();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.wanted.changed(), if self.until.is_none() => {
                    if changed.is_ok() {
                        self.follow();
                    } else {
                        self.end();
                    }
                }
                () = self.sockets.readable() => {}
                () = timer => {}
            }
            self.turn();
            if let Some(until) = self.until
                && (self.sessions.ids().next().is_none() || until <= Instant::now())
            {
                return;
            }
        }
    }

    fn turn(&mut self) {
        let now = Instant::now();
        self.sessions.turn(&mut self.sockets, Instant::now);
        if let Some(far) = self.sockets.dropped.take() {
            self.came_from_afar(&far);
        }
        while let Some((id, event)) = self.sessions.poll_event() {
            self.changed(id, event);
        }
        if self.again.is_some_and(|at| at <= now) {
            self.follow();
        }
        if self.measure_at.is_some_and(|at| at <= now) {
            self.measure();
        }
    }

    /// Packets of a peer were dropped: where its session is not up, that may be why.
    fn came_from_afar(&mut self, far: &Far) {
        let mut known = self.known.iter();
        let Some((way, known)) =
            known.find(|(way, _)| way.peer == far.source && way.port() == far.port)
        else {
            return;
        };
        let state = self.sessions.get(known.id).map(herald_bfd::Session::state);
        if let Some(state) = state.filter(|state| *state != herald_bfd::State::Up)
            && let Some(why) = way.too_far(far.ttl)
            && self.too_far.insert(way.clone())
        {
            self.say(way, state, Some(why), false);
        }
    }

    fn changed(&mut self, id: SessionId, event: Event) {
        if let Some(way) = self.ways.get(&id) {
            if event.to == herald_bfd::State::Up {
                self.too_far.remove(way);
            }
            self.say(way, event.to, words(event), event.is_failure());
        }
    }

    fn say(&self, way: &Way, state: herald_bfd::State, why: Option<String>, failed: bool) {
        let _ = self.tell.send(News {
            way: way.clone(),
            session: BFDSession {
                state: state.to_string(),
                since: Timestamp::now().to_string(),
                diagnostic: why,
            },
            failed,
        });
    }

    /// Makes the sessions what is wanted.
    fn follow(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        let now = Instant::now();
        self.again = None;
        let gone = |way: &&Way| !wanted.contains_key(*way);
        let gone: Vec<Way> = self.known.keys().filter(gone).cloned().collect();
        for way in gone {
            self.retire(&way, now);
        }
        for (way, watched) in wanted {
            if let Err(problem) = self.set(&way, watched, now) {
                self.say(&way, herald_bfd::State::Down, Some(problem), false);
                self.again = Some(now + RETRY);
            }
        }
        let known = &self.known;
        self.sockets
            .listen_only(|port| known.keys().any(|way| way.port() == port));
        self.measure();
    }

    fn set(&mut self, way: &Way, watched: Watched, now: Instant) -> Result<(), String> {
        let Some(known) = self.known.get_mut(way) else {
            return self.begin(way, watched, now);
        };
        if known.watched.config != watched.config {
            let set = self.sessions.set_config(known.id, watched.config, now);
            set.map_err(|error| error.to_string())?;
        }
        self.sessions
            .set_admin_down(known.id, watched.admin_down, now);
        for name in &known.watched.names {
            if !watched.names.contains(name) {
                self.metrics.bfd.forget(name);
            }
        }
        known.watched = watched;
        Ok(())
    }

    fn begin(&mut self, way: &Way, watched: Watched, now: Instant) -> Result<(), String> {
        self.sockets.listen(way.port())?;
        let sender = BfdSender::open(
            way.peer,
            way.local,
            way.interface,
            way.device.as_deref(),
            way.port().multihop,
        )
        .map_err(|error| format!("no packets can be sent to {}: {error}", way.peer))?;
        let added = self.sessions.add(way.path(), watched.config, now);
        let id = added.map_err(|error| error.to_string())?;
        self.sessions.set_admin_down(id, watched.admin_down, now);
        self.sockets.senders.insert(id, sender);
        self.ways.insert(id, way.clone());
        self.known.insert(way.clone(), Known { id, watched });
        Ok(())
    }

    fn retire(&mut self, way: &Way, now: Instant) {
        self.too_far.remove(way);
        if let Some(known) = self.known.remove(way) {
            // Who has not been heard is not told.
            let session = self.sessions.get(known.id);
            if session.is_some_and(|session| session.state() == herald_bfd::State::Down) {
                self.sessions.remove(known.id);
            } else {
                self.sessions.retire(known.id, now);
            }
            for name in &known.watched.names {
                self.metrics.bfd.forget(name);
            }
        }
    }

    fn end(&mut self) {
        let now = Instant::now();
        let ways: Vec<Way> = self.known.keys().cloned().collect();
        for way in ways {
            self.retire(&way, now);
        }
        self.again = None;
        self.until = Some(now + LAST_WORDS);
    }

    fn measure(&mut self) {
        let sessions = &self.sessions;
        self.sockets
            .senders
            .retain(|id, _| sessions.get(*id).is_some());
        self.ways.retain(|id, _| sessions.get(*id).is_some());
        for known in self.known.values() {
            let session = self.sessions.get(known.id);
            let counters = self.sessions.counters(known.id);
            if let (Some(session), Some(counters)) = (session, counters) {
                let up = session.state() == herald_bfd::State::Up;
                for name in &known.watched.names {
                    self.metrics.bfd.set(name, up, counters);
                }
            }
        }
        self.measure_at = (!self.sockets.senders.is_empty()).then(|| Instant::now() + MEASURE);
    }
}

/// Why a session is not up.
fn words(event: Event) -> Option<String> {
    if event.to == herald_bfd::State::Up || event.diagnostic == Diagnostic::NONE {
        return None;
    }
    if event.diagnostic == Diagnostic::NEIGHBOR_SIGNALED_DOWN
        && event.remote_diagnostic != Diagnostic::NONE
    {
        return Some(format!("{}: {}", event.diagnostic, event.remote_diagnostic));
    }
    Some(event.diagnostic.to_string())
}

#[cfg(test)]
mod tests;
