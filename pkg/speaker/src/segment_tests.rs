//! The coordinator and its ports on a real segment: a bridge that stands for
//! this node's interface, with two hosts on it, in network namespaces of their
//! own. Each test runs itself again inside; nothing is left when it ends.

use std::collections::BTreeSet;
use std::env;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use herald_core::ServiceKey;
use herald_l2::{ArpPacket, Mac, Profile};
use herald_net::{Inbox, Links, PacketSocket, Traffic};
use herald_telemetry::Registry;
use regex::Regex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::coordinator::Coordinator;
use crate::duties::{Duties, Duty, Role};
use crate::events::Note;
use crate::metrics::Metrics;
use crate::{Config, SpeakerError};

const INSIDE: &str = "HERALD_TEST_INSIDE_NAMESPACE";
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

/// Whether we are in a namespace made for the test `name` of this module; if
/// not, makes one and runs the test there.
fn inside(name: &str) -> bool {
    inside_as(&format!("segment_tests::{name}"))
}

/// [`inside`] for a test of another module, by its path.
pub(crate) fn inside_as(name: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = |command: &mut Command| {
        command.args([
            "--map-root-user",
            "--net",
            "--mount",
            "--fork",
            "--kill-child",
            "--",
        ]);
    };
    let mut probe = Command::new("unshare");
    unshare(&mut probe);
    match probe
        .args(["mount", "-t", "tmpfs", "none", "/run"])
        .output()
    {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            eprintln!(
                "skipped: no namespaces: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            return false;
        }
        Err(error) => {
            eprintln!("skipped: no unshare(1): {error}");
            return false;
        }
    }
    let mut again = Command::new("unshare");
    unshare(&mut again);
    let status = again
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", name])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed in its namespace");
    false
}

/// Runs a shell command; its output and whether it went well.
pub(crate) async fn shell(command: &str) -> (bool, String) {
    let output = tokio::process::Command::new("sh")
        .args(["-c", command])
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Runs a shell command that must go well.
pub(crate) async fn must(command: &str) -> String {
    let (well, text) = shell(command).await;
    assert!(well, "{command}: {text}");
    text
}

/// Waits until a command's output holds (or no longer holds) a text.
pub(crate) async fn until(command: &str, text: &str, there: bool) {
    let mut output = String::new();
    for _ in 0..200 {
        output = shell(command).await.1;
        if output.contains(text) == there {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{command}: {text:?} there: {}, in: {output}", !there);
}

struct Speaker {
    duties: watch::Sender<Arc<Duties>>,
    notes: mpsc::Receiver<Note>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SpeakerError>>,
}

impl Speaker {
    /// Builds the segment and owns both VIPs on it.
    async fn on_segment() -> Self {
        must(SEGMENT).await;
        let config = Config {
            node: "n1".into(),
            namespace: "herald-system".into(),
            handle_unclassed: true,
            exclude_interfaces: vec![Regex::new("^lo$").unwrap()],
            drain_timeout: LIMIT,
            announcing: Profile::DEFAULT,
            check: true,
        };
        let (sender, duties) = watch::channel(Arc::new(duties(Role::Own { successor: true })));
        let (notes, receiver) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let coordinator = Coordinator::new(config, duties, notes, metrics, stop.clone()).unwrap();
        let task = tokio::spawn(coordinator.run());
        Self {
            duties: sender,
            notes: receiver,
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

    async fn ended(self) {
        tokio::time::timeout(LIMIT / 2, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

fn duties(role: Role) -> Duties {
    let duty = Duty {
        service: ServiceKey::new("default", "web"),
        uid: "u".into(),
        role,
        interfaces: BTreeSet::new(),
    };
    [VIP, VIP6]
        .map(|vip| (vip.parse::<IpAddr>().unwrap(), duty.clone()))
        .into()
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

const ARPING: &str = "ip netns exec client arping -q -f -w 2 -I lan0";
const NDISC6: &str = "ip netns exec client ndisc6 -q -1 -r 1 -w 1000";
/// `other` takes the address and announces it, as a successor does.
const SUCCEED: &str = "ip -n other addr add 10.20.100.0/32 dev lan0 &&
    ip netns exec other arping -q -U -c 1 -I lan0 10.20.100.0;
    ip -n other addr del 10.20.100.0/32 dev lan0";

#[test]
fn hosts_find_our_addresses_and_are_kept_off_them() {
    if !inside("hosts_find_our_addresses_and_are_kept_off_them") {
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
        until("ip -n client -6 addr show dev lan0", "dadfailed", true).await;
        must(&format!("ip -n client addr del {VIP6}/64 dev lan0")).await;
        let (ours, _) = shell(&format!("{ARPING} 10.20.100.1")).await;
        assert!(!ours, "another address was answered for");

        // The switch, which snoops, knows of the group.
        until("ip -6 maddr show dev lan0", "ff02::1:ff01:0", true).await;
        speaker.duties.send_replace(Arc::default());
        until("ip -6 maddr show dev lan0", "ff02::1:ff01:0", false).await;
        let (ours, _) = shell(&format!("{ARPING} {VIP}")).await;
        assert!(!ours, "answered after it was withdrawn");
    });
}

#[test]
fn hosts_learn_of_another_hardware_address_at_once() {
    if !inside("hosts_learn_of_another_hardware_address_at_once") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        // The address is nobody's, so only the neighbour entry is looked at.
        shell(&format!("ip netns exec client ping -c 1 -W 1 {VIP}")).await;
        let neighbors = format!("ip -n client neigh show {VIP}");
        until(&neighbors, MAC, true).await;
        must(&format!("ip link set lan0 address {OTHER_MAC}")).await;
        until(&neighbors, OTHER_MAC, true).await;
        // A link that comes back is told of too.
        must("ip -n client neigh flush all; ip link set lan0 down").await;
        must("ip link set lan0 up").await;
        must(&format!("{ARPING} {VIP}")).await;
    });
}

#[test]
fn an_address_is_answered_for_until_its_successor_is_heard() {
    if !inside("an_address_is_answered_for_until_its_successor_is_heard") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        must(&format!("{ARPING} {VIP}")).await;
        // The order to stop: another node can have it, so we wait for it.
        speaker.stop.cancel();
        must(&format!("{ARPING} {VIP}")).await;
        must(SUCCEED).await;
        let (ours, _) = shell(&format!("{ARPING} {VIP}")).await;
        assert!(!ours, "answered though the successor was heard");
        must(&format!("{NDISC6} {VIP6} lan0")).await;
        // Nobody can have the other one any more: nothing to wait for.
        speaker.duties.send_replace(Arc::default());
        speaker.ended().await;
    });
}

#[test]
fn without_a_successor_we_stop_at_once() {
    if !inside("without_a_successor_we_stop_at_once") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        speaker
            .duties
            .send_replace(Arc::new(duties(Role::Own { successor: false })));
        must(&format!("{ARPING} {VIP}")).await;
        speaker.stop.cancel();
        speaker.ended().await;
    });
}

#[test]
fn a_host_that_has_our_address_is_told_of() {
    if !inside("a_host_that_has_our_address_is_told_of") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        must(&format!("ip -n other addr add {VIP}/32 dev lan0")).await;
        let claims = format!("ip netns exec other arping -q -U -c 5 -I lan0 {VIP}");
        let claiming = tokio::spawn(async move { shell(&claims).await });
        let note = speaker.note().await;
        assert_eq!((note.reason, note.warning), ("AddressConflict", true));
        claiming.abort();
        must(&format!("{ARPING} {VIP}")).await;
    });
}

/// Another host on the segment, which we play.
struct Tap {
    socket: PacketSocket,
    inbox: Inbox,
}

impl Tap {
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x77]);
    const PORT: Mac = Mac([2, 0, 0, 0, 0, 0x78]);

    /// Plugs it in. Its interface is ours for the kernel and for the speaker, so
    /// its frames come from `PORT`; what is sent to `MAC` is for it.
    async fn plug() -> Self {
        must(
            "ip link add tap0 type veth peer name to-tap && ip link set to-tap master lan0 up &&
             ip link set tap0 address 02:00:00:00:00:77 up",
        )
        .await;
        let interfaces = Links::subscribe().unwrap().list().await.unwrap();
        let tap = interfaces.values().find(|i| i.name == "tap0").unwrap();
        Self {
            socket: PacketSocket::open(tap.index, Traffic::Arp).unwrap(),
            inbox: Inbox::new(),
        }
    }

    async fn send(&self, frame: &[u8]) {
        self.socket.send(&[frame]).await.unwrap();
    }

    /// ARP packets that come within a time.
    async fn hear(&mut self, time: Duration) -> Vec<ArpPacket> {
        let mut heard = Vec::new();
        let end = tokio::time::sleep(time);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return heard,
                result = self.socket.receive(&mut self.inbox) => result.unwrap(),
            }
            heard.extend(self.inbox.frames().filter_map(|f| ArpPacket::parse(f).ok()));
        }
    }
}

/// Long enough for an answer, short enough to wait for none.
const MOMENT: Duration = Duration::from_millis(300);

#[test]
fn only_what_is_for_us_on_this_network_is_answered() {
    if !inside("only_what_is_for_us_on_this_network_is_answered") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        let mut tap = Tap::plug().await;
        let question = ArpPacket {
            source: Tap::PORT,
            ..ArpPacket::question(Tap::MAC, [10, 20, 0, 3].into(), VIP.parse().unwrap())
        };
        let answers = |heard: Vec<ArpPacket>| {
            let to_us = heard.iter().filter(|packet| packet.destination == Tap::MAC);
            to_us.count()
        };
        tap.send(&question.to_frame()).await;
        assert_eq!(answers(tap.hear(MOMENT).await), 1);
        // A kernel that checks its entry asks the node alone.
        let ours = Mac([2, 0, 0, 0, 0, 0x11]);
        let unicast = ArpPacket {
            destination: ours,
            ..question
        };
        tap.send(&unicast.to_frame()).await;
        assert_eq!(answers(tap.hear(MOMENT).await), 1);
        // VLAN 5, which has nothing to do with ours.
        let mut tagged = question.to_frame().to_vec();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        tap.send(&tagged).await;
        assert_eq!(answers(tap.hear(MOMENT).await), 0, "answered to a VLAN");
        // Flooded by a switch that does not know the host.
        must("ip link set lan0 promisc on").await;
        let astray = ArpPacket {
            destination: Mac([2, 0, 0, 0, 0, 0x99]),
            ..question
        };
        tap.send(&astray.to_frame()).await;
        assert_eq!(answers(tap.hear(MOMENT).await), 0, "answered for another");
    });
}

#[test]
fn a_link_that_was_away_for_a_moment_is_announced_on_anew() {
    if !inside("a_link_that_was_away_for_a_moment_is_announced_on_anew") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        let mut tap = Tap::plug().await;
        // The burst's dense part is over.
        tap.hear(Duration::from_millis(1200)).await;
        must("printf 'link set lan0 down\nlink set lan0 up\n' | ip -batch -").await;
        let heard = tap.hear(Duration::from_millis(700)).await;
        let announced = heard.iter().filter(|packet| packet.is_announcement());
        assert!(announced.count() >= 3, "{heard:?}");
    });
}

#[test]
fn an_address_that_a_host_has_already_is_left_to_it_until_it_goes() {
    if !inside("an_address_that_a_host_has_already_is_left_to_it_until_it_goes") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        for nothing_then_a_service in [duties(Role::Yield), Duties::new()] {
            speaker
                .duties
                .send_replace(Arc::new(nothing_then_a_service));
            tokio::time::sleep(MOMENT).await;
        }
        must(&format!("ip -n other addr add {VIP}/32 dev lan0")).await;
        speaker
            .duties
            .send_replace(Arc::new(duties(Role::Own { successor: false })));
        let mut note = speaker.note().await;
        while note.reason != "AddressInUse" {
            note = speaker.note().await;
        }
        assert!(note.text.contains("is not announced"), "{}", note.text);
        let answers = shell(&format!(
            "ip netns exec client arping -c 2 -w 2 -I lan0 {VIP}"
        ))
        .await
        .1;
        assert!(!answers.to_lowercase().contains(MAC), "{answers}");
        // The address of the other family is free, and ours.
        let answer = must(&format!("{NDISC6} {VIP6} lan0")).await;
        assert_eq!(answer.trim().to_lowercase(), MAC);
        must(&format!("ip -n other addr del {VIP}/32 dev lan0")).await;
        let asked = format!("ip netns exec client arping -c 1 -w 1 -I lan0 {VIP}");
        until(&asked, &MAC.to_uppercase(), true).await;
    });
}

#[test]
fn an_address_on_an_interface_of_the_node_is_told_of() {
    if !inside("an_address_on_an_interface_of_the_node_is_told_of") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        must(&format!("ip addr add {VIP}/32 dev lo")).await;
        let note = speaker.note().await;
        assert_eq!((note.reason, note.warning), ("AddressOnHost", true));
        assert!(note.text.contains("interface lo of node n1"));
    });
}

#[test]
fn an_address_of_another_node_that_nobody_answers_for_is_told_of() {
    if !inside("an_address_of_another_node_that_nobody_answers_for_is_told_of") {
        return;
    }
    run(async {
        let mut speaker = Speaker::on_segment().await;
        speaker.note().await;
        // The other node has one of the two.
        must(&format!(
            "ip -n other addr add {VIP6}/128 dev lan0 nodad; ip -n other addr add fd20::2/64 dev lan0 nodad"
        ))
        .await;
        speaker.duties.send_replace(Arc::new(duties(Role::Yield)));
        let note = speaker.note().await;
        assert_eq!((note.reason, note.warning), ("AddressUnanswered", true));
        assert!(note.text.contains(VIP), "{}", note.text);
        let more = tokio::time::timeout(Duration::from_secs(5), speaker.notes.recv()).await;
        assert!(more.is_err(), "{more:?}");
    });
}
