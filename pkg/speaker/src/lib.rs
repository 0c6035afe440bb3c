//! Which VIP is announced where, and by what.
//!
//! ```text
//!   API ──watch──> stores ──changed──> duties (pure) ──watch channel──> coordinator
//!                                                                        │   ^
//!                               one task for each interface: port <──set─┘   │
//!                               sockets, announcer ───────claims─────────────┘
//! ```
//!
//! The coordinator alone decides what is held; a port answers and announces
//! what it is told. The API may be away: the stores keep what they had, and so
//! does everything behind them.

mod coordinator;
mod duties;
mod events;
mod metrics;
mod port;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use herald_telemetry::{Health, Registry};
use kube::Client;
use thiserror::Error;
use tokio::sync::watch::channel;
use tokio_util::sync::CancellationToken;

use coordinator::Coordinator;
use duties::Duties;
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
    /// Interfaces whose name begins with one of these are never announced on.
    pub exclude_interfaces: Vec<String>,
    /// How long VIPs are still answered for after the order to stop, while no
    /// successor is heard.
    pub drain_timeout: Duration,
}

/// Why a speaker stopped.
#[derive(Debug, Error)]
pub enum SpeakerError {
    /// The node's interfaces can't be followed.
    #[error(transparent)]
    Links(#[from] herald_net::LinkError),
}

/// Announces until `stop` is cancelled and every VIP is handed over.
pub async fn run(
    client: Client,
    config: Config,
    metrics: SpeakerMetrics,
    health: Health,
    stop: CancellationToken,
) -> Result<(), SpeakerError> {
    let stores = watch::Stores::start(&client, &config.namespace);
    let (publish, duties) = channel(Duties::default());
    let notes = events::start(client, &config.node);
    let coordinator =
        Coordinator::new(config.clone(), duties, notes, metrics.0.clone(), stop.clone())?;
    let deciding = decide(stores, config, publish, health, stop);
    tokio::select! {
        result = coordinator.run() => result,
        () = deciding => Ok(()),
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

/// Computes the duties anew whenever something they rest on has changed.
async fn decide(
    stores: watch::Stores,
    config: Config,
    publish: tokio::sync::watch::Sender<Duties>,
    health: Health,
    stop: CancellationToken,
) {
    // Before all lists are in, a missing object would look like a deleted one.
    stores.ready().await;
    health.set_ready(!stop.is_cancelled());
    tracing::info!(node = config.node, "in step with the API");
    loop {
        let draining = stop.is_cancelled();
        let view = stores.view(&config, draining);
        let now = duties::compute(&view);
        publish.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        tokio::select! {
            () = stores.changed() => {}
            () = stop.cancelled(), if !draining => health.set_ready(false),
        }
    }
}
