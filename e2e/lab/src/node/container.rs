//! The life of one container: start, probe, restart, stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, PodSpec};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::probes::{self, Target};
use super::sandbox::{Mount, Privileges, Sandbox};
use super::status::{ContainerState, Exit, Phase};

/// A container that failed waits this long before its second start; twice as
/// long each time after.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LAST_BACK_OFF: Duration = Duration::from_secs(30);
/// A program that ran this long has not failed at once.
const STABLE: Duration = Duration::from_secs(60);

/// Everything that starting a container takes.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) pod_spec: PodSpec,
    pub(super) container: Container,
    /// The program that stands for its image; none is an unknown image.
    pub(super) program: Option<PathBuf>,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    /// Source, target, read-only.
    pub(super) mounts: Vec<(PathBuf, PathBuf, bool)>,
    pub(super) network: Option<String>,
    pub(super) address: std::net::IpAddr,
    pub(super) directory: PathBuf,
    pub(super) log: PathBuf,
    /// Whether an init container: it must end well, and is never ready.
    pub(super) init: bool,
}

/// Told to a container's task: stop, with this much grace.
pub(super) type Stop = watch::Receiver<Option<Duration>>;

/// Runs the container until it has ended for good; every change of its state
/// goes to `report`.
pub(super) async fn run(plan: Plan, report: watch::Sender<ContainerState>, mut stop: Stop) {
    let mut back_off = FIRST_BACK_OFF;
    loop {
        let begin = Instant::now();
        let exit = match start(&plan) {
            Ok(child) => supervise(&plan, child, &report, &mut stop).await,
            Err(error) => {
                let now = Timestamp::now();
                Exit { code: 128, began: now, ended: now, message: format!("{error:#}") }
            }
        };
        let stopped = stop.borrow().is_some();
        let again = !stopped && restarts(&plan, &exit);
        if !again {
            report.send_modify(|state| {
                state.ready = false;
                state.started = false;
                state.phase = Phase::Ended(exit);
            });
            return;
        }
        if begin.elapsed() > STABLE {
            back_off = FIRST_BACK_OFF;
        }
        let reason = if plan.program.is_none() { "ErrImagePull" } else { "CrashLoopBackOff" };
        report.send_modify(|state| {
            state.ready = false;
            state.started = false;
            state.phase = Phase::Waiting { reason, message: exit.message.clone() };
            state.last = Some(exit);
        });
        tokio::select! {
            () = tokio::time::sleep(back_off) => {}
            _ = told_to_stop(&mut stop) => return,
        }
        back_off = (back_off * 2).min(LAST_BACK_OFF);
        report.send_modify(|state| state.restarts += 1);
    }
}

fn restarts(plan: &Plan, exit: &Exit) -> bool {
    match plan.pod_spec.restart_policy.as_deref() {
        Some("Never") => false,
        Some("OnFailure") => exit.code != 0,
        // Always, the default; an init container is done when it ends well.
        _ => !plan.init || exit.code != 0,
    }
}

fn start(plan: &Plan) -> Result<Child> {
    let program = plan.program.as_ref().with_context(|| {
        format!(
            "image {:?} stands for no program in this lab; give it one with --image NAME=PROGRAM",
            plan.container.image.as_deref().unwrap_or_default()
        )
    })?;
    let privileges = Privileges::of(&plan.pod_spec, &plan.container)?;
    std::fs::create_dir_all(&plan.directory)?;
    let sandbox = Sandbox {
        network: plan.network.as_deref(),
        program,
        arguments: plan.arguments.clone(),
        mounts: plan
            .mounts
            .iter()
            .map(|(source, target, read_only)| Mount {
                source: source.clone(),
                target: target.clone(),
                read_only: *read_only,
            })
            .collect(),
        privileges: &privileges,
        directory: &plan.directory,
    };
    let output = File::options().create(true).append(true).open(&plan.log)?;
    let mut command = sandbox.command()?;
    command
        .env_clear()
        .envs(&plan.environment)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stderr(output.try_clone()?)
        .stdout(output);
    tokio::process::Command::from(command).spawn().context("start the container's program")
}

/// What a probe has to say.
enum Word {
    Started,
    Ready(bool),
    Dead,
}

async fn supervise(
    plan: &Plan,
    mut child: Child,
    report: &watch::Sender<ContainerState>,
    stop: &mut Stop,
) -> Exit {
    let began = Timestamp::now();
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let (words, mut heard) = mpsc::unbounded_channel();
    let mut probing = JoinSet::new();
    if plan.container.startup_probe.is_some() {
        report.send_modify(|state| state.phase = Phase::Running { since: began });
        spawn_startup(plan, &words, &mut probing);
    } else {
        let ready = !plan.init && plan.container.readiness_probe.is_none();
        report.send_modify(|state| {
            state.phase = Phase::Running { since: began };
            state.started = true;
            state.ready = ready;
        });
        spawn_others(plan, &words, &mut probing);
    }
    let mut message = String::new();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(word) = heard.recv() => match word {
                Word::Started => {
                    let ready = plan.container.readiness_probe.is_none();
                    report.send_modify(|state| {
                        state.started = true;
                        state.ready = ready;
                    });
                    spawn_others(plan, &words, &mut probing);
                }
                Word::Ready(ready) => report.send_modify(|state| state.ready = ready),
                Word::Dead => {
                    message = "its liveness or startup probe failed".into();
                    let grace = plan.pod_spec.termination_grace_period_seconds.unwrap_or(30);
                    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(30));
                    break end(&mut child, group, grace).await;
                }
            },
            grace = told_to_stop(stop) => {
                let deadline = tokio::time::Instant::now() + grace;
                if let Some(hook) =
                    plan.container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
                {
                    let hook = pre_stop(plan, hook);
                    if tokio::time::timeout_at(deadline, hook).await.is_err() {
                        eprintln!("preStop of {} outlived the grace period", plan.container.name);
                    }
                }
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                break end(&mut child, group, left.max(Duration::from_secs(2))).await;
            }
        }
    };
    // Nothing of the container outlives its main process.
    if let Some(group) = group {
        let _ = killpg(group, Signal::SIGKILL);
    }
    let code = status.map_or(137, exit_code);
    Exit { code, began, ended: Timestamp::now(), message }
}

/// Waits for the order to stop and returns its grace; the end of the pod's own
/// task is such an order, without grace.
async fn told_to_stop(stop: &mut Stop) -> Duration {
    stop.wait_for(Option::is_some).await.ok().and_then(|grace| *grace).unwrap_or_default()
}

async fn end(
    child: &mut Child,
    group: Option<Pid>,
    grace: Duration,
) -> std::io::Result<ExitStatus> {
    if let Some(group) = group {
        let _ = nix::sys::signal::kill(group, Signal::SIGTERM);
    }
    if let Ok(status) = tokio::time::timeout(grace, child.wait()).await {
        return status;
    }
    child.kill().await?;
    child.wait().await
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(137)
}

async fn pre_stop(plan: &Plan, hook: &LifecycleHandler) {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
    } else if let Some([program, arguments @ ..]) =
        hook.exec.as_ref().and_then(|exec| exec.command.as_deref())
    {
        let _ = tokio::process::Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(&plan.environment)
            .output()
            .await;
    }
}

fn target(plan: &Plan) -> Target {
    Target { address: plan.address, environment: plan.environment.clone() }
}

fn spawn_startup(plan: &Plan, words: &mpsc::UnboundedSender<Word>, tasks: &mut JoinSet<()>) {
    let Some(probe) = plan.container.startup_probe.clone() else { return };
    let words = words.clone();
    // Failures count from the start, so "good" is told by the first success.
    let failing = words.clone();
    let limit = probe.failure_threshold.unwrap_or(3).max(1);
    let period = probe.period_seconds.unwrap_or(10).max(1);
    let patience = u64::try_from(limit * period).unwrap_or(30);
    let (container, target) = (plan.container.clone(), target(plan));
    tasks.spawn(async move {
        let succeeded = probes::run(probe, container, target, false, move |_| {
            let _ = words.send(Word::Started);
            false
        });
        if tokio::time::timeout(Duration::from_secs(patience), succeeded).await.is_err() {
            let _ = failing.send(Word::Dead);
        }
    });
}

fn spawn_others(plan: &Plan, words: &mpsc::UnboundedSender<Word>, tasks: &mut JoinSet<()>) {
    if let Some(probe) = plan.container.readiness_probe.clone() {
        let words = words.clone();
        let (container, target) = (plan.container.clone(), target(plan));
        tasks.spawn(probes::run(probe, container, target, false, move |ready| {
            words.send(Word::Ready(ready)).is_ok()
        }));
    }
    if let Some(probe) = plan.container.liveness_probe.clone() {
        let words = words.clone();
        let (container, target) = (plan.container.clone(), target(plan));
        tasks.spawn(probes::run(probe, container, target, true, move |alive| {
            !alive && words.send(Word::Dead).is_ok()
        }));
    }
}
