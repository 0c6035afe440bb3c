//! What the engine itself costs: two of them, each with as many sessions as
//! asked, exchange their packets on virtual time.
//!
//! `cargo bench -p herald-bfd -- SESSIONS MILLISECONDS`, 500 and 50 if not given.
//!
//! Prints lines `figure NAME VALUE UNIT`. The share is of one core, for one of
//! the two ends, without what the kernel takes for sockets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use herald_bfd::{Arrival, Hops, Path, SessionConfig, SessionId, Sessions, State};

const SPAN: Duration = Duration::from_secs(20);

fn address(end: u8, i: u32) -> IpAddr {
    let [_, _, high, low] = i.to_be_bytes();
    Ipv4Addr::new(10, end, high, low).into()
}

struct End {
    sessions: Sessions,
    numbers: HashMap<SessionId, u32>,
    number: u8,
}

impl End {
    fn new(number: u8, count: u32, config: SessionConfig, now: Instant) -> Self {
        let mut sessions = Sessions::new(number.into());
        let numbers = (0..count)
            .map(|i| {
                let path = Path {
                    peer: address(1 - number, i),
                    local: Some(address(number, i)),
                    interface: None,
                    hops: Hops::Single,
                };
                let id = sessions.add(path, config, now).expect("paths are unique");
                (id, i)
            })
            .collect();
        Self {
            sessions,
            numbers,
            number,
        }
    }

    /// Everything that is due, to the other end at once. Gives the packets
    /// sent.
    fn turn(&mut self, other: &mut Self, now: Instant) -> u64 {
        let mut sent = 0;
        self.sessions.start_turn(now);
        while let Some(transmit) = self.sessions.poll_transmit(now) {
            let i = self.numbers[&transmit.session];
            let arrival = Arrival {
                multihop: false,
                source: address(self.number, i),
                destination: address(other.number, i),
                interface: 1,
                ttl: 255,
                at: now,
            };
            other
                .sessions
                .handle_datagram(&transmit.payload, &arrival)
                .expect("the other end has the session");
            sent += 1;
        }
        self.sessions.handle_expiries(now);
        sent
    }
}

fn run(one: &mut End, two: &mut End, now: &mut Instant, span: Duration) -> u64 {
    let until = *now + span;
    let mut sent = 0;
    loop {
        sent += one.turn(two, *now) + two.turn(one, *now);
        let next = one.sessions.poll_timeout().min(two.sessions.poll_timeout());
        match next {
            Some(next) if next <= until => *now = next.max(*now),
            _ => return sent,
        }
    }
}

fn main() {
    // Cargo passes flags of its own.
    let numbers: Vec<u32> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let count = numbers.first().copied().unwrap_or(500).min(65_536);
    let interval = Duration::from_millis(numbers.get(1).copied().unwrap_or(50).into());
    let config = SessionConfig {
        desired_min_tx: interval,
        required_min_rx: interval,
        ..SessionConfig::default()
    };
    let mut now = Instant::now();
    let mut one = End::new(0, count, config, now);
    let mut two = End::new(1, count, config, now);
    run(&mut one, &mut two, &mut now, Duration::from_secs(10));

    let began = Instant::now();
    let sent = run(&mut one, &mut two, &mut now, SPAN);
    let took = began.elapsed().as_secs_f64();

    let flaps: u64 = [&one, &two]
        .into_iter()
        .flat_map(|end| end.sessions.ids().map(move |id| (end, id)))
        .filter_map(|(end, id)| end.sessions.counters(id))
        .map(|counters| counters.downs)
        .sum();
    let up = one
        .sessions
        .ids()
        .filter(|id| {
            let session = one.sessions.get(*id);
            session.is_some_and(|session| session.state() == State::Up)
        })
        .count();
    let name = format!("bfd-engine/{count}x{}ms", interval.as_millis());
    let sent = u32::try_from(sent).unwrap_or(u32::MAX);
    println!("figure {name}/up {up} sessions");
    println!("figure {name}/flaps {flaps} flaps");
    println!(
        "figure {name}/sent {:.0} packets/s-of-virtual-time",
        f64::from(sent) / SPAN.as_secs_f64()
    );
    println!(
        "figure {name}/throughput {:.0} packets/s",
        f64::from(sent) / took
    );
    println!(
        "figure {name}/share {:.2} %-of-a-core",
        100.0 * took / 2.0 / SPAN.as_secs_f64()
    );
    if flaps > 0 || up != count as usize {
        eprintln!("{up} of {count} sessions are up, with {flaps} flaps");
        std::process::exit(1);
    }
}
