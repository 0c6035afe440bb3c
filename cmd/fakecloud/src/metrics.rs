//! Metrics of the pretend cloud.

use std::collections::BTreeMap;

use herald_telemetry::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::faults::Operation;
use crate::wire::LoadBalancerState;

/// Labels of finished calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    operation: String,
    outcome: String,
}

/// Label of load balancers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// All metrics; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    calls: Family<CallLabels, Counter>,
    load_balancers: Family<StateLabel, Gauge>,
    /// TCP connections taken from clients.
    pub connections: Counter,
    /// TCP connections being carried.
    pub connections_open: Gauge,
    /// TCP connections reset because no target took them.
    pub connections_refused: Counter,
    /// UDP flows begun.
    pub flows: Counter,
    /// UDP flows that exist.
    pub flows_open: Gauge,
    /// UDP datagrams dropped: no healthy target, or too many flows.
    pub datagrams_dropped: Counter,
}

impl Metrics {
    /// Registers everything under `herald_fakecloud_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("herald_fakecloud");
        registry.register(
            "calls",
            "API calls by operation and outcome",
            self.calls.clone(),
        );
        registry.register(
            "load_balancers",
            "Load balancers by state",
            self.load_balancers.clone(),
        );
        registry.register(
            "tcp_connections",
            "TCP connections taken from clients",
            self.connections.clone(),
        );
        registry.register(
            "tcp_connections_open",
            "TCP connections being carried",
            self.connections_open.clone(),
        );
        registry.register(
            "tcp_connections_refused",
            "TCP connections reset because no target took them",
            self.connections_refused.clone(),
        );
        registry.register("udp_flows", "UDP flows begun", self.flows.clone());
        registry.register(
            "udp_flows_open",
            "UDP flows that exist",
            self.flows_open.clone(),
        );
        registry.register(
            "udp_datagrams_dropped",
            "UDP datagrams dropped for want of a healthy target or of room for a flow",
            self.datagrams_dropped.clone(),
        );
    }

    /// Counts a finished call.
    pub fn call(&self, operation: Operation, outcome: &str) {
        self.calls
            .get_or_create(&CallLabels {
                operation: operation.to_string(),
                outcome: outcome.to_owned(),
            })
            .inc();
    }

    /// Sets how many load balancers there are in each state.
    pub fn set_load_balancers(&self, counts: &BTreeMap<LoadBalancerState, i64>) {
        let states = [
            (LoadBalancerState::Provisioning, "provisioning"),
            (LoadBalancerState::Active, "active"),
            (LoadBalancerState::Failed, "failed"),
            (LoadBalancerState::Deleting, "deleting"),
        ];
        for (state, name) in states {
            let count = counts.get(&state).copied().unwrap_or(0);
            self.load_balancers
                .get_or_create(&StateLabel { state: name })
                .set(count);
        }
    }
}

/// Counts one up in a gauge for as long as it lives.
#[derive(Debug)]
pub struct InGauge(Gauge);

impl InGauge {
    /// One more.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}
