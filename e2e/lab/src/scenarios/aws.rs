//! AWS's load balancers, on the stand-in with its data path.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use anyhow::{Context as _, Result, ensure};
use herald_api::names::{ANNOTATION_DRY_RUN, FINALIZER, LABEL_EXCLUDE_NODE};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::aws::instance;
use crate::faults as harm;
use crate::prober::{Options, Prober, Probing, Target};
use crate::scenario::services::Exposing;
use crate::scenario::wait::PATIENCE;
use crate::scenario::{Context, herald, wait};

pub(super) const SCHEME: &str = "service.beta.kubernetes.io/aws-load-balancer-scheme";
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
pub(super) fn shop<'a>(ctx: &'a Context, name: &str) -> Exposing<'a> {
    let exposing = ctx
        .expose(name)
        .port("http", "TCP", 80, 8080)
        .port("probe", "TCP", 9000, 9000);
    CHECKS.iter().fold(exposing, |exposing, (name, value)| {
        exposing.annotate(name, *value)
    })
}

/// 100 new connections a second to port 9000 of an address.
pub(super) fn probe(address: IpAddr) -> Result<Probing> {
    const RATE: NonZeroU16 = NonZeroU16::new(100).expect("it is not zero");
    let target = Target::tcp(address, 9000);
    Prober::start("c1", &Options::new(target, RATE))
}

/// Ends a probing of which nothing may be lost.
pub(super) async fn nothing_lost(ctx: &Context, probing: Probing, what: &str) -> Result<()> {
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

pub(super) async fn uid(ctx: &Context, name: &str) -> Result<String> {
    let service = ctx.service(name).await?;
    service.metadata.uid.context("a Service has a uid")
}

/// Waits until the target groups of a Service have exactly these healthy targets,
/// and no others but those that drain, and of `unhealthy` those that are.
pub(super) async fn targets(
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

pub(super) fn instances(nodes: &[u8]) -> Vec<String> {
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

/// The operator's memory with many Services, made faster than any account allows.
pub(super) async fn many(ctx: &mut Context) -> Result<()> {
    use hyper::Method;

    let account = ctx.account()?;
    let before = account.resources().await?;
    let quotas = r#"{"loadBalancers": 1000, "securityGroups": 3000}"#;
    account.admin(Method::PUT, "quotas", quotas).await?;
    ctx.operator_flag("--aws-api-rate-percent=100000").await?;
    memory(ctx, "0").await?;
    for (name, more, all) in [("some", 100, 100), ("more", 400, 500)] {
        let begin = std::time::Instant::now();
        for i in 0..more {
            shop(ctx, &format!("{name}-{i}")).create().await?;
        }
        every_one_has_a_hostname(ctx, all).await?;
        ctx.measured_since(&format!("{all}/hostnames"), begin);
        memory(ctx, &all.to_string()).await?;
    }
    ctx.scale_operator(0).await?;
    shop(ctx, "late").create().await?;
    ctx.scale_operator(2).await?;
    every_one_has_a_hostname(ctx, 501).await?;
    memory(ctx, "500-after-restart").await?;
    ctx.crowd_leaves().await?;
    account.is_as(&before).await?;
    account.admin(Method::PUT, "quotas", "{}").await?;
    Ok(())
}

async fn memory(ctx: &mut Context, services: &str) -> Result<()> {
    let mib = ctx.memory_mib(herald::OPERATOR, "operator").await?;
    ctx.figure(&format!("{services}/memory"), mib, "MiB");
    Ok(())
}

async fn every_one_has_a_hostname(ctx: &Context, count: usize) -> Result<()> {
    let limit = std::time::Duration::from_mins(5);
    let what = format!("{count} Services to have a hostname");
    wait::until_for(limit, &what, || async {
        let services: Api<Service> = ctx.api();
        let have = services.list(&ListParams::default()).await?;
        let ready = |service: &&Service| {
            let status = service.status.as_ref();
            let ingress = status
                .and_then(|status| status.load_balancer.as_ref())
                .and_then(|balancer| balancer.ingress.as_ref());
            ingress.is_some_and(|ingress| ingress.iter().any(|one| one.hostname.is_some()))
        };
        let ready = have.iter().filter(ready).count();
        ensure!(ready == count, "{ready} of {count} have one");
        Ok(())
    })
    .await
}
