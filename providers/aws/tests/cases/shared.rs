//! Target groups that several clusters use, and nodes that some Services do not get.

use std::time::Duration;

use herald_aws::Tuning;
use herald_fakeaws::model::{Target, TargetKey};
use herald_fakeaws::{Config, FakeAws, Fault, Matching, Region, ResourceKind, fixtures};
use herald_provider::Outcome;

use crate::common::{
    annotate, budget, drive, nodes, present, provider, provider_with, reconcile, service, settings,
    tuning,
};

async fn ten_nodes() -> FakeAws {
    FakeAws::start(Config {
        fixtures: herald_fakeaws::Fixtures::cluster("demo").nodes(10),
        ..Config::stopped()
    })
    .await
    .unwrap()
}

fn registered(region: &Region) -> Vec<String> {
    let group = region.target_groups.values().next().unwrap();
    let live = |(_, target): &(&TargetKey, &Target)| target.deregistered_at.is_none();
    let targets = group.targets.iter().filter(live);
    targets.map(|(key, _)| key.id.clone()).collect()
}

#[tokio::test]
async fn what_another_cluster_registered_stays_and_what_this_one_did_goes_after_a_restart() {
    let fake = ten_nodes().await;
    let mut web = service("web");
    annotate(
        &mut web,
        "aws-load-balancer-multi-cluster-target-group",
        "true",
    );
    let quiet = drive(&fake, &provider(&fake), &present(web.clone(), nodes(4))).await;
    web.ingress = quiet.ingress;
    // Another cluster registers node 9, and one of ours by hand.
    fake.edit(|region| {
        let group = region.target_groups.values_mut().next().unwrap();
        let (key, ours) = group.targets.iter().next().unwrap();
        let (mut key, theirs) = (key.clone(), ours.clone());
        key.id = fixtures::node_id(9);
        group.targets.insert(key, theirs);
    });
    // Two nodes go while nobody looks: whose they were is known all the same.
    let second = provider(&fake);
    drive(&fake, &second, &present(web.clone(), nodes(2))).await;
    let expected = [1, 2, 9].map(fixtures::node_id);
    assert_eq!(fake.inspect(registered), expected);
    // And nothing is written again.
    fake.clear_calls();
    drive(&fake, &provider(&fake), &present(web.clone(), nodes(2))).await;
    assert_eq!(fake.counts().writes, 0);
    // The list is as long as what it lists.
    let lists = fake.inspect(|region| {
        let group = region.target_groups.values().next().unwrap();
        group.tags["herald.dev/targets-0"].clone()
    });
    assert_eq!(lists, [1, 2].map(fixtures::node_id).join(" "));
    // A target group that takes its place takes only ours along.
    web.ports[0].node_port = Some(30_081);
    drive(&fake, &second, &present(web, nodes(2))).await;
    assert_eq!(fake.snapshot().count(ResourceKind::TargetGroup), 1);
    assert_eq!(fake.snapshot().count(ResourceKind::Target), 2);
}

#[tokio::test]
async fn one_that_never_gets_the_nodes_does_not_make_all_others_read_theirs() {
    let fake = ten_nodes().await;
    let patience = Duration::from_millis(300);
    let aws = provider_with(
        &fake,
        settings(),
        Tuning {
            stragglers: patience,
            ..tuning()
        },
        budget(),
    );
    let wish = |name: &str, node_port, count| {
        let mut service = service(name);
        service.ports[0].node_port = Some(node_port);
        present(service, nodes(count))
    };
    let group_of = |name: &str| {
        fake.inspect(|region| {
            let mut groups = region.target_groups.values();
            let group = groups.find(|group| group.name.contains(name)).unwrap();
            group.arn.clone()
        })
    };
    for (name, node_port) in [("good", 30_001), ("full", 30_002), ("odd", 30_003)] {
        drive(&fake, &aws, &wish(name, node_port, 3)).await;
    }
    // One is refused by AWS, and one by Herald.
    fake.inject(
        Fault::error(
            Matching::action("RegisterTargets").with_value(&group_of("full")),
            400,
            "TooManyTargets",
        )
        .times(0),
    );
    let outcome = reconcile(&aws, &wish("full", 30_002, 5)).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    let mut odd = service("odd");
    odd.ports[0].node_port = Some(30_003);
    annotate(&mut odd, "aws-load-balancer-scheme", "sideways");
    let outcome = reconcile(&aws, &present(odd, nodes(5))).await;
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    drive(&fake, &aws, &wish("good", 30_001, 5)).await;
    let record = || {
        fake.inspect(|region| {
            let mut groups = region.security_groups.values();
            let backend = groups.find(|group| group.name.contains("backend")).unwrap();
            backend.tags["herald.dev/nodes"].clone()
        })
    };
    assert_eq!(record(), "changing", "they may only be slow");
    tokio::time::sleep(patience).await;
    drive(&fake, &aws, &wish("good", 30_001, 5)).await;
    assert!(record().starts_with("1."), "{}", record());
    // So the good one reads nothing after a restart, and those two are read.
    fake.clear_faults();
    let fresh = provider(&fake);
    fake.clear_calls();
    drive(&fake, &fresh, &wish("good", 30_001, 5)).await;
    assert_eq!(fake.counts().of("DescribeTargetHealth"), 0);
    for (name, node_port) in [("full", 30_002), ("odd", 30_003)] {
        drive(&fake, &fresh, &wish(name, node_port, 5)).await;
    }
    assert_eq!(fake.snapshot().count(ResourceKind::Target), 15);
}
