//! Many BFD peers of one node, on one host, with an address each. `pkg/bfd` has their
//! sessions; here are only the sockets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use herald_bfd::{
    Arrival, Event, Hops, Path, SessionConfig, SessionId, Sessions, State, Take, Transmit, Wire,
};
use herald_net::{BfdReceiver, BfdSender};
use serde::{Deserialize, Serialize};

/// Name of the hidden subcommand that calls [`run`].
pub const SUBCOMMAND: &str = "__bfd-peers";

/// Between two lines of [`Standing`].
const TELL: Duration = Duration::from_secs(1);

/// What they are set up with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BfdPeers {
    /// The node.
    pub node: Ipv4Addr,
    /// The first one's address; the others follow.
    pub first: Ipv4Addr,
    /// How many they are.
    pub count: u32,
    /// Milliseconds between packets, both ways; 1 to 60,000.
    pub interval: u16,
    /// Packets lost in a row that are a failure; at least 1.
    pub multiplier: u8,
}

impl BfdPeers {
    /// Their addresses.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        let first = self.first.to_bits();
        (first..first + self.count).map(Ipv4Addr::from_bits)
    }
}

/// How they stand, told each second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Sessions that are up.
    pub up: u32,
    /// How often a session went down from up, since the start.
    pub downs: u64,
}

struct Sockets {
    senders: HashMap<SessionId, BfdSender>,
    receiver: BfdReceiver,
}

/// Prints a [`Standing`] each second, as JSON, until it is killed.
pub async fn run(settings: &str) -> Result<()> {
    let settings: BfdPeers = serde_json::from_str(settings).context("read the settings")?;
    herald_net::take_precedence();
    let mut sessions = Sessions::new(fastrand::u64(..));
    let mut sockets = Sockets {
        senders: HashMap::new(),
        receiver: BfdReceiver::open(false, false).context("open BFD's port")?,
    };
    let mut standing = Standing::default();
    begin(&settings, &mut sessions, &mut sockets)?;
    let mut tell = Instant::now();
    loop {
        let due = sessions.poll_timeout();
        let due = due.into_iter().fold(tell, Instant::min);
        tokio::select! {
            _ = sockets.receiver.readable() => {}
            () = tokio::time::sleep_until(due.into()) => {}
        }
        sessions.turn(&mut sockets, Instant::now);
        while let Some((_, event)) = sessions.poll_event() {
            standing.note(event);
        }
        if tell <= Instant::now() {
            println!("{}", serde_json::to_string(&standing)?);
            tell += TELL;
        }
    }
}

fn begin(settings: &BfdPeers, sessions: &mut Sessions, sockets: &mut Sockets) -> Result<()> {
    let interval = Duration::from_millis(settings.interval.into());
    let config = SessionConfig {
        desired_min_tx: interval,
        required_min_rx: interval,
        detect_mult: settings.multiplier,
        ..SessionConfig::default()
    };
    let node = IpAddr::from(settings.node);
    for address in settings.addresses() {
        let local = Some(address.into());
        let path = Path {
            peer: node,
            local,
            interface: None,
            hops: Hops::Single,
        };
        let id = sessions.add(path, config, Instant::now())?;
        let sender = BfdSender::open(node, local, None, None, false)
            .with_context(|| format!("open a socket from {address}"))?;
        sockets.senders.insert(id, sender);
    }
    Ok(())
}

impl Wire for Sockets {
    fn send(&mut self, transmit: &Transmit) {
        if let Some(sender) = self.senders.get(&transmit.session) {
            let _ = sender.send(&transmit.payload);
        }
    }

    fn receive(&mut self, fresh: bool, take: Take<'_>) {
        self.receiver.receive_all(fresh, |payload, came| {
            let now = Instant::now();
            let arrival = Arrival {
                multihop: false,
                source: came.source,
                destination: came.destination,
                interface: came.interface,
                ttl: came.ttl,
                at: now.checked_sub(came.age).unwrap_or(now),
            };
            let _ = take(payload, &arrival);
        });
    }
}

impl Standing {
    fn note(&mut self, event: Event) {
        if event.to == State::Up {
            self.up += 1;
        } else if event.from == State::Up {
            self.up -= 1;
            self.downs += 1;
        }
    }
}
