//! TLS with several certificates, and traffic shared by weights.

use herald_core::{ServiceReference, ServiceRequest, TrafficPolicy};
use herald_fakeaws::model::Certificate;
use herald_fakeaws::{Config, FakeAws, Fixtures, ResourceKind, fixtures};
use herald_provider::{Desired, Outcome};

use crate::common::{annotate, drive, nodes, port, present, provider, reconcile, service};

fn tls(certificates: &[u8]) -> ServiceRequest {
    let mut web = service("web");
    web.ports = vec![port(443, 30_443)];
    let list: Vec<String> = certificates
        .iter()
        .map(|n| fixtures::certificate(*n))
        .collect();
    annotate(&mut web, "aws-load-balancer-ssl-cert", &list.join(","));
    web
}

/// The default certificate and the others, by number.
fn certificates(fake: &FakeAws) -> (u8, Vec<u8>) {
    let number = |Certificate(arn): &Certificate| {
        (1..=4).find(|n| fixtures::certificate(*n) == *arn).unwrap()
    };
    fake.inspect(|region| {
        let is = region.listeners.values().next().unwrap();
        let first = number(is.certificate.as_ref().unwrap());
        // The default one may be among the others too, which means nothing.
        let more = is.more_certificates.iter().map(number);
        (first, more.filter(|n| *n != first).collect())
    })
}

#[tokio::test]
async fn certificates_come_go_and_change_places() {
    let mut fixtures = Fixtures::cluster("demo");
    fixtures.certificates = (1..=4).map(fixtures::certificate).collect();
    let fake = FakeAws::start(Config {
        fixtures,
        ..Config::stopped()
    })
    .await
    .unwrap();
    let aws = provider(&fake);
    let steps = [
        (&[1, 2][..], (1, vec![2])),
        (&[1, 2, 3, 4], (1, vec![2, 3, 4])),
        // The default one changes places with another.
        (&[2, 1, 3], (2, vec![1, 3])),
        (&[4, 3], (4, vec![3])),
        (&[3], (3, vec![])),
        (&[1, 2], (1, vec![2])),
    ];
    for (wanted, expected) in steps {
        drive(&fake, &aws, &present(tls(wanted), nodes(2))).await;
        assert_eq!(certificates(&fake), expected, "{wanted:?}");
        // Another process has nothing to do.
        fake.clear_calls();
        drive(&fake, &provider(&fake), &present(tls(wanted), nodes(2))).await;
        assert_eq!(fake.counts().writes, 0, "{wanted:?}");
    }
    let outcome = reconcile(&aws, &present(tls(&[1, 9]), nodes(2))).await;
    let Outcome::Failed(error) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(error.to_string().contains("ssl-cert"), "{error}");
    assert_eq!(certificates(&fake), (1, vec![2]), "what serves stays");
}

fn shares(own: u16, canary: u16, sticky: bool) -> Desired {
    let mut web = service("web");
    let action = format!(
        r#"{{"type":"forward","forwardConfig":{{"baseServiceWeight":{own},
        "targetGroups":[{{"serviceName":"canary","servicePort":80,"weight":{canary}}}],
        "targetGroupStickinessConfig":{{"enabled":{sticky}}}}}}}"#
    );
    web.annotations
        .insert("service.beta.kubernetes.io/actions.TCP-80".into(), action);
    let mut behind = port(80, 30_090);
    behind.name = "p80".into();
    Desired::Present {
        service: web,
        nodes: nodes(2),
        endpoints: Vec::new(),
        references: vec![ServiceReference {
            name: "canary".into(),
            ports: vec![behind],
            traffic_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            endpoints: Vec::new(),
        }],
    }
}

/// Weights by the groups' ports, and whether clients stay.
fn forward(fake: &FakeAws) -> (Vec<(u16, Option<u32>)>, bool) {
    fake.inspect(|region| {
        let is = &region.listeners.values().next().unwrap().forward;
        let weight = |group: &herald_fakeaws::model::WeightedGroup| {
            (region.target_groups[&group.arn].port, group.weight)
        };
        let mut weights: Vec<_> = is.groups.iter().map(weight).collect();
        weights.sort_unstable();
        (weights, is.sticky)
    })
}

#[tokio::test]
async fn a_canary_gets_its_share_and_goes_without_a_gap() {
    let fake = FakeAws::start(Config::stopped()).await.unwrap();
    let aws = provider(&fake);
    drive(&fake, &aws, &shares(90, 10, true)).await;
    let both = |own, canary| vec![(30_080, Some(own)), (30_090, Some(canary))];
    assert_eq!(forward(&fake), (both(90, 10), true));
    assert_eq!(fake.snapshot().count(ResourceKind::TargetGroup), 2);
    fake.clear_calls();
    drive(&fake, &provider(&fake), &shares(90, 10, true)).await;
    assert_eq!(fake.counts().writes, 0);
    for (own, canary) in [(50, 50), (0, 100), (100, 0)] {
        drive(&fake, &aws, &shares(own, canary, false)).await;
        assert_eq!(
            forward(&fake),
            (both(u32::from(own), u32::from(canary)), false)
        );
    }
    drive(&fake, &aws, &shares(50, 50, false)).await;
    fake.clear_calls();
    drive(&fake, &aws, &present(service("web"), nodes(2))).await;
    assert_eq!(forward(&fake), (vec![(30_080, None)], false));
    // It had traffic, so its targets drained first.
    assert_eq!(fake.counts().of("DeregisterTargets"), 1);
    assert_eq!(fake.snapshot().count(ResourceKind::TargetGroup), 1);
    assert_eq!(fake.snapshot().count(ResourceKind::Target), 2);
}
