//! The prober as a child of this process, in a client's network namespace.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Event, Options, ProbeReport, Progress};
use crate::{process, vm};

/// Longest wait for answers, and for the report after the last probe.
const PATIENCE: Duration = Duration::from_mins(2);

/// Starts probers.
#[derive(Debug)]
pub struct Prober;

/// A prober at work; dropped, it ends without a report.
#[derive(Debug)]
pub struct Probing {
    child: Child,
    /// The child probes until this closes: when this process ends, so does it.
    lifeline: ChildStdin,
    progress: watch::Receiver<Progress>,
    report: JoinHandle<Result<ProbeReport>>,
    target: String,
}

impl Prober {
    /// Probes from the network namespace of `host` until stopped.
    pub fn start(host: &str, options: &Options) -> Result<Probing> {
        let program = PathBuf::from("/proc/self/exe")
            .canonicalize()
            .context("find this program's own path")?;
        let mut command = Command::from(process::in_host(Some(host), &program));
        command
            .args(["__probe", "--json", "--until-eof"])
            .args(["--rate", &options.rate.to_string()])
            .args(["--timeout", &format!("{}ms", options.timeout.as_millis())])
            .arg(options.target.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("start the prober")?;
        let lifeline = child.stdin.take().context("standard input is piped")?;
        let output = child.stdout.take().context("standard output is piped")?;
        let (told, progress) = watch::channel(Progress::default());
        Ok(Probing {
            child,
            lifeline,
            progress,
            report: tokio::spawn(follow(output, told)),
            target: options.target.to_string(),
        })
    }
}

impl Probing {
    /// Counts as the prober last told them, at most a tenth of a second ago.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Waits until `count` more probes have been answered than now.
    pub async fn wait_answered(&mut self, count: u64) -> Result<()> {
        self.wait_answered_for(PATIENCE, count).await
    }

    /// [`Self::wait_answered`] with another limit.
    pub async fn wait_answered_for(&mut self, limit: Duration, count: u64) -> Result<()> {
        let limit = limit * vm::patience();
        let answers = async {
            // What was told may be older than this call, and one more telling
            // may be on its way: the second from now is news.
            for _ in 0..2 {
                self.progress.changed().await?;
            }
            let enough = self.progress().answered + count;
            while self.progress().answered < enough {
                self.progress.changed().await?;
            }
            Ok::<_, watch::error::RecvError>(())
        };
        match timeout(limit, answers).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => bail!("the prober of {} ended too early", self.target),
            Err(_) => bail!(
                "waited {} s for {count} answers from {}: {:?}",
                limit.as_secs(),
                self.target,
                self.progress()
            ),
        }
    }

    /// Ends the probing, waits for what is under way, and tells the whole.
    pub async fn stop(mut self) -> Result<ProbeReport> {
        drop(self.lifeline);
        let report = timeout(PATIENCE * vm::patience(), self.report)
            .await
            .context("the prober did not end")???;
        let status = self.child.wait().await?;
        ensure!(status.success(), "the prober ended with {status}");
        Ok(report)
    }
}

/// Reads what the child tells, to its report.
async fn follow(output: ChildStdout, told: watch::Sender<Progress>) -> Result<ProbeReport> {
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line).with_context(|| format!("prober said {line:?}"))? {
            // Nobody needs to listen.
            Event::Progress(progress) => drop(told.send(progress)),
            Event::Report(report) => return Ok(report),
        }
    }
    bail!("the prober ended without a report")
}
