//! What is said on a Service, and whether it differs from what stands there.

use herald_api::names::{CONDITION_LOAD_BALANCER_READY, CONDITION_WARNINGS};
use herald_core::{Ingress, IngressPoint, IngressPort, IpMode};
use herald_provider::Warning;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::request;

/// The API takes messages of conditions up to this length.
const LONGEST_MESSAGE: usize = 32768;

/// What a Service's status should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) ingress: Vec<Ingress>,
    pub(crate) ready: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// What is odd, although it is served; none leaves what was said of it.
    pub(crate) warnings: Option<Vec<Warning>>,
}

/// A change of status to write.
#[derive(Clone, Debug)]
pub(crate) struct StatusChange {
    /// A merge patch for the status subresource.
    pub(crate) patch: Value,
    /// Whether what it says is new, so that it is worth an event.
    pub(crate) news: bool,
    /// Warnings that are new, each worth an event.
    pub(crate) warnings: Vec<Warning>,
}

/// The change that makes the status say `verdict`; `None` if it does already.
pub(crate) fn change(service: &Service, verdict: &Verdict) -> Option<StatusChange> {
    let old = ours(service);
    let status = if verdict.ready { "True" } else { "False" };
    let news = old.is_none_or(|old| {
        old.status != status || old.reason != verdict.reason || old.message != verdict.message
    });
    let warned = find(service, CONDITION_WARNINGS);
    let warning = match &verdict.warnings {
        Some(warnings) => warning_condition(service, warnings),
        None => warned.cloned(),
    };
    let same_warning = match (warned, &warning) {
        (Some(old), Some(new)) => old.reason == new.reason && old.message == new.message,
        (old, new) => old.is_none() && new.is_none(),
    };
    if !news && same_warning && request::current(service) == verdict.ingress {
        return None;
    }
    let condition = Condition {
        type_: CONDITION_LOAD_BALANCER_READY.into(),
        status: status.into(),
        reason: verdict.reason.into(),
        message: verdict.message.clone(),
        observed_generation: service.metadata.generation,
        last_transition_time: transition(old, status),
    };
    let mut conditions = others(service);
    conditions.push(condition);
    conditions.extend(warning);
    let before = warned.map_or("", |warned| warned.message.as_str());
    let is_new = |warning: &&Warning| !before.contains(&warning.message);
    Some(StatusChange {
        patch: patch(service, &verdict.ingress, &conditions),
        news,
        warnings: verdict
            .warnings
            .iter()
            .flatten()
            .filter(is_new)
            .cloned()
            .collect(),
    })
}

/// One condition for all warnings, which stays as it is across restarts, so that
/// nothing is said twice.
fn warning_condition(service: &Service, warnings: &[Warning]) -> Option<Condition> {
    let reason = match warnings {
        [] => return None,
        [warning, rest @ ..] if rest.iter().all(|other| other.reason == warning.reason) => {
            warning.reason
        }
        _ => "Several",
    };
    let messages: Vec<&str> = warnings
        .iter()
        .map(|warning| warning.message.as_str())
        .collect();
    Some(Condition {
        type_: CONDITION_WARNINGS.into(),
        status: "True".into(),
        reason: reason.into(),
        message: messages.join("; ").chars().take(LONGEST_MESSAGE).collect(),
        observed_generation: service.metadata.generation,
        last_transition_time: transition(find(service, CONDITION_WARNINGS), "True"),
    })
}

fn transition(old: Option<&Condition>, status: &str) -> Time {
    old.filter(|old| old.status == status).map_or_else(
        || Time(Timestamp::now()),
        |old| old.last_transition_time.clone(),
    )
}

/// The change that takes away all that we said; `None` if nothing is there.
/// Ingress that another controller wrote is left alone.
pub(crate) fn removal(service: &Service) -> Option<StatusChange> {
    ours(service)?;
    Some(StatusChange {
        patch: patch(service, &[], &others(service)),
        news: false,
        warnings: Vec::new(),
    })
}

/// Our condition on a Service.
pub(crate) fn ours(service: &Service) -> Option<&Condition> {
    find(service, CONDITION_LOAD_BALANCER_READY)
}

fn find<'a>(service: &'a Service, kind: &str) -> Option<&'a Condition> {
    conditions(service).find(|condition| condition.type_ == kind)
}

fn conditions(service: &Service) -> impl Iterator<Item = &Condition> {
    service
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
}

fn others(service: &Service) -> Vec<Condition> {
    let ours = [CONDITION_LOAD_BALANCER_READY, CONDITION_WARNINGS];
    conditions(service)
        .filter(|condition| !ours.contains(&condition.type_.as_str()))
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
            warnings: None,
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
    fn a_warning_is_told_once_and_taken_back_when_it_is_mended() {
        let warning = |message: &str| Warning {
            reason: "UnknownAnnotation",
            message: message.into(),
        };
        let with = |warnings: Option<Vec<Warning>>| Verdict {
            warnings,
            ..verdict()
        };
        let service = Service::default();
        let first = change(&service, &with(Some(vec![warning("a")]))).unwrap();
        assert_eq!(first.warnings.len(), 1);
        let service = apply(&service, &first);
        assert!(change(&service, &with(Some(vec![warning("a")]))).is_none());
        // What is not known of warnings leaves them.
        assert!(change(&service, &with(None)).is_none());
        let second = change(&service, &with(Some(vec![warning("a"), warning("b")]))).unwrap();
        assert!(!second.news);
        assert_eq!(second.warnings, [warning("b")]);
        let service = apply(&service, &second);
        let mended = change(&service, &with(Some(Vec::new()))).unwrap();
        assert!(mended.warnings.is_empty());
        let service = apply(&service, &mended);
        assert!(find(&service, CONDITION_WARNINGS).is_none());
        assert!(ours(&service).is_some());
    }

    #[test]
    fn ports_with_errors_are_told_and_read_back() {
        let mut with_ports = verdict();
        with_ports.ingress[0].ports.push(IngressPort {
            port: 443,
            protocol: herald_core::Protocol::Tcp,
            error: Some("herald.dev/CertificateNotFound".into()),
        });
        let service = apply(
            &Service::default(),
            &change(&Service::default(), &with_ports).unwrap(),
        );
        assert_eq!(request::current(&service), with_ports.ingress);
        assert!(change(&service, &with_ports).is_none());
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
