//! The operator's own failures.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::ListParams;
use nix::sys::signal::Signal;

use crate::scenario::services::ingress_addresses;
use crate::scenario::{Context, herald};

const SERVICES: u8 = 50;

/// The leader is killed half-way; then everything is, and comes back.
pub(super) async fn failover(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", SERVICES + 2).await?;
    let leader = ctx.leader().await?;
    ctx.step(format!("{leader} leads"));
    let begin = Instant::now();
    create(ctx, 0..SERVICES / 2).await?;
    // Its container alone would be started again in place, still holding the
    // Lease: the pod goes with it, so that another one must lead.
    ctx.signal(&leader, "operator", Signal::SIGKILL)?;
    ctx.kill_herald_pod(&leader).await?;
    let killed = Instant::now();
    ctx.step(format!(
        "{} Services created, {leader} killed",
        SERVICES / 2
    ));
    create(ctx, SERVICES / 2..SERVICES).await?;
    let next = ctx.leader_other_than(&[leader]).await?;
    ctx.measured_since("next-leader", killed);
    for i in 0..SERVICES {
        ctx.addresses(&name(i)).await?;
    }
    ctx.measured_since("all-addresses", begin);
    let before = state(ctx).await?;
    each_has_its_own(ctx, &before)?;
    ctx.step(format!(
        "all {SERVICES} Services have addresses of their own, {next} leads"
    ));
    for (app, container) in [(herald::OPERATOR, "operator"), (herald::SPEAKER, "speaker")] {
        let mib = ctx.memory_mib(app, container).await?;
        ctx.measured(&format!("{container}-memory"), mib, "MiB");
    }

    // Both replicas go. A Service made meanwhile must not get what another
    // has, though nobody remembers.
    ctx.scale_operator(0).await?;
    ctx.expose("late").create().await?;
    ctx.scale_operator(2).await?;
    let late = ctx.addresses("late").await?;
    let mut after = state(ctx).await?;
    each_has_its_own(ctx, &after)?;
    after.remove("late");
    for (name, (version, addresses)) in &before {
        let now = after.get(name);
        ensure!(
            now == Some(&(version.clone(), addresses.clone())),
            "the restart changed Service {name}: it was {version} {addresses:?}, is {now:?}"
        );
    }
    ctx.step(format!(
        "after a full restart nothing has changed; the late one got {late:?}"
    ));
    Ok(())
}

fn name(i: u8) -> String {
    format!("svc-{i}")
}

async fn create(ctx: &Context, which: std::ops::Range<u8>) -> Result<()> {
    try_join_all(which.map(|i| async move { ctx.expose(&name(i)).create().await })).await?;
    Ok(())
}

/// Resource version and addresses of every Service.
async fn state(ctx: &Context) -> Result<BTreeMap<String, (String, Vec<IpAddr>)>> {
    let services = ctx.api::<Service>().list(&ListParams::default()).await?;
    Ok(services
        .iter()
        .map(|service| {
            let version = service.resource_version().unwrap_or_default();
            (service.name_any(), (version, ingress_addresses(service)))
        })
        .collect())
}

fn each_has_its_own(ctx: &Context, state: &BTreeMap<String, (String, Vec<IpAddr>)>) -> Result<()> {
    let mut taken = BTreeSet::new();
    for (name, (_, addresses)) in state {
        ensure!(
            addresses.len() == ctx.ip_families().len(),
            "Service {name} has {addresses:?}"
        );
        for address in addresses {
            ensure!(
                taken.insert(address),
                "{address} was given twice, once to {name}"
            );
        }
    }
    Ok(())
}
