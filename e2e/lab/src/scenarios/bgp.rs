//! A Service in the tables of routers that are not ours.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use herald_api::names::LABEL_EXCLUDE_NODE;
use kube::ResourceExt as _;
use nix::sys::signal::Signal;
use serde_json::json;

use super::bgp_fabric::{self as fabric, has, next_hops};
use super::bgp_matrix::routers;
use crate::router::Router;
use crate::scenario::{Context, herald};

/// A Service reaches the tables of routers with a path for each node; an excluded
/// node leaves; a roll-out withdraws nothing.
pub(super) async fn routes_of_a_service(ctx: &mut Context) -> Result<()> {
    let routers = routers(ctx)?;
    fabric::secret(ctx, "bgp-password", "secret").await?;
    for (i, router) in routers.iter().enumerate() {
        fabric::start(ctx, router, |neighbor| {
            neighbor.graceful_restart = Some(60);
            neighbor.password = (i == 0).then(|| "secret".to_owned());
        })
        .await?;
    }
    for (i, router) in routers.iter().enumerate() {
        let password = json!({"passwordSecret": {"name": "bgp-password"}});
        let more = if i == 0 { password } else { json!({}) };
        fabric::peer(ctx, router, more).await?;
    }
    ctx.pool("pool", 2).await?;
    fabric::advertise(ctx).await?;
    ctx.deploy_echo("web", 2).await?;
    ctx.expose("web").create().await?;
    let addresses = ctx.addresses("web").await?;
    let address = *addresses.iter().find(|a| a.is_ipv4()).context("IPv4")?;
    let all = fabric::nodes(ctx)?;
    for router in &routers {
        has(router, address, &all).await?;
    }
    ctx.step("every router has a path by every node");
    fabric::told(ctx, routers.len()).await?;

    let mut others = all.clone();
    others.remove(&fabric::node(1)?);
    ctx.label_node("n1", LABEL_EXCLUDE_NODE, Some("")).await?;
    for router in &routers {
        has(router, address, &others).await?;
    }
    ctx.label_node("n1", LABEL_EXCLUDE_NODE, None).await?;
    for router in &routers {
        has(router, address, &all).await?;
    }
    ctx.step("an excluded node's paths went, and came back");

    restart(ctx, &routers, address, &all).await?;

    ctx.delete_service("web").await?;
    for router in &routers {
        has(router, address, &BTreeSet::new()).await?;
        router.stop().await?;
    }
    fabric::clean(ctx, &["bgp-password"]).await
}

/// Every speaker is told to stop and comes back; no router misses a path meanwhile.
async fn restart(
    ctx: &Context,
    routers: &[Router],
    address: IpAddr,
    all: &BTreeSet<IpAddr>,
) -> Result<()> {
    for pod in ctx.herald_pods(herald::SPEAKER).await? {
        ctx.signal(&pod.name_any(), "speaker", Signal::SIGTERM)?;
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(8);
    while tokio::time::Instant::now() < end {
        for router in routers {
            let seen = next_hops(router, address).await?;
            ensure!(seen == *all, "{router} lost paths at a restart: {seen:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ctx.speakers_are_well().await?;
    fabric::told(ctx, routers.len()).await?;
    ctx.step("all speakers were restarted, and no router lost a path");
    Ok(())
}
