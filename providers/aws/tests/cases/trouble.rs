//! AWS throttles, is full, or does not show yet what was done.

use std::time::{Duration, Instant};

use herald_aws::Tuning;
use herald_aws::budget::{Budget, Family};
use herald_fakeaws::throttle::Bucket;
use herald_fakeaws::{
    Config, Effect, FakeAws, Fault, Fixtures, Matching, Quotas, ResourceKind, Throttling, Timing,
};
use herald_provider::{Desired, Outcome, ProviderError};
use tokio::task::JoinSet;

use crate::common::{
    absent, budget, drive, hostname, nodes, present, provider, provider_with, reconcile, service,
    settings, tuning,
};

fn numbered(n: u16, count: u16) -> Desired {
    let mut service = service(&format!("s{n}"));
    service.ports[0].node_port = Some(30_000 + n);
    present(service, nodes(count))
}

#[tokio::test]
async fn throttled_for_long_it_says_so_holds_up_nobody_and_is_right_in_the_end() {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let aws = provider(&fake);
    drive(&fake, &aws, &numbered(1, 2)).await;
    let create = Matching::action("CreateLoadBalancer");
    fake.inject(Fault::once(create, Effect::Throttle).times(0));
    let mut said = 0;
    for _ in 0..60 {
        match reconcile(&aws, &numbered(2, 2)).await {
            Outcome::Failed(ProviderError::Throttled { message, .. }) => {
                assert!(message.contains("CreateLoadBalancer"), "{message}");
                said += 1;
            }
            // Herald is slower by itself now.
            Outcome::Failed(ProviderError::Waiting { reason, .. }) => {
                assert_eq!(reason, "RateLimited");
                said += 1;
            }
            other => panic!("{other:?}"),
        }
        fake.advance(Duration::from_secs(5));
    }
    assert_eq!(said, 60);
    // Meanwhile another one's nodes change, and a third one goes.
    drive(&fake, &aws, &numbered(1, 3)).await;
    assert_eq!(fake.counts().of("RegisterTargets"), 2);
    drive(&fake, &aws, &absent("s1")).await;
    assert_eq!(fake.snapshot().count(ResourceKind::LoadBalancer), 0);
    fake.clear_faults();
    let quiet = drive(&fake, &aws, &numbered(2, 2)).await;
    assert!(hostname(&quiet.ingress).is_some());
    let snapshot = fake.snapshot();
    assert_eq!(snapshot.count(ResourceKind::LoadBalancer), 1);
    assert_eq!(snapshot.count(ResourceKind::TargetGroup), 1);
}

#[tokio::test]
async fn a_full_account_is_said_and_room_is_used_when_there_is_some() {
    let fake = FakeAws::start(Config {
        quotas: Quotas {
            load_balancers: 1,
            ..Quotas::default()
        },
        ..Config::stopped()
    })
    .await
    .unwrap();
    let before = fake.snapshot();
    let aws = provider(&fake);
    drive(&fake, &aws, &numbered(1, 2)).await;
    for _ in 0..3 {
        let outcome = reconcile(&aws, &numbered(2, 2)).await;
        let Outcome::Failed(error) = outcome else {
            panic!("{outcome:?}");
        };
        let text = error.to_string();
        assert!(text.starts_with("QuotaReached"), "{text}");
        assert!(text.contains("higher quota"), "{text}");
    }
    drive(&fake, &aws, &absent("s1")).await;
    let quiet = drive(&fake, &aws, &numbered(2, 2)).await;
    assert!(hostname(&quiet.ingress).unwrap().contains("s2"));
    drive(&fake, &aws, &absent("s2")).await;
    assert!(fake.snapshot().since(&before).is_empty());
}

#[tokio::test]
async fn all_nodes_are_replaced_one_group_after_the_other() {
    let fake = FakeAws::start(Config {
        fixtures: Fixtures::cluster("demo").nodes(20),
        ..Config::stopped()
    })
    .await
    .unwrap();
    let aws = provider(&fake);
    let web = service("web");
    let of = |range: std::ops::RangeInclusive<u16>| {
        present(web.clone(), range.map(crate::common::node).collect())
    };
    drive(&fake, &aws, &of(1..=5)).await;
    drive(&fake, &aws, &of(1..=10)).await;
    drive(&fake, &aws, &of(6..=10)).await;
    // The rest goes while nobody looks, with the instances.
    fake.edit(|region| {
        for n in 6..=10 {
            region
                .instances
                .remove(&herald_fakeaws::fixtures::node_id(n));
        }
    });
    let second = provider(&fake);
    drive(&fake, &second, &of(11..=20)).await;
    let targets = fake.snapshot();
    let ids: Vec<&str> = targets
        .of_kind(ResourceKind::Target)
        .map(|target| target.name.split(':').next().unwrap())
        .collect();
    let expected: Vec<String> = (11..=20).map(herald_fakeaws::fixtures::node_id).collect();
    assert_eq!(ids, expected);
}

/// Describes that lag, in the time of the world.
#[tokio::test]
async fn what_aws_does_not_show_yet_is_neither_made_twice_nor_left() {
    let lag = Duration::from_millis(150);
    let fake = FakeAws::start(Config {
        timing: Timing {
            elbv2_lag: lag,
            ec2_lag: lag,
            ..Timing::NONE
        },
        ..Config::default()
    })
    .await
    .unwrap();
    let before = fake.snapshot();
    let tuning = Tuning {
        lag: 3 * lag,
        ..tuning()
    };
    let aws = || provider_with(&fake, settings(), tuning, budget());
    let first = aws();
    let quiet = drive(&fake, &first, &numbered(1, 2)).await;
    assert!(hostname(&quiet.ingress).is_some());
    // A successor sees less than what is there.
    let quiet = drive(&fake, &aws(), &numbered(1, 3)).await;
    assert!(hostname(&quiet.ingress).is_some());
    let snapshot = fake.snapshot();
    let count = |kind| snapshot.count(kind) - before.count(kind);
    assert_eq!(count(ResourceKind::LoadBalancer), 1);
    assert_eq!(count(ResourceKind::TargetGroup), 1);
    assert_eq!(count(ResourceKind::SecurityGroup), 2);
    // Made and deleted at once, by two processes.
    let wish = numbered(2, 2);
    let second = aws();
    for _ in 0..3 {
        reconcile(&second, &wish).await;
    }
    let third = aws();
    drive(&fake, &third, &absent("s2")).await;
    drive(&fake, &third, &absent("s1")).await;
    tokio::time::sleep(lag).await;
    let after = fake.snapshot();
    let left: Vec<String> = after
        .since(&before)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// AWS's buckets, and all else, faster by this factor.
const FASTER: f64 = 1200.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_all_done_at_the_budgets_rate_and_nobody_starves() {
    const SERVICES: u16 = 100;
    let faster = |bucket: Bucket| Bucket {
        rate: bucket.rate * FASTER,
        ..bucket
    };
    let aws = Throttling::default();
    let fake = FakeAws::start(Config {
        throttling: Some(Throttling {
            describe: faster(aws.describe),
            register: faster(aws.register),
            mutate: faster(aws.mutate),
            intensive: faster(aws.intensive),
            ec2_read: faster(aws.ec2_read),
            ec2_write: faster(aws.ec2_write),
            ..aws
        }),
        quotas: Quotas {
            load_balancers: 1000,
            ..Quotas::default()
        },
        ..Config::quick()
    })
    .await
    .unwrap();
    let budget = Budget::with_buckets(Instant::now(), |family: Family| {
        let (capacity, rate) = family.bucket();
        (capacity * 0.9, rate * FASTER * 0.9)
    });
    let provider = provider_with(&fake, settings(), tuning(), budget);
    let mut runs = JoinSet::new();
    for n in 1..=SERVICES {
        let (fake, provider) = (fake.clone(), provider.clone());
        runs.spawn(async move {
            drive(&fake, &provider, &numbered(n, 2)).await;
        });
    }
    runs.join_all().await;
    let snapshot = fake.snapshot();
    assert_eq!(
        snapshot.count(ResourceKind::LoadBalancer),
        usize::from(SERVICES)
    );
    assert_eq!(
        snapshot.count(ResourceKind::Target),
        2 * usize::from(SERVICES)
    );
}
