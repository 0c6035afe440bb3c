//! The life of a Service's load balancer, against the strict stand-in.

mod common;

use common::{
    absent, annotate, drive, dry_run, hostname, node, nodes, port, present, provider, service,
};
use herald_fakeaws::{Config, FakeAws, ResourceKind};
use herald_provider::Outcome;

async fn fake() -> FakeAws {
    FakeAws::start(Config::stopped()).await.unwrap()
}

fn actions(fake: &FakeAws) -> Vec<String> {
    fake.calls()
        .iter()
        .map(|call| call.action.clone())
        .collect()
}

/// Asks seldom whether a load balancer is active, as is done with AWS.
fn patient(fake: &FakeAws) -> herald_aws::Aws {
    let tuning = herald_aws::Tuning {
        poll: std::time::Duration::from_millis(300),
        ..common::tuning()
    };
    common::provider_with(fake, common::settings(), tuning, common::budget())
}

#[tokio::test]
async fn one_port_is_made_with_seven_writes() {
    let fake = fake().await;
    let before = fake.snapshot();
    let provider = patient(&fake);
    let first = drive(&fake, &provider, &present(service("first"), nodes(3))).await;
    assert!(hostname(&first.ingress).is_some());
    fake.clear_calls();
    let mut second = service("second");
    second.ports[0].node_port = Some(30_081);
    let quiet = drive(&fake, &provider, &present(second, nodes(3))).await;
    assert!(hostname(&quiet.ingress).unwrap().contains("second"));
    let counts = fake.counts();
    assert!(
        counts.writes <= 7,
        "{} writes: {:?}",
        counts.writes,
        actions(&fake)
    );
    assert!(
        counts.reads <= 5,
        "{} reads: {:?}",
        counts.reads,
        actions(&fake)
    );
    // Nothing more is done, nor read.
    fake.clear_calls();
    let mut again = service("second");
    again.ports[0].node_port = Some(30_081);
    again.ingress = quiet.ingress;
    drive(&fake, &provider, &present(again, nodes(3))).await;
    assert_eq!(actions(&fake), Vec::<String>::new());
    // And nothing is left.
    drive(&fake, &provider, &absent("first")).await;
    drive(&fake, &provider, &absent("second")).await;
    let after = fake.snapshot();
    let left: Vec<String> = after
        .since(&before)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn three_ports_are_made_with_thirteen_writes() {
    let fake = fake().await;
    let provider = patient(&fake);
    drive(&fake, &provider, &present(service("first"), nodes(3))).await;
    fake.clear_calls();
    let mut three = service("three");
    three.ports = vec![port(80, 30_001), port(443, 30_002), port(8080, 30_003)];
    drive(&fake, &provider, &present(three, nodes(3))).await;
    let counts = fake.counts();
    assert!(
        counts.writes <= 13,
        "{} writes: {:?}",
        counts.writes,
        actions(&fake)
    );
    assert!(
        counts.reads <= 5,
        "{} reads: {:?}",
        counts.reads,
        actions(&fake)
    );
}

#[tokio::test]
async fn a_restart_reads_little_and_writes_nothing() {
    let fake = fake().await;
    let first = provider(&fake);
    for n in 0..20 {
        let mut service = service(&format!("s{n}"));
        service.ports[0].node_port = Some(30_000 + n);
        drive(&fake, &first, &present(service, nodes(3))).await;
    }
    fake.clear_calls();
    let second = provider(&fake);
    for n in 0..20 {
        let mut service = service(&format!("s{n}"));
        service.ports[0].node_port = Some(30_000 + n);
        let quiet = drive(&fake, &second, &present(service, nodes(3))).await;
        assert!(hostname(&quiet.ingress).is_some());
    }
    let counts = fake.counts();
    assert_eq!(counts.writes, 0, "{:?}", actions(&fake));
    assert!(
        counts.reads <= 12,
        "{} reads: {:?}",
        counts.reads,
        actions(&fake)
    );
}

#[tokio::test]
async fn nodes_cost_one_call_a_target_group() {
    let fake = FakeAws::start(Config {
        fixtures: herald_fakeaws::Fixtures::cluster("demo").nodes(30),
        ..Config::stopped()
    })
    .await
    .unwrap();
    let provider = provider(&fake);
    let wish = |n: u16, count: u16| {
        let mut service = service(&format!("s{n}"));
        service.ports[0].node_port = Some(30_000 + n);
        present(service, nodes(count))
    };
    for n in 0..5 {
        drive(&fake, &provider, &wish(n, 3)).await;
    }
    fake.clear_calls();
    for n in 0..5 {
        drive(&fake, &provider, &wish(n, 10)).await;
    }
    let counts = fake.counts();
    assert_eq!(counts.of("RegisterTargets"), 5);
    assert_eq!(
        counts.writes,
        7,
        "one each, and the record of nodes off and on: {:?}",
        actions(&fake)
    );
    // The record holds: after a restart nothing is read of each.
    fake.clear_calls();
    let second = common::provider(&fake);
    for n in 0..5 {
        drive(&fake, &second, &wish(n, 10)).await;
    }
    let counts = fake.counts();
    assert_eq!(
        (counts.writes, counts.of("DescribeTargetHealth")),
        (0, 0),
        "{:?}",
        actions(&fake)
    );
    // Nodes changed while nobody looked.
    fake.clear_calls();
    let third = common::provider(&fake);
    for n in 0..5 {
        drive(&fake, &third, &wish(n, 2)).await;
    }
    let counts = fake.counts();
    assert_eq!(
        (
            counts.of("DescribeTargetHealth"),
            counts.of("DeregisterTargets")
        ),
        (5, 5)
    );
    assert_eq!(fake.snapshot().count(ResourceKind::Target), 10);
}

#[tokio::test]
async fn another_scheme_or_name_is_made_beside_the_old() {
    for (annotation, value) in [
        ("aws-load-balancer-scheme", "internet-facing"),
        ("aws-load-balancer-name", "shop-front"),
    ] {
        is_made_beside_the_old(annotation, value).await;
    }
}

async fn is_made_beside_the_old(annotation: &str, value: &str) {
    let fake = fake().await;
    let provider = provider(&fake);
    let mut web = service("web");
    let old = drive(&fake, &provider, &present(web.clone(), nodes(3))).await;
    web.ingress.clone_from(&old.ingress);
    annotate(&mut web, annotation, value);
    fake.clear_calls();
    let new = drive(&fake, &provider, &present(web.clone(), nodes(3))).await;
    assert_ne!(hostname(&new.ingress), hostname(&old.ingress));
    let calls = actions(&fake);
    let at = |name: &str| calls.iter().position(|call| call == name);
    assert!(
        at("CreateLoadBalancer") < at("DeleteLoadBalancer"),
        "{calls:?}"
    );
    assert!(
        at("DescribeTargetHealth") < at("DeleteLoadBalancer"),
        "{calls:?}"
    );
    let snapshot = fake.snapshot();
    assert_eq!(snapshot.count(ResourceKind::LoadBalancer), 1);
    assert_eq!(snapshot.count(ResourceKind::TargetGroup), 1);
}

#[tokio::test]
async fn a_name_of_somebody_else_is_refused() {
    let fake = fake().await;
    let provider = provider(&fake);
    let mut one = service("one");
    annotate(&mut one, "aws-load-balancer-name", "shared-name");
    drive(&fake, &provider, &present(one, nodes(3))).await;
    let mut two = service("two");
    annotate(&mut two, "aws-load-balancer-name", "shared-name");
    let outcome = common::reconcile(&provider, &present(two.clone(), nodes(3))).await;
    let Outcome::Refused(refusal) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(refusal.reason, "NameTaken");
    // One that knows nothing of the first, and asks for the very same.
    let blind = common::provider(&fake);
    let outcome = common::reconcile(&blind, &present(two, nodes(3))).await;
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
}

#[tokio::test]
async fn the_plan_of_a_new_service_reads_like_sentences() {
    let fake = fake().await;
    let provider = provider(&fake);
    let Outcome::Planned(steps) = dry_run(&provider, &present(service("web"), nodes(2))).await
    else {
        panic!("not planned");
    };
    insta::assert_snapshot!(steps.join("\n"));
    assert_eq!(fake.counts().writes, 0);
}

#[tokio::test]
async fn ports_come_and_go_in_place() {
    let fake = fake().await;
    let provider = provider(&fake);
    let mut web = service("web");
    let begin = drive(&fake, &provider, &present(web.clone(), nodes(3))).await;
    web.ports = vec![port(80, 30_080), port(443, 30_443)];
    web.source_ranges = vec!["10.1.0.0/16".into()];
    annotate(
        &mut web,
        "aws-load-balancer-attributes",
        "load_balancing.cross_zone.enabled=true",
    );
    annotate(
        &mut web,
        "aws-load-balancer-target-group-attributes",
        "deregistration_delay.timeout_seconds=30",
    );
    annotate(
        &mut web,
        "aws-load-balancer-additional-resource-tags",
        "team=web",
    );
    web.ingress = begin.ingress.clone();
    drive(&fake, &provider, &present(web.clone(), nodes(3))).await;
    let snapshot = fake.snapshot();
    assert_eq!(snapshot.count(ResourceKind::Listener), 2);
    assert_eq!(
        snapshot
            .of_kind(ResourceKind::LoadBalancer)
            .next()
            .unwrap()
            .tags["team"],
        "web"
    );
    // All of it back, by another process.
    let second = common::provider(&fake);
    let mut web = service("web");
    web.ingress = begin.ingress.clone();
    let end = drive(&fake, &second, &present(web, vec![node(1)])).await;
    assert_eq!(end.ingress, begin.ingress);
    let snapshot = fake.snapshot();
    assert_eq!(snapshot.count(ResourceKind::Listener), 1);
    assert_eq!(snapshot.count(ResourceKind::Target), 1);
    let balancer = snapshot.of_kind(ResourceKind::LoadBalancer).next().unwrap();
    assert!(!balancer.tags.contains_key("team"), "{:?}", balancer.tags);
}

/// Makes what Herald made look like somebody else's.
fn disguise(
    fake: &FakeAws,
    name: &str,
    tags: &dyn Fn(ResourceKind) -> Vec<(&'static str, &'static str)>,
) {
    let change = |kind: ResourceKind, is: &mut std::collections::BTreeMap<String, String>| {
        is.retain(|key, _| !key.starts_with("herald.dev/"));
        for (key, value) in tags(kind) {
            is.insert(key.to_owned(), value.to_owned());
        }
    };
    fake.edit(|region| {
        for balancer in region.load_balancers.values_mut() {
            name.clone_into(&mut balancer.name);
            change(ResourceKind::LoadBalancer, &mut balancer.tags);
        }
        for group in region.target_groups.values_mut() {
            group.name = group.name.replace("herald-", "k8s-");
            change(ResourceKind::TargetGroup, &mut group.tags);
        }
        for group in region.security_groups.values_mut() {
            if group.name.starts_with("herald-") {
                group.name = group.name.replace("herald-", "k8s-");
                change(ResourceKind::SecurityGroup, &mut group.tags);
                if group.name.contains("backend") {
                    // It is not one Service's.
                    group.tags.remove("service.k8s.aws/stack");
                }
            }
        }
    });
}

#[tokio::test]
async fn the_controllers_load_balancer_is_taken_over_from_its_tags() {
    let fake = fake().await;
    let made = drive(&fake, &provider(&fake), &present(service("web"), nodes(3))).await;
    disguise(&fake, "k8s-default-web-0123456789", &|kind| {
        let mut tags = vec![
            ("elbv2.k8s.aws/cluster", "demo"),
            ("service.k8s.aws/stack", "default/web"),
        ];
        tags.push(match kind {
            ResourceKind::LoadBalancer => ("service.k8s.aws/resource", "LoadBalancer"),
            ResourceKind::SecurityGroup => ("service.k8s.aws/resource", "ManagedLBSecurityGroup"),
            _ => ("service.k8s.aws/resource", "default/web:80"),
        });
        tags
    });
    let provider = provider(&fake);
    let quiet = drive(&fake, &provider, &present(service("web"), nodes(3))).await;
    assert_eq!(quiet.ingress, made.ingress, "its DNS name stays");
    let snapshot = fake.snapshot();
    assert_eq!(snapshot.count(ResourceKind::LoadBalancer), 1);
    let groups: Vec<&str> = snapshot
        .of_kind(ResourceKind::TargetGroup)
        .map(|group| group.name.as_str())
        .collect();
    assert!(
        matches!(&groups[..], [name] if name.starts_with("herald-")),
        "{groups:?}"
    );
    // It is Herald's own now: by another process too.
    let second = common::provider(&fake);
    drive(&fake, &second, &present(service("web"), nodes(2))).await;
    drive(&fake, &second, &absent("web")).await;
    let snapshot = fake.snapshot();
    assert_eq!(snapshot.count(ResourceKind::LoadBalancer), 0);
    assert_eq!(snapshot.count(ResourceKind::TargetGroup), 0);
}

#[tokio::test]
async fn a_load_balancer_that_was_lent_goes_back() {
    let fake = fake().await;
    let mut owner = service("owner");
    owner.ports[0].port = 8443;
    let made = drive(&fake, &provider(&fake), &present(owner, nodes(3))).await;
    disguise(&fake, "mine", &|_| vec![("owner", "me")]);
    let before = fake.snapshot();
    let arn = before
        .of_kind(ResourceKind::LoadBalancer)
        .next()
        .unwrap()
        .id
        .clone();
    let provider = provider(&fake);
    let mut web = service("web");
    web.annotations
        .insert("herald.dev/aws-adopt-load-balancer-arn".into(), arn.clone());
    let quiet = drive(&fake, &provider, &present(web, nodes(3))).await;
    assert_eq!(quiet.ingress, made.ingress);
    let during = fake.snapshot();
    assert_eq!(
        during.count(ResourceKind::Listener),
        2,
        "the owner's is still there"
    );
    drive(&fake, &provider, &absent("web")).await;
    let after = fake.snapshot();
    let left: Vec<String> = after
        .since(&before)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let gone: Vec<String> = before
        .since(&after)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(gone.is_empty(), "{gone:?}");
    let is = after.of_kind(ResourceKind::LoadBalancer).next().unwrap();
    assert_eq!(
        (is.id.as_str(), is.tags.len()),
        (arn.as_str(), 1),
        "{:?}",
        is.tags
    );
}

#[tokio::test]
async fn nothing_outside_the_list_is_called_and_reasons_are_told() {
    let fake = fake().await;
    let provider = provider(&fake);
    fake.inject(herald_fakeaws::Fault::error(
        herald_fakeaws::Matching::action("CreateLoadBalancer"),
        400,
        "TooManyLoadBalancers",
    ));
    let outcome = common::reconcile(&provider, &present(service("web"), nodes(3))).await;
    let Outcome::Failed(error) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(error.to_string().starts_with("QuotaReached"), "{error}");
    drive(&fake, &provider, &present(service("web"), nodes(3))).await;
    drive(&fake, &provider, &present(service("web"), nodes(1))).await;
    drive(&fake, &provider, &absent("web")).await;
    for call in actions(&fake) {
        assert!(
            herald_aws::actions::Action::ALL
                .iter()
                .any(|action| action.name() == call),
            "{call}"
        );
    }
}
