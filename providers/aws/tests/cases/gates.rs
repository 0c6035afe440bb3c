//! Pods that wait for their load balancer are told what AWS thinks of them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use herald_core::{Backend, Endpoint, EndpointPort, Protocol};
use herald_fakeaws::model::Verdict;
use herald_fakeaws::{Config, FakeAws, ResourceKind};
use herald_provider::{Desired, Outcome, PodHealth};

use crate::common::{annotate, drive, nodes, provider, reconcile, service};

fn pod(n: u8) -> Backend {
    Backend {
        endpoint: Endpoint {
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 32, 100 + n)),
            node: Some("node-1".into()),
            ready: false,
            serving: true,
            terminating: false,
        },
        ports: vec![EndpointPort {
            name: "p80".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        pod: Some(format!("web-{n}")),
        awaits_gate: true,
    }
}

fn wish(pods: &[u8]) -> Desired {
    let mut web = service("web");
    annotate(&mut web, "aws-load-balancer-nlb-target-type", "ip");
    Desired::Present {
        service: web,
        nodes: nodes(1),
        endpoints: pods.iter().map(|n| pod(*n)).collect(),
        references: Vec::new(),
    }
}

#[tokio::test]
async fn a_gate_opens_when_aws_finds_the_pod_healthy_and_shuts_when_not() {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let aws = provider(&fake);
    let health = async |pods: &[u8]| -> Vec<PodHealth> {
        match reconcile(&aws, &wish(pods)).await {
            Outcome::Settled(status) => status.pods,
            other => panic!("{other:?}"),
        }
    };
    let said = |pods: &[PodHealth]| -> Vec<(String, bool)> {
        let said = pods.iter().map(|pod| (pod.pod.clone(), pod.healthy));
        said.collect()
    };
    // It is registered although it is not ready, as that waits for the gate.
    let first = health(&[1]).await;
    assert_eq!(said(&first), [("web-1".to_owned(), false)]);
    assert_eq!(fake.snapshot().count(ResourceKind::Target), 1);
    drive(&fake, &aws, &wish(&[1])).await;
    fake.advance(Duration::from_mins(1));
    assert_eq!(said(&health(&[1]).await), [("web-1".to_owned(), true)]);
    // A new pod waits for itself only.
    let both = health(&[1, 2]).await;
    assert_eq!(
        said(&both),
        [("web-1".to_owned(), true), ("web-2".to_owned(), false)]
    );
    assert!(both[1].message.contains("initial"), "{:?}", both[1]);
    fake.advance(Duration::from_mins(1));
    assert!(health(&[1, 2]).await.iter().all(|pod| pod.healthy));
    fake.edit(|region| {
        for group in region.target_groups.values_mut() {
            for (key, target) in &mut group.targets {
                if key.id.ends_with("102") {
                    target.verdict = Some(Verdict::Unhealthy);
                }
            }
        }
    });
    let sick = health(&[1, 2]).await;
    assert_eq!(
        said(&sick),
        [("web-1".to_owned(), true), ("web-2".to_owned(), false)]
    );
    assert!(sick[1].message.contains("unhealthy"), "{:?}", sick[1]);
}
