//! The fake cloud: load balancers outside of the cluster, with a real data
//! path and faults on demand.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use herald_api::names::{CLASS_BARE_METAL, CLASS_FAKE, LABEL_EXCLUDE_NODE};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::faults as harm;
use crate::prober::Target;
use crate::scenario::services::ensure_ip_mode;
use crate::scenario::wait::PATIENCE;
use crate::scenario::{Cloud, Context, wait};

/// A Service of the fake cloud; its addresses once it is provisioned.
async fn provisioned(ctx: &Context, name: &str) -> Result<Vec<IpAddr>> {
    ctx.expose(name).class(CLASS_FAKE).create().await?;
    ctx.condition(name, "True", "Provisioned").await?;
    ensure_ip_mode(&ctx.service(name).await?, "Proxy")?;
    ctx.addresses(name).await
}

async fn uid(ctx: &Context, name: &str) -> Result<String> {
    ctx.service(name)
        .await?
        .metadata
        .uid
        .context("a Service has a uid")
}

/// Waits until the load balancer of a Service sends to exactly these nodes,
/// and all of them are in this health.
async fn targets(ctx: &Context, name: &str, nodes: &[&str], healthy: &[&str]) -> Result<()> {
    let cloud = ctx.cloud()?;
    let uid = uid(ctx, name).await?;
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    wait::until(
        &format!("targets of {name} to be {nodes:?}, healthy {healthy:?}"),
        || async {
            let balancer = cloud.of_service(&uid).await?;
            let all: BTreeSet<String> = balancer.targets.iter().map(|t| t.name.clone()).collect();
            // A node counts as healthy when it is in each of its families.
            let unhealthy: BTreeSet<String> = balancer
                .targets
                .iter()
                .filter(|target| target.health != "healthy")
                .map(|target| target.name.clone())
                .collect();
            let well: BTreeSet<String> = all.difference(&unhealthy).cloned().collect();
            ensure!(
                all == set(nodes) && well == set(healthy),
                "targets {all:?}, healthy {well:?}"
            );
            Ok(())
        },
    )
    .await?;
    ctx.step(format!("{name} has targets {nodes:?}, healthy {healthy:?}"));
    Ok(())
}

/// All nodes, fewer nodes, labelled nodes.
pub(super) async fn path(ctx: &mut Context) -> Result<()> {
    ctx.deploy_echo("web", 3).await?;
    let begin = std::time::Instant::now();
    let addresses = provisioned(ctx, "web").await?;
    ctx.measured_since("create-to-address", begin);
    for &address in &addresses {
        let reply = ctx.client().curl(address).await?;
        ctx.step(format!(
            "curl http://{address}/ answered by {} on {}",
            reply.pod, reply.node
        ));
        ctx.client().reaches(&Target::udp(address, 9000)).await?;
    }
    targets(ctx, "web", &["n1", "n2", "n3"], &["n1", "n2", "n3"]).await?;

    ctx.label_node("n2", LABEL_EXCLUDE_NODE, Some("")).await?;
    targets(ctx, "web", &["n1", "n3"], &["n1", "n3"]).await?;
    ctx.label_node("n2", LABEL_EXCLUDE_NODE, None).await?;
    targets(ctx, "web", &["n1", "n2", "n3"], &["n1", "n2", "n3"]).await?;

    ctx.label_node("n3", "lab.herald.dev/edge", Some(""))
        .await?;
    ctx.operator_flag("--node-selector=lab.herald.dev/edge")
        .await?;
    targets(ctx, "web", &["n3"], &["n3"]).await?;
    for &address in &addresses {
        ctx.client().curl(address).await?;
    }
    ctx.label_node("n1", "lab.herald.dev/edge", Some(""))
        .await?;
    targets(ctx, "web", &["n1", "n3"], &["n1", "n3"]).await?;
    ensure!(
        ctx.addresses_now("web").await? == addresses,
        "the addresses have changed"
    );

    ctx.delete_service("web").await?;
    ctx.cloud()?.is_empty().await
}

/// The cloud's health checks, by Service and by node.
pub(super) async fn health(ctx: &mut Context) -> Result<()> {
    ctx.deploy_echo_on("local", 1, Some("n1")).await?;
    ctx.expose("local")
        .class(CLASS_FAKE)
        .local()
        .create()
        .await?;
    ctx.condition("local", "True", "Provisioned").await?;
    targets(ctx, "local", &["n1", "n2", "n3"], &["n1"]).await?;
    for address in ctx.addresses("local").await? {
        let reply = ctx.client().curl(address).await?;
        ensure!(reply.node == "n1", "answered from {}", reply.node);
    }

    ctx.deploy_echo("web", 3).await?;
    let addresses = provisioned(ctx, "web").await?;
    targets(ctx, "web", &["n1", "n2", "n3"], &["n1", "n2", "n3"]).await?;
    let mut probing = ctx.client().probe(Target::udp(addresses[0], 9000))?;
    probing.wait_answered(100).await?;
    harm::crash_node(ctx.lab(), "n3")?;
    ctx.step("n3 crashed");
    // The operator takes a node out that is not Ready.
    targets(ctx, "web", &["n1", "n2"], &["n1", "n2"]).await?;
    probing.wait_answered(100).await?;
    let report = probing.stop().await?;
    ctx.step(format!(
        "{} of {} probes lost, longest gap {} ms",
        report.lost, report.sent, report.longest_gap_ms
    ));
    ensure!(report.longest_gap() < PATIENCE / 4, "probes did not go on");
    ctx.measured_ms("node-dies-gap", report.longest_gap());

    harm::boot_node(ctx.lab(), "n3")?;
    ctx.lab().nodes_ready(PATIENCE).await?;
    ctx.speakers_are_well().await?;
    targets(ctx, "web", &["n1", "n2", "n3"], &["n1", "n2", "n3"]).await
}

/// Each way in which the cloud can fail a call.
pub(super) async fn faults(ctx: &mut Context) -> Result<()> {
    ctx.deploy_echo("web", 1).await?;
    let cloud = ctx.cloud()?;

    cloud
        .fault(
            "CreateLoadBalancer",
            json!({"kind": "failProvisioning", "message": "no capacity left", "count": 1}),
        )
        .await?;
    ctx.expose("web").class(CLASS_FAKE).create().await?;
    let message = ctx.condition("web", "False", "ProvisioningFailed").await?;
    ctx.step(format!("provisioning fails: {message}"));
    ensure!(
        message.contains("no capacity left"),
        "the cloud's words are missing"
    );
    served_by_one(ctx, &cloud, "web").await?;

    let cases: [(&str, Value, Option<&str>); 4] = [
        ("error", json!({"kind": "error", "count": 2}), None),
        (
            "throttle",
            json!({"kind": "throttle", "retryAfterSeconds": 2}),
            Some("Throttled"),
        ),
        (
            "quota",
            json!({"kind": "error", "status": 403, "code": "QuotaExceeded",
                   "message": "the account may have no more", "count": 2}),
            Some("QuotaExceeded"),
        ),
        ("time-out", json!({"kind": "timeoutAfter"}), None),
    ];
    for (name, fault, reason) in cases {
        cloud.fault("CreateLoadBalancer", fault).await?;
        ctx.expose(name)
            .in_front_of("web")
            .class(CLASS_FAKE)
            .create()
            .await?;
        if let Some(reason) = reason {
            let message = ctx.condition(name, "False", reason).await?;
            ctx.step(format!("{name}: {message}"));
        }
        served_by_one(ctx, &cloud, name).await?;
    }

    // Changes and deletions fail too, and are done in the end.
    cloud
        .fault("SetListeners", json!({"kind": "timeoutAfter"}))
        .await?;
    ctx.change_service(
        "web",
        json!({"spec": {"ports": [
            {"name": "http", "protocol": "TCP", "port": 8088, "targetPort": 8080},
        ]}}),
    )
    .await?;
    for address in ctx.addresses("web").await? {
        ctx.client().curl_port(address, 8088).await?;
    }
    for fault in [
        json!({"kind": "error", "count": 2}),
        json!({"kind": "timeoutAfter"}),
    ] {
        cloud.fault("DeleteLoadBalancer", fault).await?;
    }
    for name in ["web", "error"] {
        ctx.delete_service(name).await?;
    }
    cloud.faults_were_hit().await?;
    let left = cloud.load_balancers().await?.len();
    ensure!(left == 3, "{left} load balancers for 3 Services");
    Ok(())
}

/// The Service is served, by exactly one load balancer.
async fn served_by_one(ctx: &Context, cloud: &Cloud, name: &str) -> Result<()> {
    ctx.condition(name, "True", "Provisioned").await?;
    for address in ctx.addresses(name).await? {
        ctx.client().curl(address).await?;
    }
    let balancer = cloud.of_service(&uid(ctx, name).await?).await?;
    ctx.step(format!("{name} is served by {} alone", balancer.id));
    Ok(())
}

/// The operator dies in the midst of every call that changes something.
pub(super) async fn operator_killed(ctx: &mut Context) -> Result<()> {
    ctx.deploy_echo("web", 2).await?;
    // A successor need not wait for long: this is about what it finds.
    ctx.operator_flags(&[
        "--leader-elect-lease-duration=4s",
        "--leader-elect-renew-deadline=3s",
        "--leader-elect-retry-period=1s",
    ])
    .await?;
    let cloud = ctx.cloud()?;

    for phase in ["before", "after"] {
        dies_in(ctx, &cloud, "CreateLoadBalancer", phase, async |ctx| {
            ctx.expose("web").class(CLASS_FAKE).create().await.map(drop)
        })
        .await?;
        served_by_one(ctx, &cloud, "web").await?;
        let id = cloud.of_service(&uid(ctx, "web").await?).await?.id;

        dies_in(ctx, &cloud, "SetListeners", phase, async |ctx| {
            ctx.change_service(
                "web",
                json!({"spec": {"ports": [
                    {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080},
                    {"name": "other", "protocol": "TCP", "port": 8088, "targetPort": 8080},
                ]}}),
            )
            .await
        })
        .await?;
        for address in ctx.addresses("web").await? {
            ctx.client().curl_port(address, 8088).await?;
        }

        dies_in(ctx, &cloud, "SetTargets", phase, async |ctx| {
            ctx.label_node("n3", LABEL_EXCLUDE_NODE, Some("")).await
        })
        .await?;
        targets(ctx, "web", &["n1", "n2"], &["n1", "n2"]).await?;
        ctx.label_node("n3", LABEL_EXCLUDE_NODE, None).await?;
        targets(ctx, "web", &["n1", "n2", "n3"], &["n1", "n2", "n3"]).await?;

        dies_in(ctx, &cloud, "SetHealthCheck", phase, async |ctx| {
            ctx.change_service("web", json!({"spec": {"externalTrafficPolicy": "Local"}}))
                .await
        })
        .await?;
        for address in ctx.addresses("web").await? {
            ctx.client().curl(address).await?;
        }

        if ctx.ip_families().len() > 1 {
            dies_in(ctx, &cloud, "SetFamilies", phase, async |ctx| {
                ctx.change_service("web", json!({"spec": {"ipFamilyPolicy": "SingleStack"}}))
                    .await
            })
            .await?;
            let [address] = ctx.addresses("web").await?[..] else {
                bail!("a Service of one family has not one address");
            };
            ctx.client().curl(address).await?;
        }

        let balancers = cloud.load_balancers().await?;
        ensure!(
            balancers.len() == 1 && balancers[0].id == id,
            "one load balancer, {id}, should have lived through all of it; there are {balancers:?}"
        );

        dies_in(ctx, &cloud, "DeleteLoadBalancer", phase, async |ctx| {
            ctx.kubectl(&["delete", "service", "web", "--wait=false"])
                .await
                .map(drop)
        })
        .await?;
        ctx.service_is_gone("web").await?;
        cloud.is_empty().await?;
    }
    Ok(())
}

/// Does something that makes the operator call the cloud, and kills the one
/// that leads while the call hangs.
async fn dies_in(
    ctx: &Context,
    cloud: &Cloud,
    operation: &str,
    phase: &str,
    cause: impl AsyncFnOnce(&Context) -> Result<()>,
) -> Result<()> {
    cloud
        .fault(operation, json!({"kind": "hold", "phase": phase}))
        .await?;
    cause(ctx).await?;
    cloud
        .holds_a_call()
        .await
        .with_context(|| format!("{operation} {phase} its work"))?;
    let leader = ctx.leader().await?;
    ctx.signal(&leader, "operator", Signal::SIGKILL)?;
    cloud.holds_no_call().await?;
    ctx.step(format!("{leader} killed {phase} the work of {operation}"));
    Ok(())
}

/// loadBalancerClass can't be changed: the Service is made anew.
pub(super) async fn class_change(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 2).await?;
    ctx.deploy_echo("web", 2).await?;
    let cloud = ctx.cloud()?;
    for _ in 0..2 {
        let addresses = provisioned(ctx, "web").await?;
        for address in addresses {
            ctx.client().curl(address).await?;
        }
        let own = uid(ctx, "web").await?;
        cloud.of_service(&own).await?;
        ctx.delete_service("web").await?;
        ensure!(
            cloud.of_service(&own).await.is_err(),
            "the load balancer outlives its Service"
        );

        ctx.expose("web").class(CLASS_BARE_METAL).create().await?;
        for address in ctx.addresses("web").await? {
            ctx.client().curl(address).await?;
            ctx.client().owner(address).await?;
        }
        ctx.condition("web", "True", "AddressAssigned").await?;
        ctx.delete_service("web").await?;
        ctx.step("from the fake cloud to bare metal");
    }
    cloud.is_empty().await
}
