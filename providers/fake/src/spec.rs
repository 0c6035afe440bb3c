//! What a Service's load balancer should be like.

use std::collections::{BTreeMap, BTreeSet};

use herald_core::{IpFamily, Node, Protocol, ServicePort, ServiceRequest, TrafficPolicy};

use crate::identity;
use crate::wire::{AddressType, CheckProtocol, HealthCheck, Listener, Target};

/// Annotation: `address` (default) or `hostname`, what clients are given.
pub const ADDRESS_TYPE_ANNOTATION: &str = "herald.dev/fake-address-type";

/// Where kube-proxy says whether it works.
const KUBE_PROXY_HEALTH_PORT: u16 = 10256;
/// Path of kube-proxy's health, of the node and of a Service's local endpoints.
const HEALTH_PATH: &str = "/healthz";
/// A node that stops answering is out of service after twice this time.
const CHECK_INTERVAL_MILLIS: u64 = 1000;
/// Checks in a row that decide.
const CHECK_THRESHOLD: u32 = 2;

/// A load balancer to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Unique in the cloud.
    pub name: String,
    /// Whose it is.
    pub tags: BTreeMap<String, String>,
    /// What clients are given.
    pub address_type: AddressType,
    /// Families it has an address of.
    pub families: BTreeSet<IpFamily>,
    /// Ports, in order.
    pub listeners: Vec<Listener>,
    /// Nodes, in order.
    pub targets: Vec<Target>,
    /// How nodes are checked.
    pub health_check: HealthCheck,
}

impl Spec {
    /// What `service` asks for, or what is wrong with it in a sentence.
    pub fn new(cluster_id: &str, service: &ServiceRequest, nodes: &[Node]) -> Result<Self, String> {
        let families: BTreeSet<IpFamily> = service.ip_families.iter().copied().collect();
        let mut listeners = service
            .ports
            .iter()
            .map(listener)
            .collect::<Result<Vec<_>, _>>()?;
        listeners.sort_unstable();
        Ok(Self {
            name: identity::name(cluster_id, &service.uid),
            tags: identity::tags(cluster_id, &service.uid, &service.key),
            address_type: address_type(&service.annotations)?,
            targets: targets(nodes, &families),
            families,
            health_check: health_check(service, &listeners)?,
            listeners,
        })
    }
}

fn address_type(annotations: &BTreeMap<String, String>) -> Result<AddressType, String> {
    match annotations.get(ADDRESS_TYPE_ANNOTATION).map(String::as_str) {
        None | Some("address") => Ok(AddressType::Address),
        Some("hostname") => Ok(AddressType::Hostname),
        Some(other) => Err(format!(
            "annotation {ADDRESS_TYPE_ANNOTATION} is {other:?}; it must be \"address\" or \"hostname\""
        )),
    }
}

fn listener(port: &ServicePort) -> Result<Listener, String> {
    if port.protocol == Protocol::Sctp {
        return Err(format!(
            "port {} is SCTP, which the cloud's load balancers do not carry; they carry TCP and UDP",
            port.port
        ));
    }
    let target_port = port.node_port.ok_or_else(|| {
        format!(
            "port {} has no node port, and the cloud's load balancers reach pods through node \
             ports; set spec.allocateLoadBalancerNodePorts to true",
            port.port
        )
    })?;
    Ok(Listener {
        port: port.port,
        protocol: port.protocol,
        target_port,
    })
}

/// Addresses of the nodes that may carry traffic. If no node is fit, all that
/// are not excluded stay: conditions alone, which may only mean that the
/// control plane lost sight of the nodes, never empty a load balancer. Its
/// health checks know better.
fn targets(nodes: &[Node], families: &BTreeSet<IpFamily>) -> Vec<Target> {
    let mut chosen: Vec<&Node> = nodes.iter().filter(|node| node.eligible()).collect();
    if chosen.is_empty() {
        chosen = nodes
            .iter()
            .filter(|node| !node.excluded && !node.deleting)
            .collect();
    }
    let mut targets: Vec<Target> = chosen
        .into_iter()
        .flat_map(|node| {
            families.iter().filter_map(|family| {
                let address = node
                    .internal_addresses
                    .iter()
                    .find(|address| IpFamily::of(address) == *family)?;
                Some(Target {
                    address: *address,
                    name: node.name.clone(),
                })
            })
        })
        .collect();
    targets.sort_unstable();
    // Two Nodes with one address are one machine that changed its name.
    targets.dedup_by_key(|target| target.address);
    targets
}

/// With policy `Local` kube-proxy says per node whether it has an endpoint. With
/// `Cluster` every node that kube-proxy serves will do: a TCP node port shows it
/// by accepting, and where there are only UDP ports kube-proxy's own health does.
fn health_check(service: &ServiceRequest, listeners: &[Listener]) -> Result<HealthCheck, String> {
    let first_tcp = listeners.iter().find(|l| l.protocol == Protocol::Tcp);
    let (protocol, port) = match (service.traffic_policy, first_tcp) {
        (TrafficPolicy::Local, _) => {
            let port = service.health_check_node_port.ok_or(
                "externalTrafficPolicy is Local but spec.healthCheckNodePort is not set; \
                 it is how the cloud learns which nodes have an endpoint",
            )?;
            (CheckProtocol::Http, port)
        }
        (TrafficPolicy::Cluster, Some(listener)) => (CheckProtocol::Tcp, listener.target_port),
        (TrafficPolicy::Cluster, None) => (CheckProtocol::Http, KUBE_PROXY_HEALTH_PORT),
    };
    Ok(HealthCheck {
        protocol,
        port,
        path: HEALTH_PATH.to_owned(),
        interval_millis: CHECK_INTERVAL_MILLIS,
        healthy_threshold: CHECK_THRESHOLD,
        unhealthy_threshold: CHECK_THRESHOLD,
    })
}

#[cfg(test)]
pub mod tests {
    use herald_core::{Labels, ServiceKey, TargetPort};

    use super::*;

    pub fn service() -> ServiceRequest {
        ServiceRequest {
            ports: vec![port(80, Protocol::Tcp), port(53, Protocol::Udp)],
            ..ServiceRequest::new(ServiceKey::new("default", "web"), "u1")
        }
    }

    pub fn port(port: u16, protocol: Protocol) -> ServicePort {
        ServicePort {
            name: format!("{protocol}-{port}"),
            protocol,
            port,
            node_port: Some(30000 + port),
            target_port: TargetPort::Number(port),
        }
    }

    pub fn node(number: u8) -> Node {
        Node {
            name: format!("n{number}"),
            labels: Labels::new(),
            internal_addresses: vec![
                [172, 30, 0, number].into(),
                format!("fd30::{number:x}").parse().unwrap(),
            ],
            ready: true,
            network_unavailable: false,
            excluded: false,
            deleting: false,
            provider_id: None,
            taints: Vec::new(),
            zone: None,
        }
    }

    fn names(spec: &Spec) -> Vec<&str> {
        spec.targets.iter().map(|target| &*target.name).collect()
    }

    #[test]
    fn ports_become_listeners_on_node_ports() {
        let spec = Spec::new("c", &service(), &[node(1)]).unwrap();
        let text: Vec<String> = spec.listeners.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["UDP 53 -> 30053", "TCP 80 -> 30080"]);
        assert_eq!(spec.health_check.to_string(), "TCP 30080");
    }

    #[test]
    fn the_health_check_fits_the_policy() {
        let mut local = service();
        local.traffic_policy = TrafficPolicy::Local;
        assert!(
            Spec::new("c", &local, &[])
                .unwrap_err()
                .contains("healthCheckNodePort")
        );
        local.health_check_node_port = Some(31000);
        let check = |service: &ServiceRequest| {
            Spec::new("c", service, &[])
                .unwrap()
                .health_check
                .to_string()
        };
        assert_eq!(check(&local), "HTTP 31000 /healthz");
        let mut udp = service();
        udp.ports = vec![port(53, Protocol::Udp)];
        assert_eq!(check(&udp), "HTTP 10256 /healthz");
    }

    #[test]
    fn targets_are_the_fit_nodes_in_the_families_of_the_service() {
        let mut nodes = vec![node(3), node(1), node(2)];
        nodes[2].ready = false;
        assert_eq!(
            names(&Spec::new("c", &service(), &nodes).unwrap()),
            ["n1", "n3"]
        );
        let mut dual = service();
        dual.ip_families = vec![IpFamily::V6, IpFamily::V4];
        let spec = Spec::new("c", &dual, &nodes).unwrap();
        assert_eq!(spec.targets.len(), 4);
        assert!(
            spec.targets
                .iter()
                .any(|t| t.address.to_string() == "fd30::1")
        );
    }

    #[test]
    fn conditions_alone_never_empty_a_load_balancer() {
        let mut nodes = vec![node(1), node(2), node(3)];
        for node in &mut nodes {
            node.ready = false;
        }
        nodes[1].excluded = true;
        assert_eq!(
            names(&Spec::new("c", &service(), &nodes).unwrap()),
            ["n1", "n3"]
        );
        nodes[0].ready = true;
        assert_eq!(names(&Spec::new("c", &service(), &nodes).unwrap()), ["n1"]);
    }

    #[test]
    fn a_node_under_two_names_is_one_target() {
        let mut twin = node(1);
        twin.name = "renamed".into();
        let spec = Spec::new("c", &service(), &[node(1), twin]).unwrap();
        assert_eq!(spec.targets.len(), 1);
    }

    #[test]
    fn what_the_cloud_cannot_do_is_said_with_its_mend() {
        let mut wrong = service();
        wrong.ports[0].node_port = None;
        assert!(
            Spec::new("c", &wrong, &[])
                .unwrap_err()
                .contains("allocateLoadBalancerNodePorts")
        );
        let mut wrong = service();
        wrong.ports[0].protocol = Protocol::Sctp;
        assert!(Spec::new("c", &wrong, &[]).unwrap_err().contains("SCTP"));
        let mut wrong = service();
        wrong
            .annotations
            .insert(ADDRESS_TYPE_ANNOTATION.into(), "name".into());
        assert!(
            Spec::new("c", &wrong, &[])
                .unwrap_err()
                .contains("\"hostname\"")
        );
    }
}
