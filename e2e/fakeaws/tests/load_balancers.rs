//! Rules of load balancers, one test for each.

mod common;

use common::Api;
use herald_fakeaws::fixtures::{NODE_GROUP, VPC};
use herald_fakeaws::{Config, ResourceKind};

const BASE: [(&str, &str); 3] = [
    ("Name", "web"),
    ("Type", "network"),
    ("Subnets.member.1", "subnet-public-a"),
];

fn set_groups<'a>(arn: &'a str, group: &'a str) -> [(&'a str, &'a str); 2] {
    [("LoadBalancerArn", arn), ("SecurityGroups.member.1", group)]
}

async fn create(api: &Api, more: &[(&str, &str)]) -> common::Answer {
    let mut parameters: Vec<(&str, &str)> = BASE.to_vec();
    parameters.extend(more);
    api.elb("CreateLoadBalancer", &parameters).await
}

async fn create_named(api: &Api, name: &str) -> common::Answer {
    api.elb("CreateLoadBalancer", &[("Name", name), BASE[1], BASE[2]])
        .await
}

#[tokio::test]
async fn arns_and_names_look_like_aws() {
    let api = Api::quick();
    let made = create(&api, &[]).await.ok();
    let arn = made.text("LoadBalancerArn");
    let prefix = "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/net/web/";
    let id = arn.strip_prefix(prefix).unwrap();
    assert!(
        id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{id}"
    );
    assert_eq!(
        made.text("DNSName"),
        format!("web-{id}.elb.us-east-1.amazonaws.com")
    );
    assert_eq!(made.text("Scheme"), "internet-facing");
    assert_eq!(made.text("VpcId"), VPC);
    assert_eq!(made.text("ZoneName"), "us-east-1a");
    assert_eq!(made.text("IpAddressType"), "ipv4");
}

#[tokio::test]
async fn names_are_checked() {
    let api = Api::quick();
    for name in ["-web", "web-", "we_b", "internal-web", &"a".repeat(33)] {
        create_named(&api, name).await.refused("ValidationError");
    }
    create_named(&api, &"a".repeat(32)).await.ok();
}

#[tokio::test]
async fn types_other_than_network_are_refused() {
    let api = Api::quick();
    api.elb("CreateLoadBalancer", &[BASE[0], BASE[2]])
        .await
        .refused("InvalidConfigurationRequest");
}

#[tokio::test]
async fn creating_again_with_the_same_settings_gives_the_same_one() {
    let api = Api::quick();
    let first = create(&api, &[]).await.ok().text("LoadBalancerArn");
    let again = create(&api, &[("Tags.member.1.Key", "a")]).await.ok();
    assert_eq!(again.text("LoadBalancerArn"), first);
    assert!(
        api.0
            .inspect(|region| region.load_balancers[&first].tags.is_empty())
    );
    for other in [
        ("Scheme", "internal"),
        ("IpAddressType", "dualstack"),
        ("SecurityGroups.member.1", NODE_GROUP),
        ("Subnets.member.2", "subnet-public-b"),
    ] {
        create(&api, &[other])
            .await
            .refused("DuplicateLoadBalancerName");
    }
}

#[tokio::test]
async fn subnets_are_checked() {
    let api = Api::quick();
    let with = async |subnets: &[(&'static str, &'static str)]| {
        let mut parameters = vec![BASE[0], BASE[1]];
        parameters.extend(subnets);
        api.elb("CreateLoadBalancer", &parameters).await
    };
    with(&[]).await.refused("ValidationError");
    with(&[("Subnets.member.1", "subnet-x")])
        .await
        .refused("SubnetNotFound");
    with(&[
        ("Subnets.member.1", "subnet-public-a"),
        ("SubnetMappings.member.1.SubnetId", "subnet-public-b"),
    ])
    .await
    .refused("ValidationError");
    with(&[
        ("Subnets.member.1", "subnet-public-a"),
        ("Subnets.member.2", "subnet-private-a"),
    ])
    .await
    .refused("InvalidConfigurationRequest");
    api.0.edit(|region| {
        region
            .subnets
            .get_mut("subnet-public-a")
            .unwrap()
            .free_addresses = 7;
    });
    create(&api, &[]).await.refused("InvalidSubnet");
    api.0.edit(|region| {
        region
            .subnets
            .get_mut("subnet-public-a")
            .unwrap()
            .free_addresses = 8;
        region.vpcs.get_mut(VPC).unwrap().internet_gateway = false;
    });
    create(&api, &[]).await.refused("InvalidSubnet");
    create(&api, &[("Scheme", "internal")]).await.ok();
}

#[tokio::test]
async fn dual_stack_needs_ipv6_subnets() {
    let api = Api::quick();
    api.0
        .edit(|region| region.subnets.get_mut("subnet-public-a").unwrap().ipv6_cidr = None);
    create(&api, &[("IpAddressType", "dualstack")])
        .await
        .refused("InvalidConfigurationRequest");
    let arn = create(&api, &[]).await.ok().text("LoadBalancerArn");
    let dual = [
        ("LoadBalancerArn", arn.as_str()),
        ("IpAddressType", "dualstack"),
    ];
    api.elb("SetIpAddressType", &dual)
        .await
        .refused("InvalidConfigurationRequest");
}

#[tokio::test]
async fn elastic_addresses_are_given_checked_and_freed() {
    let api = Api::new(Config::stopped());
    let with = |allocation: &'static str| {
        [
            ("Name", "eip"),
            ("Type", "network"),
            ("SubnetMappings.member.1.SubnetId", "subnet-public-a"),
            ("SubnetMappings.member.1.AllocationId", allocation),
        ]
    };
    api.elb("CreateLoadBalancer", &with("eipalloc-x"))
        .await
        .refused("AllocationIdNotFound");
    let mut internal = with("eipalloc-a").to_vec();
    internal.push(("Scheme", "internal"));
    api.elb("CreateLoadBalancer", &internal)
        .await
        .refused("InvalidConfigurationRequest");
    let mut half = with("eipalloc-a").to_vec();
    half.push(("SubnetMappings.member.2.SubnetId", "subnet-public-b"));
    api.elb("CreateLoadBalancer", &half)
        .await
        .refused("ValidationError");
    let made = api
        .elb("CreateLoadBalancer", &with("eipalloc-a"))
        .await
        .ok();
    assert_eq!(made.text("IpAddress"), "198.51.100.1");
    assert_eq!(made.text("AllocationId"), "eipalloc-a");
    let addresses = api
        .ec2("DescribeAddresses", &[("AllocationId.1", "eipalloc-a")])
        .await
        .ok();
    assert!(addresses.text("associationId").starts_with("eipassoc-"));

    let mut second = with("eipalloc-a").to_vec();
    second[0] = ("Name", "other");
    api.elb("CreateLoadBalancer", &second)
        .await
        .refused("ResourceInUse");
    api.elb(
        "DeleteLoadBalancer",
        &[("LoadBalancerArn", &made.text("LoadBalancerArn"))],
    )
    .await
    .ok();
    api.elb("CreateLoadBalancer", &second)
        .await
        .refused("ResourceInUse");
    api.advance(45);
    api.elb("CreateLoadBalancer", &second).await.ok();
}

#[tokio::test]
async fn private_addresses_are_for_internal_ones_and_of_the_subnet() {
    let api = Api::quick();
    let with = |address: &'static str, scheme: &'static str| {
        [
            BASE[0],
            BASE[1],
            ("Scheme", scheme),
            ("SubnetMappings.member.1.SubnetId", "subnet-private-a"),
            ("SubnetMappings.member.1.PrivateIPv4Address", address),
        ]
    };
    for (address, scheme, code) in [
        (
            "10.0.32.50",
            "internet-facing",
            "InvalidConfigurationRequest",
        ),
        ("10.0.99.50", "internal", "InvalidConfigurationRequest"),
        ("10.0.32.11", "internal", "ResourceInUse"),
        ("x", "internal", "ValidationError"),
    ] {
        api.elb("CreateLoadBalancer", &with(address, scheme))
            .await
            .refused(code);
    }
    let made = api
        .elb("CreateLoadBalancer", &with("10.0.32.50", "internal"))
        .await
        .ok();
    assert_eq!(made.text("PrivateIPv4Address"), "10.0.32.50");
}

#[tokio::test]
async fn source_nat_prefixes_need_dual_stack() {
    let api = Api::quick();
    let on = ("EnablePrefixForIpv6SourceNat", "on");
    create(&api, &[on]).await.refused("ValidationError");
    create(&api, &[on, ("IpAddressType", "dualstack")])
        .await
        .ok();
    let with = |prefix| {
        [
            ("Name", "nat"),
            BASE[1],
            on,
            ("IpAddressType", "dualstack"),
            ("SubnetMappings.member.1.SubnetId", "subnet-public-a"),
            ("SubnetMappings.member.1.SourceNatIpv6Prefix", prefix),
        ]
    };
    for wrong in ["2600:1f18:c1a5::/64", "2001:db8::/80", "x"] {
        api.elb("CreateLoadBalancer", &with(wrong))
            .await
            .refused("ValidationError");
    }
    let made = api
        .elb("CreateLoadBalancer", &with("2600:1f18:c1a5:0:1::/80"))
        .await
        .ok();
    assert!(
        made.xml
            .contains("<SourceNatIpv6Prefixes><member>2600:1f18:c1a5:0:1::/80</member>")
    );
}

#[tokio::test]
async fn security_groups_must_exist_and_are_five_at_most() {
    let api = Api::quick();
    create(&api, &[("SecurityGroups.member.1", "sg-x")])
        .await
        .refused("InvalidSecurityGroup");
    let mut parameters = BASE.to_vec();
    let mut names = Vec::new();
    for n in 1..=6 {
        let id = api
            .ec2(
                "CreateSecurityGroup",
                &[
                    ("GroupName", &format!("g{n}")),
                    ("GroupDescription", "d"),
                    ("VpcId", VPC),
                ],
            )
            .await
            .ok()
            .text("groupId");
        names.push((format!("SecurityGroups.member.{n}"), id));
    }
    parameters.extend(names.iter().map(|(key, id)| (key.as_str(), id.as_str())));
    api.elb("CreateLoadBalancer", &parameters)
        .await
        .refused("InvalidConfigurationRequest");
    parameters.pop();
    api.elb("CreateLoadBalancer", &parameters).await.ok();
}

#[tokio::test]
async fn one_made_without_security_groups_never_gets_any() {
    let api = Api::quick();
    let bare = create(&api, &[]).await.ok().text("LoadBalancerArn");
    api.elb("SetSecurityGroups", &set_groups(&bare, NODE_GROUP))
        .await
        .refused("InvalidConfigurationRequest");
    let arn = api.load_balancer("dressed").await;
    api.elb("SetSecurityGroups", &[("LoadBalancerArn", &arn)])
        .await
        .refused("ValidationError");
    let default = "sg-00000000000000def";
    let mut with_link = set_groups(&arn, default).to_vec();
    with_link.push((
        "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic",
        "off",
    ));
    let done = api.elb("SetSecurityGroups", &with_link).await.ok();
    assert!(
        done.xml
            .contains("<SecurityGroupIds><member>sg-00000000000000def</member>")
    );
    let seen = api
        .elb(
            "DescribeLoadBalancers",
            &[("LoadBalancerArns.member.1", &arn)],
        )
        .await
        .ok();
    assert_eq!(
        seen.text("EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"),
        "off"
    );
    let filter = [("Filter.1.Name", "group-id"), ("Filter.1.Value.1", default)];
    let interfaces = api.ec2("DescribeNetworkInterfaces", &filter).await.ok();
    assert_eq!(interfaces.text("interfaceType"), "network_load_balancer");
}

#[tokio::test]
async fn the_quota_holds() {
    let mut config = Config::quick();
    config.quotas.load_balancers = 1;
    let api = Api::new(config);
    create(&api, &[]).await.ok();
    create_named(&api, "b")
        .await
        .refused("TooManyLoadBalancers");
    create(&api, &[]).await.ok();
}

#[tokio::test]
async fn it_is_active_after_a_while() {
    let api = Api::new(Config::stopped());
    create(&api, &[]).await.ok();
    let state = async || {
        api.elb("DescribeLoadBalancers", &[])
            .await
            .ok()
            .text("State")
    };
    assert_eq!(state().await, "<Code>provisioning</Code>");
    api.advance(119);
    assert_eq!(state().await, "<Code>provisioning</Code>");
    api.advance(1);
    assert_eq!(state().await, "<Code>active</Code>");
    api.0.edit(|region| {
        let lb = region.load_balancers.values_mut().next().unwrap();
        lb.steered = Some(("failed".into(), "no capacity".into()));
    });
    assert_eq!(
        state().await,
        "<Code>failed</Code><Reason>no capacity</Reason>"
    );
}

#[tokio::test]
async fn deletion_of_what_is_not_there_succeeds_and_of_what_is_protected_does_not() {
    let api = Api::quick();
    let before = api.0.snapshot();
    let arn = api.load_balancer("web").await;
    let group = api.target_group("tg", "TCP").await;
    api.listener(&arn, "TCP", "80", &group).await.ok();
    let protect = |value| {
        [
            ("LoadBalancerArn", arn.as_str()),
            ("Attributes.member.1.Key", "deletion_protection.enabled"),
            ("Attributes.member.1.Value", value),
        ]
    };
    api.elb("ModifyLoadBalancerAttributes", &protect("true"))
        .await
        .ok();
    let delete = [("LoadBalancerArn", arn.as_str())];
    api.elb("DeleteLoadBalancer", &delete)
        .await
        .refused("OperationNotPermitted");
    api.elb("ModifyLoadBalancerAttributes", &protect("false"))
        .await
        .ok();
    api.elb("DeleteLoadBalancer", &delete).await.ok();
    api.elb("DeleteLoadBalancer", &delete).await.ok();
    api.elb("DeleteLoadBalancer", &[("LoadBalancerArn", "x")])
        .await
        .refused("ValidationError");
    let after = api.0.snapshot();
    let left: Vec<_> = after
        .since(&before)
        .iter()
        .map(|resource| resource.kind)
        .collect();
    assert_eq!(
        left,
        [ResourceKind::TargetGroup],
        "its listeners and interfaces went with it"
    );
    let seen = api.elb("DescribeTargetGroups", &[]).await.ok();
    assert_eq!(seen.text("LoadBalancerArns"), "");
}

#[tokio::test]
async fn describes_come_in_pages_and_know_what_is_missing() {
    let api = Api::quick();
    for name in ["a", "b", "c"] {
        create_named(&api, name).await.ok();
    }
    let first = api
        .elb("DescribeLoadBalancers", &[("PageSize", "2")])
        .await
        .ok();
    assert_eq!(first.texts("LoadBalancerName"), ["a", "b"]);
    let marker = first.text("NextMarker");
    let rest = api
        .elb(
            "DescribeLoadBalancers",
            &[("PageSize", "2"), ("Marker", &marker)],
        )
        .await
        .ok();
    assert_eq!(
        (rest.texts("LoadBalancerName"), rest.text("NextMarker")),
        (vec!["c".into()], String::new())
    );
    for size in ["0", "401", "x"] {
        api.elb("DescribeLoadBalancers", &[("PageSize", size)])
            .await
            .refused("ValidationError");
    }
    api.elb(
        "DescribeLoadBalancers",
        &[("Names.member.1", "a"), ("Names.member.2", "x")],
    )
    .await
    .refused("LoadBalancerNotFound");
    let names: Vec<String> = (1..=21).map(|n| format!("Names.member.{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "a")).collect();
    api.elb("DescribeLoadBalancers", &many)
        .await
        .refused("ValidationError");
}

#[tokio::test]
async fn set_subnets_replaces_them_all() {
    let api = Api::new(Config::stopped());
    let arn = api.load_balancer("web").await;
    let set = [
        ("LoadBalancerArn", arn.as_str()),
        ("Subnets.member.1", "subnet-public-b"),
        ("Subnets.member.2", "subnet-public-c"),
    ];
    let done = api.elb("SetSubnets", &set).await.ok();
    assert_eq!(done.texts("ZoneName"), ["us-east-1b", "us-east-1c"]);
    // Subnet a keeps its interface for a while.
    let held = async || {
        let filter = [
            ("Filter.1.Name", "interface-type"),
            ("Filter.1.Value.1", "network_load_balancer"),
        ];
        api.ec2("DescribeNetworkInterfaces", &filter)
            .await
            .ok()
            .texts("networkInterfaceId")
            .len()
    };
    assert_eq!(held().await, 3);
    api.advance(45);
    assert_eq!(held().await, 2);
    api.elb("SetSubnets", &[set[0], ("Subnets.member.1", "subnet-x")])
        .await
        .refused("SubnetNotFound");
}

#[tokio::test]
async fn attributes_have_defaults_and_are_checked() {
    let api = Api::quick();
    let arn = create(&api, &[]).await.ok().text("LoadBalancerArn");
    let seen = api
        .elb(
            "DescribeLoadBalancerAttributes",
            &[("LoadBalancerArn", &arn)],
        )
        .await
        .ok();
    let all: Vec<(String, String)> = seen
        .texts("Key")
        .into_iter()
        .zip(seen.texts("Value"))
        .collect();
    assert_eq!(all.len(), 9);
    assert!(all.contains(&(
        "dns_record.client_routing_policy".into(),
        "any_availability_zone".into()
    )));
    let modify = async |key: &str, value: &str| {
        let parameters = [
            ("LoadBalancerArn", arn.as_str()),
            ("Attributes.member.1.Key", key),
            ("Attributes.member.1.Value", value),
        ];
        api.elb("ModifyLoadBalancerAttributes", &parameters).await
    };
    modify("idle_timeout.timeout_seconds", "60")
        .await
        .refused("ValidationError");
    modify("load_balancing.cross_zone.enabled", "yes")
        .await
        .refused("ValidationError");
    modify("dns_record.client_routing_policy", "x")
        .await
        .refused("ValidationError");
    modify("load_balancing.cross_zone.enabled", "true")
        .await
        .ok();
    modify("access_logs.s3.enabled", "true")
        .await
        .refused("ValidationError");
    modify("access_logs.s3.bucket", "other").await.ok();
    modify("access_logs.s3.enabled", "true")
        .await
        .refused("InvalidConfigurationRequest");
    modify("access_logs.s3.bucket", "access-logs").await.ok();
    modify("access_logs.s3.enabled", "true").await.ok();
    modify("secondary_ips.auto_assigned.per_subnet", "2")
        .await
        .ok();
    modify("secondary_ips.auto_assigned.per_subnet", "1")
        .await
        .refused("InvalidConfigurationRequest");
}

#[tokio::test]
async fn internal_ones_deny_the_internet_gateway() {
    let api = Api::quick();
    let arn = create(&api, &[("Scheme", "internal")])
        .await
        .ok()
        .text("LoadBalancerArn");
    let seen = api
        .elb(
            "DescribeLoadBalancerAttributes",
            &[("LoadBalancerArn", &arn)],
        )
        .await
        .ok();
    assert!(
        seen.xml
            .contains("<Key>ipv6.deny_all_igw_traffic</Key><Value>true</Value>")
    );
}

#[tokio::test]
async fn capacity_takes_time_and_is_for_active_ones() {
    let api = Api::new(Config::stopped());
    let arn = create(&api, &[]).await.ok().text("LoadBalancerArn");
    let balancer = ("LoadBalancerArn", arn.as_str());
    let units = "MinimumLoadBalancerCapacity.CapacityUnits";
    let set = async |units_asked: &str| {
        api.elb(
            "ModifyCapacityReservation",
            &[balancer, (units, units_asked)],
        )
        .await
    };
    set("100").await.refused("InvalidConfigurationRequest");
    api.advance(120);
    api.elb("ModifyCapacityReservation", &[balancer])
        .await
        .refused("ValidationError");
    set("0").await.refused("ValidationError");
    set("90000").await.refused("CapacityUnitsLimitExceeded");
    let pending = set("300").await.ok();
    assert_eq!(pending.text("Code"), "pending");
    set("400").await.refused("PriorRequestNotComplete");
    api.advance(300);
    let seen = api
        .elb("DescribeCapacityReservation", &[balancer])
        .await
        .ok();
    assert_eq!(
        (seen.text("Code"), seen.text("CapacityUnits")),
        ("provisioned".into(), "300".into())
    );
    for (asked, left) in [("200", "1"), ("100", "0")] {
        assert_eq!(
            set(asked).await.ok().text("DecreaseRequestsRemaining"),
            left
        );
        api.advance(300);
    }
    api.elb(
        "ModifyCapacityReservation",
        &[balancer, ("ResetCapacityReservation", "true")],
    )
    .await
    .refused("CapacityDecreaseRequestLimitExceeded");
    api.advance(24 * 3600);
    let reset = api
        .elb(
            "ModifyCapacityReservation",
            &[balancer, ("ResetCapacityReservation", "true")],
        )
        .await
        .ok();
    assert_eq!(reset.text("CapacityUnits"), "");
}
