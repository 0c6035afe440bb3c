//! `status` of a pod, from the states of its containers.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not started, or between two starts.
    Waiting { reason: &'static str, message: String },
    /// Its program runs.
    Running { since: Timestamp },
    /// Its program ended and will not be started again.
    Ended(Exit),
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    /// Exit code; 128 and the signal's number for one that a signal ended.
    pub(super) code: i32,
    pub(super) began: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) message: String,
}

/// What is known of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerState {
    pub(super) phase: Phase,
    pub(super) last: Option<Exit>,
    pub(super) ready: bool,
    pub(super) started: bool,
    pub(super) restarts: u32,
}

impl Default for ContainerState {
    fn default() -> Self {
        Self {
            phase: Phase::Waiting { reason: "ContainerCreating", message: String::new() },
            last: None,
            ready: false,
            started: false,
            restarts: 0,
        }
    }
}

/// What a pod's status is made of.
pub(super) struct PodState<'a> {
    pub(super) pod: &'a Pod,
    pub(super) pod_ips: &'a [String],
    pub(super) host_ips: &'a [String],
    pub(super) began: Timestamp,
    pub(super) initialized: bool,
    /// In the order of `spec.initContainers` and `spec.containers`.
    pub(super) init_containers: &'a [ContainerState],
    pub(super) containers: &'a [ContainerState],
}

impl PodState<'_> {
    /// The status to merge into the pod's.
    pub(super) fn status(&self) -> Value {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let ready = self.initialized && self.containers.iter().all(|state| state.ready);
        let ips = |ips: &[String]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        json!({
            "phase": self.phase(spec.restart_policy.as_deref()),
            "startTime": time(self.began),
            "hostIP": self.host_ips.first(),
            "hostIPs": ips(self.host_ips),
            "podIP": self.pod_ips.first(),
            "podIPs": ips(self.pod_ips),
            "conditions": self.conditions(ready),
            "initContainerStatuses":
                statuses(spec.init_containers.as_deref().unwrap_or_default(), self.init_containers),
            "containerStatuses": statuses(&spec.containers, self.containers),
        })
    }

    fn phase(&self, restart_policy: Option<&str>) -> &'static str {
        if self.init_containers.iter().any(
            |state| matches!(&state.phase, Phase::Ended(exit) if exit.code != 0),
        ) {
            return "Failed";
        }
        let ended: Vec<&Exit> = self
            .containers
            .iter()
            .filter_map(|state| match &state.phase {
                Phase::Ended(exit) => Some(exit),
                _ => None,
            })
            .collect();
        if ended.len() == self.containers.len() && restart_policy != Some("Always") {
            return if ended.iter().all(|exit| exit.code == 0) { "Succeeded" } else { "Failed" };
        }
        let begun = self
            .containers
            .iter()
            .any(|state| matches!(state.phase, Phase::Running { .. }) || state.last.is_some());
        if begun { "Running" } else { "Pending" }
    }

    /// Conditions of this pod; those of others are kept, and a transition
    /// time stays while the status does.
    fn conditions(&self, containers_ready: bool) -> Vec<Value> {
        let old = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default();
        let gates_open = self
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.readiness_gates.iter().flatten())
            .all(|gate| {
                old.iter().any(|c| c.type_ == gate.condition_type && c.status == "True")
            });
        let own = [
            ("PodReadyToStartContainers", !self.pod_ips.is_empty()),
            ("Initialized", self.initialized),
            ("Ready", containers_ready && gates_open),
            ("ContainersReady", containers_ready),
            ("PodScheduled", true),
        ];
        let mut conditions: Vec<Value> = old
            .iter()
            .filter(|condition| own.iter().all(|(name, _)| *name != condition.type_))
            .map(|condition| json!(condition))
            .collect();
        for (name, holds) in own {
            let status = if holds { "True" } else { "False" };
            let since = old
                .iter()
                .find(|condition| condition.type_ == name && condition.status == status)
                .and_then(|condition| condition.last_transition_time.as_ref())
                .map_or_else(|| time(Timestamp::now()), |since| json!(since));
            conditions.push(json!({"type": name, "status": status, "lastTransitionTime": since}));
        }
        conditions
    }
}

fn statuses(containers: &[Container], states: &[ContainerState]) -> Vec<Value> {
    containers
        .iter()
        .zip(states)
        .map(|(container, state)| {
            let mut last = json!({});
            if let Some(exit) = &state.last {
                last["terminated"] = terminated(exit);
            }
            json!({
                "name": container.name,
                "image": container.image,
                "imageID": container.image,
                "containerID": format!("herald-lab://{}-{}", container.name, state.restarts),
                "ready": state.ready,
                "started": state.started,
                "restartCount": state.restarts,
                "state": match &state.phase {
                    Phase::Waiting { reason, message } => {
                        json!({"waiting": {"reason": reason, "message": message}})
                    }
                    Phase::Running { since } => json!({"running": {"startedAt": time(*since)}}),
                    Phase::Ended(exit) => json!({"terminated": terminated(exit)}),
                },
                "lastState": last,
            })
        })
        .collect()
}

fn terminated(exit: &Exit) -> Value {
    json!({
        "exitCode": exit.code,
        "reason": if exit.code == 0 { "Completed" } else { "Error" },
        "message": exit.message,
        "startedAt": time(exit.began),
        "finishedAt": time(exit.ended),
    })
}

/// RFC 3339 with whole seconds, as the API writes it.
fn time(instant: Timestamp) -> Value {
    json!(instant.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(phase: Phase, ready: bool) -> ContainerState {
        ContainerState { phase, ready, ..ContainerState::default() }
    }

    fn status(pod: &Pod, containers: &[ContainerState]) -> Value {
        PodState {
            pod,
            pod_ips: &["10.244.1.2".to_owned()],
            host_ips: &["172.30.0.11".to_owned()],
            began: Timestamp::now(),
            initialized: true,
            init_containers: &[],
            containers,
        }
        .status()
    }

    fn condition(status: &Value, name: &str) -> Value {
        let conditions = status["conditions"].as_array().unwrap();
        conditions.iter().find(|c| c["type"] == name).unwrap()["status"].clone()
    }

    #[test]
    fn a_pod_is_ready_when_all_its_containers_are() {
        let running = Phase::Running { since: Timestamp::now() };
        let pod = Pod::default();
        let both = [state(running.clone(), true), state(running.clone(), true)];
        assert_eq!(condition(&status(&pod, &both), "Ready"), "True");
        let one = [state(running.clone(), true), state(running, false)];
        assert_eq!(condition(&status(&pod, &one), "Ready"), "False");
        assert_eq!(status(&pod, &one)["phase"], "Running");
    }

    #[test]
    fn a_job_that_ended_well_has_succeeded() {
        let mut pod = Pod::default();
        pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
            restart_policy: Some("Never".into()),
            ..Default::default()
        });
        let now = Timestamp::now();
        let exit = |code| {
            let exit = Exit { code, began: now, ended: now, message: String::new() };
            state(Phase::Ended(exit), false)
        };
        assert_eq!(status(&pod, &[exit(0)])["phase"], "Succeeded");
        assert_eq!(status(&pod, &[exit(0), exit(1)])["phase"], "Failed");
    }
}
