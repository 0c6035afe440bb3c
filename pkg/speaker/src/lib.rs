//! Which VIP is announced where, and by what.
//!
//! ```text
//!  API ─watch──> index ──> duties (pure) ──watch channel──> coordinator <── netlink
//!                                                            │  views (pure)
//!     a thread of its own: one segment for each interface: <─┘
//!     segment (heartbeats, election) ──plan──> port (sockets, groups, announcer)
//!        │
//!        └─reports──> desk: status object, metrics, readiness
//! ```
//!
//! One task owns the index and says who may own what; on each segment the
//! speakers elect who does; a port answers and announces what its plan says. The
//! API may be away: the index keeps what it had, and so does everything behind
//! it.

mod beats;
mod bgp;
mod coordinator;
mod duties;
mod events;
#[cfg(test)]
mod frame_tests;
mod index;
mod keys;
mod metrics;
#[cfg(test)]
mod neighbor_tests;
#[cfg(test)]
mod netns;
mod node_object;
mod port;
mod report;
mod segment;
#[cfg(test)]
mod segment_tests;
mod stranded;
mod table;
mod throttle;
mod traps;
mod view;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use herald_api::{L2Status, L2StatusSpec};
use herald_net::Precedence;
use herald_telemetry::{Health, Registry};
use kube::Client;
use regex::Regex;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::sync::watch::channel;
use tokio_util::sync::CancellationToken;

use coordinator::{Coordinator, Decided};
use index::{Index, News};
use metrics::Metrics;
use node_object::NodeObject;
use report::Desk;
use segment::Common;
use stranded::Stranded;

pub use bgp::BgpConfig;
pub use duties::L2Defaults;
pub use herald_l2::{Profile as Announcing, Rate};

/// How a speaker is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node it runs on.
    pub node: String,
    /// Namespace of the speakers' pods and of Herald's objects.
    pub namespace: String,
    /// Whether Services without a loadBalancerClass are its own.
    pub handle_unclassed: bool,
    /// Interfaces whose name matches one of these are never announced on.
    pub exclude_interfaces: Vec<Regex>,
    /// What advertisements leave open. The same on all nodes.
    pub l2: L2Defaults,
    /// Heartbeats go to each peer's address, where a network blocks multicast.
    pub unicast: bool,
    /// How long VIPs are still answered for after the order to stop, while no
    /// successor is heard.
    pub drain_timeout: Duration,
    /// How fast and how often addresses are announced.
    pub announcing: Announcing,
    /// Whether to check that what other nodes own is answered for.
    pub check: bool,
    /// How BGP is spoken with the peers that there are.
    pub bgp: BgpConfig,
}

/// Why a speaker stopped.
#[derive(Debug, Error)]
pub enum SpeakerError {
    /// The node's interfaces can't be followed.
    #[error(transparent)]
    Links(#[from] herald_net::LinkError),
    /// The thread of the segments can't be started.
    #[error("cannot start a thread for the segments")]
    Thread(#[source] std::io::Error),
    /// The thread of the segments broke off.
    #[error("the thread of the segments ended unexpectedly; its last words are in the log")]
    Broken,
}

/// Announces until `stop` is cancelled and every VIP is handed over. `health`
/// turns ready when this speaker can own addresses, and unready with `stop`.
/// Must run within a tokio runtime.
pub async fn run(
    client: Client,
    config: Config,
    metrics: SpeakerMetrics,
    health: Health,
    stop: CancellationToken,
) -> Result<(), SpeakerError> {
    let news = watch::start(&client, &config);
    let keys = keys::start(&client, &config.namespace);
    let notes = events::start(client.clone(), &config.node);
    let (publish, decided) = channel(Decided::default());
    let (uid, node_uid) = channel(String::new());
    let (order, orders) = channel(None);
    let throttled = throttle::follow(
        metrics.0.clone(),
        config.node.clone(),
        node_uid.clone(),
        events::start(client.clone(), &config.node),
    );
    let bgp = tokio::spawn(bgp::run(bgp::Parts {
        notes: events::start(client.clone(), &config.node),
        client: client.clone(),
        node: config.node.clone(),
        namespace: config.namespace.clone(),
        config: config.bgp,
        orders,
        uid: node_uid.clone(),
        metrics: metrics.0.clone(),
        stop: stop.clone(),
    }));
    let (reports, reported) = mpsc::unbounded_channel();
    let (strays, straying) = mpsc::unbounded_channel();
    let desk = Desk {
        object: NodeObject::new(
            client,
            &config.namespace,
            config.node.clone(),
            node_uid,
            |name| L2Status::new(name, L2StatusSpec {}),
        ),
        health,
        metrics: metrics.0.clone(),
        stop: stop.clone(),
    };
    let common = Common {
        node: config.node.clone(),
        profile: duties::profile(config.l2.profile),
        unicast: config.unicast,
        drain_timeout: config.drain_timeout,
        announcing: config.announcing,
        check: config.check,
        keys,
        notes: notes.clone(),
        reports,
        strays,
        metrics: metrics.0.clone(),
        sessions: Arc::new(Mutex::new(BTreeMap::new())),
    };
    let exclude = config.exclude_interfaces.clone();
    let segments = on_a_thread(move || {
        Coordinator::new(common, straying, exclude, decided, stop).map(Coordinator::run)
    });
    let decide = Decide {
        defaults: config.l2,
        stranded: Stranded::new(config.node.clone(), notes),
        node: config.node,
        publish,
        order,
        uid,
    };
    let desk = tokio::spawn(desk.keep(reported));
    // Both hand over at the same time, and neither is cut short by the other.
    let ended = async {
        let result = segments.await;
        if result.is_ok() {
            let _ = bgp.await;
        }
        result
    };
    let result = tokio::select! {
        result = ended => result,
        () = decide.run(news) => Ok(()),
        () = throttled => Ok(()),
    };
    // The last thing to be told is that nothing is announced any more.
    let _ = tokio::time::timeout(LAST_WORD, desk).await;
    result
}

/// The duties are computed from all that is known. After that nothing is computed for so
/// many times as long as it took, so that thousands of changes one after the other,
/// among thousands of Services, leave the node its processors.
const REST: u32 = 4;
/// It is never longer than this.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// How long the end waits for the API to take in the last status.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Runs a task on a thread and a runtime of its own, so that whatever keeps the
/// others busy does not delay it.
async fn on_a_thread<T>(
    task: impl FnOnce() -> Result<T, SpeakerError> + Send + 'static,
) -> Result<(), SpeakerError>
where
    T: Future<Output = Result<(), SpeakerError>>,
{
    let (ended, end) = tokio::sync::oneshot::channel();
    let body = move || {
        match herald_net::take_precedence() {
            Precedence::None => {
                tracing::debug!("heartbeats have no precedence over other programs of this node");
            }
            given => tracing::info!(?given, "heartbeats have precedence"),
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(SpeakerError::Thread);
        let result = runtime.and_then(|runtime| runtime.block_on(async { task()?.await }));
        let _ = ended.send(result);
    };
    thread::Builder::new()
        .name("segments".into())
        .spawn(body)
        .map_err(SpeakerError::Thread)?;
    end.await.unwrap_or(Err(SpeakerError::Broken))
}

/// The speaker's metrics, registered.
#[derive(Clone, Debug)]
pub struct SpeakerMetrics(Arc<Metrics>);

impl SpeakerMetrics {
    /// Registers them under the prefix `herald`.
    pub fn register(registry: &mut Registry) -> Self {
        Self(Arc::new(Metrics::register(registry)))
    }
}

/// Owns the index, and computes the duties anew whenever something that they
/// rest on has changed.
struct Decide {
    node: String,
    defaults: L2Defaults,
    stranded: Stranded,
    publish: tokio::sync::watch::Sender<Decided>,
    order: tokio::sync::watch::Sender<Option<Arc<bgp::Orders>>>,
    uid: tokio::sync::watch::Sender<String>,
}

impl Decide {
    async fn run(mut self, mut news: mpsc::Receiver<News>) {
        let mut index = Index::default();
        let mut batch = Vec::new();
        let mut complete = false;
        while news.recv_many(&mut batch, usize::MAX).await > 0 {
            // Changes that came together are answered together.
            let mut changed = false;
            for news in batch.drain(..) {
                changed |= index.take(news);
            }
            if !index.is_complete() {
                continue;
            }
            if !std::mem::replace(&mut complete, true) {
                tracing::info!(node = self.node, "in step with the API");
            }
            if changed {
                let begin = Instant::now();
                if index.is_bgp_complete() {
                    self.order(&index);
                }
                self.decide(&index);
                // What comes meanwhile is answered together.
                tokio::time::sleep((begin.elapsed() * REST).min(LONGEST_REST)).await;
            } else {
                self.publish.send_if_modified(|decided| {
                    std::mem::replace(&mut decided.number, index.number) != index.number
                });
            }
        }
    }

    /// What BGP is to do; told when it is another thing.
    fn order(&self, index: &Index) {
        if let Some(orders) = bgp::orders(index, &self.node) {
            self.order.send_if_modified(|before| {
                let changed = before.as_deref() != Some(&orders);
                if changed {
                    *before = Some(Arc::new(orders));
                }
                changed
            });
        }
    }

    fn decide(&mut self, index: &Index) {
        if let Some(me) = index.nodes.known().get(&self.node) {
            self.uid.send_if_modified(|uid| {
                let changed = *uid != me.uid;
                uid.clone_from(&me.uid);
                changed
            });
        }
        let duties = duties::compute(index, self.defaults);
        self.stranded.follow(&duties);
        self.publish.send_modify(|decided| {
            decided.number = index.number;
            if decided.duties.as_deref() != Some(&duties) {
                decided.duties = Some(Arc::new(duties));
            }
        });
    }
}
