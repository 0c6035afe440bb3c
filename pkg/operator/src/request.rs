//! From a Service to what it asks for.

use std::net::IpAddr;

use herald_api::convert;
use herald_api::names::{
    SPELLINGS_ADDRESS_POOL, SPELLINGS_ALLOW_SHARED_IP, SPELLINGS_LOAD_BALANCER_IPS,
};
use herald_core::{
    Ingress, IngressPoint, IngressPort, IpFamily, IpFamilyPolicy, IpMode, Labels, ServicePort,
    ServiceRequest, TargetPort,
};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use thiserror::Error;

use crate::stores::key_of;

/// A Service that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum InvalidRequest {
    #[error("{text:?} in {place} is no IP address")]
    Address { text: String, place: &'static str },
    #[error("{first} and {second} ask for different things; keep one of them")]
    Contradiction {
        first: &'static str,
        second: &'static str,
    },
}

/// What a Service asks for.
pub(crate) fn parse(
    service: &Service,
    namespace_labels: Labels,
) -> Result<ServiceRequest, InvalidRequest> {
    let spec = service.spec.clone().unwrap_or_default();
    let pools = one_of(service, &SPELLINGS_ADDRESS_POOL)?;
    let sharing = one_of(service, &SPELLINGS_ALLOW_SHARED_IP)?;
    Ok(ServiceRequest {
        requested_addresses: requested_addresses(service, &spec)?,
        requested_pools: pools.map_or_else(Vec::new, |(_, names)| listed(names)),
        sharing_key: sharing
            .map(|(_, key)| key.to_owned())
            .filter(|key| !key.is_empty()),
        ..plain(service, namespace_labels)
    })
}

/// What a Service is, as far as that matters for the addresses that it has; for one
/// that contradicts itself too.
pub(crate) fn holder(service: &Service, namespace_labels: Labels) -> ServiceRequest {
    parse(service, namespace_labels.clone()).unwrap_or_else(|_| {
        let key = |name: &&str| {
            let key = service.annotations().get(*name);
            key.filter(|key| !key.is_empty()).cloned()
        };
        ServiceRequest {
            sharing_key: SPELLINGS_ALLOW_SHARED_IP.iter().find_map(key),
            ..plain(service, namespace_labels)
        }
    })
}

/// Without what is asked for in particular.
fn plain(service: &Service, namespace_labels: Labels) -> ServiceRequest {
    let spec = service.spec.clone().unwrap_or_default();
    ServiceRequest {
        key: key_of(service),
        uid: service.uid().unwrap_or_default(),
        labels: convert::labels(service),
        namespace_labels,
        annotations: service.annotations().clone(),
        ip_families: families(&spec),
        ip_family_policy: match spec.ip_family_policy.as_deref() {
            Some("PreferDualStack") => IpFamilyPolicy::PreferDualStack,
            Some("RequireDualStack") => IpFamilyPolicy::RequireDualStack,
            _ => IpFamilyPolicy::SingleStack,
        },
        requested_addresses: Vec::new(),
        requested_pools: Vec::new(),
        sharing_key: None,
        selector: spec.selector.clone().unwrap_or_default(),
        ports: ports(&spec),
        traffic_policy: convert::traffic_policy(&spec),
        health_check_node_port: health_check_node_port(&spec),
        source_ranges: spec.load_balancer_source_ranges.unwrap_or_default(),
        ingress: current(service),
    }
}

/// The words of a list that is separated by commas.
fn listed(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

pub(crate) fn health_check_node_port(spec: &ServiceSpec) -> Option<u16> {
    spec.health_check_node_port
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
}

fn families(spec: &ServiceSpec) -> Vec<IpFamily> {
    let families: Vec<IpFamily> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some(IpFamily::V4),
            "IPv6" => Some(IpFamily::V6),
            _ => None,
        })
        .collect();
    if families.is_empty() {
        vec![IpFamily::V4]
    } else {
        families
    }
}

pub(crate) fn ports(spec: &ServiceSpec) -> Vec<ServicePort> {
    spec.ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(ServicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: convert::protocol(port.protocol.as_deref()),
                port: u16::try_from(port.port).ok()?,
                node_port: port
                    .node_port
                    .and_then(|port| u16::try_from(port).ok())
                    .filter(|port| *port != 0),
                target_port: match &port.target_port {
                    Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
                    Some(IntOrString::Int(number)) => {
                        TargetPort::Number(u16::try_from(*number).ok()?)
                    }
                    None => TargetPort::Number(u16::try_from(port.port).ok()?),
                },
            })
        })
        .collect()
}

fn requested_addresses(
    service: &Service,
    spec: &ServiceSpec,
) -> Result<Vec<IpAddr>, InvalidRequest> {
    const FIELD: &str = "spec.loadBalancerIP";
    let annotation = one_of(service, &SPELLINGS_LOAD_BALANCER_IPS)?
        .map(|(place, text)| Ok((place, addresses(text, place)?)))
        .transpose()?;
    let field = spec
        .load_balancer_ip
        .as_deref()
        .filter(|text| !text.is_empty())
        .map(|text| addresses(text, FIELD))
        .transpose()?;
    match (annotation, field) {
        (Some((place, annotation)), Some(field)) if annotation != field => {
            Err(InvalidRequest::Contradiction {
                first: place,
                second: FIELD,
            })
        }
        (Some((_, addresses)), _) | (None, Some(addresses)) => Ok(addresses),
        (None, None) => Ok(Vec::new()),
    }
}

fn addresses(text: &str, place: &'static str) -> Result<Vec<IpAddr>, InvalidRequest> {
    text.split(',')
        .map(str::trim)
        .map(|text| {
            text.parse().map_err(|_| InvalidRequest::Address {
                text: text.to_owned(),
                place,
            })
        })
        .collect()
}

/// The value of an annotation that has several spellings, and which one it was.
fn one_of<'a>(
    service: &'a Service,
    names: &[&'static str],
) -> Result<Option<(&'static str, &'a str)>, InvalidRequest> {
    let value = |name: &&'static str| Some((*name, service.annotations().get(*name)?.as_str()));
    let mut found = names.iter().filter_map(value);
    let Some((first, value)) = found.next() else {
        return Ok(None);
    };
    match found.find(|(_, other)| *other != value) {
        Some((second, _)) => Err(InvalidRequest::Contradiction { first, second }),
        None => Ok(Some((first, value))),
    }
}

/// `status.loadBalancer.ingress` in the domain's words.
pub(crate) fn current(service: &Service) -> Vec<Ingress> {
    service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref())
        .flat_map(|status| status.ingress.iter().flatten())
        .filter_map(ingress)
        .collect()
}

fn ingress(ingress: &LoadBalancerIngress) -> Option<Ingress> {
    let point = match (&ingress.ip, &ingress.hostname) {
        (Some(ip), _) => IngressPoint::Ip(ip.parse().ok()?),
        (None, Some(hostname)) => IngressPoint::Hostname(hostname.clone()),
        (None, None) => return None,
    };
    let ip_mode = match ingress.ip_mode.as_deref() {
        Some("VIP") => Some(IpMode::Vip),
        Some("Proxy") => Some(IpMode::Proxy),
        _ => None,
    };
    let ports = ingress
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(IngressPort {
                port: u16::try_from(port.port).ok()?,
                protocol: convert::protocol(Some(&port.protocol)),
                error: port.error.clone(),
            })
        })
        .collect();
    Some(Ingress {
        point,
        ip_mode,
        ports,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(annotations: &serde_json::Value, spec: &serde_json::Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u", "annotations": annotations},
            "spec": spec,
        }))
        .unwrap()
    }

    fn requested(
        annotations: &serde_json::Value,
        spec: &serde_json::Value,
    ) -> Result<Vec<String>, String> {
        parse(&service(annotations, spec), Labels::new())
            .map(|request| {
                request
                    .requested_addresses
                    .iter()
                    .map(ToString::to_string)
                    .collect()
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_are_asked_for_in_several_ways() {
        for (annotations, spec) in [
            (
                json!({"herald.dev/loadBalancerIPs": "192.0.2.1, fd00::1"}),
                json!({}),
            ),
            (
                json!({"metallb.io/loadBalancerIPs": "192.0.2.1,fd00::1"}),
                json!({}),
            ),
            (
                json!({"metallb.universe.tf/loadBalancerIPs": "192.0.2.1,fd00::1"}),
                json!({}),
            ),
        ] {
            assert_eq!(
                requested(&annotations, &spec).unwrap(),
                ["192.0.2.1", "fd00::1"]
            );
        }
        let field = requested(&json!({}), &json!({"loadBalancerIP": "192.0.2.1"}));
        assert_eq!(field.unwrap(), ["192.0.2.1"]);
    }

    #[test]
    fn two_ways_must_agree() {
        let twice = json!({
            "herald.dev/loadBalancerIPs": "192.0.2.1", "metallb.io/loadBalancerIPs": "192.0.2.2",
        });
        assert_eq!(
            requested(&twice, &json!({})).unwrap_err(),
            "herald.dev/loadBalancerIPs and metallb.io/loadBalancerIPs ask for different things; keep one of them"
        );
        let same = json!({"herald.dev/loadBalancerIPs": "192.0.2.1"});
        assert!(requested(&same, &json!({"loadBalancerIP": "192.0.2.1"})).is_ok());
        assert!(requested(&same, &json!({"loadBalancerIP": "192.0.2.2"})).is_err());
    }

    #[test]
    fn keys_of_sharing_are_read_in_every_spelling() {
        let key = |annotations: serde_json::Value| {
            parse(&service(&annotations, &json!({})), Labels::new()).map(|r| r.sharing_key)
        };
        for name in SPELLINGS_ALLOW_SHARED_IP {
            assert_eq!(key(json!({name: "web"})), Ok(Some("web".into())));
            assert_eq!(key(json!({name: ""})), Ok(None));
        }
        let both = json!({
            "herald.dev/allow-shared-ip": "a", "metallb.io/allow-shared-ip": "b",
        });
        assert!(key(both.clone()).is_err());
        // What it holds it holds all the same.
        let held = holder(&service(&both, &json!({})), Labels::new());
        assert_eq!(held.sharing_key.as_deref(), Some("a"));
    }

    #[test]
    fn several_pools_are_a_list() {
        let two = json!({"herald.dev/address-pool": "a, b"});
        let request = parse(&service(&two, &json!({})), Labels::new()).unwrap();
        assert_eq!(request.requested_pools, ["a", "b"]);
    }

    #[test]
    fn what_is_no_address_is_named() {
        assert_eq!(
            requested(&json!({"herald.dev/loadBalancerIPs": "web"}), &json!({})).unwrap_err(),
            "\"web\" in herald.dev/loadBalancerIPs is no IP address"
        );
    }
}
