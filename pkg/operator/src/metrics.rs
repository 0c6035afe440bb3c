//! The operator's metrics.

use std::sync::Arc;

use herald_telemetry::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Which addresses of a pool.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct PoolLabel {
    pub(crate) pool: String,
    pub(crate) family: &'static str,
    /// `assigned` or `available`.
    pub(crate) state: &'static str,
}

/// Which pool.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct PoolName {
    pub(crate) pool: String,
}

/// Why work on a Service failed or its request was refused.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub(crate) reason: String,
}

#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) leader: Gauge,
    pub(crate) queue: Gauge,
    pub(crate) pool_addresses: Family<PoolLabel, Gauge>,
    pub(crate) pool_waiting: Family<PoolName, Gauge>,
    pub(crate) allocations: Counter,
    pub(crate) reconcile_seconds: Histogram,
    pub(crate) reconcile_errors: Family<ReasonLabel, Counter>,
    pub(crate) status_writes: Counter,
}

/// The operator's metrics, registered.
#[derive(Clone, Debug)]
pub struct OperatorMetrics(pub(crate) Arc<Metrics>);

impl OperatorMetrics {
    /// Registers them under the prefix `herald`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Metrics {
            leader: Gauge::default(),
            queue: Gauge::default(),
            pool_addresses: Family::default(),
            pool_waiting: Family::default(),
            allocations: Counter::default(),
            reconcile_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            reconcile_errors: Family::default(),
            status_writes: Counter::default(),
        };
        let root = registry.sub_registry_with_prefix("herald");
        root.register(
            "pool_addresses",
            "Addresses of a pool by family and state (assigned, available)",
            metrics.pool_addresses.clone(),
        );
        root.register(
            "pool_waiting_services",
            "Services that wait for an address of a pool",
            metrics.pool_waiting.clone(),
        );
        root.register(
            "allocations",
            "Load balancers that became ready",
            metrics.allocations.clone(),
        );
        let operator = registry.sub_registry_with_prefix("herald_operator");
        operator.register(
            "leader",
            "1 on the replica that leads",
            metrics.leader.clone(),
        );
        operator.register(
            "queue_length",
            "Services that wait their turn",
            metrics.queue.clone(),
        );
        operator.register(
            "reconcile_seconds",
            "Time to bring one Service to its desired state",
            metrics.reconcile_seconds.clone(),
        );
        operator.register(
            "reconcile_errors",
            "Failed or refused attempts, by reason",
            metrics.reconcile_errors.clone(),
        );
        operator.register(
            "status_writes",
            "Writes of status, of Services and pools",
            metrics.status_writes.clone(),
        );
        Self(Arc::new(metrics))
    }

    pub(crate) fn set_leader(&self, leader: bool) {
        self.0.leader.set(i64::from(leader));
    }
}
