//! The coordinator and its ports on a real segment: a bridge that stands for
//! this node's interface, with two hosts on it, in network namespaces of their
//! own. Each test runs itself again inside; nothing is left when it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use herald_core::ServiceKey;
use herald_election::{GroupId, KeyRing, NodeId, Policy, Profile, Rebalance};
use herald_telemetry::Registry;
use regex::Regex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::SpeakerError;
use crate::coordinator::{Coordinator, Decided};
use crate::duties::{
    CandidateDuty, Duties, Ground, GroupDuty, NodeDuty, Place, Preference, ServiceRef,
};
use crate::events::Note;
use crate::metrics::{InterfaceLabel, Metrics, ReasonLabel};
use crate::netns::{inside, must, run, shell, until, until_not};
use crate::port::{Plan, Port, PortEvent};
use crate::report::{Report, SegmentStatus};
use crate::segment::Common;

const LIMIT: Duration = Duration::from_secs(10);
const VIP: &str = "10.20.100.0";
const VIP6: &str = "fd20::1:0";
const MAC: &str = "02:00:00:00:00:11";
const OTHER_MAC: &str = "02:00:00:00:00:12";

/// Builds the segment. `client` and `other` are hosts, `lan0` is this node's,
/// and so is `lan1`, which has nothing to do with the VIPs.
const SEGMENT: &str = "
    set -e
    mount -t tmpfs none /run
    ip link set lo up
    ip link add lan0 address 02:00:00:00:00:11 type bridge
    for host in client other; do
        ip netns add $host
        ip link add to-$host type veth peer name lan0 netns $host
        ip link set to-$host master lan0 up
        ip -n $host link set lo up
        ip -n $host link set lan0 up
    done
    ip link set lan0 up
    ip link add lan1 type veth peer name lan1 netns other
    ip link set lan1 up
    ip -n other link set lan1 up
    ip addr add 10.20.0.11/16 dev lan0
    ip addr add fd20::11/64 dev lan0 nodad
    ip -n client addr add 10.20.0.1/16 dev lan0
    ip -n client addr add fd20::1/64 dev lan0 nodad
    ip -n other addr add 10.20.0.2/16 dev lan0
";

struct Speaker {
    decided: watch::Sender<Decided>,
    notes: mpsc::Receiver<Note>,
    reports: mpsc::UnboundedReceiver<Report>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SpeakerError>>,
}

impl Speaker {
    /// Builds the segment, and is the only candidate for both addresses on it.
    async fn on_segment() -> Self {
        must(SEGMENT).await;
        let ring = KeyRing::new([[1; 32]]).unwrap();
        let (_, keys) = watch::channel(Some(Arc::new(ring)));
        let (sender, decided) = watch::channel(decided(1, &[VIP, VIP6]));
        let (notes, noted) = mpsc::channel(16);
        let (reports, reported) = mpsc::unbounded_channel();
        let (strays, straying) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let common = Common {
            node: "n1".into(),
            profile: Profile::Default,
            unicast: false,
            announcing: herald_l2::Profile::default(),
            check: false,
            drain_timeout: LIMIT,
            keys,
            notes,
            reports,
            strays,
            metrics: metrics.clone(),
            sessions: Arc::new(Mutex::new(BTreeMap::new())),
        };
        let exclude = vec![Regex::new("^lo$").unwrap()];
        let coordinator =
            Coordinator::new(common, straying, exclude, decided, stop.clone()).unwrap();
        let task = tokio::spawn(coordinator.run());
        Self {
            decided: sender,
            notes: noted,
            reports: reported,
            metrics,
            stop,
            task,
        }
    }

    async fn note(&mut self) -> Note {
        tokio::time::timeout(LIMIT, self.notes.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// Waits for a report of lan0 for which `wanted` holds.
    async fn reported(&mut self, wanted: impl Fn(&SegmentStatus) -> bool) -> SegmentStatus {
        let search = async {
            loop {
                match self.reports.recv().await.unwrap() {
                    Report::Segment(name, Some(status)) if name == "lan0" && wanted(&status) => {
                        return status;
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, search).await.unwrap()
    }

    async fn ended(self) {
        tokio::time::timeout(LIMIT / 2, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// One node, one Service with these addresses, and a pool that they are from.
fn decided(number: u64, vips: &[&str]) -> Decided {
    let service = Arc::new(ServiceRef {
        key: ServiceKey::new("default", "web"),
        uid: "u".into(),
    });
    let vips: Vec<(IpAddr, _)> = vips
        .iter()
        .map(|vip| (vip.parse().unwrap(), vec![service.clone()]))
        .collect();
    let group = vips.first().map(|(lowest, _)| GroupDuty {
        id: GroupId::of(lowest),
        vips: vips.clone().into(),
        policy: Policy::Available,
        profile: Profile::Default,
        rebalance: Rebalance::Manual,
        candidates: [CandidateDuty {
            node: "n1".into(),
            ready: true,
            preference: Preference::default(),
            place: Place::Subnet,
        }]
        .into(),
    });
    let node = NodeDuty {
        id: NodeId::of("n1"),
        weight: 1,
        interfaces: None,
        addresses: Vec::new(),
    };
    let duties = Duties {
        nodes: BTreeMap::from([("n1".to_owned(), node)]),
        groups: group.into_iter().collect(),
        grounds: vec![Ground {
            place: Place::Subnet,
            ranges: vec!["10.20.100.0/22".parse().unwrap()],
        }],
        rebalance: BTreeMap::new(),
    };
    Decided {
        number,
        duties: Some(Arc::new(duties)),
    }
}

const ARPING: &str = "ip netns exec client arping -q -f -w 2 -I lan0";
const NDISC6: &str = "ip netns exec client ndisc6 -q -1 -r 1 -w 1000";
/// `other` takes the address and announces it, as a successor does.
const SUCCEED: &str = "ip -n other addr add 10.20.100.0/32 dev lan0 &&
    ip netns exec other arping -q -U -c 1 -I lan0 10.20.100.0;
    ip -n other addr del 10.20.100.0/32 dev lan0";

#[test]
fn hosts_find_our_addresses_and_are_kept_off_them() {
    if !inside("segment_tests::hosts_find_our_addresses_and_are_kept_off_them") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        let note = speaker.note().await;
        assert_eq!(note.reason, "Announcing");
        assert_eq!(
            note.text,
            "announcing 10.20.100.0 and fd20::1:0 from node n1 on lan0"
        );

        must(&format!("{ARPING} {VIP}")).await;
        let answer = must(&format!("{NDISC6} {VIP6} lan0")).await;
        assert_eq!(answer.trim().to_lowercase(), MAC);
        let (free, _) = shell(&format!("{ARPING} -D {VIP}")).await;
        assert!(!free, "a probe for our address was not answered");
        must(&format!("ip -n client addr add {VIP6}/64 dev lan0")).await;
        until("ip -n client -6 addr show dev lan0", "dadfailed").await;
        must(&format!("ip -n client addr del {VIP6}/64 dev lan0")).await;
        let (ours, _) = shell(&format!("{ARPING} 10.20.100.1")).await;
        assert!(!ours, "another address was answered for");

        // The switch, which snoops, knows of the group.
        until("ip -6 maddr show dev lan0", "ff02::1:ff01:0").await;
        speaker.decided.send_replace(decided(2, &[]));
        until_not("ip -6 maddr show dev lan0", "ff02::1:ff01:0").await;
        let (ours, _) = shell(&format!("{ARPING} {VIP}")).await;
        assert!(!ours, "answered after it was withdrawn");
    });
}

#[test]
fn hosts_learn_of_another_hardware_address_at_once() {
    if !inside("segment_tests::hosts_learn_of_another_hardware_address_at_once") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        // The address is nobody's, so only the neighbour entry is looked at.
        shell(&format!("ip netns exec client ping -c 1 -W 1 {VIP}")).await;
        let neighbors = format!("ip -n client neigh show {VIP}");
        until(&neighbors, MAC).await;
        must(&format!("ip link set lan0 address {OTHER_MAC}")).await;
        until(&neighbors, OTHER_MAC).await;
        // A link that comes back is told of too.
        must("ip -n client neigh flush all; ip link set lan0 down").await;
        must("ip link set lan0 up").await;
        must(&format!("{ARPING} {VIP}")).await;
    });
}

#[test]
fn an_address_is_answered_for_until_its_successor_is_heard() {
    if !inside("segment_tests::an_address_is_answered_for_until_its_successor_is_heard") {
        return;
    }
    run(async {
        must(SEGMENT).await;
        let (vip, vip6): (IpAddr, IpAddr) = (VIP.parse().unwrap(), VIP6.parse().unwrap());
        let plan = Plan {
            mac: [2, 0, 0, 0, 0, 0x11],
            hold: BTreeMap::from([(vip, 0), (vip6, 0)]),
            grace: LIMIT,
            ..Plan::default()
        };
        let (sender, follow) = watch::channel(plan.clone());
        let (_ask, asked) = mpsc::unbounded_channel();
        let (events, mut heard) = mpsc::unbounded_channel();
        let metrics = Metrics::register(&mut Registry::default());
        let index = must("ip -o link show lan0").await;
        let index = index.split(':').next().unwrap().parse().unwrap();
        let port = Port::open("lan0", index, follow, asked, events, &metrics).unwrap();
        let _port = AbortOnDropHandle::new(tokio::spawn(port.run()));
        must(&format!("{ARPING} {VIP}")).await;
        // Another has them now: we wait until it is heard.
        sender.send_replace(Plan {
            hold: BTreeMap::new(),
            yielding: Arc::new(BTreeSet::from([vip, vip6])),
            ..plan
        });
        must(&format!("{ARPING} {VIP}")).await;
        must(SUCCEED).await;
        let event = tokio::time::timeout(LIMIT, heard.recv()).await.unwrap();
        assert!(matches!(
            event,
            Some(PortEvent::Announcer(herald_l2::Event::Succeeded { address, .. })) if address == vip
        ));
        let (ours, _) = shell(&format!("{ARPING} {VIP}")).await;
        assert!(!ours, "answered though the successor was heard");
        must(&format!("{NDISC6} {VIP6} lan0")).await;
    });
}

#[test]
fn without_a_successor_we_stop_at_once() {
    if !inside("segment_tests::without_a_successor_we_stop_at_once") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        must(&format!("{ARPING} {VIP}")).await;
        speaker.stop.cancel();
        speaker.ended().await;
    });
}

#[test]
fn a_link_that_is_down_owns_nothing_and_one_that_is_back_does() {
    if !inside("segment_tests::a_link_that_is_down_owns_nothing_and_one_that_is_back_does") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        let owned = speaker.reported(|status| !status.owned.is_empty()).await;
        assert!(owned.ready);
        let group = &owned.owned[&GroupId::of(&VIP.parse().unwrap())];
        assert_eq!((group.cause, group.vips.len()), ("Vacant", 2));
        must("ip link set lan0 down").await;
        speaker.reported(|status| status.owned.is_empty()).await;
        must("ip link set lan0 up").await;
        speaker.reported(|status| !status.owned.is_empty()).await;
        must(&format!("{ARPING} {VIP}")).await;
    });
}

#[test]
fn heartbeats_are_sent_and_those_of_strangers_have_no_effect() {
    if !inside("segment_tests::heartbeats_are_sent_and_those_of_strangers_have_no_effect") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        until("ip maddr show dev lan0", "224.0.0.254").await;
        let label = InterfaceLabel {
            interface: "lan0".into(),
        };
        assert!(speaker.metrics.beats_sent.get_or_create(&label).get() > 0);
        // Noise on the port.
        must(
            "ip netns exec client bash -c \
             'for i in 1 2 3; do head -c 900 /dev/urandom > /dev/udp/10.20.0.11/7474; done'",
        )
        .await;
        let interface = "lan0".to_owned();
        let label = ReasonLabel {
            interface,
            reason: "unknown-key",
        };
        for _ in 0..200 {
            if speaker.metrics.beats_rejected.get_or_create(&label).get() >= 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(
            speaker.metrics.beats_rejected.get_or_create(&label).get(),
            3
        );
        must(&format!("{ARPING} {VIP}")).await;
        assert!(!speaker.task.is_finished());
    });
}

#[test]
fn a_host_that_has_our_address_is_told_of() {
    if !inside("segment_tests::a_host_that_has_our_address_is_told_of") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        // Found to be free, and in use.
        must(&format!("{ARPING} {VIP}")).await;
        must(&format!("ip -n other addr add {VIP}/32 dev lan0")).await;
        let claims = format!("ip netns exec other arping -q -U -c 5 -I lan0 {VIP}");
        let claiming = tokio::spawn(async move { shell(&claims).await });
        let note = speaker.note().await;
        assert_eq!((note.reason, note.warning), ("AddressConflict", true));
        claiming.abort();
        must(&format!("{ARPING} {VIP}")).await;
    });
}
