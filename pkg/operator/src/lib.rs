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

mod bgp_status;
mod bgp_validity;
mod conditions;
mod controller;
#[cfg(test)]
mod crash_tests;
mod endpoints;
mod events;
mod fenced;
mod gates;
mod heartbeat_keys;
pub mod lease;
mod metallb;
mod metrics;
mod obstacles;
mod pool_status;
mod pools;
mod queue;
mod reconcile;
#[cfg(test)]
mod reconcile_tests;
mod request;
#[cfg(test)]
mod simulated;
mod stores;
#[cfg(test)]
mod upgrade_tests;
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
pub use metallb::{MigrateError, Migration, migrate};
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
    /// Namespace of `MetalLB`, whose objects are copied into Herald's, if they are.
    pub adopt_metallb: Option<String>,
    /// Whether other operators serve the classes that this one does not.
    pub other_operators: bool,
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
    /// There is no way to write to the API.
    #[error("cannot make a client of the API server for writes")]
    Client(#[source] kube::Error),
    /// `--node-selector` is no label selector.
    #[error("--node-selector {selector:?}: {message}")]
    NodeSelector {
        /// What was given.
        selector: String,
        /// What is wrong.
        message: String,
    },
}

/// Works until `stop` is cancelled: leads whenever it holds the lease, waits with a
/// warm view of the cluster whenever it does not.
pub async fn run(
    client: Client,
    api: kube::Config,
    config: Config,
    registry: OperatorMetrics,
    health: Health,
    stop: CancellationToken,
) -> Result<(), OperatorError> {
    // The API may be away for long; being told to stop must not wait for it.
    let Some(stores) = stop.run_until_cancelled(follow(&client, &config)).await else {
        return Ok(());
    };
    let mut stores = stores?;
    health.set_ready(true);
    loop {
        let acquired = tokio::select! {
            acquired = lease::acquire(&client, &config.lease, &stop) => acquired?,
            // The stores have it; a term begins with all of them.
            () = stores.forget_changes() => continue,
        };
        let (fence, Some(keeper)) = acquired else {
            return Ok(());
        };
        registry.set_leader(true);
        // What was sent must not arrive after another may lead.
        let delivery = config
            .lease
            .duration
            .saturating_sub(config.lease.renew_deadline);
        let writes =
            fenced::client(&api, fence.clone(), delivery).map_err(OperatorError::Client)?;
        let controller =
            controller::Controller::new(&client, &writes, &config, stores, fence, registry.clone());
        let done = CancellationToken::new();
        let lost = CancellationToken::new();
        let keeping = tokio::spawn({
            let (done, lost) = (done.clone(), lost.clone());
            async move {
                let kept = keeper.keep(done).await;
                lost.cancel();
                kept
            }
        });
        stores = controller.run(&stop, &lost).await;
        registry.set_leader(false);
        done.cancel();
        match joined(keeping.await) {
            Ok(()) => return Ok(()),
            Err(error) => tracing::warn!("{error}"),
        }
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
