//! What is said on a Service, and whether it differs from what stands there.

use herald_api::names::CONDITION_LOAD_BALANCER_READY;
use herald_core::{Ingress, IngressPoint, IngressPort, IpMode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::request;

/// What a Service's status should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) ingress: Vec<Ingress>,
    pub(crate) ready: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// A change of status to write.
#[derive(Clone, Debug)]
pub(crate) struct StatusChange {
    /// A merge patch for the status subresource.
    pub(crate) patch: Value,
    /// Whether what it says is new, so that it is worth an event.
    pub(crate) news: bool,
}

/// The change that makes the status say `verdict`; `None` if it does already.
pub(crate) fn change(service: &Service, verdict: &Verdict) -> Option<StatusChange> {
    let old = ours(service);
    let status = if verdict.ready { "True" } else { "False" };
    let news = old.is_none_or(|old| {
        old.status != status || old.reason != verdict.reason || old.message != verdict.message
    });
    if !news && request::current(service) == verdict.ingress {
        return None;
    }
    let transition = old.filter(|old| old.status == status).map_or_else(
        || Time(Timestamp::now()),
        |old| old.last_transition_time.clone(),
    );
    let condition = Condition {
        type_: CONDITION_LOAD_BALANCER_READY.into(),
        status: status.into(),
        reason: verdict.reason.into(),
        message: verdict.message.clone(),
        observed_generation: service.metadata.generation,
        last_transition_time: transition,
    };
    let mut conditions = others(service);
    conditions.push(condition);
    let patch = patch(service, &verdict.ingress, &conditions);
    Some(StatusChange { patch, news })
}

/// The change that takes away all that we said; `None` if nothing is there.
/// Ingress that another controller wrote is left alone.
pub(crate) fn removal(service: &Service) -> Option<StatusChange> {
    ours(service)?;
    let patch = patch(service, &[], &others(service));
    Some(StatusChange { patch, news: false })
}

/// Our condition on a Service.
pub(crate) fn ours(service: &Service) -> Option<&Condition> {
    service
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == CONDITION_LOAD_BALANCER_READY)
}

fn others(service: &Service) -> Vec<Condition> {
    service
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .filter(|condition| condition.type_ != CONDITION_LOAD_BALANCER_READY)
        .cloned()
        .collect()
}

fn patch(service: &Service, ingress: &[Ingress], conditions: &[Condition]) -> Value {
    let ingress: Vec<Value> = ingress.iter().map(ingress_value).collect();
    json!({
        // A precondition: what we saw is what we change.
        "metadata": {"resourceVersion": service.resource_version(), "uid": service.uid()},
        "status": {
            "loadBalancer": {"ingress": if ingress.is_empty() { Value::Null } else { json!(ingress) }},
            "conditions": if conditions.is_empty() { Value::Null } else { json!(conditions) },
        },
    })
}

fn ingress_value(ingress: &Ingress) -> Value {
    let mut value = match &ingress.point {
        IngressPoint::Ip(ip) => json!({"ip": ip}),
        IngressPoint::Hostname(hostname) => json!({"hostname": hostname}),
    };
    if let Some(mode) = ingress.ip_mode {
        value["ipMode"] = json!(match mode {
            IpMode::Vip => "VIP",
            IpMode::Proxy => "Proxy",
        });
    }
    if !ingress.ports.is_empty() {
        value["ports"] = ingress.ports.iter().map(port_value).collect();
    }
    value
}

fn port_value(port: &IngressPort) -> Value {
    let mut value = json!({"port": port.port, "protocol": port.protocol.to_string()});
    if let Some(error) = &port.error {
        value["error"] = json!(error);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        Verdict {
            ingress: vec![Ingress::vip("192.0.2.1".parse().unwrap())],
            ready: true,
            reason: "AddressAssigned",
            message: "192.0.2.1 from pool \"lan\"".into(),
        }
    }

    fn apply(service: &Service, change: &StatusChange) -> Service {
        let mut value = serde_json::to_value(service).unwrap();
        value["status"] = change.patch["status"].clone();
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_said_already_is_not_written_again() {
        let service = Service::default();
        let first = change(&service, &verdict()).unwrap();
        assert!(first.news);
        let service = apply(&service, &first);
        assert!(change(&service, &verdict()).is_none());
        let full = Verdict {
            ready: false,
            reason: "PoolExhausted",
            ..verdict()
        };
        assert!(change(&service, &full).unwrap().news);
    }

    #[test]
    fn conditions_of_others_stay() {
        let service: Service = serde_json::from_value(json!({"status": {"conditions": [{
            "type": "example.com/Other", "status": "True", "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}}))
        .unwrap();
        let service = apply(&service, &change(&service, &verdict()).unwrap());
        assert_eq!(
            service
                .status
                .as_ref()
                .unwrap()
                .conditions
                .as_ref()
                .unwrap()
                .len(),
            2
        );
        let service = apply(&service, &removal(&service).unwrap());
        assert!(ours(&service).is_none());
        assert_eq!(
            service
                .status
                .as_ref()
                .unwrap()
                .conditions
                .as_ref()
                .unwrap()
                .len(),
            1
        );
        assert!(removal(&service).is_none());
    }
}
