//! Speakers that are not there: heartbeats of many, sealed with the cluster's
//! key, from one host of the segment. They hear everybody and claim nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use herald_election::{Heard, Heartbeat, KeyRing, NodeId, Opinion};
use herald_net::HeartbeatSocket;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::{MissedTickBehavior, interval};

use super::Wire;
use crate::{isolate, process};

/// How often each speaks: as by the default profile.
const INTERVAL: Duration = Duration::from_millis(70);
/// Between two of the helper's turns; who is due by then speaks.
const TURN: Duration = Duration::from_millis(5);
/// Who was not heard for so long is not told of.
const FRESH: Duration = Duration::from_secs(1);

/// How many, and where. The key is read from standard input.
#[derive(Clone, Debug, Args)]
pub struct PeersArguments {
    /// How many speakers, up to 58: with two more a heartbeat is full.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=58))]
    count: u16,
    /// On which interface.
    #[arg(long, default_value = "lan0")]
    interface: String,
}

/// Speakers pretended from a host of the lab, for as long as this lives.
#[derive(Debug)]
pub struct Pretending {
    _child: Child,
}

impl Pretending {
    /// Starts them.
    pub async fn start(host: &str, count: u16, key: &[u8]) -> Result<Self> {
        let program = isolate::own_path()?;
        let mut command = Command::from(process::in_host(Some(host), Path::new(&program)));
        let mut child = command
            .arg("__peers")
            .args(["--count", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start the pretended speakers")?;
        // Not as an argument, which every process could read.
        let mut stdin = child.stdin.take().context("standard input is piped")?;
        stdin.write_all(key).await?;
        drop(stdin);
        Ok(Self { _child: child })
    }
}

/// A real speaker, as last heard.
#[derive(Clone, Copy, Debug)]
struct Other {
    session: u64,
    sequence: u64,
    claims: u64,
    view: u64,
    at: Instant,
}

/// A pretended one.
#[derive(Clone, Copy, Debug)]
struct Speaker {
    node: NodeId,
    session: u64,
    sequence: u64,
    due: Instant,
    spoke: Instant,
}

/// All of them.
struct Crowd {
    keys: KeyRing,
    others: BTreeMap<u64, Other>,
    speakers: Vec<Speaker>,
}

impl Crowd {
    /// So many, who speak one after the other.
    fn new(count: u16, keys: KeyRing, now: Instant) -> Self {
        let speakers = (0..count)
            .map(|i| Speaker {
                node: NodeId::of(&format!("pretended-{i}")),
                session: fastrand::u64(..),
                sequence: 0,
                due: now + INTERVAL * u32::from(i) / u32::from(count),
                spoke: now,
            })
            .collect();
        Self {
            keys,
            others: BTreeMap::new(),
            speakers,
        }
    }

    /// Notes a heartbeat of a real speaker.
    fn hear(&mut self, datagram: &[u8], now: Instant) {
        let Ok(message) = self.keys.open(datagram) else {
            return;
        };
        let Ok(heartbeat) = Heartbeat::parse(message) else {
            return;
        };
        let other = Other {
            session: heartbeat.session,
            sequence: heartbeat.sequence,
            claims: heartbeat.claims,
            view: heartbeat.view,
            at: now,
        };
        self.others.insert(heartbeat.sender.0, other);
    }

    /// What those say who are due.
    fn speak(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.others.retain(|_, other| other.at + FRESH > now);
        let due: Vec<usize> = (0..self.speakers.len())
            .filter(|i| self.speakers[*i].due <= now)
            .collect();
        due.into_iter()
            .map(|i| {
                let speaker = &mut self.speakers[i];
                speaker.sequence += 1;
                speaker.spoke = now;
                // After a stall of ours there is no burst.
                speaker.due = (speaker.due + INTERVAL).max(now);
                let message = self.heartbeat(i, now).to_bytes();
                self.keys.seal(message)
            })
            .collect()
    }

    fn heartbeat(&self, i: usize, now: Instant) -> Heartbeat {
        let me = self.speakers[i];
        let heard = |session, sequence: u64, have: u64, at: Instant| Heard {
            session,
            sequence: low(sequence),
            have: low(have),
            age: Some(now.saturating_duration_since(at)),
        };
        let real = self
            .others
            .values()
            .map(|o| heard(o.session, o.sequence, o.claims, o.at));
        let pretended = self
            .speakers
            .iter()
            .filter(|s| s.node != me.node && s.sequence > 0)
            .map(|s| heard(s.session, s.sequence, 0, s.spoke));
        Heartbeat {
            sender: me.node,
            session: me.session,
            sequence: me.sequence,
            interval: INTERVAL,
            ready: true,
            votes: true,
            draining: false,
            leaving: false,
            view: self.others.values().map(|o| o.view).max().unwrap_or(0),
            claims: 0,
            floor: 0,
            opinion: Some(Opinion {
                heard: real.chain(pretended).collect(),
                objections: Vec::new(),
                objects_to_all: false,
                unanswered: Vec::new(),
            }),
            page: None,
            hardware: None,
        }
    }
}

/// The lower half, as heartbeats tell it.
const fn low(number: u64) -> u32 {
    (number & 0xffff_ffff) as u32
}

impl PeersArguments {
    /// Speaks until it is ended.
    pub async fn run(self) -> Result<()> {
        let mut key = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut key)?;
        let wire = Wire::named(&self.interface).await?;
        let socket = HeartbeatSocket::open(wire.index, false)?;
        let mut crowd = Crowd::new(self.count, KeyRing::new([key])?, Instant::now());
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = [0; 2048];
        loop {
            tokio::select! {
                datagram = socket.receive(&mut buffer) => {
                    let length = datagram?.length;
                    crowd.hear(&buffer[..length], Instant::now());
                }
                _ = turns.tick() => {
                    for datagram in crowd.speak(Instant::now()) {
                        // One that does not get out is lost, as on any network.
                        let _ = socket.send_to_group(&datagram);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_speaks_once_an_interval_and_tells_whom_it_hears() {
        let keys = KeyRing::new([[7; 32]]).unwrap();
        let start = Instant::now();
        let mut crowd = Crowd::new(3, keys.clone(), start);
        let mut other = Crowd::new(1, keys.clone(), start);
        let real = other.speak(start).remove(0);
        crowd.hear(&real, start);
        crowd.hear(b"no heartbeat", start);
        let spoken: Vec<Vec<u8>> = (0..70)
            .flat_map(|at| crowd.speak(start + Duration::from_millis(at)))
            .collect();
        assert_eq!(spoken.len(), 3);
        let last = Heartbeat::parse(keys.open(&spoken[2]).unwrap()).unwrap();
        assert_eq!(last.opinion.unwrap().heard.len(), 3, "a real one and two");
    }
}
