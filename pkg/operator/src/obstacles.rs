//! Addresses that the cluster itself uses, so that no Service should have them.

use std::net::IpAddr;

use herald_core::AddressRange;
use herald_ipam::Obstacle;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::ResourceExt as _;

/// Those of a node, and of its pods.
pub(crate) fn of_node(node: &Node) -> Vec<Obstacle> {
    let name = node.name_any();
    let status = node.status.iter();
    let addresses = status
        .flat_map(|status| status.addresses.iter().flatten())
        .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|address| address.address.parse::<IpAddr>().ok())
        .filter_map(|address| AddressRange::new(address, address))
        .map(|range| Obstacle {
            range,
            owner: format!("node {name:?}"),
        });
    let spec = node.spec.iter();
    let pods = spec
        .flat_map(|spec| spec.pod_cidrs.iter().flatten())
        .filter_map(|text| text.parse().ok())
        .map(|range| Obstacle {
            range,
            owner: format!("the pods of node {name:?}"),
        });
    addresses.chain(pods).collect()
}

/// Those of cluster IPs.
pub(crate) fn of_service_cidr(object: &ServiceCIDR) -> Vec<Obstacle> {
    let cidrs = object
        .spec
        .iter()
        .flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs
        .filter_map(|text| text.parse().ok())
        .map(|range| Obstacle {
            range,
            owner: "the cluster's Services".into(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_pods_and_services_have_addresses() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n1"},
            "spec": {"podCIDRs": ["10.244.0.0/24", "fd00::/80"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "Hostname", "address": "n1"},
            ]},
        }))
        .unwrap();
        let owners: Vec<String> = of_node(&node)
            .into_iter()
            .map(|obstacle| format!("{}: {}", obstacle.range, obstacle.owner))
            .collect();
        assert_eq!(
            owners,
            [
                "192.0.2.1-192.0.2.1: node \"n1\"",
                "10.244.0.0-10.244.0.255: the pods of node \"n1\"",
                "fd00::-fd00::ffff:ffff:ffff: the pods of node \"n1\"",
            ]
        );
        let services: ServiceCIDR =
            serde_json::from_value(json!({"spec": {"cidrs": ["10.96.0.0/16"]}})).unwrap();
        assert_eq!(of_service_cidr(&services).len(), 1);
    }
}
