//! From `EndpointSlices` to the endpoints of a Service.

use std::sync::Arc;

use herald_api::convert;
use herald_core::{Backend, ServiceKey};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::stores::service_of;

/// The endpoints of a Service, by address. One that moves between slices may be in
/// two for a moment; the ready one of them counts.
pub(crate) fn of(key: &ServiceKey, slices: &[Arc<EndpointSlice>]) -> Vec<Backend> {
    let mut backends: Vec<Backend> = slices
        .iter()
        .filter(|slice| service_of(slice).as_ref() == Some(key))
        .flat_map(|slice| convert::backends(slice))
        .collect();
    backends.sort_by_key(|backend| (backend.endpoint.address, !backend.endpoint.ready));
    backends.dedup_by_key(|backend| backend.endpoint.address);
    backends
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(service: &str, endpoints: &serde_json::Value) -> Arc<EndpointSlice> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {
                    "name": "s", "namespace": "default",
                    "labels": {"kubernetes.io/service-name": service},
                },
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080}, {"name": "any"}],
                "endpoints": endpoints,
            }))
            .unwrap(),
        )
    }

    #[test]
    fn endpoints_of_several_slices_are_one_list() {
        let pod = json!({"kind": "Pod", "name": "web-1"});
        let slices = [
            slice(
                "web",
                &json!([
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                    {"addresses": ["10.0.0.1"], "nodeName": "n1", "targetRef": pod},
                ]),
            ),
            slice(
                "web",
                &json!([{"addresses": ["10.0.0.2"], "conditions": {"ready": true}}]),
            ),
            slice("other", &json!([{"addresses": ["10.0.0.3"]}])),
        ];
        let backends = of(&ServiceKey::new("default", "web"), &slices);
        let seen: Vec<_> = backends
            .iter()
            .map(|b| {
                (
                    b.endpoint.address.to_string(),
                    b.endpoint.ready,
                    b.pod.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("10.0.0.1".to_owned(), true, Some("web-1")),
                ("10.0.0.2".to_owned(), true, None)
            ]
        );
        assert_eq!(
            backends[0].ports.len(),
            1,
            "a port without a number is none"
        );
    }
}
