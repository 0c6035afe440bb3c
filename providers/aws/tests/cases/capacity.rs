//! Capacity is reserved when the load balancer is active, and keeps nothing else up.

use std::time::Duration;

use herald_core::ServiceRequest;
use herald_fakeaws::{Config, FakeAws, ResourceKind};
use herald_provider::{Outcome, ProviderError};

use crate::common::{annotate, drive, nodes, present, provider, reconcile, service};

fn reserving(units: u32) -> ServiceRequest {
    let mut web = service("web");
    let value = format!("CapacityUnits={units}");
    annotate(
        &mut web,
        "aws-load-balancer-minimum-load-balancer-capacity",
        &value,
    );
    web
}

fn units(fake: &FakeAws) -> Option<u32> {
    fake.inspect(|region| {
        region
            .load_balancers
            .values()
            .next()
            .unwrap()
            .capacity
            .units
    })
}

#[tokio::test]
async fn capacity_comes_changes_and_goes() {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let aws = provider(&fake);
    drive(&fake, &aws, &present(reserving(3000), nodes(3))).await;
    assert_eq!(units(&fake), Some(3000));
    // AWS works on one request at a time: the next one waits, and is not lost.
    let outcome = reconcile(&aws, &present(reserving(4000), nodes(3))).await;
    let Outcome::Failed(ProviderError::Waiting { message, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(message.contains("PriorRequestNotComplete"), "{message}");
    drive(&fake, &aws, &present(reserving(4000), nodes(3))).await;
    assert_eq!(units(&fake), Some(4000));
    // Another process knows of it, and does nothing.
    fake.clear_calls();
    drive(&fake, &provider(&fake), &present(reserving(4000), nodes(3))).await;
    assert_eq!(fake.counts().writes, 0);
    fake.advance(Duration::from_mins(10));
    drive(&fake, &aws, &present(service("web"), nodes(3))).await;
    assert_eq!(units(&fake), None);
}

#[tokio::test]
async fn capacity_that_aws_does_not_give_keeps_no_target_out() {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let aws = provider(&fake);
    drive(&fake, &aws, &present(service("web"), nodes(1))).await;
    let wish = present(reserving(50_000), nodes(3));
    let outcome = reconcile(&aws, &wish).await;
    let Outcome::Failed(error) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(error.to_string().starts_with("QuotaReached"), "{error}");
    assert_eq!(fake.snapshot().count(ResourceKind::Target), 3);
}
