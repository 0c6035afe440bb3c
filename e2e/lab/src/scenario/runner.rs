//! The runner: groups side by side, each in a process with namespaces of its
//! own, and what came of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::group::Plan;
use super::{
    Case, Effort, Event, Group, Kernel, Outcome, Selection, Summary, Verdict, cases, groups,
};
use crate::router::{self, Software};
use crate::{assets, cgroup, isolate, scenarios, vm};

/// Memory that a lab of three nodes may need, with room to spare.
const LAB_KIB: u64 = 2 * 1024 * 1024;

/// How to run.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub selection: Selection,
    /// How much benches do.
    pub effort: Effort,
    /// Labs side by side; as many as fit when none is given.
    pub jobs: Option<usize>,
    /// Where logs and captures are kept.
    pub logs: PathBuf,
    /// Whether what the host's kernel lacks is run in a virtual machine.
    pub kernel: Kernel,
}

/// Runs what was selected, tells progress, and sums up.
pub(super) async fn run(options: &Options) -> Result<Summary> {
    let cases = cases(scenarios::ALL, &options.selection).map_err(|unknown| {
        anyhow::anyhow!(
            "no scenario is named {}; herald-lab list shows them",
            unknown.join(" or ")
        )
    })?;
    let labels: Vec<String> = cases.iter().map(Case::label).collect();
    let routers = routers(&cases).await?;
    let unavailable = |case: &Case| {
        unavailable(case, options.kernel)
            .or_else(|| no_router(case, &routers))
            .or_else(|| no_limits(case))
    };
    let (runnable, skipped): (Vec<Case>, Vec<Case>) = cases
        .into_iter()
        .partition(|case| unavailable(case).is_none());
    let mut outcomes: BTreeMap<String, Outcome> = skipped
        .iter()
        .filter_map(|case| Some((case.label(), skip(case, unavailable(case)?))))
        .collect();

    let groups = groups(scenarios::ALL, runnable);
    if groups.iter().any(|group| group.needs.nodes > 0) {
        // Built once, outside of the labs, which have no way to fetch anything.
        tokio::task::spawn_blocking(assets::ensure).await??;
    }
    let jobs = options.jobs.unwrap_or_else(fitting).max(1);
    let begin = Instant::now();
    eprintln!(
        "scenarios: {} in {} labs, {jobs} side by side; logs in {}",
        groups.iter().map(|group| group.cases.len()).sum::<usize>(),
        groups.len(),
        options.logs.display()
    );
    let places = Arc::new(Semaphore::new(jobs));
    let mut running = JoinSet::new();
    let (guests, others): (Vec<Group>, Vec<Group>) = groups
        .into_iter()
        .partition(|group| in_guest(group.needs.kernel()));
    // Virtual machines take longest, so they begin first; there is memory for
    // one, and it keeps one core busy.
    if !guests.is_empty() {
        let place = Arc::clone(&places).acquire_owned().await?;
        let plans: Vec<Plan> = guests.into_iter().map(|g| plan(options, g)).collect();
        running.spawn(async move {
            let mut outcomes = Vec::new();
            for plan in plans {
                outcomes.extend(one(plan, begin).await);
            }
            drop(place);
            outcomes
        });
    }
    for group in others {
        // Here and not in the task, so that they begin in their order.
        let place = Arc::clone(&places).acquire_owned().await?;
        let plan = plan(options, group);
        running.spawn(async move {
            let outcomes = one(plan, begin).await;
            drop(place);
            outcomes
        });
    }
    while let Some(ended) = running.join_next().await {
        outcomes.extend(
            ended?
                .into_iter()
                .map(|outcome| (outcome.case.clone(), outcome)),
        );
    }
    Ok(Summary {
        outcomes: labels
            .iter()
            .filter_map(|label| outcomes.remove(label))
            .collect(),
    })
}

fn plan(options: &Options, group: Group) -> Plan {
    Plan {
        logs: options.logs.join(folder(&group)),
        needs: group.needs,
        cases: group.cases,
        effort: options.effort.clone(),
    }
}

/// Why a case can't be run here, if it can't.
fn unavailable(case: &Case, kernel: Kernel) -> Option<String> {
    if !in_guest(case.needs.kernel()) {
        return None;
    }
    if kernel != Kernel::Vm {
        return Some(format!(
            "kube-proxy's {} mode needs another kernel than the host's; --kernel vm runs it in a virtual machine, slowly",
            case.needs.proxy_mode
        ));
    }
    vm::unavailable().map(|reason| {
        format!(
            "kube-proxy's {} mode needs another kernel than the host's, in a virtual machine: {reason}",
            case.needs.proxy_mode
        )
    })
}

/// Fetches what the cases' routers run, outside of the labs, which have no way to
/// fetch anything. What can't be had comes with its reason.
async fn routers(cases: &[Case]) -> Result<Vec<(Software, String)>> {
    let mut wanted: Vec<Software> = cases.iter().flat_map(|c| c.needs.routers.clone()).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let missing = tokio::task::spawn_blocking(move || {
        let ensure = |software| Some((software, router::packages::ensure(software).err()?));
        wanted.into_iter().filter_map(ensure).collect::<Vec<_>>()
    })
    .await?;
    Ok(missing
        .into_iter()
        .map(|(software, error)| (software, format!("{error:#}")))
        .inspect(|(software, why)| eprintln!("scenarios: no {software}: {why}"))
        .collect())
}

/// Why a case that needs a router has none, if it has none.
fn no_router(case: &Case, missing: &[(Software, String)]) -> Option<String> {
    let wanted = &case.needs.routers;
    let why = |software: &Software| missing.iter().find(|(name, _)| name == software);
    let reasons: Option<Vec<String>> = wanted
        .iter()
        .map(|software| why(software).map(|(name, why)| format!("no {name}: {why}")))
        .collect();
    reasons
        .filter(|all| !all.is_empty())
        .map(|all| all.join("; "))
}

/// Why a case that limits CPU time can't.
fn no_limits(case: &Case) -> Option<String> {
    (case.needs.limits_cpu && !cgroup::can_limit_cpu())
        .then(|| "this kernel's cgroups lack the controller cpu".to_owned())
}

/// Whether a lab on this kernel needs a virtual machine from here.
fn in_guest(kernel: Kernel) -> bool {
    kernel == Kernel::Vm && !vm::inside()
}

fn skip(case: &Case, why: String) -> Outcome {
    Outcome {
        case: case.label(),
        verdict: Verdict::Skipped(why),
        seconds: 0.0,
        samples: Vec::new(),
        logs: None,
    }
}

/// How many labs fit on this machine: one for each core, and none that memory
/// has no room for.
fn fitting() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available_kib(&text))
        .map_or(1, |kib| {
            usize::try_from(kib / LAB_KIB).unwrap_or(usize::MAX)
        });
    cores.min(memory).max(1)
}

/// `MemAvailable` of /proc/meminfo.
fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The folder of a group's logs: its case's, or one that tells what is shared.
fn folder(group: &Group) -> String {
    match group.cases.as_slice() {
        [case] => case.folder(),
        cases => {
            let round = cases.first().map_or(1, |case| case.round);
            let round = if round > 1 {
                format!("-{round}")
            } else {
                String::new()
            };
            let needs = &group.needs;
            let routers = if needs.routers.is_empty() {
                ""
            } else {
                "-routers"
            };
            format!(
                "shared-{}-{}{routers}{round}",
                needs.overlay.name(),
                needs.proxy_mode
            )
        }
    }
}

/// Runs one group, to the outcomes of all of its cases, whatever becomes of
/// its process.
async fn one(plan: Plan, begin: Instant) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let failure = match follow(&plan, begin, &mut outcomes).await {
        Ok(()) => "the lab's process ended before it".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    for case in &plan.cases {
        if !outcomes.iter().any(|outcome| outcome.case == case.label()) {
            outcomes.push(Outcome {
                case: case.label(),
                verdict: Verdict::Failed(failure.clone()),
                seconds: 0.0,
                samples: Vec::new(),
                logs: Some(plan.logs.clone()),
            });
        }
    }
    outcomes
}

async fn follow(plan: &Plan, begin: Instant, outcomes: &mut Vec<Outcome>) -> Result<()> {
    clear(&plan.logs)?;
    let name = plan
        .logs
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let guest = in_guest(plan.needs.kernel());
    let command = if guest {
        in_vm(plan)?
    } else {
        // While this process lives it holds the lifeline; however it ends, the
        // lab ends with it.
        isolate::command(&["__group".to_owned(), serde_json::to_string(plan)?], true)?
    };
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(plan.logs.join("lab.log"))?;
    let mut child = tokio::process::Command::from(command)
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("start the lab's process")?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        // Whatever else ends up there is kept in view.
        let Ok(event) = serde_json::from_str(&line) else {
            eprintln!("{name}: {line}");
            continue;
        };
        let at = begin.elapsed().as_secs_f64();
        match event {
            Event::Began { case } => eprintln!("{at:6.1}s {case}: begins"),
            Event::Step { case, text } => {
                eprintln!("{at:6.1}s {}: {text}", case.as_deref().unwrap_or(&name));
            }
            Event::Ended(mut outcome) => {
                // Where the guest kept them is gone with it.
                outcome.logs = outcome.logs.map(|_| plan.logs.clone());
                let (word, why) = match &outcome.verdict {
                    Verdict::Passed => ("passed", ""),
                    Verdict::Failed(why) => ("FAILED: ", why.as_str()),
                    Verdict::Skipped(why) => ("skipped: ", why.as_str()),
                };
                eprintln!("{at:6.1}s {}: {word}{why}", outcome.case);
                outcomes.push(outcome);
            }
        }
    }
    let status = child.wait().await?;
    let well = if guest {
        vm::verdict(&plan.logs)? == 0
    } else {
        status.success()
    };
    if !well {
        bail!(
            "the lab's process ended with {status}; see {}",
            plan.logs.join("lab.log").display()
        );
    }
    Ok(())
}

/// The same process in a virtual machine, where logs are kept until it has
/// ended.
fn in_vm(plan: &Plan) -> Result<std::process::Command> {
    let inner = Plan {
        logs: vm::KEPT.into(),
        ..plan.clone()
    };
    let arguments = ["__group".to_owned(), serde_json::to_string(&inner)?];
    let command = isolate::command(&arguments, false)?;
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    vm::command(&vm::Guest {
        command: words
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        artifacts: plan.logs.clone(),
        interactive: false,
    })
}

/// Makes an empty folder: what lies there is of an earlier run.
fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("clear {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_from_the_kernels_words() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(available_kib(text), Some(20_000_000));
        assert_eq!(available_kib("MemTotal: 1 kB\n"), None);
    }
}
