//! Any calls in any order: each is answered, one that is refused has changed
//! nothing, and what there is holds together.

mod common;

use common::Api;
use herald_fakeaws::fixtures::{NODE_GROUP, VPC, certificate, node_id};
use herald_fakeaws::{ACTIONS, Config, Kind, Region};
use proptest::prelude::*;
use proptest::sample::select;

/// Names of parameters that actions have, with values that may fit.
const VOCABULARY: &[(&str, &[&str])] = &[
    ("Name", &["web", "api", "-x"]),
    ("Type", &["network", "application"]),
    ("Scheme", &["internal", "internet-facing", "x"]),
    ("IpAddressType", &["ipv4", "dualstack", "ipv6"]),
    ("Subnets.member.1", &["subnet-public-a", "subnet-x"]),
    ("Subnets.member.2", &["subnet-public-b", "subnet-private-a"]),
    ("SubnetMappings.member.1.SubnetId", &["subnet-public-a"]),
    ("SubnetMappings.member.1.AllocationId", &["eipalloc-a", "x"]),
    ("SecurityGroups.member.1", &["$group", NODE_GROUP]),
    ("LoadBalancerArn", &["$lb", "$lb", "arn:x"]),
    ("LoadBalancerArns.member.1", &["$lb"]),
    ("TargetGroupArn", &["$tg", "$tg", "$tg2"]),
    ("ListenerArn", &["$listener", "$listener", "x"]),
    ("ResourceArns.member.1", &["$lb", "$tg", "$listener"]),
    ("Tags.member.1.Key", &["a", "aws:a", ""]),
    ("TagKeys.member.1", &["a"]),
    ("Protocol", &["TCP", "UDP", "TCP_UDP", "TLS", "QUIC", "x"]),
    ("Port", &["80", "81", "0"]),
    ("VpcId", &[VPC, VPC, "vpc-x"]),
    ("TargetType", &["instance", "ip"]),
    ("HealthCheckProtocol", &["TCP", "HTTP"]),
    ("HealthCheckIntervalSeconds", &["10", "1"]),
    ("Targets.member.1.Id", &["$node", "10.0.32.200", "x"]),
    ("Targets.member.2.Id", &["$node2"]),
    ("Targets.member.1.Port", &["1", "2"]),
    ("DefaultActions.member.1.Type", &["forward"]),
    ("DefaultActions.member.1.TargetGroupArn", &["$tg", "$tg2"]),
    (
        "Certificates.member.1.CertificateArn",
        &["$certificate", "x"],
    ),
    (
        "Attributes.member.1.Key",
        &[
            "deletion_protection.enabled",
            "preserve_client_ip.enabled",
            "tcp.idle_timeout.seconds",
        ],
    ),
    ("Attributes.member.1.Value", &["true", "false", "100"]),
    ("EnablePrefixForIpv6SourceNat", &["on", "off"]),
    ("GroupId", &["$group", "$group", NODE_GROUP]),
    ("GroupName", &["web", "api"]),
    ("GroupDescription", &["d"]),
    ("IpPermissions.1.IpProtocol", &["tcp", "-1", "x"]),
    ("IpPermissions.1.FromPort", &["80"]),
    ("IpPermissions.1.ToPort", &["80", "8"]),
    ("IpPermissions.1.IpRanges.1.CidrIp", &["10.0.0.0/8", "x"]),
    ("IpPermissions.1.Groups.1.GroupId", &["$group"]),
    ("ResourceId.1", &["$group", "subnet-public-a"]),
    ("Tag.1.Key", &["k", "aws:k"]),
    ("Nonsense", &["x"]),
];

type Step = (usize, Vec<(usize, usize)>, u16);

/// Which action, which parameters with which value, how many seconds pass. One
/// that is likely to be complete is as likely as any subset.
fn step() -> impl Strategy<Value = Step> {
    let parameter = (0..VOCABULARY.len(), 0..3usize);
    let parameters = proptest::collection::vec(parameter, 0..8);
    (0..ACTIONS.len(), parameters, select(vec![0u16, 1, 50, 400]))
}

/// Something that there is, for a word that begins with `$`.
fn resolve(region: &Region, word: &str) -> String {
    let first = |id: Option<&String>| id.cloned().unwrap_or_else(|| "none".into());
    match word {
        "$lb" => first(region.load_balancers.keys().next()),
        "$tg" => first(region.target_groups.keys().next()),
        "$tg2" => first(region.target_groups.keys().nth(1)),
        "$listener" => first(region.listeners.keys().next()),
        "$group" => first(
            region
                .security_groups
                .keys()
                .find(|id| id.starts_with("sg-0") && *id != NODE_GROUP && !id.ends_with("def")),
        ),
        "$node" => node_id(1),
        "$node2" => node_id(2),
        "$certificate" => certificate(1),
        other => other.to_owned(),
    }
}

/// Parameters that make a call complete that makes something, so that there is
/// something to change.
fn complete(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "CreateLoadBalancer" => &[
            ("Name", "web"),
            ("Type", "network"),
            ("Subnets.member.1", "subnet-public-a"),
            ("SecurityGroups.member.1", "$group"),
        ],
        "CreateTargetGroup" => &[
            ("Name", "web"),
            ("Protocol", "TCP"),
            ("Port", "80"),
            ("VpcId", VPC),
        ],
        "CreateListener" => &[
            ("LoadBalancerArn", "$lb"),
            ("Protocol", "TCP"),
            ("Port", "80"),
            ("DefaultActions.member.1.Type", "forward"),
            ("DefaultActions.member.1.TargetGroupArn", "$tg"),
        ],
        "RegisterTargets" => &[("TargetGroupArn", "$tg"), ("Targets.member.1.Id", "$node")],
        "CreateSecurityGroup" => &[
            ("GroupName", "web"),
            ("GroupDescription", "d"),
            ("VpcId", VPC),
        ],
        _ => &[],
    }
}

fn check(region: &Region) {
    for listener in region.listeners.values() {
        assert!(region.load_balancers.contains_key(&listener.load_balancer));
        for group in &listener.forward.groups {
            assert!(region.target_groups.contains_key(&group.arn));
        }
    }
    for lb in region.load_balancers.values() {
        assert!(
            lb.security_groups
                .iter()
                .all(|id| region.security_groups.contains_key(id))
        );
        let mine = region.interfaces.values().filter(|interface| {
            interface.load_balancer.as_ref() == Some(&lb.arn) && interface.released_at.is_none()
        });
        assert_eq!(mine.count(), lb.mappings.len());
    }
    for group in region.target_groups.values() {
        assert!(region.users_of(&group.arn).len() <= 1);
        assert_eq!(
            group.used_since.is_some(),
            !region.users_of(&group.arn).is_empty()
        );
    }
    for interface in region.interfaces.values() {
        assert!(
            interface
                .security_groups
                .iter()
                .all(|id| region.security_groups.contains_key(id))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn refused_calls_change_nothing_and_the_rest_holds_together(
        steps in proptest::collection::vec((step(), any::<bool>()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let api = Api::new(Config::stopped());
        for ((action, parameters, seconds), whole) in steps {
            let action = &ACTIONS[action];
            let mut call: Vec<(&str, String)> = Vec::new();
            let base: &[(&str, &str)] = if whole { complete(action.name) } else { &[] };
            let chosen = parameters
                .iter()
                .filter(|_| !whole || base.is_empty())
                .map(|(name, value)| {
                    let (name, values) = VOCABULARY[*name];
                    (name, values[value % values.len()])
                });
            for (name, value) in base.iter().copied().chain(chosen) {
                if !call.iter().any(|(other, _)| *other == name) {
                    call.push((name, api.0.inspect(|region| resolve(region, value))));
                }
            }
            let call: Vec<(&str, &str)> = call.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let before = api.0.snapshot();
            let answer = runtime.block_on(api.try_call(action.service, action.name, &call)).unwrap();
            if answer.status != 200 || action.kind == Kind::Read {
                prop_assert_eq!(api.0.snapshot(), before, "{} {:?}", action.name, answer);
            }
            prop_assert!(answer.status < 500, "{}", answer.xml);
            api.0.inspect(check);
            api.advance(seconds.into());
        }
    }

    #[test]
    fn any_body_is_answered(body in proptest::collection::vec(any::<u8>(), 0..300), path in select(vec!["/", "/_admin/faults", "/_admin/fixtures", "/x"])) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let api = Api::quick();
        let request = http::Request::post(path).body(hyper::body::Bytes::from(body)).unwrap();
        prop_assert!(runtime.block_on(api.0.handle(request)).is_ok());
    }
}
