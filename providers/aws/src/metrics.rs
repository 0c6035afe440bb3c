//! What the provider counts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::actions::Action;
use crate::budget::Family;
use crate::client::CallError;

/// A call by action and outcome.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct CallLabel {
    action: &'static str,
    /// `ok`, `refused`, `throttled` or `unknown`.
    outcome: &'static str,
}

impl CallLabel {
    pub(crate) const fn new<T>(action: Action, result: &Result<T, CallError>) -> Self {
        Self {
            action: action.name(),
            outcome: match result {
                Ok(_) => "ok",
                Err(CallError::Refused { .. }) => "refused",
                Err(CallError::Throttled { .. }) => "throttled",
                Err(_) => "unknown",
            },
        }
    }
}

/// One of AWS's token buckets.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FamilyLabel {
    family: &'static str,
}

/// What a load balancer is at.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Default)]
struct Inner {
    calls: Labelled<CallLabel, Counter>,
    seconds: Labelled<CallLabel, Counter<f64, AtomicU64>>,
    waiting: Labelled<FamilyLabel, Gauge>,
    rate: Labelled<FamilyLabel, Gauge<f64, AtomicU64>>,
    load_balancers: Labelled<StateLabel, Gauge>,
    drift: Counter,
}

/// The provider's metrics.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Inner>);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Registers them under the prefix `herald_aws`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let inner = &metrics.0;
        let root = registry.sub_registry_with_prefix("herald_aws");
        root.register(
            "calls",
            "Calls to AWS by action and outcome (ok, refused, throttled, unknown)",
            inner.calls.clone(),
        );
        root.register(
            "call_seconds",
            "Time spent waiting for AWS's answers",
            inner.seconds.clone(),
        );
        root.register(
            "budget_waiting",
            "Services that wait for a call, by AWS's token bucket",
            inner.waiting.clone(),
        );
        root.register(
            "budget_rate",
            "Calls a second that the budget allows, by AWS's token bucket",
            inner.rate.clone(),
        );
        root.register(
            "load_balancers",
            "Load balancers of this cluster by state (provisioning, active, failed, replaced)",
            inner.load_balancers.clone(),
        );
        root.register(
            "drift",
            "Times that the background check found something changed by others",
            inner.drift.clone(),
        );
        metrics
    }

    pub(crate) fn called(&self, label: &CallLabel, took: Duration) {
        self.0.calls.get_or_create(label).inc();
        self.0
            .seconds
            .get_or_create(label)
            .inc_by(took.as_secs_f64());
    }

    pub(crate) fn budget(&self, family: Family, (rate, waiting): (f64, usize)) {
        let label = FamilyLabel {
            family: family.as_str(),
        };
        self.0.rate.get_or_create(&label).set(rate);
        self.0
            .waiting
            .get_or_create(&label)
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    pub(crate) fn load_balancers(&self, state: &'static str, count: usize) {
        self.0
            .load_balancers
            .get_or_create(&StateLabel { state })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn drifted(&self) {
        self.0.drift.inc();
    }
}
