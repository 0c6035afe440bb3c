//! What a speaker takes when there is nothing to do.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;

use super::fleet::Fleet;
use crate::frames::Pretending;
use crate::process::{self, Found, POD};
use crate::scenario::{Context, herald, wait};

/// How long CPU time is measured, unless told.
const LASTING: Duration = Duration::from_mins(1);
/// Services; with 10,000 addresses each has ten.
const SERVICES: u32 = 1000;
/// Peers of each speaker, simulated ones among them.
const PEERS: u16 = 50;
/// Who has written nothing for so long has nothing to write.
const CALM: Duration = Duration::from_secs(5);
/// How long thousands of events and statuses may take to be written.
const PATIENCE: Duration = Duration::from_mins(10);

/// With 0, 1,000 and 10,000 addresses, among 3 nodes and among 50 peers.
pub(in crate::scenarios) async fn idle(ctx: &mut Context) -> Result<()> {
    let mut fleet = Fleet::make(ctx, SERVICES).await?;
    for each in [0, 1, 10] {
        let addresses = SERVICES * each;
        let few = format!("{addresses}/{}-nodes", ctx.node_count());
        let many = format!("{addresses}/{PEERS}-peers");
        let (few_wanted, many_wanted) = (ctx.effort().wants(&few), ctx.effort().wants(&many));
        if !few_wanted && !many_wanted {
            continue;
        }
        if each > 0 {
            fleet.give(ctx, each).await?;
            drop(fleet.survey(ctx).await?);
        }
        fleet.quiet(ctx).await?;
        if few_wanted {
            measure(ctx, &few).await?;
        }
        if many_wanted {
            among_many(ctx, &many).await?;
        }
    }
    Ok(())
}

async fn among_many(ctx: &mut Context, what: &str) -> Result<()> {
    let real = u16::from(ctx.node_count()) - 1;
    let key = ctx.heartbeat_key().await?;
    let pretending = Pretending::start("cloud", PEERS - real, &key.0).await?;
    let up = [("liveness", "Up"), ("interface", "lan0")];
    for node in ctx.nodes() {
        wait::until(&format!("{node} to hear {PEERS} peers"), || async {
            let metrics = ctx.speaker_metrics(&node).await?;
            let heard = metrics.sum("herald_l2_peers", &up);
            ensure!(heard >= f64::from(PEERS), "it hears {heard}");
            Ok(())
        })
        .await?;
    }
    measure(ctx, what).await?;
    drop(pretending);
    ctx.speakers_hear_each_other().await
}

/// Waits until the speakers ask nothing of the API server any more: an event for
/// each Service takes its time.
async fn calm(ctx: &Context) -> Result<()> {
    let asked = || anyhow::Ok(std::fs::metadata(ctx.lab().audit_log())?.len());
    wait::until_for(PATIENCE, "the speakers to have written all", || async {
        let before = asked()?;
        sleep(CALM).await;
        ensure!(asked()? == before, "they write still");
        Ok(())
    })
    .await
}

/// The worst of all speakers.
async fn measure(ctx: &mut Context, what: &str) -> Result<()> {
    calm(ctx).await?;
    let mut speakers = Vec::new();
    for pod in ctx.herald_pods(herald::SPEAKER).await? {
        let name = pod.metadata.name.context("a pod has a name")?;
        speakers.push(process::find(POD, &format!("herald-system/{name}/speaker")));
    }
    let times = || -> Vec<Duration> {
        let of = |processes: &Vec<Found>| processes.iter().filter_map(Found::cpu_time).sum();
        speakers.iter().map(of).collect()
    };
    let (begin, before) = (Instant::now(), times());
    sleep(ctx.effort().lasting(LASTING)).await;
    let (took, after) = (begin.elapsed(), times());
    let cpu = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after.saturating_sub(*before).as_secs_f64() / took.as_secs_f64())
        .fold(0.0, f64::max);
    let most = |kib: fn(&Found) -> Option<u64>| {
        let of = |processes: &Vec<Found>| processes.iter().filter_map(kib).sum::<u64>();
        speakers.iter().map(of).max().unwrap_or(0)
    };
    let mib = |kib: u64| u32::try_from(kib).map_or(f64::INFINITY, f64::from) / 1024.0;
    let memory = [
        ("rss", mib(most(Found::rss_kib))),
        ("pss", mib(most(Found::pss_kib))),
        ("anonymous", mib(most(Found::anonymous_kib))),
    ];
    ctx.figure(&format!("{what}/cpu"), cpu * 100.0, "%");
    let mut told = format!("{what}: {:.2} % of a core", cpu * 100.0);
    for (kind, mib) in memory {
        ctx.figure(&format!("{what}/{kind}"), mib, "MiB");
        // Writing to a String does not fail.
        let _ = write!(told, ", {kind} {mib:.1} MiB");
    }
    ctx.step(told);
    Ok(())
}
