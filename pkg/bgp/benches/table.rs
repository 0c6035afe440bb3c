//! What a table costs: the time to announce and to withdraw it, the messages,
//! and the memory.
//!
//! `cargo bench -p herald-bgp -- ROUTES PEERS`, 100000 and 4 if not given.
//!
//! Prints lines `figure NAME VALUE UNIT`. Times are those of the speaker alone:
//! from the first change to the last byte given to the socket of every peer,
//! without what the kernel takes for sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use herald_bgp::{
    Capability, Community, ConnectionId, Context, Family, GATHER, Input, MessageType, NextHop,
    Offer, Open, Output, PathAttributes, PeerAs, PeerConfig, PeerId, Peers, Speaker, Update,
    encode_keepalive,
};
use ipnet::IpNet;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// One socket write at the most.
const WRITE: usize = 256 * 1024;

struct Bench {
    speaker: Speaker,
    peers: Vec<(PeerId, ConnectionId)>,
    now: Instant,
}

/// What went out to all peers.
#[derive(Default)]
struct Sent {
    messages: usize,
    bytes: usize,
    /// What went to the first peer.
    first: Vec<u8>,
}

impl Bench {
    fn new(peers: u32) -> Self {
        let mut bench = Self {
            speaker: Speaker::new(1),
            peers: Vec::new(),
            now: Instant::now(),
        };
        bench.speaker.set_complete();
        for number in 0..peers {
            bench.add_peer(number);
        }
        bench.drain();
        bench
    }

    fn add_peer(&mut self, number: u32) {
        let router_id = [192, 0, 2, 1].into();
        let mut config = PeerConfig::new(64512, PeerAs::External, router_id);
        config.passive = true;
        config.extended_messages = false;
        config.next_hop_v6 = Some(NextHop::V6("2001:db8::1".parse().expect("an address")));
        let peer = self
            .speaker
            .add_peer(config, self.now)
            .expect("it is valid");
        let connection = self
            .speaker
            .accept(peer, LOCAL, self.now)
            .expect("it is there");
        let open = Open {
            my_as: 64513,
            // Time is made to fly.
            hold_time: 0,
            identifier: Ipv4Addr::from(0x0a00_0001 + number),
            capabilities: Family::ALL
                .map(Capability::multiprotocol)
                .into_iter()
                .chain([Capability::FourOctetAs(64513)])
                .collect(),
        };
        let mut bytes = Vec::new();
        open.encode(&mut bytes);
        encode_keepalive(&mut bytes);
        let input = Input::Received {
            connection,
            bytes: &bytes,
        };
        self.speaker.handle(peer, input, self.now);
        self.peers.push((peer, connection));
    }

    /// Everything to every peer, a write of each in turn.
    fn drain(&mut self) -> Sent {
        while let Some((_, output)) = self.speaker.poll_output() {
            assert!(
                !matches!(output, Output::Down(_) | Output::Failed(_)),
                "{output:?}"
            );
        }
        let mut sent = Sent::default();
        let mut open: Vec<_> = self.peers.iter().copied().enumerate().collect();
        while !open.is_empty() {
            open.retain(|(number, (peer, connection))| {
                let pending = self.speaker.pending(*peer, *connection, self.now);
                let count = pending.len().min(WRITE);
                if *number == 0 {
                    sent.first.extend_from_slice(&pending[..count]);
                }
                sent.bytes += count;
                self.speaker
                    .transmitted(*peer, *connection, count, self.now);
                count > 0
            });
        }
        let mut rest = &sent.first[..];
        while let Some(length) = rest.get(16..18) {
            sent.messages += 1;
            rest = &rest[usize::from(u16::from_be_bytes([length[0], length[1]]))..];
        }
        sent
    }

    fn flush(&mut self) -> Sent {
        self.now += GATHER;
        self.speaker.handle_timeout(self.now);
        self.drain()
    }
}

fn host(number: u32) -> IpNet {
    IpNet::new_assert(Ipv4Addr::from(0x0a00_0000 + number).into(), 32)
}

fn host_v6(number: u32) -> IpNet {
    let address = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(number));
    IpNet::new_assert(address.into(), 128)
}

fn offer(set: u32) -> [Offer; 1] {
    let attributes = PathAttributes {
        communities: if set == 0 {
            vec![]
        } else {
            vec![Community(set)]
        },
        ..PathAttributes::default()
    };
    [Offer {
        peers: Peers::All,
        attributes,
    }]
}

/// Resident memory of this process, bytes.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).expect("it has seven numbers");
    pages.parse::<f64>().expect("a number") * 4096.0
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Announces and withdraws a table of one attribute set.
fn table(family: &str, routes: u32, peers: u32, host: fn(u32) -> IpNet) {
    let mut bench = Bench::new(peers);
    let name = format!("bgp-engine/{routes}-{family}");
    let offer = offer(0);
    let began = Instant::now();
    for number in 0..routes {
        let announced = bench.speaker.announce(host(number), &offer, bench.now);
        announced.expect("it is valid");
    }
    let inserted = began.elapsed();
    let encodings = bench.speaker.encodings();
    let sent = bench.flush();
    let took = began.elapsed();
    println!("figure {name}/announce {:.2} ms", millis(took));
    println!("figure {name}/announce/insert {:.2} ms", millis(inserted));
    println!("figure {name}/announce/messages {} messages", sent.messages);
    println!(
        "figure {name}/announce/bytes {} bytes-to-{peers}-peers",
        sent.bytes
    );
    let encodings = bench.speaker.encodings() - encodings;
    println!("figure {name}/announce/encodings {encodings} for-{peers}-peers");
    receive(&name, &sent.first);

    let began = Instant::now();
    for number in 0..routes {
        bench.speaker.withdraw(host(number), bench.now);
    }
    let sent = bench.flush();
    println!("figure {name}/withdraw {:.2} ms", millis(began.elapsed()));
    println!("figure {name}/withdraw/messages {} messages", sent.messages);
    assert_eq!(bench.speaker.routes(), 0);
}

/// Reads what was announced, as from a peer that sends us a table.
fn receive(name: &str, bytes: &[u8]) {
    let context = Context {
        four_octet_as: true,
        internal: false,
    };
    let began = Instant::now();
    let mut rest = bytes;
    let mut prefixes = 0;
    while let Ok(Some(frame)) = herald_bgp::Frame::parse(rest, herald_bgp::MAX_MESSAGE) {
        rest = &rest[frame.length()..];
        if frame.kind == MessageType::Update {
            let update = Update::parse(frame.body).expect("it is ours");
            prefixes += update.check(context).expect("it is ours").announced;
        }
    }
    let took = millis(began.elapsed());
    println!("figure {name}/receive {took:.2} ms");
    assert!(prefixes > 0);
}

/// One peer comes when the table is there.
fn initial(routes: u32) {
    let mut bench = Bench::new(0);
    for number in 0..routes {
        let announced = bench.speaker.announce(host(number), &offer(0), bench.now);
        announced.expect("it is valid");
    }
    bench.flush();
    bench.add_peer(0);
    let began = Instant::now();
    bench.drain();
    let took = millis(began.elapsed());
    println!("figure bgp-engine/{routes}-v4/initial {took:.2} ms");
}

/// A change of one route among many.
fn single(routes: u32) {
    let mut bench = Bench::new(4);
    for number in 0..routes {
        let announced = bench.speaker.announce(host(number), &offer(0), bench.now);
        announced.expect("it is valid");
    }
    bench.flush();
    let rounds = 10_000;
    let began = Instant::now();
    for round in 0..rounds {
        let offer = offer(1 + round);
        let announced = bench
            .speaker
            .announce(host(round % routes), &offer, bench.now);
        announced.expect("it is valid");
        bench.flush();
        if round % 2 == 1 {
            bench.speaker.withdraw(host(round % routes), bench.now);
            bench.flush();
        }
    }
    let took = began.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
    println!("figure bgp-engine/{routes}-v4/change {took:.2} us-for-4-peers");
}

/// Memory of a table that all peers have.
fn memory(family: &str, routes: u32, sets: u32, host: fn(u32) -> IpNet) {
    let mut bench = Bench::new(4);
    let before = resident();
    for number in 0..routes {
        let offer = offer(number % sets);
        let announced = bench.speaker.announce(host(number), &offer, bench.now);
        announced.expect("it is valid");
    }
    let each = || (resident() - before) / f64::from(routes);
    let name = format!("bgp-engine/memory-{family}-{sets}-sets");
    println!("figure {name} {:.1} bytes/route", each());
    bench.flush();
    println!("figure {name}/peak {:.1} bytes/route", each());
    assert_eq!(bench.speaker.attribute_sets(), sets as usize);
}

fn main() {
    // Cargo passes flags of its own.
    let numbers: Vec<u32> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let routes = numbers.first().copied().unwrap_or(100_000).max(1);
    let peers = numbers.get(1).copied().unwrap_or(4).clamp(1, 1000);
    // Memory first, while nothing has been freed that could be used again.
    memory("v4", 1_000_000, 1, host);
    memory("v6", 1_000_000, 1, host_v6);
    memory("v4", 1_000_000, 1000, host);
    table("v4", routes, peers, host);
    table("v6", routes, peers, host_v6);
    initial(routes);
    single(routes);
}
