//! Rules of EC2 and STS, one test for each.

mod common;

use common::{Answer, Api};
use herald_fakeaws::fixtures::{NODE_GROUP, VPC, node_id};
use herald_fakeaws::{Config, ResourceKind, Service};

async fn group(api: &Api, name: &str) -> String {
    let parameters = [
        ("GroupName", name),
        ("GroupDescription", "d"),
        ("VpcId", VPC),
    ];
    api.ec2("CreateSecurityGroup", &parameters)
        .await
        .ok()
        .text("groupId")
}

/// Authorizes TCP on a port from a block.
async fn allow(api: &Api, group: &str, port: &str, cidr: &str) -> Answer {
    change(api, "AuthorizeSecurityGroupIngress", group, port, cidr).await
}

async fn change(api: &Api, action: &str, group: &str, port: &str, cidr: &str) -> Answer {
    let key = if cidr.contains(':') {
        "IpPermissions.1.Ipv6Ranges.1.CidrIpv6"
    } else {
        "IpPermissions.1.IpRanges.1.CidrIp"
    };
    api.ec2(
        action,
        &[
            ("GroupId", group),
            ("IpPermissions.1.IpProtocol", "tcp"),
            ("IpPermissions.1.FromPort", port),
            ("IpPermissions.1.ToPort", port),
            (key, cidr),
        ],
    )
    .await
}

async fn filtered(api: &Api, action: &str, filter: &str, value: &str, id: &str) -> Vec<String> {
    let parameters = [("Filter.1.Name", filter), ("Filter.1.Value.1", value)];
    api.ec2(action, &parameters).await.ok().texts(id)
}

#[tokio::test]
async fn the_network_is_found_by_ids_filters_and_tags() {
    let api = Api::quick();
    let elb = filtered(
        &api,
        "DescribeSubnets",
        "tag:kubernetes.io/role/elb",
        "1",
        "subnetId",
    )
    .await;
    assert_eq!(
        elb,
        ["subnet-public-a", "subnet-public-b", "subnet-public-c"]
    );
    let key = "kubernetes.io/role/internal-elb";
    assert_eq!(
        filtered(&api, "DescribeSubnets", "tag-key", key, "subnetId")
            .await
            .len(),
        3
    );
    let zone = filtered(
        &api,
        "DescribeSubnets",
        "availability-zone",
        "us-east-1b",
        "subnetId",
    )
    .await;
    assert_eq!(zone, ["subnet-private-b", "subnet-public-b"]);
    let names = filtered(&api, "DescribeSubnets", "tag:Name", "public-*", "subnetId").await;
    assert_eq!(names.len(), 3);
    let two = [
        ("Filter.1.Name", "vpc-id"),
        ("Filter.1.Value.1", VPC),
        ("Filter.2.Name", "tag:Name"),
        ("Filter.2.Value.1", "public-a"),
        ("Filter.2.Value.2", "private-a"),
    ];
    assert_eq!(
        api.ec2("DescribeSubnets", &two)
            .await
            .ok()
            .texts("subnetId")
            .len(),
        2
    );
    let one = api
        .ec2("DescribeSubnets", &[("SubnetId.1", "subnet-public-a")])
        .await
        .ok();
    assert_eq!(one.text("availabilityZoneId"), "use1-az1");
    assert_eq!(one.text("availableIpAddressCount"), "240");
    assert_eq!(one.text("ipv6CidrBlock"), "2600:1f18:c1a5::/64");
    let vpc = api.ec2("DescribeVpcs", &[("VpcId.1", VPC)]).await.ok();
    assert_eq!(vpc.texts("cidrBlock"), ["10.0.0.0/16", "10.0.0.0/16"]);
    let zones = api.ec2("DescribeAvailabilityZones", &[]).await.ok();
    assert_eq!(
        zones.texts("zoneName"),
        ["us-east-1a", "us-east-1b", "us-east-1c"]
    );
    let main = filtered(
        &api,
        "DescribeRouteTables",
        "association.main",
        "true",
        "routeTableId",
    )
    .await;
    assert_eq!(main, ["rtb-public", "rtb-public"]);
    let own = filtered(
        &api,
        "DescribeRouteTables",
        "association.subnet-id",
        "subnet-private-a",
        "natGatewayId",
    );
    assert_eq!(own.await, ["nat-a"]);
    let lists = filtered(
        &api,
        "DescribeManagedPrefixLists",
        "prefix-list-name",
        "office",
        "maxEntries",
    );
    assert_eq!(lists.await, ["3"]);
    let addresses = api
        .ec2("DescribeAddresses", &[("PublicIp.1", "198.51.100.2")])
        .await
        .ok();
    assert_eq!(addresses.text("allocationId"), "eipalloc-b");
}

#[tokio::test]
async fn what_does_not_exist_or_fit_is_refused() {
    let api = Api::quick();
    for (action, parameter, code) in [
        ("DescribeVpcs", "VpcId.1", "InvalidVpcID.NotFound"),
        ("DescribeSubnets", "SubnetId.1", "InvalidSubnetID.NotFound"),
        (
            "DescribeRouteTables",
            "RouteTableId.1",
            "InvalidRouteTableID.NotFound",
        ),
        (
            "DescribeInstances",
            "InstanceId.1",
            "InvalidInstanceID.NotFound",
        ),
        (
            "DescribeNetworkInterfaces",
            "NetworkInterfaceId.1",
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            "DescribeAddresses",
            "AllocationId.1",
            "InvalidAllocationID.NotFound",
        ),
        (
            "DescribeSecurityGroups",
            "GroupId.1",
            "InvalidGroup.NotFound",
        ),
        (
            "DescribeManagedPrefixLists",
            "PrefixListId.1",
            "InvalidPrefixListID.NotFound",
        ),
        (
            "DescribeAvailabilityZones",
            "ZoneName.1",
            "InvalidParameterValue",
        ),
    ] {
        api.ec2(action, &[(parameter, "x-1")]).await.refused(code);
    }
    for action in [
        "DescribeSubnets",
        "DescribeVpcs",
        "DescribeSecurityGroups",
        "DescribeInstances",
    ] {
        api.ec2(
            action,
            &[("Filter.1.Name", "no-such"), ("Filter.1.Value.1", "x")],
        )
        .await
        .refused("InvalidParameterValue");
        api.ec2(action, &[("MaxResults", "4")])
            .await
            .refused("InvalidParameterValue");
        api.ec2(action, &[("Misspelt", "4")])
            .await
            .refused("UnknownParameter");
    }
    api.ec2("DescribeSubnets", &[("Filter.1.Name", "vpc-id")])
        .await
        .refused("InvalidParameterValue");
    api.ec2(
        "DescribeInstances",
        &[("InstanceId.1", &node_id(1)), ("MaxResults", "5")],
    )
    .await
    .refused("InvalidParameterCombination");
    api.ec2("RunInstances", &[]).await.refused("InvalidAction");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let mut config = Config::quick();
    config.fixtures = config.fixtures.nodes(12);
    let api = Api::new(config);
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let mut parameters = vec![("MaxResults", "5")];
        if !token.is_empty() {
            parameters.push(("NextToken", &token));
        }
        let page = api.ec2("DescribeInstances", &parameters).await.ok();
        seen.extend(page.texts("reservationId"));
        let next = page.text("nextToken");
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(seen.len(), 12);
}

#[tokio::test]
async fn instances_have_interfaces_groups_and_state() {
    let api = Api::quick();
    let seen = api
        .ec2("DescribeInstances", &[("InstanceId.1", &node_id(1))])
        .await
        .ok();
    assert_eq!(seen.text("privateIpAddress"), "10.0.32.11");
    assert_eq!(seen.text("availabilityZone"), "us-east-1a");
    assert_eq!(
        seen.text("instanceState"),
        "<code>16</code><name>running</name>"
    );
    assert!(seen.texts("groupId").iter().all(|id| id == NODE_GROUP));
    let eni = seen.text("networkInterfaceId");
    let id = node_id(1);
    let action = "DescribeNetworkInterfaces";
    let by_instance = filtered(
        &api,
        action,
        "attachment.instance-id",
        &id,
        "networkInterfaceId",
    );
    assert_eq!(by_instance.await, [eni]);
    let running = filtered(
        &api,
        "DescribeInstances",
        "instance-state-name",
        "running",
        "reservationId",
    );
    assert_eq!(running.await.len(), 3);
}

#[tokio::test]
async fn security_groups_are_made_once_by_name() {
    let mut config = Config::quick();
    config.quotas.security_groups = 3;
    let api = Api::new(config);
    let with = |name: &'static str, tag: &'static str| {
        [
            ("GroupName", name),
            ("GroupDescription", "for tests"),
            ("VpcId", VPC),
            ("TagSpecification.1.ResourceType", "security-group"),
            ("TagSpecification.1.Tag.1.Key", tag),
            ("TagSpecification.1.Tag.1.Value", "v"),
        ]
    };
    for (name, tag, code) in [
        ("sg-x", "k", "InvalidParameterValue"),
        ("wéb", "k", "InvalidParameterValue"),
        ("web", "aws:k", "InvalidParameterValue"),
        ("demo-nodes", "k", "InvalidGroup.Duplicate"),
    ] {
        api.ec2("CreateSecurityGroup", &with(name, tag))
            .await
            .refused(code);
    }
    api.ec2("CreateSecurityGroup", &[("GroupName", "x"), ("VpcId", VPC)])
        .await
        .refused("MissingParameter");
    let elsewhere = [
        ("GroupName", "x"),
        ("GroupDescription", "d"),
        ("VpcId", "vpc-x"),
    ];
    api.ec2("CreateSecurityGroup", &elsewhere)
        .await
        .refused("InvalidVpcID.NotFound");
    let id = api
        .ec2("CreateSecurityGroup", &with("web", "k"))
        .await
        .ok()
        .text("groupId");
    assert!(id.starts_with("sg-0") && id.len() == 20, "{id}");
    api.ec2("CreateSecurityGroup", &with("web", "k"))
        .await
        .refused("InvalidGroup.Duplicate");
    api.ec2("CreateSecurityGroup", &with("more", "k"))
        .await
        .refused("SecurityGroupLimitExceeded");
    assert_eq!(
        filtered(&api, "DescribeSecurityGroups", "tag:k", "v", "groupName").await,
        ["web"]
    );
    assert_eq!(
        filtered(
            &api,
            "DescribeSecurityGroups",
            "group-name",
            "w?b",
            "groupName"
        )
        .await,
        ["web"]
    );
}

#[tokio::test]
async fn rules_are_there_once_and_must_be_there_to_go() {
    let api = Api::quick();
    let id = group(&api, "web").await;
    let made = allow(&api, &id, "80", "10.1.2.3/8").await.ok();
    assert_eq!(made.text("cidrIpv4"), "10.0.0.0/8", "host bits go");
    assert!(made.text("securityGroupRuleId").starts_with("sgr-0"));
    allow(&api, &id, "80", "10.0.0.0/8")
        .await
        .refused("InvalidPermission.Duplicate");
    allow(&api, "sg-x", "80", "10.0.0.0/8")
        .await
        .refused("InvalidGroup.NotFound");
    allow(&api, "x", "80", "10.0.0.0/8")
        .await
        .refused("InvalidGroupId.Malformed");
    allow(&api, &id, "80", "10.0.0/8")
        .await
        .refused("InvalidParameterValue");
    allow(&api, &id, "65536", "10.0.0.0/8")
        .await
        .refused("InvalidParameterValue");
    allow(&api, &id, "80", "2001:db8::/32").await.ok();
    let revoke = "RevokeSecurityGroupIngress";
    change(&api, revoke, &id, "81", "10.0.0.0/8")
        .await
        .refused("InvalidPermission.NotFound");
    change(&api, revoke, &id, "80", "10.0.0.0/8").await.ok();
    change(&api, revoke, &id, "80", "10.0.0.0/8")
        .await
        .refused("InvalidPermission.NotFound");
    let rules = filtered(
        &api,
        "DescribeSecurityGroupRules",
        "group-id",
        &id,
        "securityGroupRuleId",
    )
    .await;
    assert_eq!(rules.len(), 1);
    let by_id = |rule: &'static str| [("GroupId", id.as_str()), ("SecurityGroupRuleId.1", rule)];
    api.ec2(revoke, &by_id("sgr-x"))
        .await
        .refused("InvalidSecurityGroupRuleId.NotFound");
    api.ec2(
        revoke,
        &[("GroupId", &id), ("SecurityGroupRuleId.1", &rules[0])],
    )
    .await
    .ok();
    api.ec2(revoke, &[("GroupId", &id)])
        .await
        .refused("MissingParameter");
}

#[tokio::test]
async fn all_rules_of_a_call_or_none() {
    let api = Api::quick();
    let id = group(&api, "web").await;
    allow(&api, &id, "80", "10.0.0.0/8").await.ok();
    let two = |first: &'static str, second: &'static str| {
        [
            ("GroupId", id.as_str()),
            ("IpPermissions.1.IpProtocol", "6"),
            ("IpPermissions.1.FromPort", "80"),
            ("IpPermissions.1.ToPort", "80"),
            ("IpPermissions.1.IpRanges.1.CidrIp", first),
            ("IpPermissions.1.IpRanges.1.Description", "office"),
            ("IpPermissions.1.IpRanges.2.CidrIp", second),
        ]
    };
    let authorize = "AuthorizeSecurityGroupIngress";
    api.ec2(authorize, &two("11.0.0.0/8", "10.0.0.0/8"))
        .await
        .refused("InvalidPermission.Duplicate");
    api.ec2(authorize, &two("11.0.0.0/8", "11.0.0.1/8"))
        .await
        .refused("InvalidParameterValue");
    assert_eq!(api.0.snapshot().count(ResourceKind::Rule), 1);
    api.ec2(authorize, &two("11.0.0.0/8", "12.0.0.0/8"))
        .await
        .ok();
    assert_eq!(api.0.snapshot().count(ResourceKind::Rule), 3);
    let seen = api
        .ec2("DescribeSecurityGroups", &[("GroupId.1", &id)])
        .await
        .ok();
    assert_eq!(
        seen.texts("fromPort"),
        ["80"],
        "one permission for one range of ports"
    );
    assert!(
        seen.xml
            .contains("<cidrIp>11.0.0.0/8</cidrIp><description>office</description>")
    );
}

#[tokio::test]
async fn sources_are_blocks_groups_and_prefix_lists() {
    let api = Api::quick();
    let id = group(&api, "web").await;
    let from = |key: &'static str, value: &'static str| {
        [
            ("GroupId", id.as_str()),
            ("IpPermissions.1.IpProtocol", "-1"),
            (key, value),
        ]
    };
    let authorize = "AuthorizeSecurityGroupIngress";
    let groups = "IpPermissions.1.Groups.1.GroupId";
    let lists = "IpPermissions.1.PrefixListIds.1.PrefixListId";
    api.ec2(authorize, &from(groups, "sg-x"))
        .await
        .refused("InvalidGroup.NotFound");
    api.ec2(authorize, &from(lists, "pl-x"))
        .await
        .refused("InvalidPrefixListID.NotFound");
    let none = [
        ("GroupId", id.as_str()),
        ("IpPermissions.1.IpProtocol", "-1"),
    ];
    api.ec2(authorize, &none)
        .await
        .refused("InvalidParameterValue");
    let by_group = api.ec2(authorize, &from(groups, NODE_GROUP)).await.ok();
    assert!(by_group.xml.contains(&format!(
        "<referencedGroupInfo><groupId>{NODE_GROUP}</groupId>"
    )));
    api.ec2(authorize, &from(lists, "pl-office")).await.ok();
    let named = filtered(
        &api,
        "DescribeSecurityGroups",
        "ip-permission.group-id",
        NODE_GROUP,
        "groupName",
    );
    assert_eq!(named.await, ["web"]);
    let unknown = [
        ("GroupId", id.as_str()),
        ("IpPermissions.1.IpProtocol", "tpc"),
    ];
    api.ec2(authorize, &unknown)
        .await
        .refused("InvalidParameterValue");
}

#[tokio::test]
async fn rules_are_limited_for_each_family() {
    let mut config = Config::quick();
    config.quotas.rules = 4;
    let api = Api::new(config);
    let id = group(&api, "web").await;
    allow(&api, &id, "80", "10.0.0.0/8").await.ok();
    for port in ["80", "81", "82", "83"] {
        allow(&api, &id, port, "2001:db8::/32").await.ok();
    }
    allow(&api, &id, "84", "2001:db8::/32")
        .await
        .refused("RulesPerSecurityGroupLimitExceeded");
    // The prefix list counts as 3.
    let list = [
        ("GroupId", id.as_str()),
        ("IpPermissions.1.IpProtocol", "-1"),
        ("IpPermissions.1.PrefixListIds.1.PrefixListId", "pl-office"),
    ];
    api.ec2("AuthorizeSecurityGroupIngress", &list).await.ok();
    allow(&api, &id, "84", "10.0.0.0/8")
        .await
        .refused("RulesPerSecurityGroupLimitExceeded");
}

#[tokio::test]
async fn a_group_in_use_is_not_deleted_nor_while_interfaces_linger() {
    let api = Api::new(Config::stopped());
    let id = group(&api, "web").await;
    let lb = api
        .load_balancer_with("web", &[("SecurityGroups.member.1", &id)])
        .await;
    let delete = async |id: &str| api.ec2("DeleteSecurityGroup", &[("GroupId", id)]).await;
    delete(&id).await.refused("DependencyViolation");
    api.elb("DeleteLoadBalancer", &[("LoadBalancerArn", &lb)])
        .await
        .ok();
    delete(&id).await.refused("DependencyViolation");
    api.advance(44);
    delete(&id).await.refused("DependencyViolation");
    api.advance(1);
    delete(&id).await.ok();
    delete(&id).await.refused("InvalidGroup.NotFound");
    delete("sg-00000000000000def").await.refused("CannotDelete");
    delete(NODE_GROUP).await.refused("DependencyViolation");
}

#[tokio::test]
async fn a_group_that_a_rule_names_is_not_deleted() {
    let api = Api::quick();
    let id = group(&api, "web").await;
    let rule = [
        ("GroupId", NODE_GROUP),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", "30000"),
        ("IpPermissions.1.ToPort", "32767"),
        ("IpPermissions.1.Groups.1.GroupId", id.as_str()),
    ];
    api.ec2("AuthorizeSecurityGroupIngress", &rule).await.ok();
    api.ec2("DeleteSecurityGroup", &[("GroupId", &id)])
        .await
        .refused("DependencyViolation");
    api.ec2("RevokeSecurityGroupIngress", &rule).await.ok();
    api.ec2("DeleteSecurityGroup", &[("GroupId", &id)])
        .await
        .ok();
}

#[tokio::test]
async fn tags_of_anything_come_and_go() {
    let mut config = Config::quick();
    config.quotas.tags = 4;
    let api = Api::new(config);
    let tag = |id: &'static str, key: &'static str| {
        [
            ("ResourceId.1", id),
            ("Tag.1.Key", key),
            ("Tag.1.Value", "v"),
        ]
    };
    api.ec2("CreateTags", &tag("subnet-public-a", "k"))
        .await
        .ok();
    assert_eq!(
        filtered(&api, "DescribeSubnets", "tag:k", "v", "subnetId").await,
        ["subnet-public-a"]
    );
    api.ec2("CreateTags", &tag("subnet-public-a", "l"))
        .await
        .refused("TagLimitExceeded");
    api.ec2("CreateTags", &tag("subnet-x", "k"))
        .await
        .refused("InvalidSubnetID.NotFound");
    api.ec2("CreateTags", &tag("x", "k"))
        .await
        .refused("InvalidID");
    api.ec2("CreateTags", &tag(NODE_GROUP, "aws:k"))
        .await
        .refused("InvalidParameterValue");
    let other = [
        ("ResourceId.1", "subnet-public-a"),
        ("Tag.1.Key", "k"),
        ("Tag.1.Value", "other"),
    ];
    api.ec2("DeleteTags", &other).await.ok();
    assert_eq!(
        filtered(&api, "DescribeSubnets", "tag-key", "k", "subnetId")
            .await
            .len(),
        1
    );
    api.ec2("DeleteTags", &other[..2]).await.ok();
    assert!(
        filtered(&api, "DescribeSubnets", "tag-key", "k", "subnetId")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_role_is_assumed_with_a_token_and_its_key_is_of_its_account() {
    let api = Api::quick();
    let role = [
        ("RoleArn", "arn:aws:iam::999988887777:role/herald"),
        ("RoleSessionName", "s"),
        ("WebIdentityToken", "t"),
    ];
    let sts = async |action, parameters: &[(&str, &str)]| {
        api.try_call(Service::Sts, action, parameters)
            .await
            .unwrap()
    };
    let assumed = sts("AssumeRoleWithWebIdentity", &role).await.ok();
    let key = assumed.text("AccessKeyId");
    assert!(key.starts_with("ASIA999988887777"), "{key}");
    assert!(assumed.text("Expiration").ends_with('Z'), "{}", assumed.xml);
    let mut wrong = role;
    wrong[0].1 = "x";
    sts("AssumeRoleWithWebIdentity", &wrong)
        .await
        .refused("ValidationError");
    assert_eq!(
        sts("GetCallerIdentity", &[]).await.ok().text("Account"),
        "123456789012"
    );
}

#[tokio::test]
async fn accounts_and_regions_are_apart() {
    let api = Api::quick();
    api.load_balancer("web").await;
    let elsewhere = |credential: &str| {
        let mut request = common::request(Service::Elbv2, "DescribeLoadBalancers", &[]);
        let header = format!(
            "AWS4-HMAC-SHA256 Credential={credential}/elasticloadbalancing/aws4_request, SignedHeaders=host, Signature=00"
        );
        request
            .headers_mut()
            .insert("authorization", header.parse().unwrap());
        request
    };
    for (credential, there) in [
        ("test/20260101/us-east-1", true),
        ("test/20260101/eu-west-1", false),
        ("ASIA9999888877770001/20260101/us-east-1", false),
    ] {
        let response = api.0.handle(elsewhere(credential)).await.unwrap();
        let text = String::from_utf8(response.body().to_vec()).unwrap();
        assert_eq!(
            text.contains("<LoadBalancerName>web<"),
            there,
            "{credential}"
        );
    }
}
