//! A cloud in this process, and Services to try on it.

use std::time::{Duration, Instant};

use herald_core::{Labels, Node, Protocol, ServiceKey, ServicePort, ServiceRequest, TargetPort};
use herald_fake::FakeCloud;
use herald_fakecloud::wire::LoadBalancer;
use herald_fakecloud::{Config, Server};
use herald_provider::{Desired, DynProvider, Outcome};

/// A cloud that is quick about everything, with IPv4 addresses of its own
/// (`number` tells clouds apart) and the one IPv6 address of loopback.
pub fn quick(number: u16) -> Config {
    let [high, low] = number.to_be_bytes();
    Config {
        provisioning_time: Duration::from_millis(20),
        deletion_time: Duration::from_millis(20),
        pools: vec![
            format!("127.{}.{low}.0/28", 65 + high).parse().unwrap(),
            "::1/128".parse().unwrap(),
        ],
        ..Config::default()
    }
}

/// The provider as a new process would have it.
pub fn provider(server: &Server) -> FakeCloud {
    FakeCloud::new(&server.endpoint().parse().unwrap(), "cluster".into()).unwrap()
}

/// What an operator does once.
pub async fn reconcile(provider: &FakeCloud, desired: &Desired) -> Outcome {
    provider.reconcile(desired, false, &|| Ok(())).await
}

/// What exists in the cloud.
pub fn existing(server: &Server) -> Vec<LoadBalancer> {
    let now = Instant::now();
    let cloud = &mut server.shared().account().cloud;
    cloud.advance(now);
    cloud.list(None, &[], None, usize::MAX, now).items
}

/// A Service with TCP and UDP on one port, and the nodes it may use.
pub fn present(nodes: std::ops::Range<u8>) -> (ServiceRequest, Vec<Node>) {
    let port = |protocol| ServicePort {
        name: format!("{protocol}"),
        protocol,
        port: 8080,
        node_port: Some(30080),
        target_port: TargetPort::Number(8080),
    };
    let service = ServiceRequest {
        ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
        ..ServiceRequest::new(ServiceKey::new("default", "web"), "0b5e3d9c")
    };
    let nodes = nodes
        .map(|number| Node {
            name: format!("n{number}"),
            labels: Labels::new(),
            internal_addresses: vec![[127, 0, 1, number].into(), "::1".parse().unwrap()],
            ready: true,
            network_unavailable: false,
            excluded: false,
            deleting: false,
            provider_id: None,
            taints: Vec::new(),
            zone: None,
        })
        .collect();
    (service, nodes)
}

/// The same as something to reconcile.
pub fn desired((service, nodes): (ServiceRequest, Vec<Node>)) -> Desired {
    Desired::Present {
        service,
        nodes,
        endpoints: Vec::new(),
        references: Vec::new(),
    }
}

/// The Service of [`present`] is gone.
pub fn absent() -> Desired {
    let (service, _) = present(0..0);
    Desired::Absent {
        key: service.key,
        uid: service.uid,
    }
}
