//! Captures: tcpdump on a link of the lab, kept as a file, read as typed
//! frames.
//!
//! A capture of a bridge (`br-lan0`) sees what crosses the segment, whoever
//! sends it; a capture of a host's interface sees what that host does.

mod frame;
mod pcap;

pub use frame::{Advertisement, Arp, Frame, Mac, Packet};
pub use pcap::{InvalidCapture, Record, records};

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::{setgroups, vm};

/// How long tcpdump may take to begin and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The filter for all that [`Frame`] reads: ARP, and neighbour discovery
/// behind a plain IPv6 header.
pub const NEIGHBOURS: &str = "arp or (icmp6 and (ip6[40] == 135 or ip6[40] == 136))";

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    /// Captures what `filter` (pcap-filter(7)) lets pass on an interface of
    /// `host`, or of the lab's own network namespace (its bridges), into
    /// `file`. Returns when every further frame will be seen.
    pub async fn start(
        host: Option<&str>,
        interface: &str,
        filter: &str,
        file: &Path,
    ) -> Result<Self> {
        let mut command = Command::from(setgroups::command(host, "tcpdump")?);
        // Written at once (-U), seen at once (--immediate-mode), as the user
        // who may write the file (-Z).
        command
            .args([
                "-i",
                interface,
                "-n",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
                "-w",
            ])
            .arg(file)
            .arg(filter)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut tcpdump = command.spawn().context("start tcpdump (package tcpdump)")?;
        let stderr = tcpdump.stderr.take().context("standard error is piped")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut said = Vec::new();
        loop {
            let line = timeout(PATIENCE * vm::patience(), lines.next_line())
                .await
                .context("tcpdump does not begin")??;
            match line {
                Some(line) if line.contains("listening on") => break,
                Some(line) => said.push(line),
                None => bail!("tcpdump on {interface}: {}", said.join("; ")),
            }
        }
        // Drained to its end, so that tcpdump never waits for a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            tcpdump,
            file: file.to_owned(),
        })
    }

    /// What was captured so far.
    pub fn frames(&self) -> Result<Vec<Frame>> {
        read(&self.file)
    }

    /// Ends the capture and reads the whole of it.
    pub async fn stop(mut self) -> Result<Vec<Frame>> {
        if let Some(pid) = self.tcpdump.id() {
            kill(Pid::from_raw(pid.try_into()?), Signal::SIGINT)?;
        }
        let status = timeout(PATIENCE * vm::patience(), self.tcpdump.wait())
            .await
            .context("tcpdump does not end")??;
        ensure!(status.success(), "tcpdump ended with {status}");
        read(&self.file)
    }
}

fn read(file: &Path) -> Result<Vec<Frame>> {
    let octets = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    Ok(records(&octets)
        .with_context(|| format!("read {}", file.display()))?
        .iter()
        .filter_map(|record| Frame::read(record.at, record.octets))
        .collect())
}
