//! Rules of target groups, targets and tags, one test for each.

mod common;

use common::Api;
use herald_fakeaws::fixtures::{VPC, node, node_id};
use herald_fakeaws::model::{InstanceState, Verdict};
use herald_fakeaws::{Config, ResourceKind};

const BASE: [(&str, &str); 4] = [
    ("Name", "tg"),
    ("Protocol", "TCP"),
    ("Port", "30080"),
    ("VpcId", VPC),
];

async fn create(api: &Api, more: &[(&str, &str)]) -> common::Answer {
    let mut parameters: Vec<(&str, &str)> = BASE.to_vec();
    parameters.retain(|(key, _)| !more.iter().any(|(other, _)| other == key));
    parameters.extend(more);
    api.elb("CreateTargetGroup", &parameters).await
}

/// A load balancer in all zones that forwards port 80 to the group; its ARN.
async fn in_use(api: &Api, group: &str, protocol: &str) -> String {
    let more = [
        ("Subnets.member.2", "subnet-public-b"),
        ("Subnets.member.3", "subnet-public-c"),
    ];
    let lb = api.load_balancer_with("web", &more).await;
    api.listener(&lb, protocol, "80", group).await.ok();
    lb
}

#[tokio::test]
async fn defaults_are_those_of_network_load_balancers() {
    let api = Api::quick();
    let made = create(&api, &[]).await.ok();
    for (name, value) in [
        ("HealthCheckProtocol", "TCP"),
        ("HealthCheckPort", "traffic-port"),
        ("HealthCheckIntervalSeconds", "30"),
        ("HealthCheckTimeoutSeconds", "10"),
        ("HealthyThresholdCount", "5"),
        ("UnhealthyThresholdCount", "2"),
        ("TargetType", "instance"),
        ("IpAddressType", "ipv4"),
        ("LoadBalancerArns", ""),
    ] {
        assert_eq!(made.text(name), value, "{name}");
    }
    assert!(!made.xml.contains("HealthCheckPath") && !made.xml.contains("Matcher"));
    let http = create(&api, &[("Name", "http"), ("HealthCheckProtocol", "HTTP")])
        .await
        .ok();
    assert_eq!(http.text("HealthCheckTimeoutSeconds"), "6");
    assert_eq!(http.text("HealthCheckPath"), "/");
    assert_eq!(http.text("HttpCode"), "200-399");
}

#[tokio::test]
async fn values_are_checked() {
    let api = Api::quick();
    for wrong in [
        ("Name", "-tg"),
        ("Name", "a_b"),
        ("Protocol", "HTTP"),
        ("Port", "0"),
        ("VpcId", "vpc-x"),
        ("TargetType", "lambda"),
        ("IpAddressType", "dualstack"),
        ("HealthCheckProtocol", "UDP"),
        ("HealthCheckPort", "0"),
        ("HealthCheckPort", "x"),
        ("HealthCheckIntervalSeconds", "4"),
        ("HealthCheckIntervalSeconds", "301"),
        ("HealthCheckTimeoutSeconds", "1"),
        ("HealthCheckTimeoutSeconds", "31"),
        ("HealthyThresholdCount", "1"),
        ("UnhealthyThresholdCount", "11"),
        ("HealthCheckEnabled", "false"),
        ("HealthCheckPath", "/with-tcp"),
        ("Matcher.HttpCode", "200"),
    ] {
        create(&api, &[wrong]).await.refused("ValidationError");
    }
    let http = ("HealthCheckProtocol", "HTTP");
    for wrong in [
        ("HealthCheckPath", "x"),
        ("Matcher.HttpCode", "600"),
        ("Matcher.HttpCode", "x-y"),
    ] {
        create(&api, &[http, wrong])
            .await
            .refused("ValidationError");
    }
    create(&api, &[http, ("Matcher.HttpCode", "200,300-399")])
        .await
        .ok();
    for missing in ["Name", "Protocol", "Port", "VpcId"] {
        let parameters: Vec<_> = BASE
            .into_iter()
            .filter(|(key, _)| *key != missing)
            .collect();
        api.elb("CreateTargetGroup", &parameters)
            .await
            .refused("ValidationError");
    }
}

#[tokio::test]
async fn creating_again_with_the_same_settings_gives_the_same_one() {
    let mut config = Config::quick();
    config.quotas.target_groups = 1;
    let api = Api::new(config);
    let first = create(&api, &[]).await.ok().text("TargetGroupArn");
    let prefix = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/tg/";
    assert!(first.starts_with(prefix), "{first}");
    assert_eq!(create(&api, &[]).await.ok().text("TargetGroupArn"), first);
    for other in [
        ("Port", "1"),
        ("Protocol", "UDP"),
        ("HealthCheckIntervalSeconds", "10"),
    ] {
        create(&api, &[other])
            .await
            .refused("DuplicateTargetGroupName");
    }
    create(&api, &[("Name", "other")])
        .await
        .refused("TooManyTargetGroups");
}

#[tokio::test]
async fn health_checks_can_be_changed() {
    let api = Api::quick();
    let arn = create(&api, &[]).await.ok().text("TargetGroupArn");
    let group = ("TargetGroupArn", arn.as_str());
    let changed = api
        .elb(
            "ModifyTargetGroup",
            &[
                group,
                ("HealthCheckProtocol", "HTTP"),
                ("HealthCheckPort", "31000"),
                ("HealthCheckPath", "/healthz"),
            ],
        )
        .await
        .ok();
    assert_eq!(changed.text("HealthCheckPort"), "31000");
    assert_eq!(changed.text("HealthCheckPath"), "/healthz");
    assert_eq!(
        changed.text("HealthCheckTimeoutSeconds"),
        "10",
        "what is not said stays"
    );
    api.elb(
        "ModifyTargetGroup",
        &[group, ("HealthCheckIntervalSeconds", "5")],
    )
    .await
    .refused("ValidationError");
    let tcp = api
        .elb(
            "ModifyTargetGroup",
            &[group, ("HealthCheckProtocol", "TCP")],
        )
        .await
        .ok();
    assert!(!tcp.xml.contains("HealthCheckPath"));
    api.elb("ModifyTargetGroup", &[("TargetGroupArn", "x")])
        .await
        .refused("TargetGroupNotFound");
}

#[tokio::test]
async fn one_in_use_is_not_deleted_nor_at_once_when_it_no_longer_is() {
    let api = Api::new(Config::stopped());
    let arn = create(&api, &[]).await.ok().text("TargetGroupArn");
    let lb = in_use(&api, &arn, "TCP").await;
    let delete = async || {
        api.elb("DeleteTargetGroup", &[("TargetGroupArn", &arn)])
            .await
    };
    delete().await.refused("ResourceInUse");
    api.elb("DeleteLoadBalancer", &[("LoadBalancerArn", &lb)])
        .await
        .ok();
    delete().await.refused("ResourceInUse");
    api.advance(2);
    delete().await.ok();
    delete().await.ok();
}

#[tokio::test]
async fn describes_find_by_name_arn_and_page() {
    let api = Api::quick();
    for name in ["a", "b", "c"] {
        create(&api, &[("Name", name)]).await.ok();
    }
    let page = api
        .elb("DescribeTargetGroups", &[("PageSize", "2")])
        .await
        .ok();
    assert_eq!(
        (page.texts("TargetGroupName"), page.text("NextMarker")),
        (vec!["a".into(), "b".into()], "2".into())
    );
    let one = api
        .elb("DescribeTargetGroups", &[("Names.member.1", "b")])
        .await
        .ok();
    assert_eq!(one.texts("TargetGroupName"), ["b"]);
    api.elb("DescribeTargetGroups", &[("Names.member.1", "x")])
        .await
        .refused("TargetGroupNotFound");
    api.elb("DescribeTargetGroups", &[("LoadBalancerArn", "x")])
        .await
        .refused("LoadBalancerNotFound");
    let lb = api.load_balancer("web").await;
    let none = api
        .elb("DescribeTargetGroups", &[("LoadBalancerArn", &lb)])
        .await
        .ok();
    assert!(none.texts("TargetGroupName").is_empty());
}

#[tokio::test]
async fn attributes_have_defaults_by_protocol_and_type() {
    let api = Api::quick();
    let attribute = async |arn: &str, key: &str| {
        let seen = api
            .elb("DescribeTargetGroupAttributes", &[("TargetGroupArn", arn)])
            .await
            .ok();
        let index = seen
            .texts("Key")
            .iter()
            .position(|other| other == key)
            .unwrap();
        seen.texts("Value")[index].clone()
    };
    let tcp = api.target_group("tcp", "TCP").await;
    let ip = api
        .target_group_with("ip", "TCP", &[("TargetType", "ip")])
        .await;
    let udp = api
        .target_group_with("udp", "UDP", &[("TargetType", "ip")])
        .await;
    let preserve = "preserve_client_ip.enabled";
    assert_eq!(attribute(&tcp, preserve).await, "true");
    assert_eq!(attribute(&ip, preserve).await, "false");
    assert_eq!(attribute(&udp, preserve).await, "true");
    let terminate = "deregistration_delay.connection_termination.enabled";
    assert_eq!(attribute(&tcp, terminate).await, "false");
    assert_eq!(attribute(&udp, terminate).await, "true");
    assert_eq!(attribute(&tcp, "proxy_protocol_v2.enabled").await, "false");
    assert_eq!(
        attribute(&tcp, "load_balancing.cross_zone.enabled").await,
        "use_load_balancer_configuration"
    );

    let modify = async |arn: &str, key: &str, value: &str| {
        let parameters = [
            ("TargetGroupArn", arn),
            ("Attributes.member.1.Key", key),
            ("Attributes.member.1.Value", value),
        ];
        api.elb("ModifyTargetGroupAttributes", &parameters).await
    };
    modify(&udp, preserve, "false")
        .await
        .refused("InvalidConfigurationRequest");
    modify(&tcp, preserve, "false").await.ok();
    modify(&tcp, "slow_start.duration_seconds", "30")
        .await
        .refused("ValidationError");
    modify(&tcp, "deregistration_delay.timeout_seconds", "3601")
        .await
        .refused("ValidationError");
    modify(&tcp, "deregistration_delay.timeout_seconds", "3600")
        .await
        .ok();
    modify(&tcp, "stickiness.type", "lb_cookie")
        .await
        .refused("ValidationError");
    let draining = "target_health_state.unhealthy.draining_interval_seconds";
    let unhealthy = "target_health_state.unhealthy.connection_termination.enabled";
    modify(&tcp, draining, "10")
        .await
        .refused("InvalidConfigurationRequest");
    modify(&tcp, unhealthy, "false").await.ok();
    modify(&tcp, draining, "10").await.ok();
    modify(&udp, unhealthy, "true")
        .await
        .refused("InvalidConfigurationRequest");
    let minimum = "target_group_health.dns_failover.minimum_healthy_targets.percentage";
    for (value, ok) in [("off", true), ("100", true), ("0", false), ("101", false)] {
        assert_eq!(
            modify(&tcp, minimum, value).await.status == 200,
            ok,
            "{value}"
        );
    }
    let quic = api.target_group("quic", "QUIC").await;
    modify(&quic, "proxy_protocol_v2.enabled", "true")
        .await
        .refused("InvalidConfigurationRequest");
}

#[tokio::test]
async fn instances_must_be_there_and_run() {
    let api = Api::quick();
    let arn = create(&api, &[]).await.ok().text("TargetGroupArn");
    api.register(&arn, "i-0000000000000ffff")
        .await
        .refused("InvalidTarget");
    api.register(&arn, "10.0.32.11")
        .await
        .refused("InvalidTarget");
    api.0
        .edit(|region| region.set_instance_state(&node_id(1), InstanceState::Stopped));
    // All or none.
    api.elb(
        "RegisterTargets",
        &[
            ("TargetGroupArn", &arn),
            ("Targets.member.1.Id", &node_id(2)),
            ("Targets.member.2.Id", &node_id(1)),
        ],
    )
    .await
    .refused("InvalidTarget");
    assert_eq!(api.0.snapshot().count(ResourceKind::Target), 0);
    api.register(&arn, &node_id(2)).await.ok();
    api.register(&arn, &node_id(2)).await.ok();
    assert_eq!(api.0.snapshot().count(ResourceKind::Target), 1);
    api.register("arn:x", &node_id(2))
        .await
        .refused("TargetGroupNotFound");
    let zone = [
        ("TargetGroupArn", arn.as_str()),
        ("Targets.member.1.Id", &node_id(2)),
        ("Targets.member.1.AvailabilityZone", "all"),
    ];
    api.elb("RegisterTargets", &zone)
        .await
        .refused("ValidationError");
    let six = api
        .target_group_with("six", "TCP", &[("IpAddressType", "ipv6")])
        .await;
    api.register(&six, &node_id(2))
        .await
        .refused("InvalidTarget");
}

#[tokio::test]
async fn addresses_must_be_of_the_vpc_or_say_their_zone() {
    let api = Api::quick();
    let arn = api
        .target_group_with("ip", "TCP", &[("TargetType", "ip")])
        .await;
    for (address, code) in [
        ("i-00000000000000001", "ValidationError"),
        ("10.0.32.999", "ValidationError"),
        ("2001:db8::1", "InvalidTarget"),
        ("127.0.0.1", "InvalidTarget"),
        ("169.254.0.1", "InvalidTarget"),
        ("192.168.0.1", "ValidationError"),
    ] {
        api.register(&arn, address).await.refused(code);
    }
    api.register(&arn, "10.0.48.99").await.ok();
    let with_zone = async |address: &str, zone: &str| {
        let parameters = [
            ("TargetGroupArn", arn.as_str()),
            ("Targets.member.1.Id", address),
            ("Targets.member.1.AvailabilityZone", zone),
        ];
        api.elb("RegisterTargets", &parameters).await
    };
    with_zone("192.168.0.1", "us-east-1x")
        .await
        .refused("InvalidTarget");
    with_zone("192.168.0.1", "all").await.ok();
    with_zone("10.0.48.98", "us-east-1a")
        .await
        .refused("InvalidTarget");
    let seen = api
        .elb("DescribeTargetHealth", &[("TargetGroupArn", &arn)])
        .await
        .ok();
    assert_eq!(seen.texts("AvailabilityZone"), ["us-east-1b", "all"]);
}

#[tokio::test]
async fn quic_targets_have_a_server_id_of_their_own() {
    let api = Api::quick();
    let arn = api.target_group("quic", "TCP_QUIC").await;
    let register = async |node: u16, server: &str| {
        let parameters = [
            ("TargetGroupArn", arn.as_str()),
            ("Targets.member.1.Id", &node_id(node)),
            ("Targets.member.1.QuicServerId", server),
        ];
        api.elb("RegisterTargets", &parameters).await
    };
    api.register(&arn, &node_id(1))
        .await
        .refused("ValidationError");
    register(1, "0x00000000000000AA")
        .await
        .refused("ValidationError");
    register(1, "0x00aa").await.refused("ValidationError");
    register(1, "0x00000000000000aa").await.ok();
    register(1, "0x00000000000000aa").await.ok();
    register(2, "0x00000000000000aa")
        .await
        .refused("InvalidTarget");
    register(1, "0x00000000000000bb")
        .await
        .refused("InvalidTarget");
    let tcp = api.target_group("tcp", "TCP").await;
    api.elb(
        "RegisterTargets",
        &[
            ("TargetGroupArn", &tcp),
            ("Targets.member.1.Id", &node_id(1)),
            ("Targets.member.1.QuicServerId", "0x00000000000000aa"),
        ],
    )
    .await
    .refused("ValidationError");
}

#[tokio::test]
async fn a_target_goes_through_its_states() {
    let api = Api::new(Config::stopped());
    let arn = create(&api, &[]).await.ok().text("TargetGroupArn");
    api.register(&arn, &node_id(1)).await.ok();
    assert_eq!(api.health(&arn).await, ["unused"]);
    in_use(&api, &arn, "TCP").await;
    let reason = async || {
        api.elb("DescribeTargetHealth", &[("TargetGroupArn", &arn)])
            .await
            .ok()
            .text("Reason")
    };
    assert_eq!(
        (api.health(&arn).await, reason().await),
        (vec!["initial".into()], "Elb.RegistrationInProgress".into())
    );
    api.advance(120);
    assert_eq!(
        (api.health(&arn).await, reason().await),
        (vec!["initial".into()], "Elb.InitialHealthChecking".into())
    );
    assert_eq!(api.0.next_event(), Some(std::time::Duration::from_mins(1)));
    api.advance(60);
    assert_eq!(
        (api.health(&arn).await, reason().await),
        (vec!["healthy".into()], String::new())
    );
    api.0.edit(|region| {
        assert_eq!(
            region.set_target_health(&node_id(1), Some(Verdict::Unhealthy)),
            1
        );
    });
    assert_eq!(
        (api.health(&arn).await, reason().await),
        (vec!["unhealthy".into()], "Target.FailedHealthChecks".into())
    );
    api.0
        .edit(|region| region.set_target_health(&node_id(1), None));
    api.deregister(&arn, &node_id(1)).await.ok();
    assert_eq!(
        (api.health(&arn).await, reason().await),
        (
            vec!["draining".into()],
            "Target.DeregistrationInProgress".into()
        )
    );
    api.advance(299);
    assert_eq!(api.health(&arn).await, ["draining"]);
    api.advance(1);
    assert!(api.health(&arn).await.is_empty());
    let asked = [
        ("TargetGroupArn", arn.as_str()),
        ("Targets.member.1.Id", &node_id(1)),
    ];
    let gone = api.elb("DescribeTargetHealth", &asked).await.ok();
    assert_eq!(
        (gone.text("State"), gone.text("Reason")),
        ("unused".into(), "Target.NotRegistered".into())
    );
}

#[tokio::test]
async fn a_target_that_drains_can_come_back() {
    let api = Api::new(Config::stopped());
    let arn = create(&api, &[]).await.ok().text("TargetGroupArn");
    in_use(&api, &arn, "TCP").await;
    api.register(&arn, &node_id(1)).await.ok();
    api.advance(180);
    api.deregister(&arn, &node_id(1)).await.ok();
    api.register(&arn, &node_id(1)).await.ok();
    assert_eq!(api.health(&arn).await, ["initial"]);
    // One that never had traffic has nothing to drain.
    api.deregister(&arn, &node_id(1)).await.ok();
    assert!(api.health(&arn).await.is_empty());
}

#[tokio::test]
async fn deregistering_what_is_not_there_succeeds() {
    let api = Api::quick();
    let arn = create(&api, &[]).await.ok().text("TargetGroupArn");
    api.deregister(&arn, "i-0000000000000ffff").await.ok();
    api.deregister(&arn, "no such thing").await.ok();
    api.deregister("arn:x", &node_id(1))
        .await
        .refused("TargetGroupNotFound");
    // By id and port; without a port, all of them.
    for port in ["1", "2", "3"] {
        api.elb(
            "RegisterTargets",
            &[
                ("TargetGroupArn", &arn),
                ("Targets.member.1.Id", &node_id(1)),
                ("Targets.member.1.Port", port),
            ],
        )
        .await
        .ok();
    }
    api.elb(
        "DeregisterTargets",
        &[
            ("TargetGroupArn", &arn),
            ("Targets.member.1.Id", &node_id(1)),
            ("Targets.member.1.Port", "2"),
        ],
    )
    .await
    .ok();
    assert_eq!(api.0.snapshot().count(ResourceKind::Target), 2);
    api.deregister(&arn, &node_id(1)).await.ok();
    assert_eq!(api.0.snapshot().count(ResourceKind::Target), 0);
}

#[tokio::test]
async fn zones_count_unless_traffic_crosses_them() {
    let api = Api::quick();
    let arn = create(&api, &[]).await.ok().text("TargetGroupArn");
    let lb = api.load_balancer("web").await;
    api.listener(&lb, "TCP", "80", &arn).await.ok();
    for n in 1..=2 {
        api.register(&arn, &node_id(n)).await.ok();
    }
    assert_eq!(api.health(&arn).await, ["healthy", "unused"]);
    api.elb(
        "ModifyLoadBalancerAttributes",
        &[
            ("LoadBalancerArn", &lb),
            (
                "Attributes.member.1.Key",
                "load_balancing.cross_zone.enabled",
            ),
            ("Attributes.member.1.Value", "true"),
        ],
    )
    .await
    .ok();
    assert_eq!(api.health(&arn).await, ["healthy", "healthy"]);
}

#[tokio::test]
async fn instances_stop_and_go() {
    let api = Api::quick();
    let arn = create(&api, &[]).await.ok().text("TargetGroupArn");
    in_use(&api, &arn, "TCP").await;
    for n in 1..=2 {
        api.register(&arn, &node_id(n)).await.ok();
    }
    api.0.edit(|region| {
        region.set_instance_state(&node_id(1), InstanceState::Stopped);
        region.set_instance_state(&node_id(2), InstanceState::Terminated);
    });
    let seen = api
        .elb("DescribeTargetHealth", &[("TargetGroupArn", &arn)])
        .await
        .ok();
    assert_eq!(
        (seen.texts("State"), seen.text("Reason")),
        (vec!["unused".into()], "Target.InvalidState".into())
    );
    let instance = api
        .ec2("DescribeInstances", &[("InstanceId.1", &node_id(2))])
        .await
        .ok();
    assert_eq!(
        instance.text("instanceState"),
        "<code>48</code><name>terminated</name>"
    );
}

#[tokio::test]
async fn the_quotas_of_targets_hold() {
    let quota = async |set: fn(&mut herald_fakeaws::Quotas), cross_zone: bool| {
        let mut config = Config::quick();
        set(&mut config.quotas);
        let api = Api::new(config);
        api.0
            .edit(|region| (4..=6).for_each(|n| region.add_instance(node(n))));
        let arn = create(&api, &[]).await.ok().text("TargetGroupArn");
        let lb = in_use(&api, &arn, "TCP").await;
        if cross_zone {
            let attribute = [
                ("LoadBalancerArn", lb.as_str()),
                (
                    "Attributes.member.1.Key",
                    "load_balancing.cross_zone.enabled",
                ),
                ("Attributes.member.1.Value", "true"),
            ];
            api.elb("ModifyLoadBalancerAttributes", &attribute)
                .await
                .ok();
        }
        let mut accepted = 0;
        for n in 1..=6 {
            let answer = api.register(&arn, &node_id(n)).await;
            if answer.status == 200 {
                accepted += 1;
            } else {
                answer.refused("TooManyTargets");
            }
        }
        accepted
    };
    assert_eq!(quota(|_| {}, false).await, 6);
    assert_eq!(quota(|quotas| quotas.targets_per_group = 2, false).await, 2);
    assert_eq!(quota(|quotas| quotas.targets = 4, false).await, 4);
    // Nodes are in three zones in turn.
    assert_eq!(quota(|quotas| quotas.targets_per_zone = 1, false).await, 3);
    assert_eq!(quota(|quotas| quotas.targets_cross_zone = 5, true).await, 5);
}

#[tokio::test]
async fn tags_are_added_removed_and_read_twenty_at_a_time() {
    let api = Api::quick();
    let lb = api
        .load_balancer_with(
            "web",
            &[("Tags.member.1.Key", "a"), ("Tags.member.1.Value", "1")],
        )
        .await;
    let group = create(&api, &[]).await.ok().text("TargetGroupArn");
    let both = [
        ("ResourceArns.member.1", lb.as_str()),
        ("ResourceArns.member.2", group.as_str()),
    ];
    let add = |tags: &[(&'static str, &'static str)]| {
        let mut parameters = both.to_vec();
        parameters.extend(tags);
        parameters
    };
    api.elb(
        "AddTags",
        &add(&[
            ("Tags.member.1.Key", "a"),
            ("Tags.member.1.Value", "2"),
            ("Tags.member.2.Key", "b"),
        ]),
    )
    .await
    .ok();
    let seen = api.elb("DescribeTags", &both).await.ok();
    assert_eq!(seen.texts("ResourceArn"), [lb.clone(), group.clone()]);
    assert_eq!(
        (seen.texts("Key"), seen.texts("Value")),
        (
            ["a", "b", "a", "b"].map(String::from).to_vec(),
            ["2", "", "2", ""].map(String::from).to_vec(),
        )
    );
    api.elb(
        "AddTags",
        &add(&[("Tags.member.1.Key", "x"), ("Tags.member.2.Key", "x")]),
    )
    .await
    .refused("DuplicateTagKeys");
    api.elb("AddTags", &add(&[("Tags.member.1.Key", "aws:x")]))
        .await
        .refused("ValidationError");
    api.elb("AddTags", &add(&[("Tags.member.1.Key", "a#")]))
        .await
        .refused("ValidationError");
    api.elb(
        "RemoveTags",
        &add(&[("TagKeys.member.1", "a"), ("TagKeys.member.2", "z")]),
    )
    .await
    .ok();
    let seen = api.elb("DescribeTags", &both).await.ok();
    assert_eq!(seen.texts("Key"), ["b", "b"]);

    let unknown = [
        both[0],
        (
            "ResourceArns.member.2",
            "arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/x/1",
        ),
    ];
    api.elb("DescribeTags", &unknown)
        .await
        .refused("TargetGroupNotFound");
    let names: Vec<String> = (1..=21)
        .map(|n| format!("ResourceArns.member.{n}"))
        .collect();
    let many: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), lb.as_str()))
        .collect();
    api.elb("DescribeTags", &many)
        .await
        .refused("ValidationError");
    let keys: Vec<String> = (1..=50).map(|n| format!("Tags.member.{n}.Key")).collect();
    let values: Vec<String> = (1..=50).map(|n| format!("key-{n}")).collect();
    let mut fifty = vec![both[0]];
    fifty.extend(
        keys.iter()
            .zip(&values)
            .map(|(key, value)| (key.as_str(), value.as_str())),
    );
    api.elb("AddTags", &fifty).await.refused("TooManyTags");
    fifty.pop();
    api.elb("AddTags", &fifty).await.ok();
}
