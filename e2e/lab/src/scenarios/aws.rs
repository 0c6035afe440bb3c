//! AWS's load balancers, on the stand-in with its data path.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use anyhow::{Context as _, Result, ensure};
use herald_api::names::{ANNOTATION_DRY_RUN, FINALIZER, LABEL_EXCLUDE_NODE};
use kube::ResourceExt as _;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::aws::{CLUSTER, VPC, instance};
use crate::faults as harm;
use crate::prober::{Options, Prober, Probing, Target};
use crate::scenario::services::Exposing;
use crate::scenario::wait::PATIENCE;
use crate::scenario::{Context, texts, wait};

const SCHEME: &str = "service.beta.kubernetes.io/aws-load-balancer-scheme";
/// Health checks as quick as AWS has them.
const CHECKS: [(&str, &str); 3] = [
    (
        "service.beta.kubernetes.io/aws-load-balancer-healthcheck-interval",
        "5",
    ),
    (
        "service.beta.kubernetes.io/aws-load-balancer-healthcheck-timeout",
        "2",
    ),
    (
        "service.beta.kubernetes.io/aws-load-balancer-healthcheck-unhealthy-threshold",
        "2",
    ),
];

/// A Service of HTTP on 80 and the echo of TCP on 9000.
fn shop<'a>(ctx: &'a Context, name: &str) -> Exposing<'a> {
    let exposing = ctx
        .expose(name)
        .port("http", "TCP", 80, 8080)
        .port("probe", "TCP", 9000, 9000);
    CHECKS.iter().fold(exposing, |exposing, (name, value)| {
        exposing.annotate(name, *value)
    })
}

/// 100 new connections a second to port 9000 of an address.
fn probe(address: IpAddr) -> Result<Probing> {
    const RATE: NonZeroU16 = NonZeroU16::new(100).expect("it is not zero");
    let target = Target::tcp(address, 9000);
    Prober::start("c1", &Options::new(target, RATE))
}

/// Ends a probing of which nothing may be lost.
async fn nothing_lost(ctx: &Context, probing: Probing, what: &str) -> Result<()> {
    let report = probing.stop().await?;
    ctx.step(format!(
        "{what}: {} of {} probes lost, longest gap {} ms",
        report.lost, report.sent, report.longest_gap_ms
    ));
    ensure!(
        report.lost == 0 && report.answered > 0,
        "{what}: {} of {} probes lost",
        report.lost,
        report.sent
    );
    Ok(())
}

async fn uid(ctx: &Context, name: &str) -> Result<String> {
    let service = ctx.service(name).await?;
    service.metadata.uid.context("a Service has a uid")
}

/// Waits until the target groups of a Service have exactly these healthy targets,
/// and no others but those that drain, and of `unhealthy` those that are.
async fn targets(
    ctx: &Context,
    name: &str,
    healthy: &[String],
    unhealthy: &[String],
) -> Result<()> {
    let account = ctx.account()?;
    let uid = uid(ctx, name).await?;
    let set = |ids: &[String]| ids.iter().cloned().collect::<BTreeSet<String>>();
    wait::until(
        &format!("targets of {name}: healthy {healthy:?}, unhealthy {unhealthy:?}"),
        || async {
            let groups = account.tagged("targetGroup", &uid).await?;
            ensure!(!groups.is_empty(), "there is no target group");
            for group in groups {
                let states = account.target_states(&group.id).await?;
                let are = |state: &str| {
                    states
                        .iter()
                        .filter(|target| target.state == state)
                        .map(|target| target.id.clone())
                        .collect::<BTreeSet<_>>()
                };
                ensure!(
                    are("healthy") == set(healthy)
                        && are("unhealthy") == set(unhealthy)
                        && are("initial").is_empty(),
                    "{states:?}"
                );
            }
            Ok(())
        },
    )
    .await?;
    ctx.step(format!(
        "{name}: targets {healthy:?} healthy, {unhealthy:?} unhealthy"
    ));
    Ok(())
}

fn instances(nodes: &[u8]) -> Vec<String> {
    nodes.iter().copied().map(instance).collect()
}

/// From the dry run to the deletion, with clients that notice nothing.
pub(super) async fn path(ctx: &mut Context) -> Result<()> {
    let account = ctx.account()?;
    let before = account.resources().await?;
    ctx.deploy_echo("web", 3).await?;

    shop(ctx, "web")
        .annotate(ANNOTATION_DRY_RUN, "true")
        .annotate(
            "service.beta.kubernetes.io/aws-load-balancer-scheem",
            "internal",
        )
        .create()
        .await?;
    let plan = ctx.condition("web", "False", "DryRun").await?;
    ensure!(plan.contains("create"), "the plan makes nothing: {plan}");
    ctx.step(format!("dry run: {plan}"));
    ensure!(
        ctx.service("web").await?.finalizers().is_empty(),
        "a dry run set a finalizer"
    );
    account.is_as(&before).await?;
    let warning = ctx.event("Service", "web", "UnknownAnnotation").await?;
    ensure!(
        warning.contains("aws-load-balancer-scheme"),
        "the right name is not told: {warning}"
    );
    ctx.step(format!("mistyped annotation: {warning}"));

    let begin = std::time::Instant::now();
    ctx.change_service(
        "web",
        json!({"metadata": {"annotations": {ANNOTATION_DRY_RUN: null}}}),
    )
    .await?;
    let stage = ctx.condition("web", "False", "Provisioning").await?;
    ctx.step(format!("Provisioning: {stage}"));
    let service = ctx.service("web").await?;
    ensure!(
        service.finalizers().iter().any(|has| has == FINALIZER),
        "there is no finalizer while AWS makes the load balancer"
    );
    ctx.condition("web", "True", "Provisioned").await?;
    let hostname = ctx.hostname_other_than("web", "").await?;
    ctx.measured_since("create-to-hostname", begin);
    let address = ctx.client().resolve(&hostname).await?;
    let reply = ctx.client().curl_name(&hostname, 80).await?;
    ctx.step(format!(
        "curl http://{hostname}/ ({address}) answered by {} on {}",
        reply.pod, reply.node
    ));
    targets(ctx, "web", &instances(&[1, 2, 3]), &[]).await?;

    let mut probing = probe(address)?;
    probing.wait_answered(100).await?;
    ctx.scale("web", 5).await?;
    ctx.scale("web", 2).await?;
    probing.wait_answered(100).await?;
    ctx.label_node("n2", LABEL_EXCLUDE_NODE, Some("")).await?;
    targets(ctx, "web", &instances(&[1, 3]), &[]).await?;
    probing.wait_answered(100).await?;
    ctx.label_node("n2", LABEL_EXCLUDE_NODE, None).await?;
    targets(ctx, "web", &instances(&[1, 2, 3]), &[]).await?;
    ctx.kubectl(&[
        "drain",
        "n3",
        "--ignore-daemonsets",
        "--force",
        "--timeout=90s",
    ])
    .await?;
    ctx.rolled_out("web").await?;
    probing.wait_answered(200).await?;
    ctx.kubectl(&["uncordon", "n3"]).await?;
    nothing_lost(ctx, probing, "scaled, excluded, drained").await?;

    let probing = probe(address)?;
    ctx.kubectl(&["delete", "service", "web", "--wait=false"])
        .await?;
    ctx.service_is_gone("web").await?;
    drop(probing);
    account.is_as(&before).await?;
    ctx.step("deleted under traffic: nothing is left in the account");
    ctx.operator_is_well().await?;
    ctx.calls_are_within_the_policy().await
}

/// Nodes with endpoints only, pods themselves, an instance that crashes.
pub(super) async fn kinds_of_targets(ctx: &mut Context) -> Result<()> {
    let account = ctx.account()?;
    let before = account.resources().await?;
    ctx.deploy_echo_on("local", 1, Some("n1")).await?;
    shop(ctx, "local").local().create().await?;
    ctx.condition("local", "True", "Provisioned").await?;
    targets(ctx, "local", &instances(&[1]), &[]).await?;
    let hostname = ctx.hostname_other_than("local", "").await?;
    let reply = ctx.client().curl_name(&hostname, 80).await?;
    ensure!(reply.node == "n1", "answered from {}", reply.node);
    ctx.move_to("local", "n2").await?;
    targets(ctx, "local", &instances(&[2]), &[]).await?;
    ctx.delete_service("local").await?;

    // Pods with a gate are ready once their load balancer finds them healthy.
    ctx.deploy_echo("pods", 2).await?;
    shop(ctx, "pods")
        .annotate(
            "service.beta.kubernetes.io/aws-load-balancer-nlb-target-type",
            "ip",
        )
        .create()
        .await?;
    ctx.condition("pods", "True", "Provisioned").await?;
    let patch = json!({"spec": {"template": {"spec": {
        "readinessGates": [{"conditionType": "target-health.herald.dev/pods"}],
    }}}});
    ctx.kubectl(&["patch", "deployment", "pods", "--patch", &patch.to_string()])
        .await?;
    ctx.rolled_out("pods").await?;
    let mut addresses = Vec::new();
    for pod in ctx.pods("pods").await? {
        let ips = pod.status.and_then(|status| status.pod_ips);
        let ips = ips.context("a pod has addresses")?;
        let v4 = ips.into_iter().map(|ip| ip.ip).find(|ip| !ip.contains(':'));
        addresses.push(v4.context("a pod has an IPv4 address")?);
    }
    targets(ctx, "pods", &addresses, &[]).await?;
    let hostname = ctx.hostname_other_than("pods", "").await?;
    ctx.client().curl_name(&hostname, 80).await?;
    ctx.step(format!(
        "{hostname} sends to the pods {addresses:?}, whose gates are open"
    ));
    ctx.delete_service("pods").await?;

    ctx.deploy_echo("web", 3).await?;
    shop(ctx, "web").create().await?;
    let hostname = ctx.hostname_other_than("web", "").await?;
    let address = ctx.client().resolve(&hostname).await?;
    targets(ctx, "web", &instances(&[1, 2, 3]), &[]).await?;
    let mut probing = probe(address)?;
    probing.wait_answered(100).await?;
    harm::crash_node(ctx.lab(), "n3")?;
    ctx.step("n3 crashed");
    targets(ctx, "web", &instances(&[1, 2]), &instances(&[3])).await?;
    probing.wait_answered(100).await?;
    let report = probing.stop().await?;
    ctx.step(format!(
        "{} of {} probes lost, longest gap {} ms",
        report.lost, report.sent, report.longest_gap_ms
    ));
    ctx.measured_ms("instance-dies-gap", report.longest_gap());
    harm::boot_node(ctx.lab(), "n3")?;
    ctx.lab().nodes_ready(PATIENCE).await?;
    targets(ctx, "web", &instances(&[1, 2, 3]), &[]).await?;
    ctx.delete_service("web").await?;
    account.is_as(&before).await?;
    ctx.calls_are_within_the_policy().await
}

/// What can't be changed in place is made beside, and the operator dies meanwhile.
pub(super) async fn replaced(ctx: &mut Context) -> Result<()> {
    let account = ctx.account()?;
    let before = account.resources().await?;
    ctx.deploy_echo("web", 3).await?;
    shop(ctx, "web").create().await?;
    let mut hostname = ctx.hostname_other_than("web", "").await?;
    targets(ctx, "web", &instances(&[1, 2, 3]), &[]).await?;
    let name = "service.beta.kubernetes.io/aws-load-balancer-name";
    for (annotation, value, dies) in [
        (SCHEME, "internet-facing", false),
        (name, "shop-public", false),
        (SCHEME, "internal", true),
    ] {
        let address = ctx.client().resolve(&hostname).await?;
        let mut old = probe(address)?;
        old.wait_answered(100).await?;
        let mut change = json!({annotation: value});
        if dies {
            // A name that was given is taken as long as the old one is there.
            change[name] = json!("shop-internal");
        }
        ctx.change_service("web", json!({"metadata": {"annotations": change}}))
            .await?;
        if dies {
            ctx.condition("web", "True", "Replacing").await?;
            let leader = ctx.leader().await?;
            ctx.signal(&leader, "operator", Signal::SIGKILL)?;
            ctx.step(format!("{leader} killed while AWS makes the new one"));
        }
        let next = ctx.hostname_other_than("web", &hostname).await?;
        let mut new = probe(ctx.client().resolve(&next).await?)?;
        new.wait_answered(100).await?;
        // Those who know the old name are served for as long as was promised.
        old.wait_answered(300).await?;
        nothing_lost(ctx, old, "by the old name").await?;
        wait::until("the old load balancer to be gone", || async {
            let left = account
                .tagged("loadBalancer", &uid(ctx, "web").await?)
                .await?;
            ensure!(left.len() == 1, "there are {left:?}");
            Ok(())
        })
        .await?;
        nothing_lost(ctx, new, "by the new name").await?;
        ctx.step(format!("{annotation}={value}: {hostname} became {next}"));
        hostname = next;
    }
    ctx.delete_service("web").await?;
    account.is_as(&before).await?;
    ctx.calls_are_within_the_policy().await
}

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
        .annotate(
            "service.beta.kubernetes.io/aws-load-balancer-type",
            "external",
        )
        .annotate(
            "service.beta.kubernetes.io/aws-load-balancer-nlb-target-type",
            "instance",
        )
        .annotate(SCHEME, "internal")
        .create()
        .await?;
    let theirs = json!({"metadata": {"finalizers": ["service.k8s.aws/resources"]}});
    ctx.change_service("web", theirs).await?;
    let hostname = as_the_controller(ctx, "web").await?;
    let address = ctx.client().resolve(&hostname).await?;
    ctx.client().curl_name(&hostname, 80).await?;
    let mut probing = probe(address)?;
    probing.wait_answered(100).await?;

    ctx.scale_operator(2).await?;
    ctx.condition("web", "True", "Provisioned").await?;
    let now = ctx.hostname_other_than("web", "").await?;
    ensure!(now == hostname, "the hostname was {hostname}, and is {now}");
    targets(ctx, "web", &instances(&[1, 2, 3]), &[]).await?;
    probing.wait_answered(500).await?;
    let service_uid = uid(ctx, "web").await?;
    let balancers = account.tagged("loadBalancer", &service_uid).await?;
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

/// Makes for a Service of ports 80 and 9000 what the AWS Load Balancer Controller makes,
/// with its names and tags and writes the hostname into the status; returns it.
async fn as_the_controller(ctx: &Context, name: &str) -> Result<String> {
    let account = ctx.account()?;
    let service = ctx.service(name).await?;
    let stack = format!("{}/{name}", ctx.namespace());
    let tags = |prefix: &str, key: &str, resource: &str| -> Vec<(String, String)> {
        [
            ("elbv2.k8s.aws/cluster", CLUSTER),
            ("service.k8s.aws/stack", stack.as_str()),
            ("service.k8s.aws/resource", resource),
        ]
        .iter()
        .zip(1..)
        .flat_map(|((tag, value), i)| {
            [
                (format!("{prefix}.{i}.{key}"), (*tag).to_owned()),
                (format!("{prefix}.{i}.Value"), (*value).to_owned()),
            ]
        })
        .collect()
    };
    let with = |own: &[(&str, &str)], tags: Vec<(String, String)>| {
        let mut all: Vec<(String, String)> = own
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        all.extend(tags);
        all
    };
    let first = |xml: &str, element: &str| {
        let found = texts(xml, element).into_iter().next();
        found.with_context(|| format!("no {element} in {xml}"))
    };
    let call = async |service: &str, action: &str, parameters: Vec<(String, String)>| {
        let parameters: Vec<(&str, &str)> = parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        match service {
            "ec2" => account.ec2(action, &parameters).await,
            _ => account.elb(action, &parameters).await,
        }
    };

    let mut group = tags("TagSpecification.1.Tag", "Key", "ManagedLBSecurityGroup");
    group.push((
        "TagSpecification.1.ResourceType".into(),
        "security-group".into(),
    ));
    let own = [
        ("GroupName", "k8s-shop-web-0123456789"),
        (
            "GroupDescription",
            "[k8s] Managed SecurityGroup for LoadBalancer",
        ),
        ("VpcId", VPC),
    ];
    let group = first(
        &call("ec2", "CreateSecurityGroup", with(&own, group)).await?,
        "groupId",
    )?;
    for port in ["80", "9000"] {
        let rule = [
            ("GroupId", group.as_str()),
            ("IpPermissions.1.IpProtocol", "tcp"),
            ("IpPermissions.1.FromPort", port),
            ("IpPermissions.1.ToPort", port),
            ("IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"),
        ];
        account.ec2("AuthorizeSecurityGroupIngress", &rule).await?;
    }
    let own = [
        ("Name", "k8s-shop-web-abcdef0123"),
        ("Type", "network"),
        ("Scheme", "internal"),
        ("IpAddressType", "ipv4"),
        ("Subnets.member.1", "subnet-private-a"),
        ("Subnets.member.2", "subnet-private-b"),
        ("SecurityGroups.member.1", group.as_str()),
    ];
    let made = call(
        "elb",
        "CreateLoadBalancer",
        with(&own, tags("Tags.member", "Key", "LoadBalancer")),
    )
    .await?;
    let (arn, hostname) = (first(&made, "LoadBalancerArn")?, first(&made, "DNSName")?);
    let ports = service
        .spec
        .and_then(|spec| spec.ports)
        .context("it has ports")?;
    for port in ports {
        let node_port = port.node_port.context("a node port")?.to_string();
        let port = port.port.to_string();
        let group_name = format!("k8s-shop-web-{port:0>10}");
        let own = [
            ("Name", group_name.as_str()),
            ("Protocol", "TCP"),
            ("Port", node_port.as_str()),
            ("VpcId", VPC),
            ("TargetType", "instance"),
            ("HealthCheckProtocol", "TCP"),
            ("HealthCheckPort", "traffic-port"),
            ("HealthCheckIntervalSeconds", "10"),
        ];
        let own_tags = tags("Tags.member", "Key", &format!("{stack}:{port}"));
        let made = call("elb", "CreateTargetGroup", with(&own, own_tags)).await?;
        let target_group = first(&made, "TargetGroupArn")?;
        // Five minutes by default, which nobody has here.
        let own = [
            ("TargetGroupArn", target_group.as_str()),
            (
                "Attributes.member.1.Key",
                "deregistration_delay.timeout_seconds",
            ),
            ("Attributes.member.1.Value", "5"),
        ];
        account.elb("ModifyTargetGroupAttributes", &own).await?;
        let ids = instances(&[1, 2, 3]);
        let mut own = vec![("TargetGroupArn".to_owned(), target_group.clone())];
        for (id, i) in ids.iter().zip(1..) {
            own.push((format!("Targets.member.{i}.Id"), id.clone()));
            own.push((format!("Targets.member.{i}.Port"), node_port.clone()));
        }
        call("elb", "RegisterTargets", own).await?;
        let own = [
            ("LoadBalancerArn", arn.as_str()),
            ("Protocol", "TCP"),
            ("Port", port.as_str()),
            ("DefaultActions.member.1.Type", "forward"),
            (
                "DefaultActions.member.1.TargetGroupArn",
                target_group.as_str(),
            ),
        ];
        call(
            "elb",
            "CreateListener",
            with(&own, tags("Tags.member", "Key", &port)),
        )
        .await?;
    }
    ctx.step(format!("made as the controller makes it: {hostname}"));
    let status = json!({"status": {"loadBalancer": {"ingress": [{"hostname": hostname}]}}});
    ctx.kubectl(&[
        "patch",
        "service",
        name,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &status.to_string(),
    ])
    .await?;
    Ok(hostname)
}

/// A Service deleted while the operator is down, a dozen at once in a throttled account,
/// a quota that is reached, describes that lag.
pub(super) async fn account(ctx: &mut Context) -> Result<()> {
    use hyper::Method;

    let account = ctx.account()?;
    let before = account.resources().await?;
    ctx.deploy_echo("web", 2).await?;
    shop(ctx, "web").create().await?;
    ctx.condition("web", "True", "Provisioned").await?;
    ctx.scale_operator(0).await?;
    ctx.kubectl(&["delete", "service", "web", "--wait=false"])
        .await?;
    ctx.scale_operator(2).await?;
    ctx.service_is_gone("web").await?;
    account.is_as(&before).await?;
    ctx.step("deleted while the operator was down: nothing is left");

    account
        .admin(Method::PUT, "quotas", r#"{"loadBalancers": 0}"#)
        .await?;
    shop(ctx, "web").create().await?;
    let message = ctx.condition("web", "False", "QuotaReached").await?;
    ctx.step(format!("quota: {message}"));
    account.admin(Method::PUT, "quotas", "{}").await?;
    ctx.condition("web", "True", "Provisioned").await?;
    ctx.delete_service("web").await?;

    account
        .admin(
            Method::PUT,
            "lag",
            r#"{"elbv2Millis": 4000, "ec2Millis": 4000}"#,
        )
        .await?;
    account.admin(Method::PUT, "throttling", "").await?;
    let names: Vec<String> = (0..12).map(|i| format!("s-{i}")).collect();
    let begin = std::time::Instant::now();
    for name in &names {
        shop(ctx, name).in_front_of("web").create().await?;
    }
    for name in &names {
        ctx.condition(name, "True", "Provisioned").await?;
        let hostname = ctx.hostname_other_than(name, "").await?;
        ctx.client().curl_name(&hostname, 80).await?;
    }
    ctx.measured_since("twelve-throttled", begin);
    let made = account.resources().await?;
    let balancers = made.iter().filter(|is| is.kind == "loadBalancer").count();
    ensure!(
        balancers == names.len(),
        "{balancers} load balancers for {}",
        names.len()
    );
    let list: Vec<&str> = names.iter().map(String::as_str).collect();
    ctx.kubectl(&[&["delete", "service"], &list[..]].concat())
        .await?;
    account.admin(Method::DELETE, "throttling", "").await?;
    account.admin(Method::PUT, "lag", "{}").await?;
    account.is_as(&before).await?;
    ctx.step("a dozen in a throttled account whose describes lag: made once, gone");
    ctx.calls_are_within_the_policy().await
}
