//! Readiness gates: a pod that is a target of a load balancer may wait until the load
//! balancer sends to it, so that a rollout does not run ahead of it.
//!
//! ```text
//!   pod: containers ready ──> target registered ──> healthy ──> condition True ──> pod ready
//! ```

use herald_provider::PodHealth;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::ResourceExt as _;
use serde_json::{Value, json};

/// Whether a pod waits for conditions of this type.
pub(crate) fn has(pod: &Pod, gate: &str) -> bool {
    gates(pod).any(|other| other == gate)
}

/// Whether what keeps a pod from being ready is this gate alone.
pub(crate) fn awaits(pod: &Pod, gate: &str) -> bool {
    has(pod, gate)
        && pod.metadata.deletion_timestamp.is_none()
        && holds(pod, "ContainersReady")
        && gates(pod).all(|other| other == gate || holds(pod, other))
        && !holds(pod, gate)
}

/// The patch that makes a pod's condition say how it stands as a target; `None` if it
/// does already, or the pod does not wait for it.
pub(crate) fn change(pod: &Pod, gate: &str, health: &PodHealth) -> Option<Value> {
    if !has(pod, gate) {
        return None;
    }
    let status = if health.healthy { "True" } else { "False" };
    let old = condition(pod, gate);
    if old.is_some_and(|old| {
        old.status == status && old.reason.as_deref() == Some(health.reason.as_str())
    }) {
        return None;
    }
    let transition = old
        .filter(|old| old.status == status)
        .and_then(|old| old.last_transition_time.as_ref())
        .map_or_else(Timestamp::now, |time| time.0);
    Some(json!({
        // A pod made anew under the same name is another one.
        "metadata": {"uid": pod.uid()},
        "status": {"conditions": [{
            "type": gate,
            "status": status,
            "reason": health.reason,
            "message": health.message,
            "lastTransitionTime": transition.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]},
    }))
}

fn gates(pod: &Pod) -> impl Iterator<Item = &str> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten())
        .map(|gate| gate.condition_type.as_str())
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == kind)
}

fn holds(pod: &Pod, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATE: &str = "target-health.herald.dev/web";

    fn pod(gates: &[&str], conditions: &[(&str, &str)]) -> Pod {
        let gates: Vec<_> = gates
            .iter()
            .map(|gate| json!({"conditionType": gate}))
            .collect();
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status)| json!({"type": kind, "status": status, "reason": "R"}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "default", "uid": "u"},
            "spec": {"containers": [], "readinessGates": gates},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn health(healthy: bool) -> PodHealth {
        PodHealth {
            pod: "web-1".into(),
            healthy,
            reason: if healthy { "Healthy" } else { "Initial" }.into(),
            message: String::new(),
        }
    }

    #[test]
    fn a_pod_awaits_its_gate_once_all_else_is_ready() {
        let ready = ("ContainersReady", "True");
        assert!(awaits(&pod(&[GATE], &[ready]), GATE));
        assert!(awaits(&pod(&[GATE], &[ready, (GATE, "False")]), GATE));
        assert!(!awaits(
            &pod(&[GATE], &[("ContainersReady", "False")]),
            GATE
        ));
        assert!(!awaits(&pod(&[GATE], &[ready, (GATE, "True")]), GATE));
        assert!(!awaits(&pod(&[], &[ready]), GATE));
        assert!(!awaits(&pod(&[GATE, "example.com/other"], &[ready]), GATE));
        let both = [ready, ("example.com/other", "True")];
        assert!(awaits(&pod(&[GATE, "example.com/other"], &both), GATE));
    }

    #[test]
    fn a_condition_is_written_on_change_only() {
        let waiting = pod(&[GATE], &[]);
        let patch = change(&waiting, GATE, &health(true)).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["status"], "True");
        assert_eq!(patch["metadata"]["uid"], "u");
        let mut said = waiting.clone();
        said.status.as_mut().unwrap().conditions =
            serde_json::from_value(patch["status"]["conditions"].clone()).unwrap();
        assert_eq!(change(&said, GATE, &health(true)), None);
        assert!(change(&said, GATE, &health(false)).is_some());
        assert_eq!(change(&pod(&[], &[]), GATE, &health(true)), None);
    }
}
