//! One container: started, probed, restarted, and ended in the ways that its
//! spec and its pod's say.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use nix::sys::signal::{Signal, killpg};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::image;
use super::launch::{Process, launch};
use super::pod::PodContext;
use super::probes::{self, Finding, Role, Target};
use super::status::{Ended, Report, State};

/// How long to wait before what could not be started is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// When the pod is to end, if it is; a deadline may come nearer later.
#[derive(Clone)]
pub(super) struct Stop(pub(super) watch::Receiver<Option<Instant>>);

impl Stop {
    /// The deadline, once there is one.
    pub(super) async fn asked(&mut self) -> Instant {
        match self
            .0
            .wait_for(Option::is_some)
            .await
            .map(|deadline| *deadline)
        {
            Ok(Some(deadline)) => deadline,
            // Nobody is left to ask.
            _ => std::future::pending().await,
        }
    }

    /// The deadline, if there is one.
    pub(super) fn deadline(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// Returns when the deadline or `limit` has passed.
    async fn passed(&mut self, limit: Instant) {
        loop {
            let until = self
                .deadline()
                .map_or(limit, |deadline| deadline.min(limit));
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                Ok(()) = self.0.changed() => {}
            }
        }
    }
}

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// Whenever it ends.
    Always,
    /// When it ends badly.
    OnFailure,
    /// Never.
    Never,
}

impl Restart {
    /// The pod's `restartPolicy`.
    pub(super) fn of(pod: &PodSpec) -> Self {
        match pod.restart_policy.as_deref() {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn applies(self, well: bool) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => !well,
            Self::Never => false,
        }
    }
}

/// Why a container could not be started: a reason and a message for its status.
struct Refusal {
    reason: &'static str,
    message: String,
}

/// Runs a container until it has ended for good; says whether it ended well.
pub(super) async fn run(
    pod: &PodContext,
    container: &Container,
    restart: Restart,
    mut stop: Stop,
) -> bool {
    let mut backoff = Backoff::default();
    let mut before: Option<Ended> = None;
    loop {
        let Some(mut life) = Life::begin(pod, container, before.clone(), &mut stop).await else {
            return false;
        };
        let ended = life.supervise(&mut stop).await;
        let well = ended.exit_code == 0;
        let lived = ended.until.duration_since(ended.since).unsigned_abs();
        let now = Report {
            state: State::Ended(ended.clone()),
            started: false,
            ready: false,
            ..pod.reported(&container.name)
        };
        pod.report(&container.name, now.clone());
        if stop.deadline().is_some() || !restart.applies(well) {
            return well;
        }
        let delay = backoff.after(lived);
        if !delay.is_zero() {
            let message = format!(
                "back-off {}s restarting failed container={} pod={}",
                delay.as_secs(),
                container.name,
                pod.title()
            );
            pod.warn("BackOff", &message);
            let waiting = State::Waiting {
                reason: "CrashLoopBackOff".into(),
                message,
            };
            let last = Some(ended.clone());
            pod.report(
                &container.name,
                Report {
                    state: waiting,
                    last,
                    ..now.clone()
                },
            );
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = stop.asked() => {
                    pod.report(&container.name, now);
                    return well;
                }
            }
        }
        before = Some(ended);
    }
}

/// One life of a container: its process and what watches it.
struct Life<'a> {
    pod: &'a PodContext,
    container: &'a Container,
    process: Process,
}

impl<'a> Life<'a> {
    /// Starts the process, as often as it takes, until the pod is to end.
    async fn begin(
        pod: &'a PodContext,
        container: &'a Container,
        before: Option<Ended>,
        stop: &mut Stop,
    ) -> Option<Self> {
        let mut said = String::new();
        loop {
            if stop.deadline().is_some() {
                return None;
            }
            let report = pod.reported(&container.name);
            let refusal = match Self::start(pod, container).await {
                Ok(life) => {
                    pod.report(
                        &container.name,
                        Report {
                            state: State::Running {
                                since: life.process.since,
                            },
                            restarts: report.restarts + i32::from(before.is_some()),
                            last: before.or(report.last),
                            started: false,
                            ready: false,
                        },
                    );
                    return Some(life);
                }
                Err(refusal) => refusal,
            };
            let mut reason = refusal.reason;
            if refusal.message == said {
                if reason == "ErrImagePull" {
                    reason = "ImagePullBackOff";
                }
            } else {
                pod.warn(
                    "Failed",
                    &format!("{}: {}", container.name, refusal.message),
                );
                said.clone_from(&refusal.message);
            }
            let state = State::Waiting {
                reason: reason.into(),
                message: refusal.message,
            };
            let last = before.clone().or_else(|| report.last.clone());
            pod.report(
                &container.name,
                Report {
                    state,
                    last,
                    ..report
                },
            );
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = stop.asked() => return None,
            }
        }
    }

    async fn start(pod: &'a PodContext, container: &'a Container) -> Result<Self, Refusal> {
        let reference = container.image.as_deref().unwrap_or_default();
        let program =
            image::program(&pod.shared.spec.images, reference).map_err(|message| Refusal {
                reason: "ErrImagePull",
                message,
            })?;
        let process = launch(pod, container, program)
            .await
            .map_err(|error| Refusal {
                reason: "CreateContainerConfigError",
                message: format!("{error:#}"),
            })?;
        Ok(Self {
            pod,
            container,
            process,
        })
    }

    /// Probes the process until it ends, and ends it when it must.
    async fn supervise(&mut self, stop: &mut Stop) -> Ended {
        let (findings, mut found) = mpsc::unbounded_channel();
        let mut probing = JoinSet::new();
        if self.container.startup_probe.is_some() {
            self.probe(Role::Startup, &mut probing, &findings);
        } else {
            self.started(&mut probing, &findings);
        }
        let mut ending: Option<BoxFuture<'static, ()>> = None;
        let mut unhealthy = None;
        let status = loop {
            tokio::select! {
                status = self.process.child.wait() => break status,
                Some(finding) = found.recv() => {
                    if let Some(message) = self.take_in(&finding, &mut probing, &findings)
                        && ending.is_none()
                    {
                        let limit = Instant::now() + self.probe_grace();
                        ending = Some(self.end(stop.clone(), limit));
                        unhealthy = Some(message);
                    }
                }
                deadline = stop.asked(), if ending.is_none() => {
                    ending = Some(self.end(stop.clone(), deadline));
                }
                // It ends after SIGKILL, which nothing survives.
                () = async { if let Some(ending) = &mut ending { ending.await } },
                    if ending.is_some() => ending = Some(futures::future::pending().boxed()),
            }
        };
        // Whoever is left of the container's processes ends with the first.
        let _ = killpg(self.process.group, Signal::SIGKILL);
        self.ended(status.unwrap_or_default(), unhealthy)
    }

    /// Takes a probe's finding in; a message says why the container must end.
    fn take_in(
        &self,
        finding: &Finding,
        probing: &mut JoinSet<()>,
        findings: &mpsc::UnboundedSender<Finding>,
    ) -> Option<String> {
        let role = finding.role;
        if let Some(problem) = &finding.problem {
            let message = format!("{role} probe of {} failed: {problem}", self.container.name);
            self.pod.warn("Unhealthy", &message);
            if role != Role::Readiness {
                return Some(message);
            }
        }
        match role {
            Role::Startup => self.started(probing, findings),
            Role::Readiness => self.change(|report| report.ready = finding.problem.is_none()),
            Role::Liveness => {}
        }
        None
    }

    /// The container is up: from now on it must live and may be ready.
    fn started(&self, probing: &mut JoinSet<()>, findings: &mpsc::UnboundedSender<Finding>) {
        let ready = self.container.readiness_probe.is_none();
        self.change(|report| {
            report.started = true;
            report.ready = ready;
        });
        self.probe(Role::Liveness, probing, findings);
        self.probe(Role::Readiness, probing, findings);
    }

    fn change(&self, change: impl FnOnce(&mut Report)) {
        let mut report = self.pod.reported(&self.container.name);
        change(&mut report);
        self.pod.report(&self.container.name, report);
    }

    fn probe(
        &self,
        role: Role,
        probing: &mut JoinSet<()>,
        findings: &mpsc::UnboundedSender<Finding>,
    ) {
        let probe = match role {
            Role::Startup => &self.container.startup_probe,
            Role::Liveness => &self.container.liveness_probe,
            Role::Readiness => &self.container.readiness_probe,
        };
        if let Some(probe) = probe {
            probing.spawn(probes::run(
                role,
                probe.clone(),
                self.container.clone(),
                self.target(),
                findings.clone(),
            ));
        }
    }

    fn target(&self) -> Target {
        Target {
            address: self.pod.addresses.first().copied(),
            environment: self.process.environment.clone(),
            enter: ["nsenter", "--mount", "--net", "--uts", "--root", "--wd=/"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("--target={}", self.process.group), "--".into()])
                .chain(self.process.setpriv.iter().cloned())
                .chain(["--".into()])
                .collect(),
        }
    }

    /// How long a container that failed a probe has to end itself.
    fn probe_grace(&self) -> Duration {
        let probes = [
            &self.container.startup_probe,
            &self.container.liveness_probe,
        ];
        let own = probes
            .into_iter()
            .flatten()
            .find_map(|probe| probe.termination_grace_period_seconds);
        let pods = self
            .pod
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        let seconds = own.or(pods).unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Asks the container to end: preStop, SIGTERM, and SIGKILL when the time
    /// is up.
    fn end(&self, mut stop: Stop, limit: Instant) -> BoxFuture<'static, ()> {
        let hook = self
            .container
            .lifecycle
            .as_ref()
            .and_then(|l| l.pre_stop.clone());
        let (group, target, container) =
            (self.process.group, self.target(), self.container.clone());
        let title = self.pod.title();
        async move {
            if let Some(hook) = hook {
                tokio::select! {
                    result = probes::hook(&hook, &container, &target) => {
                        if let Err(error) = result {
                            eprintln!("pod {title}: preStop of {}: {error:#}", container.name);
                        }
                    }
                    () = stop.passed(limit) => {}
                }
            }
            let _ = killpg(group, Signal::SIGTERM);
            stop.passed(limit).await;
            let _ = killpg(group, Signal::SIGKILL);
        }
        .boxed()
    }

    fn ended(&self, status: ExitStatus, unhealthy: Option<String>) -> Ended {
        let refused = fs::read_to_string(&self.process.error).unwrap_or_default();
        let (exit_code, reason, message) = if refused.is_empty() {
            let code = exit_code(status);
            let reason = if code == 0 { "Completed" } else { "Error" };
            (code, reason, unhealthy.unwrap_or_default())
        } else {
            // As a runtime says it that could not make the container.
            (128, "StartError", refused)
        };
        Ended {
            exit_code,
            signal: status.signal(),
            reason: reason.into(),
            message,
            since: self.process.since,
            until: jiff::Timestamp::now(),
        }
    }
}

/// The exit code, or 128 and the signal, as a shell says it.
fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_an_exit_code_above_128() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }

    #[test]
    fn a_restart_policy_decides_by_the_result() {
        assert!(Restart::Always.applies(true));
        assert!(Restart::OnFailure.applies(false));
        assert!(!Restart::OnFailure.applies(true));
        assert!(!Restart::Never.applies(false));
    }

    #[tokio::test]
    async fn a_deadline_may_come_nearer() {
        let begin = Instant::now();
        let (sender, receiver) = watch::channel(Some(begin + Duration::from_secs(30)));
        let mut stop = Stop(receiver);
        let waiting = tokio::spawn(async move {
            stop.passed(begin + Duration::from_mins(1)).await;
        });
        sender.send_replace(Some(begin + Duration::from_millis(20)));
        let limit = Duration::from_secs(10);
        assert!(tokio::time::timeout(limit, waiting).await.is_ok());
        assert!(begin.elapsed() >= Duration::from_millis(20));
    }
}
