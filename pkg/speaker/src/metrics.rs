//! The speaker's metrics.

use herald_telemetry::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Which interface.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct InterfaceLabel {
    pub(crate) interface: String,
}

/// Which Service.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ServiceLabel {
    pub(crate) namespace: String,
    pub(crate) service: String,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) announced: Family<ServiceLabel, Gauge>,
    pub(crate) requests: Family<InterfaceLabel, Counter>,
    pub(crate) responses: Family<InterfaceLabel, Counter>,
    pub(crate) gratuitous: Family<InterfaceLabel, Counter>,
    pub(crate) claims: Family<InterfaceLabel, Counter>,
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
        metrics
    }
}
