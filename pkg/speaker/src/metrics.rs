//! The speaker's metrics.

use std::sync::atomic::AtomicU64;

use herald_telemetry::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Upper ends in seconds, around what the profiles promise.
const TAKEOVER: [f64; 10] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0];

/// Which interface.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct InterfaceLabel {
    pub(crate) interface: String,
}

/// Which interface, and why.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub(crate) interface: String,
    pub(crate) reason: &'static str,
}

/// Which interface, and how.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct LivenessLabel {
    pub(crate) interface: String,
    pub(crate) liveness: &'static str,
}

/// Which Service.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ServiceLabel {
    pub(crate) namespace: String,
    pub(crate) service: String,
}

#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) announced: Family<ServiceLabel, Gauge>,
    pub(crate) requests: Family<InterfaceLabel, Counter>,
    pub(crate) responses: Family<InterfaceLabel, Counter>,
    pub(crate) gratuitous: Family<InterfaceLabel, Counter>,
    pub(crate) claims: Family<InterfaceLabel, Counter>,
    pub(crate) beats_sent: Family<InterfaceLabel, Counter>,
    pub(crate) beats_received: Family<InterfaceLabel, Counter>,
    pub(crate) beats_rejected: Family<ReasonLabel, Counter>,
    pub(crate) stalls: Family<InterfaceLabel, Counter>,
    pub(crate) moves: Family<ReasonLabel, Counter>,
    pub(crate) peers: Family<LivenessLabel, Gauge>,
    pub(crate) takeover: Histogram,
    pub(crate) throttled: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            announced: Family::default(),
            requests: Family::default(),
            responses: Family::default(),
            gratuitous: Family::default(),
            claims: Family::default(),
            beats_sent: Family::default(),
            beats_received: Family::default(),
            beats_rejected: Family::default(),
            stalls: Family::default(),
            moves: Family::default(),
            peers: Family::default(),
            takeover: Histogram::new(TAKEOVER),
            throttled: Gauge::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let speaker = registry.sub_registry_with_prefix("herald_speaker");
        speaker.register(
            "announced",
            "Addresses that this node announces, by Service",
            metrics.announced.clone(),
        );
        let l2 = registry.sub_registry_with_prefix("herald_l2");
        for (name, help, family) in [
            (
                "requests_received",
                "ARP requests and Neighbor Solicitations for announced addresses",
                &metrics.requests,
            ),
            ("responses_sent", "Answers to them", &metrics.responses),
            (
                "gratuitous_sent",
                "Gratuitous ARP and unsolicited Neighbor Advertisements",
                &metrics.gratuitous,
            ),
            (
                "foreign_claims",
                "Times another host claimed an address that this node announces",
                &metrics.claims,
            ),
        ] {
            l2.register(name, help, family.clone());
        }
        for (name, help, family) in [
            ("heartbeats_sent", "Heartbeats sent", &metrics.beats_sent),
            (
                "heartbeats_received",
                "Heartbeats of other speakers taken in",
                &metrics.beats_received,
            ),
            (
                "stalls",
                "Times this speaker did not run in time for its heartbeats",
                &metrics.stalls,
            ),
        ] {
            l2.register(name, help, family.clone());
        }
        l2.register(
            "heartbeats_rejected",
            "Datagrams that were no heartbeats of this cluster, by reason",
            metrics.beats_rejected.clone(),
        );
        l2.register(
            "takeovers",
            "Groups of addresses that came to this node, by cause",
            metrics.moves.clone(),
        );
        l2.register(
            "peers",
            "Other speakers on the segment, by how they are seen",
            metrics.peers.clone(),
        );
        l2.register(
            "takeover_seconds",
            "From the last heartbeat of a lost owner until its addresses were announced here",
            metrics.takeover.clone(),
        );
        speaker_throttled(registry, &metrics);
        metrics
    }
}

fn speaker_throttled(registry: &mut Registry, metrics: &Metrics) {
    let speaker = registry.sub_registry_with_prefix("herald_speaker");
    speaker.register(
        "throttled_seconds",
        "Time in which a CPU limit kept this speaker from running, since it was made",
        metrics.throttled.clone(),
    );
}
