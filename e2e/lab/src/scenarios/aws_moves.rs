//! Load balancers of other controllers move over to Herald, and back.

use anyhow::{Context as _, Result, ensure};
use herald_api::names::{ANNOTATION_DRY_RUN, FINALIZER};
use kube::ResourceExt as _;
use serde_json::json;

use super::aws::{SCHEME, instances, nothing_lost, probe, shop, targets, uid};
use crate::aws::{CLUSTER, NODE_GROUP, VPC};

use crate::scenario::{Account, Context, texts};

const ADOPT: &str = "herald.dev/aws-adopt-load-balancer-arn";
const WITHOUT_GROUP: &str = "service.beta.kubernetes.io/aws-load-balancer-disable-nlb-sg";
const TYPE: &str = "service.beta.kubernetes.io/aws-load-balancer-type";

/// A Service of the AWS Load Balancer Controller moves over with its load balancer.
pub(super) async fn adopted(ctx: &mut Context) -> Result<()> {
    let account = ctx.account()?;
    let before = account.resources().await?;
    ctx.deploy_echo("web", 3).await?;
    // Its webhook gives new Services its own class, which can't be changed any more.
    ctx.operator_flag("--aws-load-balancer-class=service.k8s.aws/nlb")
        .await?;
    ctx.scale_operator(0).await?;
    shop(ctx, "web")
        .class("service.k8s.aws/nlb")
        .annotate(TYPE, "external")
        .annotate(
            "service.beta.kubernetes.io/aws-load-balancer-nlb-target-type",
            "instance",
        )
        .annotate(SCHEME, "internal")
        .create()
        .await?;
    let theirs = json!({"metadata": {"finalizers": ["service.k8s.aws/resources"]}});
    ctx.change_service("web", theirs).await?;
    let made = as_the_controller(ctx, "web").await?;
    let address = ctx.client().resolve(&made.hostname).await?;
    ctx.client().curl_name(&made.hostname, 80).await?;
    let mut probing = probe(address)?;
    probing.wait_answered(100).await?;

    ctx.scale_operator(2).await?;
    moved_over(ctx, "web", &made).await?;
    probing.wait_answered(500).await?;
    let balancers = account
        .tagged("loadBalancer", &uid(ctx, "web").await?)
        .await?;
    ensure!(balancers.len() == 1, "there are {balancers:?}");
    nothing_lost(ctx, probing, "taken over").await?;

    ensure!(
        ctx.service("web").await?.finalizers() == [FINALIZER],
        "the controller's finalizer is still there, and nobody would take it off"
    );
    ctx.delete_service("web").await?;
    account.is_as(&before).await?;
    ctx.step("deleted: nothing is left, the controller's objects included");
    ctx.calls_are_within_the_policy().await
}

/// A Service of the cloud provider moves over with its load balancer, as
/// docs/migrate-from-in-tree.md says; the load balancer stays when the Service goes.
pub(super) async fn lent(ctx: &mut Context) -> Result<()> {
    let account = ctx.account()?;
    let before = account.resources().await?;
    ctx.deploy_echo("web", 3).await?;
    // Services without a class are the cloud provider's.
    ctx.operator_flag("--default-provider=none").await?;
    shop(ctx, "web").annotate(TYPE, "nlb").create().await?;
    let theirs =
        json!({"metadata": {"finalizers": ["service.kubernetes.io/load-balancer-cleanup"]}});
    ctx.change_service("web", theirs).await?;
    let made = as_the_cloud_provider(ctx, "web").await?;
    let theirs = account.resources().await?;
    let address = ctx.client().resolve(&made.hostname).await?;
    ctx.client().curl_name(&made.hostname, 80).await?;
    let mut probing = probe(address)?;
    probing.wait_answered(100).await?;

    // The cloud provider's controller is off from here on.
    let change = json!({"metadata": {"finalizers": [], "annotations": {
        ADOPT: made.arn, WITHOUT_GROUP: "true", ANNOTATION_DRY_RUN: "true",
    }}});
    ctx.change_service("web", change).await?;
    ctx.operator_flag("--default-provider=aws").await?;
    let plan = ctx.condition("web", "False", "DryRun").await?;
    for part in ["take over", "hand over listener 80"] {
        ensure!(plan.contains(part), "no {part:?} in: {plan}");
    }
    ctx.step(format!("dry run: {plan}"));
    account.is_as(&theirs).await?;

    let change = json!({"metadata": {"annotations": {ANNOTATION_DRY_RUN: null}}});
    ctx.change_service("web", change).await?;
    moved_over(ctx, "web", &made).await?;
    probing.wait_answered(500).await?;
    nothing_lost(ctx, probing, "taken over").await?;

    ctx.delete_service("web").await?;
    let now = account.resources().await?;
    let more: Vec<_> = now.difference(&theirs).collect();
    ensure!(more.is_empty(), "of Herald's is left: {more:?}");
    let mut gone: Vec<&str> = theirs
        .difference(&now)
        .map(|resource| resource.kind.as_str())
        .collect();
    gone.dedup();
    ensure!(
        gone == ["listener"],
        "gone of the cloud provider's are {gone:?}"
    );
    ctx.step("deleted: the load balancer is given back, with its target groups and tags");
    account
        .elb("DeleteLoadBalancer", &[("LoadBalancerArn", &made.arn)])
        .await?;
    for group in &made.target_groups {
        account
            .elb("DeleteTargetGroup", &[("TargetGroupArn", group)])
            .await?;
    }
    for port in &made.node_ports {
        let rule = node_rule(port);
        let rule: Vec<(&str, &str)> = rule.iter().map(|(name, value)| (*name, *value)).collect();
        account.ec2("RevokeSecurityGroupIngress", &rule).await?;
    }
    account.is_as(&before).await?;
    ctx.calls_are_within_the_policy().await
}

/// What another controller made for a Service.
struct Made {
    arn: String,
    hostname: String,
    target_groups: Vec<String>,
    node_ports: Vec<String>,
}

/// Waits until Herald has the load balancer at work, under its old hostname.
async fn moved_over(ctx: &Context, name: &str, made: &Made) -> Result<()> {
    ctx.condition(name, "True", "Provisioned").await?;
    let now = ctx.hostname_other_than(name, "").await?;
    ensure!(
        now == made.hostname,
        "the hostname was {}, and is {now}",
        made.hostname
    );
    targets(ctx, name, &instances(&[1, 2, 3]), &[]).await
}

/// A rule by which a node lets everybody in.
fn node_rule(node_port: &str) -> [(&str, &str); 5] {
    [
        ("GroupId", NODE_GROUP),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", node_port),
        ("IpPermissions.1.ToPort", node_port),
        ("IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"),
    ]
}

/// Parameters that tag what is made for a port.
type Tags<'a> = Box<dyn Fn(&str) -> Vec<(String, String)> + Send + Sync + 'a>;

/// How a controller makes a load balancer.
struct Manner<'a> {
    account: Account,
    /// Parameters of `CreateLoadBalancer`.
    load_balancer: Vec<(&'a str, &'a str)>,
    /// Tags of the load balancer.
    load_balancer_tags: Vec<(String, String)>,
    /// Tags of the target group for a port.
    group_tags: Tags<'a>,
    /// Tags of the listener on a port.
    listener_tags: Tags<'a>,
}

impl Manner<'_> {
    /// Makes it for a Service of TCP ports, with the lab's nodes as targets, and
    /// writes the hostname into its status.
    async fn make(&self, ctx: &Context, name: &str) -> Result<Made> {
        let answer = self
            .call(
                "CreateLoadBalancer",
                &self.load_balancer,
                &self.load_balancer_tags,
            )
            .await?;
        let (arn, hostname) = (
            first(&answer, "LoadBalancerArn")?,
            first(&answer, "DNSName")?,
        );
        let service = ctx.service(name).await?;
        let ports = service.spec.and_then(|spec| spec.ports);
        let (mut target_groups, mut node_ports) = (Vec::new(), Vec::new());
        for port in ports.context("it has ports")? {
            let node_port = port.node_port.context("a node port")?.to_string();
            let port = port.port.to_string();
            let group = self.target_group(&port, &node_port).await?;
            let listener = [
                ("LoadBalancerArn", arn.as_str()),
                ("Protocol", "TCP"),
                ("Port", port.as_str()),
                ("DefaultActions.member.1.Type", "forward"),
                ("DefaultActions.member.1.TargetGroupArn", group.as_str()),
            ];
            self.call("CreateListener", &listener, &(self.listener_tags)(&port))
                .await?;
            target_groups.push(group);
            node_ports.push(node_port);
        }
        let status = json!({"status": {"loadBalancer": {"ingress": [{"hostname": hostname}]}}});
        let status = status.to_string();
        ctx.kubectl(&[
            "patch",
            "service",
            name,
            "--subresource=status",
            "--type=merge",
            "--patch",
            &status,
        ])
        .await?;
        Ok(Made {
            arn,
            hostname,
            target_groups,
            node_ports,
        })
    }

    async fn target_group(&self, port: &str, node_port: &str) -> Result<String> {
        let name = format!("k8s-shop-web-{port:0>10}");
        let group = [
            ("Name", name.as_str()),
            ("Protocol", "TCP"),
            ("Port", node_port),
            ("VpcId", VPC),
            ("TargetType", "instance"),
            ("HealthCheckProtocol", "TCP"),
            ("HealthCheckPort", "traffic-port"),
            ("HealthCheckIntervalSeconds", "10"),
        ];
        let answer = self
            .call("CreateTargetGroup", &group, &(self.group_tags)(port))
            .await?;
        let arn = first(&answer, "TargetGroupArn")?;
        // Five minutes by default, which nobody has here.
        let delay = "deregistration_delay.timeout_seconds";
        let attributes = [
            ("TargetGroupArn", arn.as_str()),
            ("Attributes.member.1.Key", delay),
            ("Attributes.member.1.Value", "5"),
        ];
        self.account
            .elb("ModifyTargetGroupAttributes", &attributes)
            .await?;
        let registered: Vec<(String, String)> = (1..)
            .zip(instances(&[1, 2, 3]))
            .flat_map(|(i, id)| {
                [
                    (format!("Targets.member.{i}.Id"), id),
                    (format!("Targets.member.{i}.Port"), node_port.to_owned()),
                ]
            })
            .collect();
        self.call("RegisterTargets", &[("TargetGroupArn", &arn)], &registered)
            .await?;
        Ok(arn)
    }

    async fn call(
        &self,
        action: &str,
        own: &[(&str, &str)],
        more: &[(String, String)],
    ) -> Result<String> {
        let more = more
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<(&str, &str)> = own.iter().copied().chain(more).collect();
        self.account.elb(action, &all).await
    }
}

fn first(xml: &str, element: &str) -> Result<String> {
    let found = texts(xml, element).into_iter().next();
    found.with_context(|| format!("no {element} in {xml}"))
}

/// Parameters that tag what is made: `PREFIX.1.KEY=…`, `PREFIX.1.Value=…`.
fn tagged(prefix: &str, key: &str, tags: &[(&str, &str)]) -> Vec<(String, String)> {
    (1..)
        .zip(tags)
        .flat_map(|(i, (tag, value))| {
            [
                (format!("{prefix}.{i}.{key}"), (*tag).to_owned()),
                (format!("{prefix}.{i}.Value"), (*value).to_owned()),
            ]
        })
        .collect()
}

/// As the AWS Load Balancer Controller makes it, with its names and tags.
async fn as_the_controller(ctx: &Context, name: &str) -> Result<Made> {
    let account = ctx.account()?;
    let stack = format!("{}/{name}", ctx.namespace());
    let tags = |prefix: &str, key: &str, resource: &str| {
        let tags = [
            ("elbv2.k8s.aws/cluster", CLUSTER),
            ("service.k8s.aws/stack", stack.as_str()),
            ("service.k8s.aws/resource", resource),
        ];
        tagged(prefix, key, &tags)
    };
    let group_tags = tags("TagSpecification.1.Tag", "Key", "ManagedLBSecurityGroup");
    let group = [
        ("GroupName", "k8s-shop-web-0123456789"),
        (
            "GroupDescription",
            "[k8s] Managed SecurityGroup for LoadBalancer",
        ),
        ("VpcId", VPC),
        ("TagSpecification.1.ResourceType", "security-group"),
    ];
    let group_tags = group_tags
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let group: Vec<(&str, &str)> = group.into_iter().chain(group_tags).collect();
    let group = first(
        &account.ec2("CreateSecurityGroup", &group).await?,
        "groupId",
    )?;
    for port in ["80", "9000"] {
        let mut rule = node_rule(port);
        rule[0].1 = &group;
        account.ec2("AuthorizeSecurityGroupIngress", &rule).await?;
    }
    let manner = Manner {
        account,
        load_balancer: vec![
            ("Name", "k8s-shop-web-abcdef0123"),
            ("Type", "network"),
            ("Scheme", "internal"),
            ("IpAddressType", "ipv4"),
            ("Subnets.member.1", "subnet-private-a"),
            ("Subnets.member.2", "subnet-private-b"),
            ("SecurityGroups.member.1", &group),
        ],
        load_balancer_tags: tags("Tags.member", "Key", "LoadBalancer"),
        group_tags: Box::new(|port| tags("Tags.member", "Key", &format!("{stack}:{port}"))),
        listener_tags: Box::new(|port| tags("Tags.member", "Key", port)),
    };
    let made = manner.make(ctx, name).await?;
    ctx.step(format!(
        "made as the controller makes it: {}",
        made.hostname
    ));
    Ok(made)
}

/// As the cloud provider of Kubernetes makes it: internet-facing, without security
/// groups, and the nodes let everybody in.
async fn as_the_cloud_provider(ctx: &Context, name: &str) -> Result<Made> {
    let owner = format!("{}/{name}", ctx.namespace());
    let cluster = format!("kubernetes.io/cluster/{CLUSTER}");
    let tags = || {
        let tags = [
            ("kubernetes.io/service-name", owner.as_str()),
            (cluster.as_str(), "owned"),
        ];
        tagged("Tags.member", "Key", &tags)
    };
    let balancer = format!("a{}", uid(ctx, name).await?.replace('-', ""));
    let manner = Manner {
        account: ctx.account()?,
        load_balancer: vec![
            ("Name", &balancer[..32]),
            ("Type", "network"),
            ("Scheme", "internet-facing"),
            ("Subnets.member.1", "subnet-public-a"),
            ("Subnets.member.2", "subnet-public-b"),
        ],
        load_balancer_tags: tags(),
        group_tags: Box::new(|_| tags()),
        listener_tags: Box::new(|_| Vec::new()),
    };
    let made = manner.make(ctx, name).await?;
    for port in &made.node_ports {
        manner
            .account
            .ec2("AuthorizeSecurityGroupIngress", &node_rule(port))
            .await?;
    }
    ctx.step(format!(
        "made as the cloud provider makes it: {}",
        made.hostname
    ));
    Ok(made)
}
