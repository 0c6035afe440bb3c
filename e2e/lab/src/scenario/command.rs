//! `herald-lab scenario`, `bench` and `list`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use super::runner::{self, Options};
use super::{Effort, Isolation, Kernel, Overlay, ProxyMode, Selection, Summary};
use crate::plan::Families;
use crate::scenarios;

/// Which scenarios to run, and how.
#[derive(Debug, Args)]
pub struct ScenarioArguments {
    /// Names of scenarios; all when none is given (`scenario` leaves out those
    /// that only measure). herald-lab list shows them.
    names: Vec<String>,
    /// Print what came of it as JSON lines; progress goes to standard error.
    #[arg(long)]
    json: bool,
    /// Labs side by side; as many as memory and cores have room for.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Run everything so often; figures are over all rounds.
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: u32,
    /// Only with this kube-proxy mode: nftables, iptables, ipvs.
    #[arg(long, value_name = "MODE")]
    proxy_mode: Option<ProxyMode>,
    /// With these IP families: ipv4, ipv6, dual.
    #[arg(long, value_enum)]
    families: Option<Families>,
    /// vm: run what the host's kernel lacks (IPVS) in a virtual machine under
    /// software emulation, which takes minutes a scenario.
    #[arg(long, value_enum, default_value = "host")]
    kernel: Kernel,
    /// Where logs and captures are kept; target/herald-lab unless told.
    #[arg(long, value_name = "DIRECTORY")]
    logs: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
}

impl ScenarioArguments {
    /// Runs them; success if none failed.
    pub async fn run(self) -> Result<ExitCode> {
        let names = self.names.clone();
        self.run_named(names).await
    }

    /// Runs the scenarios that measure something, or those of them that are
    /// named.
    pub async fn bench(self) -> Result<ExitCode> {
        let names = if self.names.is_empty() {
            scenarios::ALL
                .iter()
                .filter(|scenario| scenario.measures || scenario.only_bench)
                .map(|scenario| scenario.name.to_owned())
                .collect()
        } else {
            self.names.clone()
        };
        self.run_named(names).await
    }

    async fn run_named(self, names: Vec<String>) -> Result<ExitCode> {
        let logs = match self.logs {
            Some(logs) => std::path::absolute(logs)?,
            None => default_logs()?,
        };
        let summary = runner::run(&Options {
            selection: Selection {
                names,
                proxy_mode: self.proxy_mode,
                families: self.families,
                repeat: self.repeat,
            },
            effort: self.effort,
            jobs: self.jobs,
            logs,
            kernel: self.kernel,
        })
        .await?;
        if self.json {
            print!("{}", as_json(&summary)?);
        } else {
            print!("{summary}");
        }
        Ok(if summary.is_success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// `target/herald-lab` of the tree that this program was built in.
pub(crate) fn default_logs() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program
        .parent()
        .and_then(|profile| profile.parent())
        .context("this program lies in no folder of a build; give --logs")?;
    Ok(target.join("herald-lab"))
}

/// A line for each case, a line for each figure, and one for the counts.
fn as_json(summary: &Summary) -> Result<String> {
    let mut text = String::new();
    for outcome in &summary.outcomes {
        writeln!(text, "{}", serde_json::to_string(outcome)?)?;
    }
    for figure in summary.figures() {
        writeln!(
            text,
            "{}",
            json!({"figure": figure.name, "value": figure.value, "unit": figure.unit})
        )?;
    }
    let (passed, failed, skipped) = summary.counts();
    writeln!(
        text,
        "{}",
        json!({"passed": passed, "failed": failed, "skipped": skipped})
    )?;
    Ok(text)
}

/// The list of scenarios, as people read it.
pub fn list() -> String {
    let width = scenarios::ALL
        .iter()
        .map(|scenario| scenario.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for scenario in scenarios::ALL {
        let mut notes: Vec<String> = Vec::new();
        if scenario.proxy_modes != [ProxyMode::Nftables] {
            let modes: Vec<String> = scenario
                .proxy_modes
                .iter()
                .map(ToString::to_string)
                .collect();
            notes.push(format!("with {}", modes.join(", ")));
        }
        match scenario.overlay {
            Overlay::BareMetal => {}
            Overlay::FakeCloud => notes.push("fake cloud".into()),
            Overlay::Aws => notes.push("AWS's stand-in".into()),
        }
        if scenario.isolation == Isolation::Own {
            notes.push("own lab".into());
        }
        if scenario.only_bench {
            notes.push("bench only".into());
        } else if scenario.measures {
            notes.push("measures".into());
        }
        let notes = if notes.is_empty() {
            String::new()
        } else {
            format!(" [{}]", notes.join("; "))
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{:<width$}  {}{notes}", scenario.name, scenario.title);
    }
    text
}
