//! Which VIP is announced where, and by what.
//!
//! ```text
//!  API ─watch──> index ──> duties (pure) ──watch channel──> coordinator <── netlink
//!                                                            │      ^
//!                        one task for each interface: <──plan┘      │
//!                        port (sockets, groups, announcer) ──events─┘
//! ```
//!
//! One task owns the index and decides who owns what; one decides what is held
//! on which interface; a port answers and announces what its plan says. The
//! API may be away: the index keeps what it had, and so does everything behind
//! it.

mod coordinator;
mod duties;
mod events;
mod index;
mod metrics;
#[cfg(test)]
mod neighbor_tests;
mod port;
#[cfg(test)]
mod segment_tests;
mod table;
mod traps;
mod watch;

use std::sync::Arc;
use std::time::Duration;

pub use herald_l2::{Profile, Rate};
use herald_telemetry::{Health, Registry};
use kube::Client;
use regex::Regex;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::sync::watch::channel;
use tokio_util::sync::CancellationToken;

use coordinator::Coordinator;
use duties::Duties;
use index::{Change, Index};
use metrics::Metrics;

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
    /// How long VIPs are still answered for after the order to stop, while no
    /// successor is heard.
    pub drain_timeout: Duration,
    /// How fast and how often addresses are announced.
    pub announcing: Profile,
    /// Whether to check that what other nodes own is answered for.
    pub check: bool,
}

/// Why a speaker stopped.
#[derive(Debug, Error)]
pub enum SpeakerError {
    /// The node's interfaces can't be followed.
    #[error(transparent)]
    Links(#[from] herald_net::LinkError),
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
    let changes = watch::start(&client, &config);
    let (publish, duties) = channel(Arc::<Duties>::default());
    let notes = events::start(client, &config.node);
    let node = config.node.clone();
    let coordinator = Coordinator::new(config, duties, notes, metrics.0, stop.clone())?;
    tokio::select! {
        result = coordinator.run() => result,
        () = decide(changes, &node, publish, health, stop) => Ok(()),
    }
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
async fn decide(
    mut changes: mpsc::Receiver<Change>,
    node: &str,
    publish: tokio::sync::watch::Sender<Arc<Duties>>,
    health: Health,
    stop: CancellationToken,
) {
    let mut index = Index::default();
    let mut batch = Vec::new();
    let mut complete = false;
    loop {
        tokio::select! {
            taken = changes.recv_many(&mut batch, usize::MAX) => {
                if taken == 0 {
                    return;
                }
            }
            () = stop.cancelled(), if health.is_ready() => {
                health.set_ready(false);
                continue;
            }
        }
        // Changes that came together are answered together.
        let mut changed = false;
        for change in batch.drain(..) {
            changed |= index.apply(change);
        }
        if !changed || !index.is_complete() {
            continue;
        }
        let first = !std::mem::replace(&mut complete, true);
        if first {
            tracing::info!(node, "in step with the API");
            health.set_ready(!stop.is_cancelled());
        }
        let now = duties::compute(&index, node);
        publish.send_if_modified(|before| {
            let changed = **before != now;
            if changed {
                *before = Arc::new(now);
            }
            // That there is nothing is news the first time.
            changed || first
        });
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors hold their cause's text already.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
