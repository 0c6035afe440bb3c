//! What the operator costs, and how fast it is, with thousands of Services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::scenario::crowd::per_second;
use crate::scenario::services::ingress_addresses;
use crate::scenario::traffic::Write;
use crate::scenario::{Context, herald};

/// Nodes that are objects and nothing else.
const MADE_UP_NODES: u32 = 100;
/// How long nothing is to be written.
const STEADY: Duration = Duration::from_mins(3);

/// 2,000 Services wait when the operator starts.
pub(super) async fn cold_start(ctx: &mut Context) -> Result<()> {
    waiting(ctx, 2_000, 2_000).await?;
    ctx.crowd_leaves().await
}

/// 10,000 Services, and what goes on among them.
pub(super) async fn ten_thousand(ctx: &mut Context) -> Result<()> {
    const COUNT: u32 = 10_000;
    let before = waiting(ctx, COUNT, 2_000).await?;
    let before = restart(ctx, COUNT, &before).await?;
    one_among_many(ctx).await?;
    leader_killed(ctx, &before).await?;
    steady(ctx).await?;
    ctx.crowd_leaves().await
}

type Served = BTreeMap<String, (IpAddr, String)>;

/// `count` Services wait when the operator starts; beside it, what the same API
/// server takes from a client that does nothing else, measured with `bare` of them.
async fn waiting(ctx: &mut Context, count: u32, bare: u32) -> Result<Served> {
    ctx.crowd_pool().await?;
    ctx.scale_operator(0).await?;
    let took = ctx.crowd("svc", count).await?;
    let created = per_second(usize::try_from(count)?, took);
    ctx.step(format!("{count} Services created, {created} a second"));
    let bare = ctx.bare_pace(bare).await?;
    ctx.step(format!("a bare client patches {bare} statuses a second"));

    let mark = ctx.audit_mark()?;
    let begin = Instant::now();
    ctx.scale_operator(2).await?;
    let served = ctx.crowd_served(count).await?;
    ctx.measured_ms(&format!("{count}/all-addresses"), begin.elapsed());
    let writes = of(&ctx.writes_since(mark)?, "services/status");
    ensure!(
        writes.len() == usize::try_from(count)?,
        "{} writes of status for {count} Services",
        writes.len()
    );
    let (first, last) = (writes[0].answered, writes[writes.len() - 1].answered);
    let took = Duration::try_from(last.duration_since(first))?;
    let rate = per_second(writes.len(), took);
    ctx.figure(&format!("{count}/rate"), rate, "Services/s");
    ctx.figure(&format!("{count}/bare-client"), bare, "patches/s");
    ctx.figure(
        &format!("{count}/ratio"),
        (rate / bare * 100.0).round(),
        "%",
    );
    let memory = ctx.memory_mib(herald::OPERATOR, "operator").await?;
    ctx.figure(&format!("{count}/memory"), memory, "MiB");
    ctx.step(format!(
        "each has an address of its own, {rate} a second, with one write each"
    ));
    Ok(served)
}

/// The operator starts among Services that all have what they should.
async fn restart(ctx: &mut Context, count: u32, before: &Served) -> Result<Served> {
    ctx.scale_operator(0).await?;
    ctx.crowd_one("late", json!({})).await?;
    let mark = ctx.audit_mark()?;
    let begin = Instant::now();
    ctx.scale_operator(2).await?;
    ctx.addresses("late").await?;
    ctx.measured_since("restart-to-work", begin);
    let mut after = ctx.crowd_served(count + 1).await?;
    // Whatever it might still write.
    sleep(Duration::from_secs(2)).await;
    let writes = of(&ctx.writes_since(mark)?, "services/status");
    let others = writes.iter().filter(|write| write.name != "late").count();
    ctx.figure(
        "restart-writes",
        f64::from(u32::try_from(others)?),
        "writes",
    );
    ensure!(others == 0, "the restart wrote to {others} Services");
    let late = after.remove("late");
    ensure!(after == *before, "the restart changed Services");
    after.extend(late.map(|late| ("late".to_owned(), late)));
    let memory = ctx.memory_mib(herald::OPERATOR, "operator").await?;
    ctx.figure("restart-memory", memory, "MiB");
    Ok(after)
}

/// From the API server's answer to a creation until the address is seen in status.
async fn one_among_many(ctx: &mut Context) -> Result<()> {
    const ROUNDS: u32 = 200;
    let services: Api<Service> = ctx.api();
    let config = watcher::Config::default().labels("lab.herald.dev/one");
    let mut seen = Box::pin(watcher(services.clone(), config).default_backoff());
    let mut took = Vec::new();
    for i in 0..ROUNDS {
        let name = format!("one-{i}");
        ctx.crowd_one(&name, json!({"lab.herald.dev/one": ""}))
            .await?;
        let created = Instant::now();
        timeout(Duration::from_secs(30), async {
            while let Some(event) = seen.next().await {
                if let Ok(watcher::Event::Apply(service) | watcher::Event::InitApply(service)) =
                    event
                    && service.name_any() == name
                    && !ingress_addresses(&service).is_empty()
                {
                    break;
                }
            }
        })
        .await
        .with_context(|| format!("Service {name} got no address"))?;
        took.push(created.elapsed());
    }
    took.sort();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    for (name, percent) in [("create-to-address-p50", 50), ("create-to-address-p99", 99)] {
        let ms = (at(percent).as_secs_f64() * 10_000.0).round() / 10.0;
        ctx.figure(name, ms, "ms");
    }
    Ok(())
}

/// The leader dies with its pod, and a Service is made at that moment.
async fn leader_killed(ctx: &mut Context, before: &Served) -> Result<()> {
    let leader = ctx.leader().await?;
    let mark = ctx.audit_mark()?;
    ctx.signal(&leader, "operator", Signal::SIGKILL)?;
    let killed = Instant::now();
    ctx.kill_herald_pod(&leader).await?;
    ctx.crowd_one("orphan", json!({})).await?;
    ctx.addresses("orphan").await?;
    ctx.measured_since("leader-killed", killed);
    ctx.operator_is_well().await?;
    let writes = of(&ctx.writes_since(mark)?, "services/status");
    ensure!(
        writes.len() == 1 && writes[0].name == "orphan",
        "the next leader wrote {} statuses",
        writes.len()
    );
    let services: Api<Service> = ctx.api();
    for service in services.list(&ListParams::default()).await? {
        if let Some((address, version)) = before.get(&service.name_any()) {
            ensure!(
                ingress_addresses(&service) == [*address]
                    && service.resource_version().as_ref() == Some(version),
                "Service {} was changed",
                service.name_any()
            );
        }
    }
    Ok(())
}

/// Nothing that matters happens, however much happens: nothing is written.
async fn steady(ctx: &mut Context) -> Result<()> {
    let nodes: Api<Node> = Api::all(ctx.kube());
    for i in 0..MADE_UP_NODES {
        let node = serde_json::from_value(json!({"metadata": {"name": format!("made-up-{i}")}}))?;
        nodes.create(&PostParams::default(), &node).await?;
    }
    // The node controller has its say about them first.
    sleep(Duration::from_secs(10)).await;
    let mark = ctx.audit_mark()?;
    let begin = Instant::now();
    while begin.elapsed() < STEADY {
        for i in 0..MADE_UP_NODES {
            ready(&nodes, &format!("made-up-{i}"), true).await?;
        }
    }
    let written = of_account(&ctx.writes_since(mark)?, herald::OPERATOR);
    ctx.figure(
        "steady-writes",
        f64::from(u32::try_from(written.len())?),
        "writes",
    );
    ensure!(written.is_empty(), "written in steady state: {written:?}");

    let mark = ctx.audit_mark()?;
    for i in 0..100 {
        ready(&nodes, "made-up-0", i % 2 == 0).await?;
    }
    endpoints_change(ctx).await?;
    sleep(Duration::from_secs(2)).await;
    let written = of_account(&ctx.writes_since(mark)?, herald::OPERATOR);
    ctx.figure(
        "flap-writes",
        f64::from(u32::try_from(written.len())?),
        "writes",
    );
    ensure!(written.is_empty(), "written for no change: {written:?}");
    let left: Vec<Result<_, kube::Error>> = stream::iter(0..MADE_UP_NODES)
        .map(|i| {
            let nodes = nodes.clone();
            async move {
                nodes
                    .delete(&format!("made-up-{i}"), &DeleteParams::default())
                    .await
            }
        })
        .buffer_unordered(8)
        .collect()
        .await;
    left.into_iter().try_for_each(|gone| gone.map(drop))?;
    Ok(())
}

/// A hundred slices of a hundred endpoints, each changed once.
async fn endpoints_change(ctx: &Context) -> Result<()> {
    let slices: Api<EndpointSlice> = ctx.api();
    stream::iter(0..100u8)
        .map(|i| {
            let slices = slices.clone();
            async move {
                for ready in [true, false] {
                    let endpoints: Vec<_> = (0..100u8)
                        .map(|j| {
                            json!({
                                "addresses": [format!("10.41.{i}.{j}")],
                                "conditions": {"ready": ready},
                            })
                        })
                        .collect();
                    let slice = json!({
                        "apiVersion": "discovery.k8s.io/v1",
                        "kind": "EndpointSlice",
                        "metadata": {
                            "name": format!("svc-{i}"),
                            "labels": {"kubernetes.io/service-name": format!("svc-{i}")},
                        },
                        "addressType": "IPv4",
                        "endpoints": endpoints,
                        "ports": [{"port": 80, "protocol": "TCP"}],
                    });
                    slices
                        .patch(
                            &format!("svc-{i}"),
                            &PatchParams::apply("herald-lab"),
                            &Patch::Apply(&slice),
                        )
                        .await?;
                }
                Ok::<_, kube::Error>(())
            }
        })
        .buffer_unordered(8)
        .try_for_each(|()| async { Ok(()) })
        .await
        .context("change endpoints")
}

async fn ready(nodes: &Api<Node>, name: &str, ready: bool) -> Result<()> {
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let patch = json!({"status": {"conditions": [{
        "type": "Ready", "status": if ready { "True" } else { "False" },
        "reason": "Lab", "message": "", "lastHeartbeatTime": now,
    }]}});
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .with_context(|| format!("patch node {name}"))?;
    Ok(())
}

fn of(writes: &[Write], resource: &str) -> Vec<Write> {
    let of_operator = of_account(writes, herald::OPERATOR);
    of_operator
        .into_iter()
        .filter(|write| write.resource == resource)
        .collect()
}

fn of_account(writes: &[Write], account: &str) -> Vec<Write> {
    writes
        .iter()
        // Events tell what was done before; pools their use, once a second.
        .filter(|write| write.account == account && write.resource != "events")
        .cloned()
        .collect()
}
