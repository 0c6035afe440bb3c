//! Services, nodes and providers for tests against the strict stand-in.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use herald_aws::budget::Budget;
use herald_aws::{Aws, Connection, Metrics, Settings, Tuning};
use herald_core::{
    Ingress, IngressPoint, Labels, Node, Protocol, ServiceKey, ServicePort, ServiceRequest,
    TargetPort,
};
use herald_fakeaws::{FakeAws, fixtures};
use herald_provider::{Desired, DynProvider, Outcome, ProviderError};

/// Nothing waits longer than a test can bear.
pub fn tuning() -> Tuning {
    Tuning {
        lag: Duration::ZERO,
        poll: Duration::from_millis(5),
        gather: Duration::ZERO,
        gather_at_most: Duration::ZERO,
        hold: Duration::from_millis(5),
        hold_at_most: Duration::from_millis(20),
        ..Tuning::default()
    }
}

/// A budget that holds nothing up.
pub fn budget() -> Budget {
    Budget::with_buckets(Instant::now(), |_| (1e6, 1e6))
}

pub fn settings() -> Settings {
    Settings {
        cluster_id: "c1".into(),
        cluster_name: Some("demo".into()),
        region: Some(fixtures::REGION.into()),
        vpc_id: Some(fixtures::VPC.into()),
        replaced_load_balancer_delay: Duration::ZERO,
        ..Settings::default()
    }
}

pub fn connection(fake: &FakeAws) -> Connection {
    connection_to(&fake.endpoint())
}

fn connection_to(endpoint: &str) -> Connection {
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
    Connection::fixed(endpoint, fixtures::REGION, credentials)
        .with_call_timeout(Duration::from_secs(5))
}

pub fn provider(fake: &FakeAws) -> Aws {
    provider_with(fake, settings(), tuning(), budget())
}

pub fn provider_with(fake: &FakeAws, settings: Settings, tuning: Tuning, budget: Budget) -> Aws {
    provider_at(&fake.endpoint(), settings, tuning, budget)
}

/// A provider of a stand-in in another process.
pub fn provider_at(endpoint: &str, settings: Settings, tuning: Tuning, budget: Budget) -> Aws {
    Aws::with(
        settings,
        fixtures::VPC.into(),
        &connection_to(endpoint),
        budget,
        tuning,
        Metrics::default(),
    )
}

pub fn node(n: u16) -> Node {
    Node {
        name: format!("node-{n}"),
        labels: Labels::new(),
        internal_addresses: vec![IpAddr::V4(fixtures::node_address(n))],
        ready: true,
        network_unavailable: false,
        excluded: false,
        deleting: false,
        provider_id: Some(format!("aws:///us-east-1a/{}", fixtures::node_id(n))),
        taints: Vec::new(),
        zone: None,
    }
}

pub fn nodes(count: u16) -> Vec<Node> {
    (1..=count).map(node).collect()
}

pub fn port(number: u16, node_port: u16) -> ServicePort {
    ServicePort {
        name: format!("p{number}"),
        protocol: Protocol::Tcp,
        port: number,
        node_port: Some(node_port),
        target_port: TargetPort::Number(8080),
    }
}

/// Service `name` with one port, of its own node port.
pub fn service(name: &str) -> ServiceRequest {
    ServiceRequest {
        ports: vec![port(80, 30_080)],
        ..ServiceRequest::new(ServiceKey::new("default", name), format!("uid-{name}"))
    }
}

pub fn annotate(service: &mut ServiceRequest, suffix: &str, value: &str) {
    service.annotations.insert(
        format!("service.beta.kubernetes.io/{suffix}"),
        value.to_owned(),
    );
}

pub fn present(service: ServiceRequest, nodes: Vec<Node>) -> Desired {
    Desired::Present {
        service,
        nodes,
        endpoints: Vec::new(),
        references: Vec::new(),
    }
}

pub fn absent(name: &str) -> Desired {
    let service = service(name);
    Desired::Absent {
        key: service.key,
        uid: service.uid,
    }
}

pub async fn reconcile(provider: &Aws, desired: &Desired) -> Outcome {
    let fence = || Ok(());
    let provider: &dyn DynProvider = provider;
    provider.reconcile(desired, false, &fence).await
}

pub async fn dry_run(provider: &Aws, desired: &Desired) -> Outcome {
    let fence = || Ok(());
    let provider: &dyn DynProvider = provider;
    provider.reconcile(desired, true, &fence).await
}

/// How a run to the end went.
#[derive(Debug)]
pub struct Quiet {
    /// `status.loadBalancer.ingress` in the end.
    pub ingress: Vec<Ingress>,
}

/// Works on a Service as the operator does, writing its status, until there is nothing
/// more to do; the fake's time moves whenever something waits.
pub async fn drive(fake: &FakeAws, provider: &Aws, desired: &Desired) -> Quiet {
    let mut desired = desired.clone();
    for _ in 0..400 {
        let outcome = reconcile(provider, &desired).await;
        let mut wait = Duration::from_millis(2);
        match outcome {
            Outcome::Settled(status) => {
                if let Desired::Present { service, .. } = &mut desired {
                    service.ingress.clone_from(&status.ingress);
                }
                let soon = status
                    .recheck
                    .is_some_and(|after| after < Duration::from_mins(1));
                if !soon {
                    return Quiet {
                        ingress: status.ingress,
                    };
                }
                wait = Duration::from_millis(6);
            }
            Outcome::Failed(ProviderError::Waiting { recheck, .. }) => {
                wait = recheck.min(Duration::from_millis(30));
            }
            Outcome::Failed(_) => {}
            other => panic!("{other:?} of {desired:?}"),
        }
        fake.advance_to_next_event();
        tokio::time::sleep(wait).await;
    }
    panic!(
        "never quiet: {desired:?}; last calls: {:#?}",
        last_calls(fake)
    );
}

pub fn last_calls(fake: &FakeAws) -> Vec<String> {
    let calls = fake.calls();
    calls
        .iter()
        .rev()
        .take(12)
        .map(|call| format!("{} {:?}", call.action, call.outcome))
        .collect()
}

pub fn hostname(ingress: &[Ingress]) -> Option<&str> {
    match ingress {
        [
            Ingress {
                point: IngressPoint::Hostname(name),
                ..
            },
        ] => Some(name),
        _ => None,
    }
}
