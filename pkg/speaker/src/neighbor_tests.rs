//! What a host's kernel does with each form in which an address can be
//! announced or answered for: why ours are what they are, and what others
//! send. A veth pair stands for the segment; the other end is the host.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use herald_l2::{ArpOperation, ArpPacket, Mac, NeighborAdvertisement, NeighborSolicitation};
use herald_net::{Links, PacketSocket, Traffic};

use crate::netns::{inside, must, run, until};

/// The host's.
const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Where the host believes the addresses to be.
const OLD: Mac = Mac([2, 0, 0, 0, 0, 0x21]);
/// Where they are.
const NEW: Mac = Mac([2, 0, 0, 0, 0, 0x22]);

const HOST4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 1);

const SEGMENT: &str = "
    set -e
    mount -t tmpfs none /run
    ip netns add host
    ip link add lan0 type veth peer name lan0 netns host
    ip -n host link set lan0 address 02:00:00:00:00:01 up
    ip link set lan0 up
    ip -n host addr add 10.20.0.1/16 dev lan0
    ip -n host addr add fd20::1/64 dev lan0 nodad
";

/// What becomes of the host's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Missing,
    Old(State),
    New(State),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reachable,
    Stale,
}

use Entry::{Missing, New, Old};
use State::{Reachable, Stale};

/// How the host has the address before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Reachable, learned less than a second ago (`neigh.locktime`).
    Fresh,
    /// Learned some time ago.
    Aged,
    Nothing,
}

/// A frame about an address, and what the host makes of it.
struct Case {
    name: &'static str,
    frame: fn(IpAddr) -> Vec<u8>,
    before: Before,
    after: Entry,
}

/// A case for each state of the entry.
fn cases(
    name: &'static str,
    frame: fn(IpAddr) -> Vec<u8>,
    [fresh, aged, nothing]: [Entry; 3],
) -> [Case; 3] {
    [
        (Before::Fresh, fresh),
        (Before::Aged, aged),
        (Before::Nothing, nothing),
    ]
    .map(|(before, after)| Case {
        name,
        frame,
        before,
        after,
    })
}

struct Segment {
    arp: PacketSocket,
    neighbors: PacketSocket,
}

impl Segment {
    async fn new() -> Self {
        must(SEGMENT).await;
        let interfaces = Links::subscribe().unwrap().list().await.unwrap();
        let lan0 = interfaces.values().find(|i| i.name == "lan0").unwrap();
        Self {
            arp: PacketSocket::open(lan0.index, Traffic::Arp).unwrap(),
            neighbors: PacketSocket::open(lan0.index, Traffic::NeighborDiscovery).unwrap(),
        }
    }

    /// Plays all cases at once, each with an address of its own, `base` and
    /// those behind it. `last` is a frame that surely makes a difference: when
    /// it has, all before it have been seen too.
    async fn play(&self, base: IpAddr, cases: &[Case], last: fn(IpAddr) -> Vec<u8>) {
        let addresses: Vec<IpAddr> = (0..=cases.len()).map(|i| offset(base, i)).collect();
        // Aged ones first, of an age past the lock time.
        enter(cases, &addresses, Before::Aged, "stale").await;
        tokio::time::sleep(Duration::from_millis(1200)).await;
        enter(cases, &addresses, Before::Fresh, "reachable").await;
        let sentinel = addresses[cases.len()];
        must(&format!(
            "ip -n host neigh replace {sentinel} lladdr {OLD} nud stale dev lan0"
        ))
        .await;
        let frames: Vec<Vec<u8>> = cases
            .iter()
            .zip(&addresses)
            .map(|(case, address)| (case.frame)(*address))
            .chain([last(sentinel)])
            .collect();
        let socket = if base.is_ipv4() {
            &self.arp
        } else {
            &self.neighbors
        };
        socket.send(&frames).await.unwrap();
        until(
            &format!("ip -n host neigh show {sentinel}"),
            &NEW.to_string(),
        )
        .await;
        let entries = read(&must("ip -n host neigh show").await);
        for (case, address) in cases.iter().zip(&addresses) {
            let after = entries.get(address).copied().unwrap_or(Missing);
            assert_eq!(
                after, case.after,
                "{} on an entry that was {:?}",
                case.name, case.before
            );
        }
        must("ip -n host neigh flush all").await;
    }
}

fn offset(base: IpAddr, by: usize) -> IpAddr {
    let by = u8::try_from(by).unwrap();
    match base {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() + u32::from(by)).into(),
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() + u128::from(by)).into(),
    }
}

async fn enter(cases: &[Case], addresses: &[IpAddr], before: Before, state: &str) {
    let mut lines = String::new();
    for (_, address) in cases
        .iter()
        .zip(addresses)
        .filter(|(case, _)| case.before == before)
    {
        let entry = format!("neigh replace {address} lladdr {OLD} nud {state} dev lan0\\n");
        lines.write_str(&entry).unwrap();
    }
    must(&format!("printf '{lines}' | ip -n host -batch -")).await;
}

/// Of the lines of `ip neigh`: `10.20.100.0 dev lan0 lladdr 02:… STALE`.
fn read(text: &str) -> HashMap<IpAddr, Entry> {
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "lladdr")?;
            let state = match *words.last()? {
                "REACHABLE" => Reachable,
                "STALE" => Stale,
                other => panic!("an entry is {other}: {line}"),
            };
            let entry = match *words.get(at + 1)? {
                mac if mac == OLD.to_string() => Old(state),
                mac if mac == NEW.to_string() => New(state),
                _ => return None,
            };
            Some((words.first()?.parse().ok()?, entry))
        })
        .collect()
}

fn v4(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(address) = address else {
        panic!("{address} is IPv6")
    };
    address
}

fn v6(address: IpAddr) -> Ipv6Addr {
    let IpAddr::V6(address) = address else {
        panic!("{address} is IPv4")
    };
    address
}

fn announcement(address: IpAddr) -> ArpPacket {
    ArpPacket::announcement(NEW, v4(address))
}

fn sent(packet: &ArpPacket) -> Vec<u8> {
    packet.to_frame().to_vec()
}

/// Ours.
fn arp_request(address: IpAddr) -> Vec<u8> {
    sent(&announcement(address))
}

fn arp_cases(created: Entry) -> Vec<Case> {
    let moves = [New(Stale), New(Stale), created];
    let not_at_once = [Old(Reachable), New(Stale), created];
    [
        cases("a request, ours", arp_request, moves),
        cases(
            "a request to ff:ff, as of keepalived and MetalLB",
            |address| {
                sent(&ArpPacket {
                    target_mac: Mac::BROADCAST,
                    ..announcement(address)
                })
            },
            moves,
        ),
        cases(
            "a reply, ours where it is asked for",
            |address| sent(&ArpPacket::reply_announcement(NEW, v4(address))),
            moves,
        ),
        cases(
            "a reply to ff:ff, as of MetalLB",
            |address| {
                sent(&ArpPacket {
                    operation: ArpOperation::Reply,
                    target_mac: Mac::BROADCAST,
                    ..announcement(address)
                })
            },
            not_at_once,
        ),
        cases(
            "a reply to 00:00",
            |address| {
                sent(&ArpPacket {
                    operation: ArpOperation::Reply,
                    ..announcement(address)
                })
            },
            not_at_once,
        ),
        cases(
            "an answer, ours, though nobody asked",
            |address| {
                let question = ArpPacket::question(HOST, HOST4, v4(address));
                sent(&question.reply(NEW))
            },
            [Old(Reachable), New(Reachable), Missing],
        ),
        cases(
            "a request to one host",
            |address| {
                sent(&ArpPacket {
                    destination: HOST,
                    ..announcement(address)
                })
            },
            moves,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn arp_announcements_in_every_form() {
    if !inside("neighbor_tests::arp_announcements_in_every_form") {
        return;
    }
    run(async {
        let segment = Segment::new().await;
        for (accept, created) in [(0, Missing), (1, New(Stale)), (2, New(Stale))] {
            must(&format!(
                "ip netns exec host sh -c 'echo {accept} > /proc/sys/net/ipv4/conf/lan0/arp_accept'"
            ))
            .await;
            let mut cases = arp_cases(created);
            if accept > 0 {
                // The answer that nobody asked for is not an announcement; what
                // a host that takes those makes of it is its own affair.
                cases.retain(|case| case.name != "an answer, ours, though nobody asked");
            }
            let base = Ipv4Addr::new(10, 20, 100, 0).into();
            segment.play(base, &cases, arp_request).await;
        }
    });
}

fn advertisement(address: IpAddr) -> NeighborAdvertisement {
    NeighborAdvertisement::announcement(NEW, v6(address))
}

/// Ours.
fn advertised(address: IpAddr) -> Vec<u8> {
    advertisement(address).to_frame().to_vec()
}

/// The answer to the host's question.
fn answer(address: IpAddr) -> NeighborAdvertisement {
    let question = NeighborSolicitation::question(HOST, HOST6, v6(address));
    NeighborAdvertisement::answer(&question, NEW)
}

fn ndp_cases() -> Vec<Case> {
    let ignored = [Old(Reachable), Old(Stale), Missing];
    [
        cases(
            "an announcement, ours",
            advertised,
            [New(Stale), New(Stale), Missing],
        ),
        cases(
            "one from another address of the sender",
            |address| {
                let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x22);
                let said = NeighborAdvertisement {
                    source,
                    ..advertisement(address)
                };
                said.to_frame().to_vec()
            },
            [New(Stale), New(Stale), Missing],
        ),
        cases(
            "one without override",
            |address| {
                let said = NeighborAdvertisement {
                    override_: false,
                    ..advertisement(address)
                };
                said.to_frame().to_vec()
            },
            [Old(Stale), Old(Stale), Missing],
        ),
        cases(
            "one without a hardware address",
            |address| {
                let said = NeighborAdvertisement {
                    target_link: None,
                    ..advertisement(address)
                };
                said.to_frame().to_vec()
            },
            ignored,
        ),
        cases(
            "one that was forwarded",
            |address| {
                let mut frame = advertised(address);
                frame[21] = 254;
                frame
            },
            ignored,
        ),
        cases(
            "one to all that says it was asked for",
            |address| {
                let said = NeighborAdvertisement {
                    solicited: true,
                    ..advertisement(address)
                };
                said.to_frame().to_vec()
            },
            ignored,
        ),
        cases(
            "an answer without override, as of MetalLB",
            |address| {
                let said = NeighborAdvertisement {
                    override_: false,
                    ..answer(address)
                };
                said.to_frame().to_vec()
            },
            [Old(Stale), Old(Stale), Missing],
        ),
        cases(
            "an answer, ours",
            |address| answer(address).to_frame().to_vec(),
            [New(Reachable), New(Reachable), Missing],
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn neighbor_advertisements_in_every_form() {
    if !inside("neighbor_tests::neighbor_advertisements_in_every_form") {
        return;
    }
    run(async {
        let segment = Segment::new().await;
        let base = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 1, 0).into();
        segment.play(base, &ndp_cases(), advertised).await;
        // A host may refuse all that it did not ask for; answers it takes.
        must(
            "ip netns exec host sh -c 'echo 1 > /proc/sys/net/ipv6/conf/lan0/drop_unsolicited_na'",
        )
        .await;
        let strict = cases(
            "an announcement to a host that refuses them",
            advertised,
            [Old(Reachable), Old(Stale), Missing],
        );
        let last = |address| answer(address).to_frame().to_vec();
        segment.play(base, &strict, last).await;
    });
}
