//! What the segments report, and the node's status object that is made of it:
//! written on change only, and never in the way of anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use herald_api::{L2Address, L2Interface, L2Peer, L2Segment, L2Status, L2StatusStatus};
use herald_core::chain;
use herald_election::{Cause, GroupId, Liveness};
use herald_telemetry::Health;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::duties::Vip;
use crate::index::InterfaceView;
use crate::metrics::{Metrics, ServiceLabel};
use crate::node_object::NodeObject;

/// Changes are gathered for this long, so that a node that takes a thousand
/// addresses over writes a few times.
const SETTLE: Duration = Duration::from_millis(250);

/// Between two writes.
const GAP: Duration = Duration::from_secs(1);

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(3);

/// The API server's limit is 1.5 MB for an object; this many addresses stay far
/// below it.
const MOST_ADDRESSES: usize = 4000;

/// What there is to report.
#[derive(Debug)]
pub(crate) enum Report {
    /// The node's interfaces, and which of them addresses may come to be on.
    Interfaces(Vec<InterfaceView>, BTreeSet<String>),
    /// How an interface's segment is; none where there is no election.
    Segment(String, Option<SegmentStatus>),
}

/// How a segment is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentStatus {
    pub(crate) ready: bool,
    /// By the names of their nodes; empty where another tells ([`tells_of_peers`]).
    pub(crate) peers: BTreeMap<String, Liveness>,
    pub(crate) owned: BTreeMap<GroupId, Owned>,
}

/// A group that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) vips: Arc<[Vip]>,
    pub(crate) since: Timestamp,
    pub(crate) cause: &'static str,
    pub(crate) from: Option<String>,
}

/// A cause's name, for users.
pub(crate) const fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Vacant => "Vacant",
        Cause::Lost(_) => "Lost",
        Cause::Drained(_) => "Drained",
        Cause::Ineligible(_) => "Ineligible",
        Cause::Rebalanced(_) => "Rebalanced",
        Cause::Unanswered(_) => "Unanswered",
        Cause::Resumed => "Resumed",
    }
}

/// A liveness's name, for users.
pub(crate) const fn liveness_name(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Up => "Up",
        Liveness::OneWay => "OneWay",
        Liveness::Relayed => "Relayed",
        Liveness::Stalled => "Stalled",
        Liveness::Deaf => "Deaf",
        Liveness::Down => "Down",
        Liveness::Left => "Left",
    }
}

/// Whether a node is the one of its segment that tells how the others are: the first
/// by name of those that live, as it sees them. So when a node dies one object says
/// so, and not everybody's.
pub(crate) fn tells_of_peers(node: &str, peers: &BTreeMap<String, Liveness>) -> bool {
    let mut before = peers.iter().take_while(|(peer, _)| peer.as_str() < node);
    !before.any(|(_, liveness)| {
        matches!(
            liveness,
            Liveness::Up | Liveness::OneWay | Liveness::Relayed
        )
    })
}

/// All that is reported of a node.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// None before the first report.
    interfaces: Option<Vec<InterfaceView>>,
    expected: BTreeSet<String>,
    segments: BTreeMap<String, SegmentStatus>,
}

impl Board {
    fn take(&mut self, report: Report) {
        match report {
            Report::Interfaces(interfaces, expected) => {
                self.interfaces = Some(interfaces);
                self.expected = expected;
            }
            Report::Segment(name, Some(status)) => {
                self.segments.insert(name, status);
            }
            Report::Segment(name, None) => {
                self.segments.remove(&name);
            }
        }
    }

    /// Whether this node can own addresses wherever there may be some.
    fn is_ready(&self) -> bool {
        self.interfaces.is_some()
            && self
                .expected
                .iter()
                .all(|name| self.segments.get(name).is_some_and(|s| s.ready))
    }

    /// The status that others see; none before there is anything to tell.
    fn status(&self) -> Option<L2StatusStatus> {
        let interfaces = self.interfaces.as_ref()?;
        let mut addresses: Vec<L2Address> = self
            .segments
            .iter()
            .flat_map(|(interface, segment)| {
                let owned = segment.owned.values();
                owned.flat_map(|owned| owned.vips.iter().map(|vip| address(interface, owned, vip)))
            })
            .collect();
        addresses.sort_by(|a, b| (&a.interface, &a.address).cmp(&(&b.interface, &b.address)));
        let owned = i32::try_from(addresses.len()).unwrap_or(i32::MAX);
        addresses.truncate(MOST_ADDRESSES);
        Some(L2StatusStatus {
            interfaces: interfaces.iter().map(interface).collect(),
            segments: self
                .segments
                .iter()
                .map(|(interface, segment)| L2Segment {
                    interface: interface.clone(),
                    ready: segment.ready,
                    peers: segment.peers.iter().map(peer).collect(),
                })
                .collect(),
            owned,
            addresses,
        })
    }

    fn count(&self, metrics: &Metrics) {
        let mut counts: BTreeMap<_, i64> = BTreeMap::new();
        let owned = self.segments.values().flat_map(|s| s.owned.values());
        for (_, services) in owned.flat_map(|owned| owned.vips.iter()) {
            for service in services {
                *counts.entry(&service.key).or_default() += 1;
            }
        }
        metrics.announced.clear();
        for (service, count) in counts {
            let label = ServiceLabel {
                namespace: service.namespace.clone(),
                service: service.name.clone(),
            };
            metrics.announced.get_or_create(&label).set(count);
        }
    }
}

fn interface(view: &InterfaceView) -> L2Interface {
    L2Interface {
        name: view.name.clone(),
        addresses: view
            .addresses
            .iter()
            .map(|(address, length)| format!("{address}/{length}"))
            .collect(),
    }
}

fn peer((node, liveness): (&String, &Liveness)) -> L2Peer {
    L2Peer {
        node: node.clone(),
        liveness: liveness_name(*liveness).to_owned(),
    }
}

fn address(interface: &str, owned: &Owned, (address, services): &Vip) -> L2Address {
    L2Address {
        address: address.to_string(),
        services: services.iter().map(|s| s.key.to_string()).collect(),
        interface: interface.to_owned(),
        since: owned.since.to_string(),
        cause: owned.cause.to_owned(),
        from: owned.from.clone(),
    }
}

/// Where the status object is, and whose it is.
pub(crate) struct Desk {
    pub(crate) object: NodeObject<L2Status>,
    pub(crate) health: Health,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: CancellationToken,
}

impl Desk {
    /// Keeps the status object, the metrics and the readiness as what is reported,
    /// until nobody reports any more.
    pub(crate) async fn keep(mut self, mut reports: mpsc::UnboundedReceiver<Report>) {
        let mut board = Board::default();
        let mut written = None;
        let mut due: Option<tokio::time::Instant> = None;
        let mut ready = false;
        loop {
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                report = reports.recv() => {
                    let Some(report) = report else {
                        self.say(&board, &mut written).await;
                        return;
                    };
                    board.take(report);
                    while let Ok(report) = reports.try_recv() {
                        board.take(report);
                    }
                    board.count(&self.metrics);
                    // Once is enough: a link that goes down later is no reason to
                    // restart anything, and the others hear of it themselves.
                    if !ready && board.is_ready() {
                        ready = true;
                        self.health.set_ready(!self.stop.is_cancelled());
                    }
                    due.get_or_insert(tokio::time::Instant::now() + SETTLE);
                }
                () = self.stop.cancelled(), if self.health.is_ready() => {
                    self.health.set_ready(false);
                }
                () = timer => {
                    due = None;
                    let Some(pause) = self.say(&board, &mut written).await else {
                        continue;
                    };
                    due = Some(tokio::time::Instant::now() + pause);
                }
            }
        }
    }

    /// Writes the status, if it is another than was written; gives how long to
    /// wait before the next time.
    async fn say(
        &mut self,
        board: &Board,
        written: &mut Option<L2StatusStatus>,
    ) -> Option<Duration> {
        let status = board.status();
        if status.is_none() || status == *written {
            return None;
        }
        match self.object.write(&status).await {
            Ok(()) => {
                *written = status;
                Some(GAP)
            }
            Err(error) => {
                let error = chain(&error);
                tracing::debug!(error, "the status of this node was not written");
                Some(RETRY)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use herald_core::ServiceKey;
    use serde_json::json;

    use super::*;
    use crate::duties::ServiceRef;

    fn segment(ready: bool) -> SegmentStatus {
        let service = Arc::new(ServiceRef {
            key: ServiceKey::new("default", "web"),
            uid: "u".into(),
        });
        let owned = Owned {
            vips: [("10.20.100.0".parse().unwrap(), vec![service])].into(),
            since: Timestamp::UNIX_EPOCH,
            cause: "Lost",
            from: Some("n2".into()),
        };
        SegmentStatus {
            ready,
            peers: BTreeMap::from([("n2".to_owned(), Liveness::Down)]),
            owned: BTreeMap::from([(GroupId(1), owned)]),
        }
    }

    fn lan0() -> InterfaceView {
        InterfaceView {
            name: "lan0".into(),
            addresses: vec![("10.20.0.11".parse().unwrap(), 16)],
        }
    }

    #[test]
    fn it_is_ready_when_all_segments_that_count_are() {
        let mut board = Board::default();
        assert!(!board.is_ready(), "nothing is known yet");
        let expected = BTreeSet::from(["lan0".to_owned()]);
        board.take(Report::Interfaces(vec![lan0()], expected));
        assert!(!board.is_ready());
        board.take(Report::Segment("lan0".into(), Some(segment(false))));
        assert!(!board.is_ready());
        board.take(Report::Segment("lan0".into(), Some(segment(true))));
        assert!(board.is_ready());
        board.take(Report::Segment("lan0".into(), None));
        assert!(!board.is_ready());
        board.take(Report::Interfaces(vec![lan0()], BTreeSet::new()));
        assert!(board.is_ready(), "no addresses may come to be anywhere");
    }

    #[test]
    fn the_first_that_lives_tells_of_the_others() {
        let peers = |one, three| BTreeMap::from([("n1".to_owned(), one), ("n3".to_owned(), three)]);
        assert!(tells_of_peers("n2", &BTreeMap::new()), "it is alone");
        assert!(!tells_of_peers("n2", &peers(Liveness::Up, Liveness::Up)));
        assert!(!tells_of_peers(
            "n2",
            &peers(Liveness::OneWay, Liveness::Up)
        ));
        assert!(!tells_of_peers(
            "n2",
            &peers(Liveness::Relayed, Liveness::Up)
        ));
        for gone in [
            Liveness::Stalled,
            Liveness::Deaf,
            Liveness::Down,
            Liveness::Left,
        ] {
            assert!(tells_of_peers("n2", &peers(gone, Liveness::Up)), "{gone:?}");
        }
    }

    #[test]
    fn the_status_says_who_since_when_and_why() {
        let mut board = Board::default();
        assert_eq!(board.status(), None);
        board.take(Report::Interfaces(vec![lan0()], BTreeSet::new()));
        board.take(Report::Segment("lan0".into(), Some(segment(true))));
        let text = serde_json::to_value(board.status().unwrap()).unwrap();
        assert_eq!(
            text,
            json!({
                "interfaces": [{"name": "lan0", "addresses": ["10.20.0.11/16"]}],
                "segments": [{
                    "interface": "lan0",
                    "ready": true,
                    "peers": [{"node": "n2", "liveness": "Down"}],
                }],
                "owned": 1,
                "addresses": [{
                    "address": "10.20.100.0",
                    "services": ["default/web"],
                    "interface": "lan0",
                    "since": "1970-01-01T00:00:00Z",
                    "cause": "Lost",
                    "from": "n2",
                }],
            })
        );
    }
}
