//! Many BFD peers of one node, on one host, with an address each. `pkg/bfd` has their
//! sessions; here are only the sockets.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use herald_bfd::{Arrival, Event, Hops, Path, SessionConfig, SessionId, Sessions, State};
use herald_net::{BfdReceiver, BfdSender};
use serde::{Deserialize, Serialize};

/// Name of the hidden subcommand that calls [`run`].
pub const SUBCOMMAND: &str = "__bfd-peers";

/// Between two lines of [`Standing`].
const TELL: Duration = Duration::from_secs(1);
/// More than a packet has.
const LONGEST: usize = 128;

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

struct Running {
    sessions: Sessions,
    senders: HashMap<SessionId, BfdSender>,
    receiver: BfdReceiver,
    standing: Standing,
}

/// Prints a [`Standing`] each second, as JSON, until it is killed.
pub async fn run(settings: &str) -> Result<()> {
    let settings: BfdPeers = serde_json::from_str(settings).context("read the settings")?;
    herald_net::take_precedence();
    let mut running = Running {
        sessions: Sessions::new(fastrand::u64(..)),
        senders: HashMap::new(),
        receiver: BfdReceiver::open(false, false).context("open BFD's port")?,
        standing: Standing::default(),
    };
    running.begin(&settings)?;
    let mut tell = Instant::now();
    loop {
        let due = running.sessions.poll_timeout();
        let due = due.into_iter().fold(tell, Instant::min);
        tokio::select! {
            _ = running.receiver.readable() => {}
            () = tokio::time::sleep_until(due.into()) => {}
        }
        running.turn();
        if tell <= Instant::now() {
            println!("{}", serde_json::to_string(&running.standing)?);
            tell += TELL;
        }
    }
}

impl Running {
    fn begin(&mut self, settings: &BfdPeers) -> Result<()> {
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
            let id = self.sessions.add(path, config, Instant::now())?;
            let sender = BfdSender::open(node, local, None, None, false)
                .with_context(|| format!("open a socket from {address}"))?;
            self.senders.insert(id, sender);
        }
        Ok(())
    }

    /// In the order that [`Sessions`] asks for.
    fn turn(&mut self) {
        let now = Instant::now();
        self.sessions.start_turn(now);
        self.transmit(now);
        self.receive(false);
        if self.sessions.is_expiring(now) {
            self.receive(true);
        }
        self.sessions.handle_expiries(now);
        self.transmit(Instant::now());
        while let Some((_, event)) = self.sessions.poll_event() {
            self.standing.note(event);
        }
    }

    fn transmit(&mut self, now: Instant) {
        while let Some(transmit) = self.sessions.poll_transmit(now) {
            if let Some(sender) = self.senders.get(&transmit.session) {
                // One that does not get out is lost, as on the way.
                let _ = sender.send(&transmit.payload);
            }
        }
    }

    fn receive(&mut self, fresh: bool) {
        let mut buffer = [0; LONGEST];
        loop {
            let came = match self.receiver.try_receive(&mut buffer, fresh) {
                Ok(came) => came,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let now = Instant::now();
            let arrival = Arrival {
                multihop: false,
                source: came.source,
                destination: came.destination,
                interface: came.interface,
                ttl: came.ttl,
                at: now.checked_sub(came.age).unwrap_or(now),
            };
            let payload = &buffer[..came.length.min(LONGEST)];
            let _ = self.sessions.handle_datagram(payload, &arrival);
        }
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
