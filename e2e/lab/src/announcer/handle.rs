//! The announcer as a child of this process, on a host.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::{Order, Report, SUBCOMMAND, Settings};
use crate::scenario::wait;
use crate::{isolate, process, vm};

/// Longest wait for a report.
const PATIENCE: Duration = Duration::from_mins(1);

/// An announcer at work; dropped, it is killed.
#[derive(Debug)]
pub struct Announcer {
    child: Child,
    orders: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
}

impl Announcer {
    /// Starts one on a host, one at a time; returns when it listens.
    pub async fn start(host: &str, settings: &Settings) -> Result<Self> {
        let name = format!("announcer-{host}");
        // One that was dropped has the port until it is gone.
        wait::until(&format!("the former {name} to end"), || async {
            let found = process::find(process::PROCESS, &name);
            ensure!(!found.iter().any(process::Found::runs), "it runs");
            Ok(())
        })
        .await?;
        let mut command = Command::from(process::in_host(Some(host), &isolate::own_path()?));
        command
            .args([SUBCOMMAND, &serde_json::to_string(settings)?])
            .env(process::PROCESS, &name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("start the announcer")?;
        let output = child.stdout.take().context("standard output is piped")?;
        let mut this = Self {
            orders: child.stdin.take().context("standard input is piped")?,
            reports: BufReader::new(output).lines(),
            child,
        };
        this.report("it to listen", |report| {
            matches!(report, Report::Listening).then_some(())
        })
        .await?;
        Ok(this)
    }

    /// Gives an order; it is carried out some time later.
    pub async fn order(&mut self, order: &Order) -> Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        self.orders
            .write_all(line.as_bytes())
            .await
            .context("give the announcer an order")
    }

    /// Waits for a report that is wanted, and leaves out those before it.
    pub async fn report<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Report) -> Option<T>,
    ) -> Result<T> {
        let mut last = None;
        let found = async {
            while let Some(line) = self.reports.next_line().await? {
                let report: Report =
                    serde_json::from_str(&line).with_context(|| format!("it said {line:?}"))?;
                if let Some(found) = wanted(&report) {
                    return Ok(found);
                }
                last = Some(report);
            }
            bail!("the announcer ended while {what} was waited for")
        };
        let limit = PATIENCE * vm::patience();
        match timeout(limit, found).await {
            Ok(found) => found,
            Err(_) => bail!("waited {} s for {what}; last: {last:?}", limit.as_secs()),
        }
    }

    /// Kills it; its connections are closed by the kernel, without a word.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("kill the announcer")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().context("the announcer has ended")?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal).context("signal the announcer")
    }

    /// Waits until it has ended by itself.
    pub async fn ended(mut self) -> Result<()> {
        let limit = PATIENCE * vm::patience();
        let status = timeout(limit, self.child.wait()).await;
        let status = status.context("the announcer did not end")??;
        anyhow::ensure!(status.success(), "the announcer ended with {status}");
        Ok(())
    }

    /// Resident memory, in KiB.
    pub fn rss_kib(&self) -> Option<u64> {
        let pid = self.child.id()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    }
}
