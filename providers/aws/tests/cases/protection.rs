//! Deletion protection: who deletes is told how to go on.

use herald_core::ServiceRequest;
use herald_fakeaws::{Config, FakeAws, ResourceKind};
use herald_provider::Outcome;

use crate::common::{
    absent, annotate, drive, hostname, nodes, present, provider, reconcile, service,
};

fn protected() -> ServiceRequest {
    let mut web = service("web");
    annotate(
        &mut web,
        "aws-load-balancer-attributes",
        "deletion_protection.enabled=true",
    );
    web
}

#[tokio::test]
async fn a_protected_one_stays_whole_until_the_protection_is_off() {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let empty = fake.snapshot();
    let aws = provider(&fake);
    drive(&fake, &aws, &present(protected(), nodes(3))).await;
    let before = fake.snapshot();
    let outcome = reconcile(&aws, &absent("web")).await;
    let Outcome::Failed(error) = outcome else {
        panic!("{outcome:?}");
    };
    let text = error.to_string();
    assert!(text.starts_with("DeletionProtected"), "{text}");
    let arn = &before
        .of_kind(ResourceKind::LoadBalancer)
        .next()
        .unwrap()
        .id;
    // What it says can be pasted.
    let command = format!("modify-load-balancer-attributes --load-balancer-arn {arn}");
    assert!(text.contains(&command), "{text}");
    assert_eq!(fake.snapshot(), before, "nothing of it is gone");
    fake.edit(|region| {
        for is in region.load_balancers.values_mut() {
            let key = "deletion_protection.enabled";
            is.attributes.insert(key.into(), "false".into());
        }
    });
    drive(&fake, &aws, &absent("web")).await;
    assert!(fake.snapshot().since(&empty).is_empty());
}

#[tokio::test]
async fn a_protected_one_that_was_replaced_goes_all_the_same() {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let aws = provider(&fake);
    let mut web = protected();
    let old = drive(&fake, &aws, &present(web.clone(), nodes(3))).await;
    web.ingress.clone_from(&old.ingress);
    annotate(&mut web, "aws-load-balancer-scheme", "internet-facing");
    let new = drive(&fake, &aws, &present(web, nodes(3))).await;
    assert_ne!(hostname(&new.ingress), hostname(&old.ingress));
    assert_eq!(fake.snapshot().count(ResourceKind::LoadBalancer), 1);
    fake.inspect(|region| {
        let is = region.load_balancers.values().next().unwrap();
        assert_eq!(is.attributes["deletion_protection.enabled"], "true");
    });
}
