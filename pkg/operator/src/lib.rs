//! Services to provider to status: the reconciler.
//!
//! ```text
//!   API ──watch──> stores ──keys──> queue ──key──> worker: provider.reconcile
//!                                     ^               │          │
//!                                     └── back-off ───┘          v
//!   lease ──fence──────────────────────────────────────> status, condition, event
//! ```
//!
//! One task owns the queue and what is known of each Service; workers are given
//! one key at a time, never the same one twice at once. Every replica follows
//! the API; only the holder of the lease works, and each write asks the fence.

mod conditions;
mod controller;
mod endpoints;
mod gates;
mod heartbeat_keys;
pub mod lease;
mod metrics;
mod obstacles;
mod pool_status;
mod pools;
mod queue;
mod reconcile;
mod request;
mod stores;
mod writer;

use std::sync::Arc;

use herald_ipam::{AddressPools, Obstacle};
use herald_provider::DynProvider;
use herald_telemetry::Health;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, ListParams};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use lease::{LeaseConfig, LeaseError};
pub use metrics::OperatorMetrics;

/// How an operator is set up.
pub struct Config {
    /// Namespace of Herald's objects and of the lease.
    pub namespace: String,
    /// Providers that take Services by their class.
    pub providers: Vec<Arc<dyn DynProvider>>,
    /// Name of the provider that takes Services without a class, if any.
    pub default_provider: Option<String>,
    /// What hands out addresses from pools, if a provider does.
    pub pools: Option<Arc<dyn AddressPools>>,
    /// Addresses that the cluster uses and that its objects do not tell.
    pub obstacles: Vec<Obstacle>,
    /// Labels of the nodes that load balancers outside the cluster get, as a
    /// selector; empty means all.
    pub node_selector: String,
    /// Print plans, change nothing.
    pub dry_run: bool,
    /// Leader election.
    pub lease: LeaseConfig,
}

/// Why an operator stopped.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// The lease could not be kept.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// What exists could not be read at the start of the term.
    #[error("cannot read what exists before serving anything new")]
    Start(#[source] kube::Error),
    /// `--node-selector` is no label selector.
    #[error("--node-selector {selector:?}: {message}")]
    NodeSelector {
        /// What was given.
        selector: String,
        /// What is wrong.
        message: String,
    },
}

/// Works until `stop` is cancelled, or the lease is lost.
pub async fn run(
    client: Client,
    config: Config,
    registry: OperatorMetrics,
    health: Health,
    stop: CancellationToken,
) -> Result<(), OperatorError> {
    // The API may be away for long; being told to stop must not wait for it.
    let Some(stores) = stop.run_until_cancelled(follow(&client, &config)).await else {
        return Ok(());
    };
    let stores = stores?;
    health.set_ready(true);
    let (fence, keeper) = lease::acquire(&client, &config.lease, &stop).await?;
    let Some(keeper) = keeper else { return Ok(()) };
    registry.set_leader(true);
    let controller = controller::Controller::new(client, config, stores, fence, registry);
    let done = CancellationToken::new();
    let mut keeping = tokio::spawn(keeper.keep(done.clone()));
    tokio::select! {
        worked = controller.run(stop) => {
            done.cancel();
            joined(keeping.await)?;
            worked
        }
        // It ends before it is told to only if the lease is lost.
        kept = &mut keeping => Ok(joined(kept)?),
    }
}

/// Follows the API; returns when every list has been complete once.
async fn follow(client: &Client, config: &Config) -> Result<stores::Stores, OperatorError> {
    check_node_selector(client, &config.node_selector).await?;
    let endpoints = config.providers.iter().any(|p| p.follows_endpoints());
    let mut stores =
        stores::Stores::start(client, &config.namespace, &config.node_selector, endpoints);
    if config.pools.is_some() {
        stores.follow_service_cidrs(client).await;
    }
    stores.ready().await;
    Ok(stores)
}

fn joined(kept: Result<Result<(), LeaseError>, tokio::task::JoinError>) -> Result<(), LeaseError> {
    kept.unwrap_or(Err(LeaseError::Lost))
}

/// A wrong selector would otherwise only show as a list that never comes.
async fn check_node_selector(client: &Client, selector: &str) -> Result<(), OperatorError> {
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes
        .list(&ListParams::default().labels(selector).limit(1))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 400 => Err(OperatorError::NodeSelector {
            selector: selector.to_owned(),
            message: status.message.clone(),
        }),
        // Anything else may pass; the watch tries again and says so.
        _ => Ok(()),
    }
}
