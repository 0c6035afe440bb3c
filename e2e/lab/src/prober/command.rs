//! `herald-lab probe`: the prober for people, and as a child of scenarios.

use std::io::Read;
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::{Options, Output, Target, run};
use crate::{duration, process};

/// Send numbered probes at a fixed rate and tell what came back.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    /// What to probe: `udp://ADDRESS:PORT` and `tcp://ADDRESS:PORT` (echo),
    /// `connect://ADDRESS:PORT`, `http://ADDRESS[:PORT]/PATH`.
    target: Target,
    /// Probes a second, up to 1000.
    #[arg(long, default_value = "500", value_parser = rate)]
    rate: NonZeroU16,
    /// Stop after this long; else on Ctrl-C.
    #[arg(long = "for", value_parser = duration::parse)]
    duration: Option<Duration>,
    /// A probe without an answer for this long is lost.
    #[arg(long, default_value = "1s", value_parser = duration::parse)]
    timeout: Duration,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
    /// Stop at the end of standard input.
    #[arg(long, hide = true)]
    until_eof: bool,
}

impl ProbeArguments {
    /// Probes from where this process stands. True if any probe was answered.
    pub async fn run(self) -> Result<bool> {
        let output = if self.json {
            Output::Json
        } else {
            Output::Text
        };
        let options = Options {
            target: self.target,
            rate: self.rate,
            timeout: self.timeout,
        };
        let stop = stopped(self.duration, self.until_eof)?;
        let report = run(options, output, stop).await?;
        Ok(report.answered > 0)
    }

    /// This probe as a command in a host's network namespace, for a process
    /// that stands in the lab's own.
    pub fn in_host(&self, host: &str, program: &Path) -> std::process::Command {
        let mut command = process::in_host(Some(host), program);
        command
            .arg("__probe")
            .args(["--rate", &self.rate.to_string()])
            .args(["--timeout", &format!("{}ms", self.timeout.as_millis())]);
        if let Some(duration) = self.duration {
            command.args(["--for", &format!("{}ms", duration.as_millis())]);
        }
        if self.json {
            command.arg("--json");
        }
        command.arg(self.target.to_string());
        command
    }
}

/// The prober's timer ticks in milliseconds.
fn rate(text: &str) -> Result<NonZeroU16, String> {
    match text.parse() {
        Ok(rate) if rate <= NonZeroU16::new(1000).expect("it is not zero") => Ok(rate),
        _ => Err(format!("{text:?} is no rate from 1 to 1000")),
    }
}

/// Ready at the end of the time, at a signal, or at the end of standard input.
fn stopped(duration: Option<Duration>, until_eof: bool) -> Result<impl Future<Output = ()>> {
    ensure!(
        duration.is_none_or(|duration| !duration.is_zero()),
        "--for 0 would send no probe"
    );
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        let end = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let closed = async {
            if until_eof {
                // Dropping the sender is a signal too.
                let _ = end_of_input().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = end => {}
            () = closed => {}
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

/// Told at the end of standard input, by a thread that waits for it.
fn end_of_input() -> oneshot::Receiver<()> {
    let (ended, told) = oneshot::channel();
    std::thread::spawn(move || {
        // Whatever is read, even an error: the end is what counts.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.send(())
    });
    told
}
