//! What is told of a segment: events, the report for the status object, metrics.

use std::collections::BTreeMap;
use std::net::IpAddr;

use herald_election::{Cause, GroupId, Liveness};

use super::{Holding, Segment};
use crate::duties::Vip;
use crate::events::Note;
use crate::metrics::{InterfaceLabel, LivenessLabel, ReasonLabel};
use crate::report::{Owned, Report, SegmentStatus, cause_name, liveness_name, tells_of_peers};

/// All that can be seen of a peer.
const LIVENESS: [Liveness; 7] = [
    Liveness::Up,
    Liveness::OneWay,
    Liveness::Relayed,
    Liveness::Stalled,
    Liveness::Deaf,
    Liveness::Down,
    Liveness::Left,
];

impl Segment {
    /// Tells of what came to groups that are ours all the while.
    pub(super) fn tell_more(&mut self) {
        let Some(view) = self.view.clone() else {
            return;
        };
        self.told.retain(view.vips());
        let ours: Vec<GroupId> = self
            .holding
            .iter()
            .filter(|(_, holding)| !holding.silent)
            .map(|(group, _)| *group)
            .collect();
        for vips in ours.iter().filter_map(|group| view.groups.get(group)) {
            self.tell_owner(vips, Cause::Vacant);
        }
    }

    /// An event on each Service whose owner is another than was told, once for all of
    /// its addresses.
    pub(super) fn tell_owner(&mut self, addresses: &[Vip], cause: Cause) {
        let why = match cause {
            Cause::Vacant | Cause::Resumed => String::new(),
            Cause::Lost(from) => format!("; node {} is lost", self.name_of(from)),
            Cause::Drained(from) => format!("; node {} gave it up", self.name_of(from)),
            Cause::Ineligible(from) => {
                format!("; node {} may not have it any more", self.name_of(from))
            }
            Cause::Unanswered(from) => {
                format!("; node {} does not answer for it", self.name_of(from))
            }
            Cause::Rebalanced(from) => format!("; it comes back from node {}", self.name_of(from)),
        };
        let from_another = !matches!(cause, Cause::Vacant | Cause::Resumed);
        let services = self.told.tell(addresses, from_another);
        let (node, interface) = (&self.common.node, &self.interface.name);
        for (service, addresses) in services {
            let addresses = join(&addresses, " and ");
            tracing::info!(service = %service.key, addresses, interface, "announcing{why}");
            let note = Note {
                service: service.key.clone(),
                uid: service.uid.clone(),
                warning: false,
                reason: "Announcing",
                text: format!("announcing {addresses} from node {node} on {interface}{why}"),
            };
            self.note(note);
        }
    }

    pub(super) fn tell(&self, vips: &[Vip], warning: bool, reason: &'static str, text: &str) {
        for (_, services) in vips {
            for service in services {
                self.note(Note {
                    service: service.key.clone(),
                    uid: service.uid.clone(),
                    warning,
                    reason,
                    text: text.to_owned(),
                });
            }
        }
    }

    pub(super) fn note(&self, note: Note) {
        if let Err(error) = self.common.notes.try_send(note) {
            let note = error.into_inner();
            tracing::debug!(service = %note.service, reason = note.reason, "too many events at once");
        }
    }

    /// Tells how the segment is.
    pub(super) fn report(&mut self) {
        self.unreported = false;
        let status = if self.twin {
            // The other interface says all there is to say.
            Some(SegmentStatus {
                ready: true,
                ..SegmentStatus::default()
            })
        } else {
            self.status()
        };
        let name = self.interface.name.clone();
        let _ = self.common.reports.send(Report::Segment(name, status));
    }

    pub(super) fn status(&self) -> Option<SegmentStatus> {
        let peers: BTreeMap<String, Liveness> = self
            .peers
            .iter()
            .map(|(node, liveness)| (self.name_of(*node), *liveness))
            .collect();
        let tells = tells_of_peers(&self.common.node, &peers);
        self.election.as_ref().map(|election| SegmentStatus {
            ready: election.is_ready() || !self.interface.running,
            peers: if tells { peers } else { BTreeMap::new() },
            owned: self
                .holding
                .iter()
                .filter(|(_, holding)| !holding.silent)
                .map(|(group, holding)| (*group, self.owned(*group, holding)))
                .collect(),
        })
    }

    pub(super) fn owned(&self, group: GroupId, holding: &Holding) -> Owned {
        let from = match holding.cause {
            Cause::Lost(node)
            | Cause::Drained(node)
            | Cause::Ineligible(node)
            | Cause::Rebalanced(node)
            | Cause::Unanswered(node) => Some(self.name_of(node)),
            Cause::Vacant | Cause::Resumed => None,
        };
        Owned {
            vips: self.addresses(group),
            since: holding.since,
            cause: cause_name(holding.cause),
            from,
        }
    }

    pub(super) fn count(&mut self) {
        let Some(election) = &self.election else {
            return;
        };
        let now = election.counters();
        let before = std::mem::replace(&mut self.counted, now);
        let label = InterfaceLabel {
            interface: self.interface.name.clone(),
        };
        let metrics = &self.common.metrics;
        if now.received > before.received {
            let counter = metrics.beats_received.get_or_create(&label);
            counter.inc_by(now.received - before.received);
        }
        if now.replayed > before.replayed {
            let label = ReasonLabel {
                interface: label.interface,
                reason: "replayed",
            };
            let counter = metrics.beats_rejected.get_or_create(&label);
            counter.inc_by(now.replayed - before.replayed);
        }
    }

    pub(super) fn count_peers(&self) {
        for liveness in LIVENESS {
            let count = self.peers.values().filter(|l| **l == liveness).count();
            let label = LivenessLabel {
                interface: self.interface.name.clone(),
                liveness: liveness_name(liveness),
            };
            let gauge = self.common.metrics.peers.get_or_create_owned(&label);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

fn join(parts: &[IpAddr], between: &str) -> String {
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    parts.join(between)
}
