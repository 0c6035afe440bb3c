//! The provider against a cloud in this process: a load balancer's life, and
//! what its Service is told when the cloud says no.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{absent, desired, existing, present, provider, quick, reconcile};
use herald_core::{IngressPoint, IpMode};
use herald_fake::{ADDRESS_TYPE_ANNOTATION, FakeCloud};
use herald_fakecloud::faults::{FaultKind, FaultSpec, Operation, OperationFilter};
use herald_fakecloud::state::Quotas;
use herald_fakecloud::wire::LoadBalancerState;
use herald_fakecloud::{Config, Server};
use herald_provider::{Desired, DynProvider, Outcome, ProviderError, Status};
use tokio::time::sleep;

fn fault(server: &Server, kind: FaultKind) {
    let create = OperationFilter::One(Operation::CreateLoadBalancer);
    server
        .shared()
        .account()
        .faults
        .add(FaultSpec::once(create, kind))
        .unwrap();
}

fn settled(outcome: Outcome) -> Status {
    match outcome {
        Outcome::Settled(status) => status,
        other => panic!("{other:?}"),
    }
}

/// Reconciles until the status asks for no other look.
async fn settle(provider: &FakeCloud, desired: &Desired) -> Status {
    loop {
        let status = settled(reconcile(provider, desired).await);
        match status.recheck {
            Some(wait) => sleep(wait.min(Duration::from_millis(30))).await,
            None => return status,
        }
    }
}

fn writes(server: &Server) -> Vec<Operation> {
    let reads = [Operation::ListLoadBalancers, Operation::GetLoadBalancer];
    let calls = server.shared().account().calls.report().calls;
    let operations = calls.into_iter().map(|call| call.operation);
    operations
        .filter(|operation| !reads.contains(operation))
        .collect()
}

#[tokio::test]
async fn a_service_gets_an_address_when_it_carries_traffic_and_no_earlier() {
    let server = Server::start(quick(0x7000)).await.unwrap();
    let provider = provider(&server);
    let wish = desired(present(1..3));
    let first = settled(reconcile(&provider, &wish).await);
    assert_eq!((first.reason, first.ready), ("Provisioning", false));
    assert!(first.ingress.is_empty());
    assert_eq!(first.recheck, Some(Duration::from_millis(500)));
    let status = settle(&provider, &wish).await;
    assert_eq!((status.reason, status.ready), ("Provisioned", true));
    assert_eq!(
        status.ingress[0].address(),
        Some(existing(&server)[0].addresses[0])
    );
    assert_eq!(status.ingress[0].ip_mode, Some(IpMode::Proxy));

    assert_eq!(settle(&provider, &wish).await, status);
    assert_eq!(
        writes(&server),
        [Operation::CreateLoadBalancer],
        "steady state writes nothing"
    );

    settle(&provider, &desired(present(1..4))).await;
    assert_eq!(existing(&server)[0].targets.len(), 3);
    settled(reconcile(&provider, &absent()).await);
    assert!(
        existing(&server).is_empty(),
        "settled means gone, not going"
    );
    assert_eq!(
        writes(&server),
        [
            Operation::CreateLoadBalancer,
            Operation::SetTargets,
            Operation::DeleteLoadBalancer
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn two_clusters_and_two_services_do_not_meet() {
    let server = Server::start(quick(0x7001)).await.unwrap();
    let endpoint = server.endpoint().parse().unwrap();
    let other = FakeCloud::new(&endpoint, "other-cluster".into()).unwrap();
    let provider = provider(&server);
    let wish = desired(present(1..3));
    reconcile(&provider, &wish).await;
    reconcile(&other, &wish).await;
    assert_eq!(existing(&server).len(), 2);
    settled(reconcile(&other, &absent()).await);
    let [left] = &existing(&server)[..] else {
        panic!()
    };
    assert_eq!(left.tags["herald.dev/cluster"], "cluster");
    assert_eq!(left.tags["herald.dev/service"], "default/web");
    server.stop().await;
}

#[tokio::test]
async fn the_address_type_is_chosen_once() {
    let server = Server::start(quick(0x7002)).await.unwrap();
    let provider = provider(&server);
    let (mut service, nodes) = present(1..2);
    service
        .annotations
        .insert(ADDRESS_TYPE_ANNOTATION.into(), "hostname".into());
    let named = settle(&provider, &desired((service, nodes))).await;
    let IngressPoint::Hostname(hostname) = &named.ingress[0].point else {
        panic!("{named:?}");
    };
    assert!(hostname.ends_with(".fakecloud.herald.dev"), "{hostname}");
    assert_eq!(named.ingress[0].ip_mode, None);

    // The other type can't be had, but the nodes are followed all the same.
    let refused = reconcile(&provider, &desired(present(1..4))).await;
    let Outcome::Refused(refusal) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal.reason, "InvalidRequest");
    assert!(refusal.message.contains("create it again"), "{refusal}");
    assert_eq!(refusal.keep, named.ingress);
    assert_eq!(existing(&server)[0].targets.len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn a_dry_run_prints_the_plan_and_calls_nothing_that_writes() {
    let server = Server::start(quick(0x7003)).await.unwrap();
    let provider = provider(&server);
    let outcome = provider
        .reconcile(&desired(present(1..2)), true, &|| Ok(()))
        .await;
    let Outcome::Planned(plan) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(plan[0].starts_with("create load balancer"), "{plan:?}");
    assert_eq!(writes(&server), []);
    server.stop().await;
}

#[tokio::test]
async fn what_the_cloud_refuses_has_a_reason() {
    let small = Config {
        quotas: Quotas {
            load_balancers: 0,
            ..Quotas::default()
        },
        ..quick(0x7004)
    };
    let server = Server::start(small).await.unwrap();
    let provider = provider(&server).with_call_timeout(Duration::from_millis(200));
    let wish = desired(present(1..2));
    let failed = |outcome| match outcome {
        Outcome::Failed(ProviderError::Failed { reason, message }) => (reason, message),
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(reconcile(&provider, &wish).await).0, "QuotaExceeded");

    fault(&server, FaultKind::Throttle);
    let throttled = reconcile(&provider, &wish).await;
    let Outcome::Failed(ProviderError::Throttled { retry_after, .. }) = throttled else {
        panic!("{throttled:?}");
    };
    assert_eq!(retry_after, Some(Duration::from_secs(1)));

    fault(&server, FaultKind::TimeoutBefore);
    let (reason, message) = failed(reconcile(&provider, &wish).await);
    assert_eq!(reason, "CloudTimeout");
    assert_eq!(
        message,
        "the cloud did not answer CreateLoadBalancer within 200ms"
    );

    fault(&server, FaultKind::Error);
    let (reason, message) = failed(reconcile(&provider, &wish).await);
    assert_eq!(reason, "CloudError");
    assert!(message.contains("a fault that was asked for"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn provisioning_that_fails_is_told_and_tried_anew() {
    let server = Server::start(quick(0x7005)).await.unwrap();
    let provider = provider(&server);
    let wish = desired(present(1..2));
    fault(&server, FaultKind::FailProvisioning);
    let failed = loop {
        let status = settled(reconcile(&provider, &wish).await);
        if status.reason == "ProvisioningFailed" {
            break status;
        }
        sleep(Duration::from_millis(20)).await;
    };
    assert!(
        failed.message.contains("a fault that was asked for"),
        "{failed:?}"
    );
    assert!(
        failed
            .recheck
            .is_some_and(|wait| wait > Duration::from_secs(1))
    );
    assert_eq!(existing(&server)[0].state, LoadBalancerState::Failed);
    let status = settle(&provider, &wish).await;
    assert!(status.ready);
    assert_eq!(existing(&server).len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn an_ipv6_endpoint_works() {
    let listen = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0));
    let server = Server::start(Config {
        listen,
        ..quick(0x7006)
    })
    .await
    .unwrap();
    assert!(server.endpoint().starts_with("http://[::1]:"));
    assert!(
        settle(&provider(&server), &desired(present(1..2)))
            .await
            .ready
    );
    server.stop().await;
}
