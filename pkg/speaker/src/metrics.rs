//! The speaker's metrics.

use std::sync::atomic::AtomicU64;

use herald_l2::Counters;
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

/// Which setting of the node, on which interface.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct TrapLabel {
    pub(crate) trap: String,
    pub(crate) interface: String,
}

#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) announced: Family<ServiceLabel, Gauge>,
    pub(crate) traps: Family<TrapLabel, Gauge>,
    requests: Family<InterfaceLabel, Counter>,
    probes: Family<InterfaceLabel, Counter>,
    responses: Family<InterfaceLabel, Counter>,
    gratuitous: Family<InterfaceLabel, Counter>,
    claims: Family<InterfaceLabel, Counter>,
    conflicts: Family<InterfaceLabel, Gauge>,
    silent: Family<InterfaceLabel, Gauge>,
    several: Family<InterfaceLabel, Gauge>,
    pub(crate) beats_sent: Family<InterfaceLabel, Counter>,
    pub(crate) beats_received: Family<InterfaceLabel, Counter>,
    pub(crate) beats_rejected: Family<ReasonLabel, Counter>,
    pub(crate) stalls: Family<InterfaceLabel, Counter>,
    pub(crate) moves: Family<ReasonLabel, Counter>,
    pub(crate) peers: Family<LivenessLabel, Gauge>,
    pub(crate) takeover: Histogram,
    pub(crate) throttled: Gauge<f64, AtomicU64>,
    pub(crate) bgp: BgpMetrics,
    pub(crate) bfd: BfdMetrics,
}

/// Which `BGPPeer`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct PeerLabel {
    pub(crate) peer: String,
}

/// Those of BGP sessions.
#[derive(Debug, Default)]
pub(crate) struct BgpMetrics {
    up: Family<PeerLabel, Gauge>,
    announced: Family<PeerLabel, Gauge>,
    pending: Family<PeerLabel, Gauge>,
    updates: Family<PeerLabel, Gauge>,
}

impl BgpMetrics {
    /// How the session with a peer is.
    pub(crate) fn set(&self, peer: &str, up: bool, told: usize, updates: u64, routes: usize) {
        let label = PeerLabel {
            peer: peer.to_owned(),
        };
        self.up.get_or_create(&label).set(i64::from(up));
        self.announced.get_or_create(&label).set(gauge(told));
        let pending = routes.saturating_sub(told);
        self.pending.get_or_create(&label).set(gauge(pending));
        let updates = i64::try_from(updates).unwrap_or(i64::MAX);
        self.updates.get_or_create(&label).set(updates);
    }

    /// The peer is gone.
    pub(crate) fn forget(&self, peer: &str) {
        let label = PeerLabel {
            peer: peer.to_owned(),
        };
        for family in [&self.up, &self.announced, &self.pending, &self.updates] {
            family.remove(&label);
        }
    }

    fn register(&self, registry: &mut Registry) {
        let bgp = registry.sub_registry_with_prefix("herald_bgp");
        for (name, help, family) in [
            (
                "session_up",
                "Whether the session with a peer is up",
                &self.up,
            ),
            (
                "announced_prefixes_total",
                "Prefixes that a peer has been told",
                &self.announced,
            ),
            (
                "pending_prefixes_total",
                "Prefixes of this node that a peer has not been told",
                &self.pending,
            ),
            ("updates_total", "UPDATEs sent to a peer", &self.updates),
        ] {
            bgp.register(name, help, family.clone());
        }
    }
}

/// Those of BFD sessions, with `MetalLB`'s names.
#[derive(Debug, Default)]
pub(crate) struct BfdMetrics {
    up: Family<PeerLabel, Gauge>,
    input: Family<PeerLabel, Gauge>,
    output: Family<PeerLabel, Gauge>,
    ups: Family<PeerLabel, Gauge>,
    downs: Family<PeerLabel, Gauge>,
}

impl BfdMetrics {
    /// How the session with a peer is.
    pub(crate) fn set(&self, peer: &str, up: bool, counters: herald_bfd::Counters) {
        let label = PeerLabel {
            peer: peer.to_owned(),
        };
        let set = |family: &Family<PeerLabel, Gauge>, value: u64| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            family.get_or_create(&label).set(value);
        };
        set(&self.up, up.into());
        set(&self.input, counters.received);
        set(&self.output, counters.sent);
        set(&self.ups, counters.ups);
        set(&self.downs, counters.downs);
    }

    /// The peer is gone.
    pub(crate) fn forget(&self, peer: &str) {
        let label = PeerLabel {
            peer: peer.to_owned(),
        };
        for family in [&self.up, &self.input, &self.output, &self.ups, &self.downs] {
            family.remove(&label);
        }
    }

    fn register(&self, registry: &mut Registry) {
        let bfd = registry.sub_registry_with_prefix("herald_bfd");
        for (name, help, family) in [
            (
                "session_up",
                "Whether the BFD session with a peer is up",
                &self.up,
            ),
            (
                "control_packet_input",
                "BFD packets of a peer that were taken in",
                &self.input,
            ),
            (
                "control_packet_output",
                "BFD packets sent to a peer",
                &self.output,
            ),
            (
                "session_up_events",
                "Times the BFD session with a peer went up",
                &self.ups,
            ),
            (
                "session_down_events",
                "Times the BFD session with a peer went down",
                &self.downs,
            ),
        ] {
            bfd.register(name, help, family.clone());
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            announced: Family::default(),
            traps: Family::default(),
            requests: Family::default(),
            probes: Family::default(),
            responses: Family::default(),
            gratuitous: Family::default(),
            claims: Family::default(),
            conflicts: Family::default(),
            silent: Family::default(),
            several: Family::default(),
            beats_sent: Family::default(),
            beats_received: Family::default(),
            beats_rejected: Family::default(),
            stalls: Family::default(),
            moves: Family::default(),
            peers: Family::default(),
            takeover: Histogram::new(TAKEOVER),
            throttled: Gauge::default(),
            bgp: BgpMetrics::default(),
            bfd: BfdMetrics::default(),
        }
    }
}

/// Those of one interface.
#[derive(Debug)]
pub(crate) struct PortMetrics {
    /// What the counters stand for already.
    counted: Counters,
    requests: Counter,
    probes: Counter,
    responses: Counter,
    gratuitous: Counter,
    claims: Counter,
    conflicts: Gauge,
    silent: Gauge,
    several: Gauge,
}

impl PortMetrics {
    /// Counts what an announcer has done since the last time.
    pub(crate) fn count(&mut self, now: Counters, conflicts: usize) {
        self.conflicts.set(gauge(conflicts));
        let before = std::mem::replace(&mut self.counted, now);
        if now == before {
            return;
        }
        for (counter, now, before) in [
            (
                &self.requests,
                now.requests_received,
                before.requests_received,
            ),
            (&self.probes, now.probes_received, before.probes_received),
            (&self.responses, now.responses_sent, before.responses_sent),
            (
                &self.gratuitous,
                now.gratuitous_sent,
                before.gratuitous_sent,
            ),
            (&self.claims, now.claims_heard, before.claims_heard),
        ] {
            counter.inc_by(now - before);
        }
    }

    /// Addresses of others that nobody answers for, and that several do.
    pub(crate) fn checked(&self, (silent, several): (usize, usize)) {
        self.silent.set(gauge(silent));
        self.several.set(gauge(several));
    }
}

impl Drop for PortMetrics {
    fn drop(&mut self) {
        // Nothing is known any more.
        self.conflicts.set(0);
        self.checked((0, 0));
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Metrics {
    /// Those of an interface.
    pub(crate) fn port(&self, name: &str) -> PortMetrics {
        let label = InterfaceLabel {
            interface: name.to_owned(),
        };
        let counter =
            |family: &Family<InterfaceLabel, Counter>| family.get_or_create(&label).clone();
        let gauge = |family: &Family<InterfaceLabel, Gauge>| family.get_or_create(&label).clone();
        PortMetrics {
            counted: Counters::default(),
            requests: counter(&self.requests),
            probes: counter(&self.probes),
            responses: counter(&self.responses),
            gratuitous: counter(&self.gratuitous),
            claims: counter(&self.claims),
            conflicts: gauge(&self.conflicts),
            silent: gauge(&self.silent),
            several: gauge(&self.several),
        }
    }

    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let speaker = registry.sub_registry_with_prefix("herald_speaker");
        speaker.register(
            "announced",
            "Addresses that this node announces, by Service",
            metrics.announced.clone(),
        );
        speaker.register(
            "traps",
            "Addresses that a setting of this node stands in the way of",
            metrics.traps.clone(),
        );
        let l2 = registry.sub_registry_with_prefix("herald_l2");
        for (name, help, family) in [
            (
                "requests_received",
                "ARP requests and Neighbor Solicitations for announced addresses",
                &metrics.requests,
            ),
            (
                "probes_received",
                "Those of them by which another host tested whether the address is free",
                &metrics.probes,
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
        for (name, help, family) in [
            (
                "conflicts",
                "Addresses of this node that another host uses too",
                &metrics.conflicts,
            ),
            (
                "unanswered_addresses",
                "Addresses of other nodes that nobody answers for when asked from here",
                &metrics.silent,
            ),
            (
                "contested_addresses",
                "Addresses of other nodes that several hosts answer for when asked from here",
                &metrics.several,
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
        metrics.bgp.register(registry);
        metrics.bfd.register(registry);
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
