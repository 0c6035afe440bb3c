//! ARP requests as fast as they are answered: a load generator that keeps a
//! fixed number of questions under way.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use herald_net::{Inbox, Traffic};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{Wire, arp_request};
use crate::{duration, process};

/// Questions under way: as many as keep the other side busy, and fewer than a
/// socket's buffer holds.
const WINDOW: usize = 256;
/// Questions sent together.
const BATCH: usize = 64;
/// Silence for this long, and what is under way is lost.
const LOST: Duration = Duration::from_millis(20);

const TARGET: usize = 38;

/// Whom to ask for, and how long.
#[derive(Clone, Debug, Args)]
pub struct AskArguments {
    /// The first address.
    pub first: Ipv4Addr,
    /// How many addresses from there on, one after the other and again.
    #[arg(long, default_value_t = 1)]
    pub count: u32,
    /// On which interface.
    #[arg(long, default_value = "lan0")]
    pub interface: String,
    /// How long.
    #[arg(long = "for", default_value = "1s", value_parser = duration::parse)]
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AskReport {
    /// Questions.
    pub asked: u64,
    /// Answers to them.
    pub answered: u64,
    /// How long it took.
    pub seconds: f64,
}

impl AskReport {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        u32::try_from(self.answered).map_or(f64::INFINITY, f64::from) / self.seconds
    }
}

impl AskArguments {
    /// Asks, and prints the report as JSON.
    pub async fn run(self) -> Result<()> {
        let wire = Wire::named(&self.interface).await?;
        let report = self.ask(&wire).await?;
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }

    /// Asks from a host of the lab, in a process of its own.
    pub async fn from_host(&self, host: &str, program: &Path) -> Result<AskReport> {
        let mut command = tokio::process::Command::from(process::in_host(Some(host), program));
        let output = command
            .arg("__ask")
            .arg(self.first.to_string())
            .args(["--count", &self.count.to_string()])
            .args(["--interface", &self.interface])
            .args(["--for", &format!("{}ms", self.duration.as_millis())])
            .kill_on_drop(true)
            .output()
            .await
            .context("start the load generator")?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "the load generator said: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })
    }

    async fn ask(&self, wire: &Wire) -> Result<AskReport> {
        let socket = wire.open(Traffic::Arp)?;
        let mut inbox = Inbox::new();
        let mut frames = vec![arp_request(wire.mac, wire.address, self.first); BATCH];
        let (mut next, mut under_way) = (0, 0);
        let mut report = AskReport {
            asked: 0,
            answered: 0,
            seconds: 0.0,
        };
        let begin = Instant::now();
        while begin.elapsed() < self.duration {
            while under_way + BATCH <= WINDOW {
                for frame in &mut frames {
                    let target = Ipv4Addr::from_bits(self.first.to_bits() + next);
                    frame[TARGET..].copy_from_slice(&target.octets());
                    next = (next + 1) % self.count.max(1);
                }
                socket.send(&frames).await?;
                under_way += BATCH;
                report.asked += BATCH as u64;
            }
            match timeout(LOST, socket.receive(&mut inbox)).await {
                Ok(received) => {
                    received?;
                    let answers = inbox.frames().filter(|frame| self.is_answer(frame)).count();
                    under_way = under_way.saturating_sub(answers);
                    report.answered += answers as u64;
                }
                Err(_) => under_way = 0,
            }
        }
        report.seconds = begin.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Whether a frame is an ARP reply from one of the addresses.
    fn is_answer(&self, frame: &[u8]) -> bool {
        let reply = frame.get(20..22) == Some(&[0, 2]);
        let sender = frame
            .get(28..32)
            .and_then(|octets| <[u8; 4]>::try_from(octets).ok())
            .map(u32::from_be_bytes);
        let first = self.first.to_bits();
        reply && sender.is_some_and(|sender| (first..first + self.count.max(1)).contains(&sender))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replies_about_the_addresses_count() {
        let asked = AskArguments {
            first: [10, 20, 128, 0].into(),
            count: 256,
            interface: "lan0".into(),
            duration: LOST,
        };
        let from = |source: [u8; 4], operation: u8| {
            let mut frame = arp_request([2; 6], source.into(), [10, 20, 1, 1].into());
            frame[21] = operation;
            frame
        };
        assert!(asked.is_answer(&from([10, 20, 128, 255], 2)));
        assert!(!asked.is_answer(&from([10, 20, 129, 0], 2)));
        assert!(!asked.is_answer(&from([10, 20, 128, 255], 1)));
        assert!(!asked.is_answer(&[0; 20]));
    }
}
