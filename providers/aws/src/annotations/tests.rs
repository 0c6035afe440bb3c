use herald_core::{Protocol, ServiceKey, ServicePort, ServiceRequest, TargetPort};
use proptest::prelude::*;

use super::table::{Annotation, HERALD_PREFIX, LBC_PREFIX, Parameter, Prefixes};
use super::*;

fn parse(pairs: &[(&str, &str)]) -> Result<Annotations, String> {
    let map = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Annotations::parse(&map).map_err(|errors| errors.to_string())
}

/// One annotation of the other controller's prefix.
fn one(suffix: &str, value: &str) -> Result<Annotations, String> {
    parse(&[(&format!("{LBC_PREFIX}{suffix}"), value)])
}

fn warned(key: &str) -> Vec<String> {
    warned_by(&[(key, "{}")], &[])
}

fn warned_by(annotations: &[(&str, &str)], source_ranges: &[&str]) -> Vec<String> {
    let own = |text: &&str| (*text).to_owned();
    let service = ServiceRequest {
        annotations: annotations.iter().map(|(k, v)| (own(k), own(v))).collect(),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
            target_port: TargetPort::Number(8080),
        }],
        source_ranges: source_ranges.iter().map(own).collect(),
        ..ServiceRequest::new(ServiceKey::new("default", "web"), "u1")
    };
    warnings(&service)
        .into_iter()
        .map(|warning| warning.message)
        .collect()
}

/// A value of the annotation's own table entry, whole: key and value.
fn example(annotation: &Annotation, prefix: &str) -> (String, String) {
    let parameter = match annotation.parameter {
        Parameter::None => "",
        Parameter::Port => ".80",
        Parameter::ProtocolPort => ".TCP-80",
    };
    (
        format!("{prefix}{}{parameter}", annotation.suffix),
        annotation.example.to_owned(),
    )
}

#[test]
fn every_example_of_the_table_is_understood_under_its_prefixes_and_does_something() {
    // What they need beside them.
    let beside = [
        ("aws-load-balancer-ip-address-type", "dualstack"),
        ("aws-load-balancer-enable-prefix-for-ipv6-source-nat", "on"),
        ("aws-load-balancer-access-log-enabled", "true"),
    ];
    for annotation in Annotation::all() {
        let prefixes: &[&str] = match annotation.prefixes {
            Prefixes::Both => &[LBC_PREFIX, HERALD_PREFIX],
            Prefixes::Herald => &[HERALD_PREFIX],
            Prefixes::Ignored => continue,
        };
        for prefix in prefixes {
            let mut map: BTreeMap<String, String> = beside
                .iter()
                .filter(|(suffix, _)| *suffix != annotation.suffix)
                .map(|(suffix, value)| (format!("{HERALD_PREFIX}{suffix}"), (*value).to_owned()))
                .collect();
            if annotation.suffix == "aws-load-balancer-ip-address-type" {
                map.remove("herald.dev/aws-load-balancer-enable-prefix-for-ipv6-source-nat");
            }
            let without = Annotations::parse(&map).ok();
            let (key, value) = example(annotation, prefix);
            map.insert(key.clone(), value);
            let with = Annotations::parse(&map).unwrap_or_else(|error| panic!("{key}: {error}"));
            // `external` is read and says nothing; `false` and `true` may be the default.
            let silent = ["aws-load-balancer-type"];
            if !silent.contains(&annotation.suffix) {
                assert_ne!(Some(with), without, "{key} changes nothing");
            }
        }
    }
}

#[test]
fn two_prefixes_must_agree() {
    let both = |a: &str, b: &str| {
        parse(&[
            ("service.beta.kubernetes.io/aws-load-balancer-scheme", a),
            ("herald.dev/aws-load-balancer-scheme", b),
        ])
    };
    assert_eq!(
        both("internal", "internal").unwrap().scheme,
        Some(Scheme::Internal)
    );
    assert_eq!(
        both("internal", "internet-facing").unwrap_err(),
        "annotations herald.dev/aws-load-balancer-scheme and \
         service.beta.kubernetes.io/aws-load-balancer-scheme disagree; keep one of them"
    );
}

#[test]
fn all_mistakes_are_said_at_once() {
    let errors = parse(&[
        (
            "service.beta.kubernetes.io/aws-load-balancer-scheme",
            "public",
        ),
        (
            "service.beta.kubernetes.io/aws-load-balancer-healthcheck-interval",
            "1",
        ),
        (
            "service.beta.kubernetes.io/aws-load-balancer-attributes",
            "deletion_protection",
        ),
        ("herald.dev/aws-load-balancer-proxy-protocol", "v2"),
        ("herald.dev/aws-load-balancer-listener-attributes.80", "a=b"),
    ])
    .unwrap_err();
    insta::assert_snapshot!(errors.replace("; ", ";\n"));
}

#[test]
fn what_rules_each_other_out_is_said() {
    let errors = [
        parse(&[
            ("herald.dev/aws-load-balancer-scheme", "internal"),
            ("herald.dev/aws-load-balancer-eip-allocations", "eipalloc-1"),
        ]),
        parse(&[
            ("herald.dev/aws-load-balancer-scheme", "internet-facing"),
            (
                "herald.dev/aws-load-balancer-private-ipv4-addresses",
                "10.0.0.9",
            ),
        ]),
        one("aws-load-balancer-ipv6-addresses", "2001:db8::1"),
        one(
            "aws-load-balancer-source-nat-ipv6-prefixes",
            "auto_assigned",
        ),
        parse(&[
            ("herald.dev/aws-load-balancer-disable-nlb-sg", "true"),
            ("herald.dev/aws-load-balancer-security-groups", "sg-1"),
        ]),
        parse(&[
            ("herald.dev/aws-load-balancer-healthcheck-timeout", "20"),
            ("herald.dev/aws-load-balancer-healthcheck-interval", "10"),
        ]),
        one("aws-load-balancer-name", "internal-shop"),
        one(
            "aws-load-balancer-additional-resource-tags",
            "herald.dev/cluster=mine",
        ),
        one(
            "aws-load-balancer-attributes",
            "dns_record.client_routing_policy=near",
        ),
        one(
            "aws-load-balancer-minimum-load-balancer-capacity",
            "Units=3",
        ),
        parse(&[("herald.dev/aws-adopt-load-balancer-arn", "arn:aws:x")]),
    ]
    .map(|parsed| parsed.unwrap_err());
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn the_old_forms_lose_against_the_new() {
    let parsed = parse(&[
        (
            "service.beta.kubernetes.io/aws-load-balancer-internal",
            "true",
        ),
        (
            "service.beta.kubernetes.io/aws-load-balancer-scheme",
            "internet-facing",
        ),
        (
            "service.beta.kubernetes.io/aws-load-balancer-cross-zone-load-balancing-enabled",
            "true",
        ),
        (
            "service.beta.kubernetes.io/aws-load-balancer-attributes",
            "load_balancing.cross_zone.enabled=false",
        ),
    ])
    .unwrap();
    assert_eq!(parsed.scheme, Some(Scheme::InternetFacing));
    assert_eq!(
        parsed.attributes["load_balancing.cross_zone.enabled"],
        "false"
    );
    assert_eq!(
        one("aws-load-balancer-type", "nlb-ip").unwrap().target_type,
        Some(TargetType::Ip)
    );
}

#[test]
fn weighted_actions_are_read() {
    let action = |json: &str| {
        one("actions.TCP-80", json).map(|mut parsed| parsed.actions.pop_first().unwrap().1)
    };
    let read = action(
        r#"{"type":"forward","forwardConfig":{"baseServiceWeight":90,"targetGroups":[
            {"serviceName":"canary","servicePort":"http","weight":10},
            {"targetGroupARN":"arn:x","weight":0}],
            "targetGroupStickinessConfig":{"enabled":true}}}"#,
    )
    .unwrap();
    assert_eq!(read.own_weight, Some(90));
    assert_eq!(
        read.targets[0],
        (
            ActionTarget::Service {
                name: "canary".into(),
                port: PortName::Name("http".into())
            },
            Some(10)
        )
    );
    assert!(read.sticky);
    let target = |target: &str| {
        action(&format!(
            r#"{{"type":"forward","forwardConfig":{{"baseServiceWeight":1,"targetGroups":[{target}]}}}}"#
        ))
        .unwrap_err()
    };
    let errors = [
        target(r#"{"serviceName":"a","targetGroupARN":"b","weight":1}"#),
        target(r#"{"serviceName":"a","weight":1}"#),
        target(r#"{"targetGroupARN":"a"}"#),
        target(r#"{"targetGroupARN":"a","weight":1000}"#),
        action(r#"{"type":"redirect"}"#).unwrap_err(),
        action("[").unwrap_err(),
    ];
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn mistyped_names_get_the_one_that_was_meant() {
    let messages: Vec<String> = [
        "service.beta.kubernetes.io/aws-load-balancer-schema",
        "herald.dev/aws-load-balancer-subnet",
        "service.kubernetes.io/aws-load-balancer-scheme",
        "service.beta.kubernetes.io/load-balancer-source-range",
        "service.beta.kubernetes.io/aws-hostname-when",
        "service.beta.kubernetes.io/aws-nothing-like-it",
        "service.beta.kubernetes.io/aws-load-balancer-listener-atributes.TCP-80",
        "service.beta.kubernetes.io/aws-load-balancer-connection-idle-timeout",
        "service.beta.kubernetes.io/actions.TCP-81",
    ]
    .iter()
    .flat_map(|key| warned(key))
    .collect();
    insta::assert_snapshot!(messages.join("\n"));
    for key in [
        "service.beta.kubernetes.io/azure-load-balancer-internal",
        "herald.dev/dry-run",
        "herald.dev/loadBalancerIPs",
        "service.beta.kubernetes.io/aws-load-balancer-scheme",
        "example.com/aws-load-balancer-schema",
    ] {
        assert!(warned(key).is_empty(), "{key}: {:?}", warned(key));
    }
}

#[test]
fn ranges_that_nothing_enforces_are_warned_of() {
    let own = ("herald.dev/aws-load-balancer-security-groups", "sg-1");
    assert_eq!(warned_by(&[own], &["10.0.0.0/8"]).len(), 1);
    assert!(warned_by(&[own], &[]).is_empty());
    assert!(warned_by(&[], &["10.0.0.0/8"]).is_empty());
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = Annotation::all()
        .map(|annotation| (annotation.suffix, annotation.parameter.placeholder()))
        .collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

fn any_key() -> impl Strategy<Value = String> {
    let all: Vec<&'static Annotation> = Annotation::all().collect();
    let known = (proptest::sample::select(all), any::<bool>(), ".{0,8}").prop_map(
        |(annotation, herald, rest)| {
            let prefix = if herald { HERALD_PREFIX } else { LBC_PREFIX };
            match annotation.parameter {
                Parameter::None => format!("{prefix}{}", annotation.suffix),
                _ => format!("{prefix}{}.{rest}", annotation.suffix),
            }
        },
    );
    prop_oneof![4 => known, 1 => ".{0,40}"]
}

proptest! {
    /// Whatever stands in annotations, they are read or refused, and never panic.
    #[test]
    fn hostile_annotations_never_panic(
        map in proptest::collection::btree_map(any_key(), "\\PC{0,60}|[a-z0-9=,.:/-]{0,40}", 0..12),
    ) {
        let _ = Annotations::parse(&map);
        for key in map.keys() {
            let _ = warned(key);
        }
    }

    /// A map annotation is read back as it was written.
    #[test]
    fn maps_are_read_as_written(
        map in proptest::collection::btree_map("[a-z.]{1,12}", "[a-z0-9]{0,8}", 1..6),
    ) {
        let text: Vec<String> = map.iter().map(|(key, value)| format!(" {key} = {value}")).collect();
        let parsed = one("aws-load-balancer-target-group-attributes", &text.join(",")).unwrap();
        prop_assert_eq!(parsed.target_group_attributes, map);
    }
}
