//! From a Service to a router's table: how soon, and with thousands of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::{join, join_all};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tokio::time::sleep;

use super::super::bgp_fabric as fabric;
use super::super::bgp_matrix::routers;
use super::super::route_monitor::RouteMonitor;
use crate::plan;
use crate::router::Router;
use crate::scenario::{Context, Family, herald, wait};

/// Services that are made one by one, unless told.
const ROUNDS: u32 = 50;
/// Between two of them, so that none is gathered with the one before.
const APART: Duration = Duration::from_millis(300);
/// The crowd.
const COUNT: u32 = 5_000;
/// How long the whole crowd may take to be in every table.
const LONG: Duration = Duration::from_mins(3);
/// How often a router goes and comes among the crowd.
const FLAPS: u32 = 5;

/// From the request that makes a Service to its route in the router's kernel: the first
/// path, and those by all nodes. Once with pods behind a selector, where the cluster
/// makes the `EndpointSlice`, and once with one that is there before.
pub(in crate::scenarios) async fn bgp_created(ctx: &mut Context) -> Result<()> {
    let routers = peered(ctx).await?;
    fabric::pool(ctx).await?;
    fabric::advertise(ctx).await?;
    ctx.deploy_echo("web", 2).await?;
    let rounds = ctx.effort().rounds(ROUNDS);
    let mut next = plan::ROUTED_POOL_V4.to_bits();
    for (what, own_slice) in [("selector", false), ("slice-first", true)] {
        if !ctx.effort().wants(what) {
            continue;
        }
        let mut taken: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut monitors = Vec::new();
        for router in &routers {
            monitors.push(RouteMonitor::start(router).await?);
        }
        for i in 0..rounds {
            next += 1;
            let name = format!("{what}-{i}");
            let (answered, times) = one(ctx, &name, next.into(), own_slice, &mut monitors).await?;
            let answers = taken.entry(format!("{what}/api-server/answered"));
            answers.or_default().push(ms(answered));
            for (router, [first, all]) in routers.iter().zip(times) {
                let software = router.software;
                for (part, time) in [("first", first), ("all", all)] {
                    let key = format!("{what}/{software}/{part}");
                    taken.entry(key).or_default().push(ms(time));
                }
            }
            sleep(APART).await;
        }
        for (key, times) in &taken {
            ctx.spread(key, times, "ms");
        }
    }
    for router in &routers {
        router.stop().await?;
    }
    fabric::clean(ctx, &[]).await
}

/// Makes a Service with this address. How long it took until the API server had answered,
/// and until each router had a path, and paths by all nodes.
async fn one(
    ctx: &Context,
    name: &str,
    address: Ipv4Addr,
    own_slice: bool,
    monitors: &mut [RouteMonitor],
) -> Result<(Duration, Vec<[Duration; 2]>)> {
    let mut service = ctx
        .expose(name)
        .only(Family::V4)
        .annotate("herald.dev/loadBalancerIPs", address.to_string());
    if own_slice {
        let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
        // For the documentation (RFC 5737): nobody sends anything there.
        ctx.endpoints_by_hand(name, &[Ipv4Addr::new(192, 0, 2, 1).into()], ports)
            .await?;
        service = service.without_selector();
    } else {
        service = service.in_front_of("web");
    }
    let nodes = usize::from(ctx.node_count());
    let watches = monitors.iter_mut().map(|monitor| async move {
        let first = monitor.reaches(address.into()).await?;
        let all = match first.hops {
            hops if hops == nodes => first.at,
            _ => monitor.has(address.into(), nodes).await?,
        };
        anyhow::Ok([first.at, all])
    });
    let create = async {
        let begin = service.create().await?;
        anyhow::Ok((begin, begin.elapsed()))
    };
    let (created, seen) = join(create, join_all(watches)).await;
    let (begin, answered) = created?;
    let since = |at: Instant| at.saturating_duration_since(begin);
    let seen: Result<Vec<_>> = seen.into_iter().map(|at| Ok(at?.map(since))).collect();
    Ok((answered, seen?))
}

/// 5,000 Services in three routers' tables; one more and one less while one of the
/// routers goes and comes.
pub(in crate::scenarios) async fn bgp_5000(ctx: &mut Context) -> Result<()> {
    let all = peered(ctx).await?;
    let Some((flapping, steady)) = all.split_last() else {
        bail!("no router's software is there");
    };
    ensure!(!steady.is_empty(), "two routers are needed");
    ctx.crowd_pool().await?;
    fabric::advertise(ctx).await?;
    let before = ctx.memory_mib(herald::SPEAKER, "speaker").await?;
    ctx.crowd_endpoints("svc", COUNT).await?;
    let begin = Instant::now();
    let created = ctx.crowd("svc", COUNT).await?;
    ctx.crowd_served(COUNT).await?;
    for router in &all {
        has_all(ctx, router).await?;
    }
    ctx.figure("created", seconds(created), "s");
    ctx.figure("in-all-tables", seconds(begin.elapsed()), "s");
    let after = ctx.memory_mib(herald::SPEAKER, "speaker").await?;
    ctx.figure("speaker/before", before, "MiB");
    ctx.figure("speaker/after", after, "MiB");
    ctx.step(format!("{COUNT} Services are in the tables of all routers"));

    let mut since = Vec::new();
    for router in steady {
        since.push(fabric::since(ctx, router).await?);
    }
    let rounds = ctx.effort().rounds(ROUNDS);
    let (taken, flaps) = join(among(ctx, steady, rounds), flap(ctx, flapping)).await;
    flaps?;
    for (what, times) in &taken? {
        ctx.spread(what, times, "ms");
    }
    for (router, since) in steady.iter().zip(&since) {
        ensure!(
            fabric::since(ctx, router).await? == *since,
            "the session with {router} ended when {flapping} did"
        );
        has_all(ctx, router).await?;
    }
    has_all(ctx, flapping).await?;
    let end = ctx.memory_mib(herald::SPEAKER, "speaker").await?;
    ctx.figure("speaker/end", end, "MiB");
    ctx.step(format!(
        "{flapping} went and came {FLAPS} times, and no other noticed"
    ));
    for router in &all {
        router.stop().await?;
    }
    ctx.crowd_leaves().await?;
    fabric::clean(ctx, &[]).await
}

/// One Service more, and one less: when each router's kernel has it, and not any more.
async fn among(
    ctx: &Context,
    routers: &[Router],
    rounds: u32,
) -> Result<BTreeMap<String, Vec<f64>>> {
    let services: Api<Service> = ctx.api();
    let mut taken: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut monitors = Vec::new();
    for router in routers {
        monitors.push(RouteMonitor::start(router).await?);
    }
    ctx.crowd_endpoints("more", rounds).await?;
    let mut note = |what: &str, router: &Router, time: Duration| {
        let key = format!("{what}/{}", router.software);
        taken.entry(key).or_default().push(ms(time));
    };
    for i in 0..rounds {
        let name = format!("more-{i}");
        let created = Instant::now();
        ctx.crowd_one(&name, json!({})).await?;
        let address = ctx.address(&name, Family::V4).await?;
        let come = monitors.iter_mut().map(|monitor| monitor.reaches(address));
        for (router, at) in routers.iter().zip(join_all(come).await) {
            note(
                "one-more",
                router,
                at?.at.saturating_duration_since(created),
            );
        }
        sleep(APART).await;
        let deleted = Instant::now();
        let gone = monitors.iter_mut().map(|monitor| monitor.has(address, 0));
        let (answer, gone) = join(
            services.delete(&name, &DeleteParams::default()),
            join_all(gone),
        )
        .await;
        answer.with_context(|| format!("delete Service {name}"))?;
        for (router, at) in routers.iter().zip(gone) {
            note("one-less", router, at?.saturating_duration_since(deleted));
        }
        sleep(APART).await;
    }
    Ok(taken)
}

/// A router that is killed, and started again, and gets all it had.
async fn flap(ctx: &Context, router: &Router) -> Result<()> {
    for _ in 0..FLAPS {
        router.stop().await?;
        sleep(Duration::from_secs(1)).await;
        fabric::start(ctx, router, |_| {}).await?;
        wait::until_for(LONG, &format!("{router} to have sessions"), || async {
            let sessions = router.sessions().await?;
            let up = sessions.iter().filter(|session| session.established);
            let up = up.count();
            ensure!(up == usize::from(ctx.node_count()), "{up} are up");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Waits until a router has the crowd by every node.
async fn has_all(ctx: &Context, router: &Router) -> Result<()> {
    let wanted = usize::try_from(COUNT)? * usize::from(ctx.node_count());
    let what = format!("{router} to have {wanted} paths");
    wait::until_for(LONG, &what, || async {
        let routes = router.routes().await?;
        ensure!(routes.len() == wanted, "it has {}", routes.len());
        Ok(())
    })
    .await
}

/// The lab's routers with sessions with every node.
async fn peered(ctx: &Context) -> Result<Vec<Router>> {
    let routers = routers(ctx)?;
    for router in &routers {
        fabric::start(ctx, router, |_| {}).await?;
        fabric::peer(ctx, router, json!({"connectTime": "2s"})).await?;
    }
    fabric::told(ctx, routers.len()).await?;
    Ok(routers)
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
