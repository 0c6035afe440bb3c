//! A target group is replaced without a gap.

use std::time::Duration;

use herald_aws::Aws;
use herald_core::ServiceRequest;
use herald_fakeaws::{Config, Effect, FakeAws, Fault, Matching, Region, ResourceKind};
use herald_provider::{Outcome, Status};

use crate::common::{annotate, drive, nodes, port, present, provider, reconcile, service};

async fn begin() -> (FakeAws, Aws, ServiceRequest) {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let aws = provider(&fake);
    let mut web = service("web");
    let quiet = drive(&fake, &aws, &present(web.clone(), nodes(3))).await;
    web.ingress = quiet.ingress;
    // Until its targets are healthy.
    fake.advance(Duration::from_mins(1));
    fake.clear_calls();
    (fake, aws, web)
}

/// Weights of the only listener's target groups, by the groups' ports.
fn weights(fake: &FakeAws) -> Vec<(u16, Option<u32>)> {
    let look = |region: &Region| {
        let listener = region.listeners.values().next().unwrap();
        let mut weights: Vec<(u16, Option<u32>)> = listener
            .forward
            .groups
            .iter()
            .map(|group| (region.target_groups[&group.arn].port, group.weight))
            .collect();
        weights.sort_unstable();
        weights
    };
    fake.inspect(|region| look(region))
}

async fn settled(aws: &Aws, web: &ServiceRequest) -> Status {
    match reconcile(aws, &present(web.clone(), nodes(3))).await {
        Outcome::Settled(status) => status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_listener_passes_when_the_new_targets_are_healthy_and_the_old_ones_drain() {
    let (fake, aws, mut web) = begin().await;
    web.ports = vec![port(80, 30_081)];
    let status = settled(&aws, &web).await;
    assert_eq!(
        (status.ready, status.reason),
        (true, "Replacing"),
        "{status:?}"
    );
    assert!(status.message.contains("healthy"), "{}", status.message);
    assert_eq!(status.ingress, web.ingress);
    // AWS checks only what a listener forwards to.
    assert_eq!(weights(&fake), [(30_080, Some(1)), (30_081, Some(0))]);
    // Another process goes on from there, and nothing is done before its time.
    let aws = provider(&fake);
    assert_eq!(settled(&aws, &web).await.reason, "Replacing");
    assert_eq!(weights(&fake), [(30_080, Some(1)), (30_081, Some(0))]);
    fake.advance(Duration::from_mins(1));
    let status = settled(&aws, &web).await;
    assert!(status.message.contains("drain"), "{}", status.message);
    assert_eq!(weights(&fake), [(30_080, Some(0)), (30_081, Some(1))]);
    // 300 s are AWS's default, and half of it is not enough.
    fake.advance(Duration::from_secs(150));
    let aws = provider(&fake);
    assert_eq!(settled(&aws, &web).await.reason, "Replacing");
    assert_eq!(fake.snapshot().count(ResourceKind::TargetGroup), 2);
    assert_eq!(fake.counts().of("DeleteTargetGroup"), 0);
    fake.advance(Duration::from_secs(151));
    drive(&fake, &aws, &present(web.clone(), nodes(3))).await;
    assert_eq!(weights(&fake), [(30_081, None)]);
    assert_eq!(fake.snapshot().count(ResourceKind::TargetGroup), 1);
    assert_eq!(fake.counts().of("DeregisterTargets"), 1);
    assert_eq!(fake.counts().of("CreateLoadBalancer"), 0);
    // And it is over: nothing more is done, nor read.
    fake.clear_calls();
    let status = settled(&aws, &web).await;
    assert_eq!((status.reason, fake.counts().total()), ("Provisioned", 0));
}

#[tokio::test]
async fn new_targets_that_are_not_healthy_get_no_traffic_while_the_old_ones_are() {
    let (fake, aws, mut web) = begin().await;
    annotate(&mut web, "aws-load-balancer-nlb-target-type", "instance");
    web.ports = vec![port(80, 30_081)];
    settled(&aws, &web).await;
    let spoil = |healthy: bool, group_port: u16| {
        fake.edit(|region| {
            let mut groups = region.target_groups.values_mut();
            let group = groups.find(|group| group.port == group_port).unwrap();
            for target in group.targets.values_mut() {
                target.verdict = Some(if healthy {
                    herald_fakeaws::model::Verdict::Healthy
                } else {
                    herald_fakeaws::model::Verdict::Unhealthy
                });
            }
        });
    };
    spoil(false, 30_081);
    fake.advance(Duration::from_mins(10));
    assert_eq!(settled(&aws, &web).await.reason, "Replacing");
    assert_eq!(weights(&fake), [(30_080, Some(1)), (30_081, Some(0))]);
    // There is nothing to lose once the old ones are as bad.
    spoil(false, 30_080);
    settled(&aws, &web).await;
    assert_eq!(weights(&fake), [(30_080, Some(0)), (30_081, Some(1))]);
}

#[tokio::test]
async fn one_who_cannot_wait_says_so() {
    let (fake, aws, mut web) = begin().await;
    web.ports = vec![port(80, 30_081)];
    settled(&aws, &web).await;
    assert_eq!(weights(&fake), [(30_080, Some(1)), (30_081, Some(0))]);
    web.annotations
        .insert("herald.dev/aws-allow-outage".into(), "true".into());
    settled(&aws, &web).await;
    assert_eq!(weights(&fake), [(30_080, Some(0)), (30_081, Some(1))]);
}

#[tokio::test]
async fn who_changes_his_mind_gets_the_old_one_back() {
    let (fake, aws, mut web) = begin().await;
    let before = web.clone();
    web.ports = vec![port(80, 30_081)];
    settled(&aws, &web).await;
    fake.advance(Duration::from_mins(1));
    settled(&aws, &web).await;
    assert_eq!(weights(&fake), [(30_080, Some(0)), (30_081, Some(1))]);
    // The first group drains already.
    drive(&fake, &aws, &present(before, nodes(3))).await;
    assert_eq!(weights(&fake), [(30_080, None)]);
    let snapshot = fake.snapshot();
    assert_eq!(snapshot.count(ResourceKind::TargetGroup), 1);
    assert_eq!(snapshot.count(ResourceKind::Target), 3);
}

#[tokio::test]
async fn udp_comes_beside_tcp_and_goes_again() {
    let (fake, aws, mut web) = begin().await;
    let tcp = web.clone();
    let mut udp = port(80, 30_080);
    udp.name = "udp".into();
    udp.protocol = herald_core::Protocol::Udp;
    web.ports.push(udp);
    let protocol =
        || fake.inspect(|region| region.listeners.values().next().unwrap().protocol.clone());
    settled(&aws, &web).await;
    // A TCP listener can forward to a group of both, and serves meanwhile.
    assert_eq!(protocol(), "TCP");
    assert_eq!(fake.snapshot().count(ResourceKind::TargetGroup), 2);
    drive(&fake, &aws, &present(web, nodes(3))).await;
    assert_eq!(protocol(), "TCP_UDP");
    assert_eq!(fake.snapshot().count(ResourceKind::TargetGroup), 1);
    drive(&fake, &aws, &present(tcp, nodes(3))).await;
    assert_eq!(protocol(), "TCP");
    assert_eq!(fake.snapshot().count(ResourceKind::TargetGroup), 1);
}

#[tokio::test]
async fn where_aws_takes_no_weights_the_listener_changes_at_once() {
    let (fake, aws, mut web) = begin().await;
    fake.inject(Fault::once(
        Matching::action("ModifyListener").with_value("0"),
        Effect::Error {
            status: 400,
            code: "ValidationError".into(),
            message: "You cannot specify a target group weight".into(),
        },
    ));
    web.ports = vec![port(80, 30_081)];
    drive(&fake, &aws, &present(web, nodes(3))).await;
    assert_eq!(weights(&fake), [(30_081, None)]);
    assert_eq!(fake.snapshot().count(ResourceKind::TargetGroup), 1);
    assert_eq!(fake.counts().of("ModifyListener"), 2);
}

#[tokio::test]
async fn a_listener_of_a_lent_load_balancer_passes_from_its_owners_target_group() {
    let (fake, _, _) = begin().await;
    fake.edit(|region| {
        for balancer in region.load_balancers.values_mut() {
            balancer
                .tags
                .retain(|key, _| !key.starts_with("herald.dev/"));
        }
        for group in region.target_groups.values_mut() {
            group.name = "owners".to_owned();
            group.tags.retain(|key, _| !key.starts_with("herald.dev/"));
        }
    });
    let snapshot = fake.snapshot();
    let balancer = snapshot.of_kind(ResourceKind::LoadBalancer).next().unwrap();
    let aws = provider(&fake);
    let mut web = service("other");
    web.ports = vec![port(80, 30_081)];
    annotate(&mut web, "aws-load-balancer-scheme", "internal");
    web.annotations.insert(
        "herald.dev/aws-adopt-load-balancer-arn".into(),
        balancer.id.clone(),
    );
    assert_eq!(settled(&aws, &web).await.reason, "Replacing");
    assert_eq!(weights(&fake), [(30_080, Some(1)), (30_081, Some(0))]);
    fake.advance(Duration::from_mins(1));
    drive(&fake, &aws, &present(web, nodes(3))).await;
    assert_eq!(weights(&fake), [(30_081, None)]);
    // What is the owner's stays as it is.
    assert_eq!(fake.counts().of("DeregisterTargets"), 0);
    assert_eq!(fake.snapshot().count(ResourceKind::TargetGroup), 2);
}
