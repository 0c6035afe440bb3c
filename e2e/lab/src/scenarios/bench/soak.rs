//! Minutes on a busy machine with a bad network, in which nothing may move.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use tokio::time::sleep;

use super::{ms, probe};
use crate::faults::{self, Direction};
use crate::network::Network;
use crate::prober::Probing;
use crate::scenario::Context;

/// How long, unless told.
const LASTING: Duration = Duration::from_mins(10);
/// Busy loops, and Services.
const HOGS: usize = 2;
const SERVICES: usize = 6;
/// Of 100 frames that a host sends, so many are lost.
const LOSS: u8 = 1;

/// Counts moves, and probes that are lost.
pub(in crate::scenarios) async fn soak(ctx: &mut Context) -> Result<()> {
    let mut outside = super::Outside::start(ctx).await?;
    let mut served = Vec::new();
    for _ in 0..SERVICES {
        let (_, address) = outside.serve(ctx).await?;
        served.push((address, ctx.client().owner(address).await?));
    }
    ctx.speakers_hear_each_other().await?;
    let mut hogs = Vec::new();
    for _ in 0..HOGS {
        let hog = ctx
            .lab()
            .command("cloud", "sh")
            .args(["-c", "while :; do :; done"])
            .kill_on_drop(true)
            .spawn()
            .context("start a busy loop")?;
        hogs.push(hog);
    }
    let hosts: Vec<String> = ctx.nodes().into_iter().chain(["c1".to_owned()]).collect();
    for host in &hosts {
        faults::lose(host, Network::Lan(0), Direction::Out, LOSS)?;
    }
    let before = ctx.over_speakers("herald_l2_takeovers_total", &[]).await?;
    let stalls = ctx.over_speakers("herald_l2_stalls_total", &[]).await?;
    let probing = [
        probe(ctx, served[0].0).await?,
        probe(ctx, served[1].0).await?,
    ];
    let lasting = ctx.effort().lasting(LASTING);
    ctx.step(format!(
        "{HOGS} busy loops, {LOSS} % of frames lost, for {} s",
        lasting.as_secs()
    ));
    sleep(lasting).await;
    let reports = try_join_all(probing.map(Probing::stop)).await?;
    let moves = ctx.over_speakers("herald_l2_takeovers_total", &[]).await? - before;
    let stalls = ctx.over_speakers("herald_l2_stalls_total", &[]).await? - stalls;
    drop(hogs);
    for host in &hosts {
        faults::heal(host, Network::Lan(0))?;
    }
    let mut elsewhere = 0_u32;
    for (address, owner) in &served {
        elsewhere += u32::from(ctx.client().owner(*address).await? != *owner);
    }
    let (sent, lost): (u64, u64) = reports
        .iter()
        .fold((0, 0), |(s, l), r| (s + r.sent, l + r.lost));
    let gap = reports.iter().map(|r| r.longest_gap_ms).max().unwrap_or(0);
    let late = reports
        .iter()
        .map(|r| r.longest_stall_ms)
        .max()
        .unwrap_or(0);
    ctx.step(format!(
        "{moves} moves, {elsewhere} addresses elsewhere, {lost} of {sent} probes lost, longest gap \
         {gap} ms; the prober was {late} ms late, the speakers {stalls} times"
    ));
    ctx.figure("moves", moves, "moves");
    ctx.figure("elsewhere", f64::from(elsewhere), "addresses");
    ctx.figure("sent", ms(sent), "probes");
    ctx.figure("lost", ms(lost), "probes");
    ctx.figure("gap/max", ms(gap), "ms");
    ctx.figure("prober-late/max", ms(late), "ms");
    ctx.figure("speaker-stalls", stalls, "stalls");
    Ok(())
}
