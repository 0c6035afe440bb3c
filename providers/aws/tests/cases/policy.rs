//! The IAM policy holds what is called, all of it, and nothing else.

use std::collections::BTreeSet;

use herald_aws::actions::Action;
use herald_core::ServiceRequest;
use herald_fakeaws::{Config, FakeAws, fixtures};

use crate::common::{absent, annotate, drive, nodes, port, present, provider, service};

/// One wish after the other, which together make every call that Herald knows.
fn wishes() -> Vec<ServiceRequest> {
    let plain = || service("web");
    let with = |annotations: &[(&str, &str)]| {
        let mut web = plain();
        for (suffix, value) in annotations {
            annotate(&mut web, suffix, value);
        }
        web
    };
    let certificates = |numbers: &[u8]| {
        let arns: Vec<String> = numbers.iter().map(|n| fixtures::certificate(*n)).collect();
        with(&[("aws-load-balancer-ssl-cert", &arns.join(","))])
    };
    let mut ports = with(&[
        (
            "aws-load-balancer-attributes",
            "load_balancing.cross_zone.enabled=true",
        ),
        (
            "aws-load-balancer-listener-attributes.TCP-80",
            "tcp.idle_timeout.seconds=400",
        ),
        (
            "aws-load-balancer-target-group-attributes",
            "deregistration_delay.timeout_seconds=30",
        ),
        ("aws-load-balancer-additional-resource-tags", "team=web"),
        (
            "aws-load-balancer-minimum-load-balancer-capacity",
            "CapacityUnits=3000",
        ),
        ("aws-load-balancer-healthcheck-interval", "20"),
        ("aws-load-balancer-subnets", "subnet-private-a"),
    ]);
    ports.ports.push(port(443, 30_443));
    ports.source_ranges = vec!["10.1.0.0/16".into()];
    vec![
        plain(),
        ports,
        // All of it back again.
        plain(),
        with(&[("aws-load-balancer-ip-address-type", "dualstack")]),
        with(&[(
            "aws-load-balancer-inbound-sg-rules-on-private-link-traffic",
            "off",
        )]),
        certificates(&[1, 2]),
        certificates(&[1]),
    ]
}

#[tokio::test]
async fn all_that_is_allowed_is_called_and_nothing_else() {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let mut called: BTreeSet<String> = BTreeSet::new();
    for (n, wish) in wishes().into_iter().enumerate() {
        // Every second one by a process that has to look first.
        let aws = provider(&fake);
        let count = if n % 2 == 0 { 3 } else { 2 };
        drive(&fake, &aws, &present(wish, nodes(count))).await;
        called.extend(fake.calls().into_iter().map(|call| call.action));
        fake.clear_calls();
    }
    drive(&fake, &provider(&fake), &absent("web")).await;
    called.extend(fake.calls().into_iter().map(|call| call.action));
    let listed: BTreeSet<String> = Action::ALL
        .iter()
        .map(|action| action.name().to_owned())
        .collect();
    let outside: Vec<&String> = called.difference(&listed).collect();
    assert!(outside.is_empty(), "called and not allowed: {outside:?}");
    let unused: Vec<&String> = listed.difference(&called).collect();
    assert!(unused.is_empty(), "allowed and never called: {unused:?}");
}
