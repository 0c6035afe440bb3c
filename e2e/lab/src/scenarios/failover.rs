//! What happens to the traffic when nodes, speakers or the API server go.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use herald_api::names::LABEL_EXCLUDE_NODE;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::prober::{ProbeReport, Probing, Target};
use crate::scenario::clients::rate;
use crate::scenario::wait::PATIENCE;
use crate::scenario::{Context, herald};
use crate::{faults, vm};

/// Answers after which traffic counts as flowing again.
const FLOWING: u64 = 100;

/// A loss that takes longer than this to get over is a failure, not a figure. The
/// machine that runs a lab is busy; figures are told by the bench.
const DARKEST: Duration = Duration::from_secs(2);

/// A Service with three pods; its addresses, and the node that answers for
/// the first of them.
pub(super) async fn served(ctx: &Context) -> Result<(Vec<IpAddr>, String)> {
    served_as(ctx, json!({})).await
}

/// [`served`], with more in the `L2Advertisement`.
pub(super) async fn served_as(ctx: &Context, more: Value) -> Result<(Vec<IpAddr>, String)> {
    ctx.pool("pool", 4).await?;
    ctx.advertise(more).await?;
    ctx.deploy_echo("web", 3).await?;
    ctx.expose("web").create().await?;
    let addresses = ctx.addresses("web").await?;
    for &address in &addresses {
        ctx.client().curl(address).await?;
    }
    let owner = ctx.client().owner(addresses[0]).await?;
    ctx.step(format!("{owner} answers for {}", addresses[0]));
    Ok((addresses, owner))
}

/// Probes every address; returns when all answer.
pub(super) async fn probe(ctx: &Context, addresses: &[IpAddr]) -> Result<Vec<Probing>> {
    let mut all = Vec::new();
    for &address in addresses {
        let mut probing = ctx.client().probe(Target::udp(address, 9000))?;
        probing.wait_answered(FLOWING).await?;
        all.push(probing);
    }
    Ok(all)
}

/// Waits until every prober has seen some more answers, then stops them.
pub(super) async fn stop(ctx: &Context, mut probing: Vec<Probing>) -> Result<Vec<ProbeReport>> {
    for probing in &mut probing {
        probing.wait_answered(FLOWING).await?;
    }
    let reports = try_join_all(probing.into_iter().map(Probing::stop)).await?;
    for report in &reports {
        ctx.step(format!(
            "{}: {} of {} probes lost, longest gap {} ms from {}",
            report.target, report.lost, report.sent, report.longest_gap_ms, report.gap_began
        ));
    }
    Ok(reports)
}

/// The worst of several reports.
pub(super) fn worst(reports: &[ProbeReport]) -> (u64, Duration) {
    let lost = reports.iter().map(|report| report.lost).max().unwrap_or(0);
    let gap = reports
        .iter()
        .map(ProbeReport::longest_gap)
        .max()
        .unwrap_or_default();
    (lost, gap)
}

/// A count of probes as a figure's value.
pub(super) fn count(probes: u64) -> f64 {
    u32::try_from(probes).map_or(f64::INFINITY, f64::from)
}

/// All of the owner's processes and links, at once.
pub(super) async fn node_crash(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;
    let probing = probe(ctx, &addresses).await?;
    let capture = ctx.capture_lan("crash").await?;
    faults::crash_node(ctx.lab(), &owner)?;
    ctx.step(format!("{owner} crashed"));
    let mut owners = Vec::new();
    for &address in &addresses {
        owners.push(ctx.client().owned_by_other_than(address, &owner).await?);
    }
    let reports = stop(ctx, probing).await?;
    gap(ctx, "", &reports)?;
    let frames = capture.stop().await?;
    for (address, new) in addresses.iter().zip(&owners) {
        let mac = ctx.mac(new).await?;
        ensure!(
            frames
                .iter()
                .any(|f| f.announces(*address) && f.claims(*address) == Some(mac)),
            "{new} took {address} over without announcing it"
        );
        ctx.owns_since_lost(new, *address, &owner).await?;
    }
    let told = ctx.event_count("Service", "web", "Announcing").await?;
    ctx.step(format!("{told} events say who announces"));

    // It comes back, and everything with it.
    faults::boot_node(ctx.lab(), &owner)?;
    ctx.lab().nodes_ready(PATIENCE).await?;
    ctx.speakers_are_well().await?;
    ctx.rolled_out("web").await?;
    for &address in &addresses {
        ctx.client().curl(address).await?;
        ctx.client().owner(address).await?;
    }
    ctx.step(format!("{owner} is back"));
    Ok(())
}

/// The speaker of the owner, then all of them one by one.
pub(super) async fn speaker_restart(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;

    let probing = probe(ctx, &addresses).await?;
    let capture = ctx.capture_lan("sigterm").await?;
    let speaker = ctx.speaker_on(&owner).await?;
    ctx.signal(&speaker, "speaker", Signal::SIGTERM)?;
    ctx.step(format!("SIGTERM to {speaker} on {owner}"));
    ctx.restarted(&speaker, "speaker").await?;
    ctx.speakers_are_well().await?;
    for &address in &addresses {
        ctx.client().owner(address).await?;
    }
    let reports = stop(ctx, probing).await?;
    loss(ctx, "sigterm", &reports)?;
    let own = ctx.mac(&owner).await?;
    let frames = capture.stop().await?;
    for &address in &addresses {
        ensure!(
            frames
                .iter()
                .any(|frame| frame.announces(address) && frame.claims(address) != Some(own)),
            "{owner} handed {address} over to nobody"
        );
    }

    let probing = probe(ctx, &addresses).await?;
    ctx.restart("daemonset", herald::SPEAKER).await?;
    ctx.speakers_are_well().await?;
    ctx.step("the DaemonSet has rolled out anew");
    for &address in &addresses {
        ctx.client().owner(address).await?;
    }
    let reports = stop(ctx, probing).await?;
    loss(ctx, "rollout", &reports)?;
    drain(ctx, &addresses).await
}

/// A node is emptied, as for its maintenance, and may take pods again.
async fn drain(ctx: &mut Context, addresses: &[IpAddr]) -> Result<()> {
    ctx.speakers_hear_each_other().await?;
    let owner = ctx.client().owner(addresses[0]).await?;
    let probing = probe(ctx, addresses).await?;
    ctx.drain(&owner).await?;
    ctx.rolled_out("web").await?;
    ctx.operator_is_well().await?;
    let mut owners = Vec::new();
    for &address in addresses {
        owners.push(ctx.client().owner(address).await?);
    }
    ctx.step(format!(
        "{owner} is drained; {} answer",
        owners.join(" and ")
    ));
    ctx.uncordon(&owner).await?;
    ctx.speakers_follow().await?;
    for (&address, before) in addresses.iter().zip(&owners) {
        let now = ctx.client().owner(address).await?;
        ensure!(
            now == *before,
            "{address} moved back from {before} to {now}"
        );
    }
    ctx.step(format!("{owner} may take pods again, and nothing moved"));
    loss(ctx, "drain", &stop(ctx, probing).await?)
}

/// Notes for how long traffic was dark, which must not be long.
pub(super) fn gap(ctx: &mut Context, what: &str, reports: &[ProbeReport]) -> Result<()> {
    let (lost, gap) = worst(reports);
    let dash = if what.is_empty() { "" } else { "-" };
    ctx.measured_ms(&format!("{what}{dash}gap"), gap);
    ctx.measured(&format!("{what}{dash}lost"), count(lost), "probes");
    ensure!(
        gap < DARKEST * vm::patience(),
        "dark for {} ms",
        gap.as_millis()
    );
    Ok(())
}

/// Notes a planned move's loss, which must be next to nothing.
pub(super) fn loss(ctx: &mut Context, what: &str, reports: &[ProbeReport]) -> Result<()> {
    let (lost, gap) = worst(reports);
    ctx.measured(&format!("{what}-lost"), count(lost), "probes");
    ctx.measured_ms(&format!("{what}-gap"), gap);
    for report in reports {
        ensure!(
            report.lost * 100 <= report.sent,
            "{}: {} of {} probes lost in a planned move",
            report.target,
            report.lost,
            report.sent
        );
    }
    Ok(())
}

/// The well-known label on the owner, and off again.
pub(super) async fn exclude_node(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;
    let probing = probe(ctx, &addresses).await?;
    ctx.label_node(&owner, LABEL_EXCLUDE_NODE, Some("")).await?;
    let mut left = Ok(());
    for &address in &addresses {
        match ctx.client().owned_by_other_than(address, &owner).await {
            Ok(next) => ctx.step(format!("{address} left {owner} for {next}")),
            Err(error) => left = Err(error),
        }
    }
    // Whatever came of it: the lab has other scenarios to run.
    ctx.label_node(&owner, LABEL_EXCLUDE_NODE, None).await?;
    left?;
    let mut next = Vec::new();
    for &address in &addresses {
        next.push(ctx.client().owner(address).await?);
    }
    // It may own again, and takes nothing from one who is well.
    ctx.speakers_follow().await?;
    for (&address, next) in addresses.iter().zip(&next) {
        let now = ctx.client().owner(address).await?;
        ensure!(now == *next, "{address} moved on from {next} to {now}");
    }
    ctx.step(format!(
        "without the label they stay on {}",
        next.join(" and ")
    ));
    let reports = stop(ctx, probing).await?;
    loss(ctx, "exclude", &reports)
}

/// A minute without the API server.
pub(super) async fn api_outage(ctx: &mut Context) -> Result<()> {
    const OUTAGE: u64 = 60;
    let (addresses, _) = served(ctx).await?;
    let mut probing = probe(ctx, &addresses).await?;
    faults::stop_api_server()?;
    ctx.step(format!("API server stopped; for {OUTAGE} s"));
    // The outage lasts as long as its probes take: a clock made of answers.
    let answers = OUTAGE * u64::from(rate().get());
    let limit = Duration::from_secs(OUTAGE * 2);
    try_join_all(
        probing
            .iter_mut()
            .map(|probing| probing.wait_answered_for(limit, answers)),
    )
    .await?;
    for &address in &addresses {
        // Not from the client's memory: asked anew.
        let owner = ctx.client().owner(address).await?;
        ctx.step(format!("{owner} still answers for {address}"));
    }
    ctx.lab().start_api_server().await?;
    ctx.forgive_denials()?;
    ctx.step("API server is back");
    ctx.lab().nodes_ready(PATIENCE).await?;

    // Endpoints by hand: the cluster's own controllers may take a minute to look
    // at the API again, and this is about Herald.
    let begin = ctx.expose("after").without_selector().create().await?;
    ctx.endpoints_of(
        "after",
        "web",
        json!([
            {"name": "http", "port": 8080, "protocol": "TCP"},
            {"name": "probe", "port": 9000, "protocol": "UDP"},
        ]),
    )
    .await?;
    let after = ctx.addresses("after").await?;
    for &address in &after {
        ctx.client().owner(address).await?;
    }
    ctx.measured_since("create-to-announced-after", begin);
    ctx.step("a Service made after it has its addresses, and they are announced");
    // kube-proxy takes its time, too.
    for address in after {
        ctx.client().curl(address).await?;
    }
    ctx.step("and it is served");
    let reports = stop(ctx, probing).await?;
    let (lost, gap) = worst(&reports);
    ctx.measured("lost", count(lost), "probes");
    ctx.measured_ms("gap", gap);
    ensure!(lost == 0, "{lost} probes lost: {:?}", reports[0].errors);
    Ok(())
}
