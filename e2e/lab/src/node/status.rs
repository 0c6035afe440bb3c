//! What the API server is told of a pod: phase, conditions and containers,
//! computed from reports of the container tasks; one patch a change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;

/// How long one patch may take, and how long to wait after a failed one.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);

/// Where a container stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// Not running, and why.
    Waiting { reason: String, message: String },
    /// Running since then.
    Running { since: jiff::Timestamp },
    /// Ended for good, or until the restart that comes next.
    Ended(Ended),
}

/// How one life of a container ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) exit_code: i32,
    pub(super) signal: Option<i32>,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) since: jiff::Timestamp,
    pub(super) until: jiff::Timestamp,
}

/// What is reported of one container.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    pub(super) state: State,
    /// The life before this one.
    pub(super) last: Option<Ended>,
    pub(super) restarts: i32,
    /// Its startup probe has passed, or it has none and runs.
    pub(super) started: bool,
    /// Its readiness probe passes, or it has none and is started.
    pub(super) ready: bool,
}

impl Report {
    /// A container that has not run yet.
    pub(super) fn new(restarts: i32, last: Option<Ended>) -> Self {
        Self {
            state: State::Waiting {
                reason: "ContainerCreating".into(),
                message: String::new(),
            },
            last,
            restarts,
            started: false,
            ready: false,
        }
    }

    fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    fn runs(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

/// What is reported of a pod: its addresses and its containers by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) containers: BTreeMap<String, Report>,
    /// Nothing runs any more and nothing will.
    pub(super) over: bool,
}

/// Whether a container of this kind must have ended well before the next one
/// starts, rather than stay beside the others (a sidecar).
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The phase (API documentation of `PodStatus.phase`).
pub(super) fn phase(pod: &Pod, board: &Board) -> &'static str {
    let Some(spec) = &pod.spec else {
        return "Pending";
    };
    let report = |container: &Container| board.containers.get(&container.name);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    if board.over {
        let failed = |container: &Container| {
            report(container)
                .and_then(Report::ended)
                .is_none_or(|ended| ended.exit_code != 0)
        };
        let mut must_succeed = spec
            .containers
            .iter()
            .chain(init.iter().filter(|container| !is_sidecar(container)));
        return if must_succeed.any(failed) {
            "Failed"
        } else {
            "Succeeded"
        };
    }
    if !initialized(pod, board) {
        return "Pending";
    }
    let untouched = |container: &Container| {
        report(container).is_none_or(|report| {
            matches!(report.state, State::Waiting { .. }) && report.last.is_none()
        })
    };
    if spec.containers.iter().any(untouched) {
        "Pending"
    } else {
        "Running"
    }
}

/// Whether every init container has ended well, or has started if a sidecar.
pub(super) fn initialized(pod: &Pod, board: &Board) -> bool {
    let init = pod
        .spec
        .iter()
        .flat_map(|s| s.init_containers.iter().flatten());
    init.into_iter().all(|container| {
        board.containers.get(&container.name).is_some_and(|report| {
            if is_sidecar(container) {
                report.started
            } else {
                report.ended().is_some_and(|ended| ended.exit_code == 0)
            }
        })
    })
}

/// Types, statuses, reasons and messages of the conditions that a node agent
/// sets.
pub(super) fn conditions(
    pod: &Pod,
    board: &Board,
) -> [(&'static str, bool, &'static str, String); 4] {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let unready: Vec<&str> = containers
        .filter(|container| {
            !board
                .containers
                .get(&container.name)
                .is_some_and(|report| report.ready)
        })
        .map(|container| container.name.as_str())
        .collect();
    let initialized = initialized(pod, board);
    let completed = board.over && phase(pod, board) == "Succeeded";
    let containers_ready = initialized && unready.is_empty() && !board.over;
    let waiting = match (completed, initialized) {
        (true, _) => ("PodCompleted", String::new()),
        (_, false) => (
            "ContainersNotInitialized",
            "containers with incomplete status: see initContainerStatuses".to_owned(),
        ),
        _ => (
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        ),
    };
    let containers_why = if containers_ready {
        ("", String::new())
    } else {
        waiting
    };
    let closed_gates: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten())
        .map(|gate| gate.condition_type.as_str())
        .filter(|gate| !has_condition(pod, gate))
        .collect();
    let ready_why = if containers_ready && !closed_gates.is_empty() {
        (
            "ReadinessGatesNotReady",
            format!("conditions not True: [{}]", closed_gates.join(" ")),
        )
    } else {
        containers_why.clone()
    };
    let initialized_why = if initialized {
        ("", String::new())
    } else {
        (
            "ContainersNotInitialized",
            "init containers have not all ended well".to_owned(),
        )
    };
    [
        (
            "PodReadyToStartContainers",
            !board.addresses.is_empty() && !board.over,
            "",
            String::new(),
        ),
        (
            "Initialized",
            initialized,
            initialized_why.0,
            initialized_why.1,
        ),
        (
            "ContainersReady",
            containers_ready,
            containers_why.0,
            containers_why.1,
        ),
        (
            "Ready",
            containers_ready && closed_gates.is_empty(),
            ready_why.0,
            ready_why.1,
        ),
    ]
}

fn has_condition(pod: &Pod, kind: &str) -> bool {
    pod.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Makes patches from boards; remembers since when each condition holds.
pub(super) struct Reporter {
    host_addresses: Vec<IpAddr>,
    accepted: jiff::Timestamp,
    /// Status and begin of each condition.
    since: BTreeMap<&'static str, (bool, jiff::Timestamp)>,
}

impl Reporter {
    pub(super) fn new(host_addresses: Vec<IpAddr>) -> Self {
        Self {
            host_addresses,
            accepted: jiff::Timestamp::now(),
            since: BTreeMap::new(),
        }
    }

    /// Whether the API has a condition as not holding that was reported to hold:
    /// the node lifecycle controller sets Ready so while it takes a node for
    /// dead, and it is for the node to set it right again.
    pub(super) fn is_contradicted_by(&self, pod: &Pod) -> bool {
        let conditions = pod
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten());
        conditions
            .filter(|condition| condition.status != "True")
            .any(|condition| {
                let reported = self.since.get(condition.type_.as_str());
                reported.is_some_and(|(holds, _)| *holds)
            })
    }

    /// The strategic merge patch of the pod's status. Lists that the API
    /// merges by key are told to replace, but for the conditions: others have
    /// conditions of their own there.
    pub(super) fn patch(&mut self, pod: &Pod, board: &Board) -> Value {
        let now = jiff::Timestamp::now();
        let mut listed: Vec<Value> = conditions(pod, board)
            .into_iter()
            .map(|(kind, holds, reason, message)| {
                let since = self.since.entry(kind).or_insert((holds, now));
                if since.0 != holds {
                    *since = (holds, now);
                }
                json!({
                    "type": kind,
                    "status": if holds { "True" } else { "False" },
                    "reason": reason,
                    "message": message,
                    "lastTransitionTime": Time(since.1),
                })
            })
            .collect();
        if !has_condition(pod, "PodScheduled") {
            listed.push(json!({
                "type": "PodScheduled", "status": "True",
                "lastTransitionTime": Time(self.accepted),
            }));
        }
        let spec = pod.spec.clone().unwrap_or_default();
        let describe = |containers: &[Container]| -> Vec<ContainerStatus> {
            containers
                .iter()
                .filter_map(|container| {
                    Some(container_status(
                        container,
                        board.containers.get(&container.name)?,
                    ))
                })
                .collect()
        };
        let hosts: Vec<Value> = self
            .host_addresses
            .iter()
            .map(|address| json!({"ip": address}))
            .collect();
        let mut status = json!({
            "phase": phase(pod, board),
            "startTime": Time(self.accepted),
            "conditions": listed,
            "hostIP": self.host_addresses.first(),
            "hostIPs": hosts,
            "initContainerStatuses": describe(spec.init_containers.as_deref().unwrap_or_default()),
            "containerStatuses": describe(&spec.containers),
        });
        if let Some(first) = board.addresses.first() {
            let mut addresses: Vec<Value> = board
                .addresses
                .iter()
                .map(|address| json!({"ip": address}))
                .collect();
            addresses.push(json!({"$patch": "replace"}));
            status["podIP"] = json!(first);
            status["podIPs"] = json!(addresses);
        }
        // With the uid, a pod made anew under the same name is not mistaken
        // for this one.
        json!({"metadata": {"uid": pod.metadata.uid}, "status": status})
    }
}

fn container_status(container: &Container, report: &Report) -> ContainerStatus {
    let terminated = |ended: &Ended| ContainerStateTerminated {
        container_id: None,
        exit_code: ended.exit_code,
        signal: ended.signal,
        reason: Some(ended.reason.clone()),
        message: (!ended.message.is_empty()).then(|| ended.message.clone()),
        started_at: Some(Time(ended.since)),
        finished_at: Some(Time(ended.until)),
    };
    let mut state = ContainerState::default();
    match &report.state {
        State::Waiting { reason, message } => {
            state.waiting = Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: (!message.is_empty()).then(|| message.clone()),
            });
        }
        State::Running { since } => {
            state.running = Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            });
        }
        State::Ended(ended) => state.terminated = Some(terminated(ended)),
    }
    let image = container.image.clone().unwrap_or_default();
    ContainerStatus {
        name: container.name.clone(),
        image_id: format!("herald-lab://{image}"),
        image,
        last_state: Some(ContainerState {
            terminated: report.last.as_ref().map(terminated),
            ..ContainerState::default()
        }),
        ready: report.ready,
        restart_count: report.restarts,
        started: Some(report.started && report.runs()),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// Writes each new patch until it has gone through; a newer one takes the
/// place of one that could not be written. Ends when the sender is gone and
/// the last is written, or when the pod is no longer there.
pub(super) async fn publish(client: Client, pod: Pod, mut patches: watch::Receiver<Value>) {
    let namespace = pod.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let name = pod.name_any();
    patches.mark_changed();
    let mut failing = false;
    while patches.changed().await.is_ok() {
        loop {
            let patch = patches.borrow_and_update().clone();
            let written = tokio::time::timeout(
                PATIENCE,
                pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)),
            )
            .await;
            let error = match written {
                Ok(Ok(_)) => {
                    failing = false;
                    break;
                }
                // Gone, or another pod by that name.
                Ok(Err(kube::Error::Api(error))) if [404, 409].contains(&error.code) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API server is silent".to_owned(),
            };
            if !std::mem::replace(&mut failing, true) {
                eprintln!("status of pod {namespace}/{name}: {error}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn ended(exit_code: i32) -> Ended {
        Ended {
            exit_code,
            signal: None,
            reason: String::new(),
            message: String::new(),
            since: jiff::Timestamp::UNIX_EPOCH,
            until: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn waiting() -> Report {
        Report::new(0, None)
    }

    fn running(ready: bool) -> Report {
        Report {
            state: State::Running {
                since: jiff::Timestamp::UNIX_EPOCH,
            },
            started: true,
            ready,
            ..waiting()
        }
    }

    fn over(exit_code: i32) -> Report {
        Report {
            state: State::Ended(ended(exit_code)),
            ..waiting()
        }
    }

    fn board(containers: &[(&str, Report)]) -> Board {
        Board {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            containers: containers
                .iter()
                .map(|(name, report)| ((*name).to_owned(), report.clone()))
                .collect(),
            over: false,
        }
    }

    fn holds(pod: &Pod, board: &Board, kind: &str) -> bool {
        conditions(pod, board)
            .iter()
            .find(|condition| condition.0 == kind)
            .unwrap()
            .1
    }

    #[test]
    fn a_condition_that_another_took_away_is_reported_again() {
        let mut pod = pod(&json!({"containers": [{"name": "a"}]}));
        let mut board = Board::default();
        board.containers.insert("a".into(), running(true));
        let mut reporter = Reporter::new(Vec::new());
        reporter.patch(&pod, &board);
        let ready = |status: &str| json!({"conditions": [{"type": "Ready", "status": status}]});
        pod.status = serde_json::from_value(ready("True")).unwrap();
        assert!(!reporter.is_contradicted_by(&pod));
        pod.status = serde_json::from_value(ready("False")).unwrap();
        assert!(reporter.is_contradicted_by(&pod));
        board.containers.insert("a".into(), running(false));
        reporter.patch(&pod, &board);
        assert!(!reporter.is_contradicted_by(&pod));
    }

    #[test]
    fn a_pod_is_pending_until_every_container_has_run() {
        let pod = pod(&json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        let some = board(&[("a", running(true)), ("b", waiting())]);
        assert_eq!(phase(&pod, &some), "Pending");
        let all = board(&[("a", running(true)), ("b", running(false))]);
        assert_eq!(phase(&pod, &all), "Running");
        assert!(!holds(&pod, &all, "Ready"));
        let crashing = Report {
            last: Some(ended(1)),
            ..waiting()
        };
        let backing_off = board(&[("a", running(true)), ("b", crashing)]);
        assert_eq!(phase(&pod, &backing_off), "Running");
        assert!(!holds(&pod, &backing_off, "Ready"));
    }

    #[test]
    fn a_pod_that_is_over_failed_or_succeeded() {
        let pod = pod(&json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        let mut board = board(&[("a", over(0)), ("b", over(0))]);
        board.over = true;
        assert_eq!(phase(&pod, &board), "Succeeded");
        assert!(!holds(&pod, &board, "Ready"));
        board.containers.insert("b".into(), over(1));
        assert_eq!(phase(&pod, &board), "Failed");
        board.containers.insert("b".into(), waiting());
        assert_eq!(phase(&pod, &board), "Failed", "it never ran");
    }

    #[test]
    fn init_containers_come_first() {
        let pod = pod(&json!({
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}],
        }));
        let begun = board(&[("i", over(0)), ("s", waiting()), ("a", waiting())]);
        assert_eq!(phase(&pod, &begun), "Pending");
        assert!(!holds(&pod, &begun, "Initialized"));
        let done = board(&[("i", over(0)), ("s", running(false)), ("a", running(true))]);
        assert_eq!(phase(&pod, &done), "Running");
        assert!(holds(&pod, &done, "Initialized"));
        assert!(holds(&pod, &done, "Ready"));
    }

    #[test]
    fn a_readiness_gate_holds_a_pod_back() {
        let mut pod = pod(&json!({
            "containers": [{"name": "a"}],
            "readinessGates": [{"conditionType": "example.com/open"}],
        }));
        let board = board(&[("a", running(true))]);
        assert!(holds(&pod, &board, "ContainersReady"));
        assert!(!holds(&pod, &board, "Ready"));
        pod.status = serde_json::from_value(json!({
            "conditions": [{"type": "example.com/open", "status": "True"}],
        }))
        .unwrap();
        assert!(holds(&pod, &board, "Ready"));
    }

    #[test]
    fn a_condition_keeps_its_begin_while_it_holds() {
        let pod = pod(&json!({"containers": [{"name": "a"}]}));
        let mut reporter = Reporter::new(Vec::new());
        let first = reporter.patch(&pod, &board(&[("a", running(true))]));
        let second = reporter.patch(&pod, &board(&[("a", running(true))]));
        assert_eq!(first, second, "no change, no patch");
        let third = reporter.patch(&pod, &board(&[("a", running(false))]));
        assert_ne!(first, third);
    }
}
