//! A port on a real segment: a bridge that stands for this node's interface, a
//! host on it, and one that we play.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use herald_l2::{ArpPacket, Event, Mac, Source, Verdict};
use herald_net::{Inbox, Interface, Links, PacketSocket, Traffic};
use herald_telemetry::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::Metrics;
use crate::netns::{inside, must, run, shell, until};
use crate::port::{Plan, Port, PortEvent, Question};

const LIMIT: Duration = Duration::from_secs(15);
/// Long enough for an answer, short enough to wait for none.
const MOMENT: Duration = Duration::from_millis(300);

const VIP: Ipv4Addr = Ipv4Addr::new(10, 20, 100, 0);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 1, 0);
const OURS: Mac = Mac([2, 0, 0, 0, 0, 0x11]);

const SEGMENT: &str = "
    set -e
    mount -t tmpfs none /run
    ip link set lo up
    ip link add lan0 address 02:00:00:00:00:11 type bridge
    ip netns add host
    ip link add to-host type veth peer name lan0 netns host
    ip link set to-host master lan0 up
    ip -n host link set lo up
    ip -n host link set lan0 address 02:00:00:00:00:01 up
    ip link add tap0 address 02:00:00:00:00:77 type veth peer name to-tap
    ip link set to-tap master lan0 up
    ip link set tap0 up
    ip link set lan0 up
    ip addr add 10.20.0.11/16 dev lan0
    ip addr add fd20::11/64 dev lan0 nodad
    ip -n host addr add 10.20.0.1/16 dev lan0
    ip -n host addr add fd20::1/64 dev lan0 nodad
";
const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);

async fn interface(name: &str) -> Interface {
    let interfaces = Links::subscribe().unwrap().list().await.unwrap();
    interfaces
        .into_values()
        .find(|interface| interface.name == name)
        .unwrap()
}

/// The port, and the host that we play.
struct Segment {
    plan: watch::Sender<Plan>,
    questions: mpsc::UnboundedSender<Question>,
    events: mpsc::UnboundedReceiver<PortEvent>,
    _port: AbortOnDropHandle<()>,
    tap: PacketSocket,
    inbox: Inbox,
}

impl Segment {
    /// What is sent to it is for us.
    const TAP: Mac = Mac([2, 0, 0, 0, 0, 0x77]);

    /// Builds the segment, with nothing to do for the port yet.
    async fn new() -> Self {
        must(SEGMENT).await;
        let lan = interface("lan0").await;
        let (plan, follow) = watch::channel(Plan {
            mac: OURS.0,
            grace: LIMIT,
            source: Source {
                v4: [10, 20, 0, 11].into(),
                v6: Ipv6Addr::UNSPECIFIED,
            },
            ..Plan::default()
        });
        let (questions, asked) = mpsc::unbounded_channel();
        let (told, events) = mpsc::unbounded_channel();
        let metrics = Metrics::register(&mut Registry::default());
        let port = Port::open("lan0", lan.index, follow, asked, told, &metrics).unwrap();
        Self {
            plan,
            questions,
            events,
            _port: AbortOnDropHandle::new(tokio::spawn(port.run())),
            tap: PacketSocket::open(interface("tap0").await.index, Traffic::Arp).unwrap(),
            inbox: Inbox::new(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        self.plan.send_modify(change);
    }

    fn hold(&self) {
        self.change(|plan| {
            plan.hold = [VIP.into(), VIP6.into()].map(|address| (address, 0)).into();
        });
    }

    async fn event(&mut self) -> PortEvent {
        let event = tokio::time::timeout(LIMIT, self.events.recv());
        event.await.unwrap().unwrap()
    }

    async fn send(&self, frame: &[u8]) {
        self.tap.send(&[frame]).await.unwrap();
    }

    /// ARP packets that come within a time.
    async fn hear(&mut self, time: Duration) -> Vec<ArpPacket> {
        let mut heard = Vec::new();
        let end = tokio::time::sleep(time);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return heard,
                result = self.tap.receive(&mut self.inbox) => result.unwrap(),
            }
            let frames = self.inbox.frames();
            heard.extend(frames.filter_map(|frame| ArpPacket::parse(frame).ok()));
        }
    }

    /// How many answers a frame gets.
    async fn answers(&mut self, frame: &[u8]) -> usize {
        self.send(frame).await;
        let heard = self.hear(MOMENT).await;
        let to_us = heard
            .iter()
            .filter(|packet| packet.destination == Self::TAP);
        to_us.count()
    }
}

fn question() -> ArpPacket {
    ArpPacket::question(Segment::TAP, [10, 20, 0, 3].into(), VIP)
}

#[test]
fn only_what_is_for_us_on_this_network_is_answered() {
    if !inside("frame_tests::only_what_is_for_us_on_this_network_is_answered") {
        return;
    }
    run(async {
        let mut segment = Segment::new().await;
        segment.hold();
        segment.hear(MOMENT).await;
        assert_eq!(segment.answers(&question().to_frame()).await, 1);
        // A kernel that checks its entry asks the node alone.
        let unicast = ArpPacket {
            destination: OURS,
            ..question()
        };
        assert_eq!(segment.answers(&unicast.to_frame()).await, 1);
        // VLAN 5, which has nothing to do with ours.
        let mut tagged = question().to_frame().to_vec();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(segment.answers(&tagged).await, 0, "answered to a VLAN");
        // Flooded by a switch that does not know the host.
        must("ip link set lan0 promisc on").await;
        let astray = ArpPacket {
            destination: Mac([2, 0, 0, 0, 0, 0x99]),
            ..question()
        };
        assert_eq!(segment.answers(&astray.to_frame()).await, 0);
        // Of another interface of this node.
        segment.change(|plan| {
            plan.own = BTreeSet::from([Segment::TAP.0]).into();
        });
        tokio::time::sleep(MOMENT).await;
        assert_eq!(segment.answers(&question().to_frame()).await, 0);
    });
}

#[test]
fn a_new_link_and_a_change_that_others_missed_are_announced_at_once() {
    if !inside("frame_tests::a_new_link_and_a_change_that_others_missed_are_announced_at_once") {
        return;
    }
    run(async {
        let mut segment = Segment::new().await;
        segment.hold();
        let mut announced = async |change: &dyn Fn(&mut Plan)| {
            // The dense part of the burst before is over.
            segment.hear(Duration::from_millis(1200)).await;
            segment.change(change);
            let heard = segment.hear(Duration::from_millis(1500)).await;
            heard
                .iter()
                .filter(|packet| packet.is_announcement())
                .count()
        };
        assert!(announced(&|plan| plan.link += 1).await >= 4);
        assert!(announced(&|plan| *plan.hold.get_mut(&VIP.into()).unwrap() += 1).await >= 4);
        assert!(announced(&|plan| plan.own = BTreeSet::new().into()).await <= 2);
    });
}

#[test]
fn a_link_that_was_away_for_a_moment_counts() {
    if !inside("frame_tests::a_link_that_was_away_for_a_moment_counts") {
        return;
    }
    run(async {
        must(SEGMENT).await;
        let mut links = Links::subscribe().unwrap();
        let before = interface("lan0").await;
        must("printf 'link set lan0 down\\nlink set lan0 up\\n' | ip -batch -").await;
        links.changed().await.unwrap();
        let after = interface("lan0").await;
        assert_ne!(before.carrier_changes, after.carrier_changes);
    });
}

#[test]
fn an_address_that_a_host_has_already_is_left_to_it_until_it_goes() {
    if !inside("frame_tests::an_address_that_a_host_has_already_is_left_to_it_until_it_goes") {
        return;
    }
    run(async {
        let mut segment = Segment::new().await;
        must(&format!("ip -n host addr add {VIP}/32 dev lan0")).await;
        must(&format!("ip -n host addr add {VIP6}/128 dev lan0 nodad")).await;
        segment.change(|plan| plan.fresh = [VIP.into(), VIP6.into()].into());
        segment.hold();
        let mut in_use = BTreeMap::new();
        while in_use.len() < 2 {
            if let PortEvent::Announcer(Event::InUse { address, mac }) = segment.event().await {
                in_use.insert(address, mac);
            }
        }
        assert!(in_use.values().all(|mac| *mac == HOST), "{in_use:?}");
        segment.change(|plan| plan.fresh.clear());
        let heard = segment.hear(MOMENT).await;
        assert!(!heard.iter().any(ArpPacket::is_announcement), "{heard:?}");
        must(&format!("ip -n host addr del {VIP}/32 dev lan0")).await;
        let address: IpAddr = VIP.into();
        loop {
            if segment.event().await == PortEvent::Announcer(Event::ConflictEnded { address }) {
                break;
            }
        }
        must(&format!(
            "ip netns exec host arping -q -f -w 2 -I lan0 {VIP}"
        ))
        .await;
    });
}

#[test]
fn a_free_address_is_announced_after_three_questions() {
    if !inside("frame_tests::a_free_address_is_announced_after_three_questions") {
        return;
    }
    run(async {
        let mut segment = Segment::new().await;
        segment.change(|plan| {
            plan.fresh = [VIP.into()].into();
            plan.hold = BTreeMap::from([(VIP.into(), 0)]);
        });
        let mut heard = Vec::new();
        while !heard.iter().any(ArpPacket::is_announcement) {
            heard.extend(segment.hear(MOMENT).await);
        }
        let questions = heard.iter().take_while(|packet| packet.is_probe());
        assert_eq!(questions.count(), 3, "{heard:?}");
    });
}

#[test]
fn addresses_of_others_are_asked_for_as_a_client_would() {
    if !inside("frame_tests::addresses_of_others_are_asked_for_as_a_client_would") {
        return;
    }
    run(async {
        let mut segment = Segment::new().await;
        let (answered, silent) = (VIP.into(), Ipv4Addr::new(10, 20, 100, 1).into());
        must(&format!("ip -n host addr add {VIP}/32 dev lan0")).await;
        segment.change(|plan| {
            plan.check = [(answered, 1), (silent, 1)].into();
            plan.controls = [Ipv4Addr::new(10, 20, 0, 1).into()].into();
        });
        assert_eq!(
            segment.event().await,
            PortEvent::Verdict(answered, Verdict::Answered(HOST))
        );
        assert_eq!(
            segment.event().await,
            PortEvent::Verdict(silent, Verdict::Silent)
        );
        // Once about a node, as the election asks.
        let (from, to) = ([10, 20, 0, 11].into(), [10, 20, 0, 1].into());
        segment.questions.send(Question { from, to }).unwrap();
        assert_eq!(segment.event().await, PortEvent::Answered(to));
    });
}

#[test]
fn a_group_is_joined_when_the_interface_gets_ipv6() {
    if !inside("frame_tests::a_group_is_joined_when_the_interface_gets_ipv6") {
        return;
    }
    run(async {
        let segment = Segment::new().await;
        // With a smaller one than IPv6 asks for, an interface has no IPv6.
        must("ip link set lan0 mtu 1000").await;
        segment.hold();
        tokio::time::sleep(MOMENT).await;
        let (_, groups) = shell("ip -6 maddr show dev lan0").await;
        assert!(!groups.contains("ff02::1:ff01:0"), "{groups}");
        must("ip link set lan0 mtu 1500").await;
        until("ip -6 maddr show dev lan0", "ff02::1:ff01:0").await;
    });
}
