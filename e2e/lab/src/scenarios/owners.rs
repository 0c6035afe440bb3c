//! What is told of owners, and owners that do not answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::failover::{count, probe, served, stop, worst};
use crate::faults;
use crate::network::Network;
use crate::scenario::clients::rate;
use crate::scenario::{Context, herald, wait};
use crate::vm;

const LAN: Network = Network::Lan(0);

/// Who has written nothing for so long has nothing to write.
const CALM: Duration = Duration::from_secs(4);

/// Until an owner that does not answer is believed to be mute and its addresses have
/// moved: it is asked every 10 s, and three questions in a row count.
const NOTICED: Duration = Duration::from_mins(1);

/// For how long nothing moves after that: several rounds of questions.
const STILL: u64 = 40;

/// Waits until the speakers write nothing any more.
async fn calm(ctx: &Context) -> Result<()> {
    wait::until("the speakers to write nothing", || async {
        let mark = ctx.audit_mark()?;
        sleep(CALM).await;
        let writes = written(ctx, mark)?;
        ensure!(writes.is_empty(), "they write: {writes:?}");
        Ok(())
    })
    .await
}

/// How often the speakers have written each object since.
fn written(ctx: &Context, mark: u64) -> Result<BTreeMap<(String, String), u32>> {
    let mut written = BTreeMap::new();
    for write in ctx.writes_since(mark)? {
        if write.account == herald::SPEAKER {
            *written.entry((write.resource, write.name)).or_default() += 1;
        }
    }
    Ok(written)
}

/// What is written when a node dies.
pub(super) async fn crash_told(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    calm(ctx).await?;
    let told = ctx.event_count("Service", "web", "Announcing").await?;
    ensure!(
        told == 1,
        "{told} events say who announces, before anything moved"
    );

    let mark = ctx.audit_mark()?;
    faults::crash_node(ctx.lab(), &owner)?;
    let next = ctx
        .client()
        .owned_by_other_than(addresses[0], &owner)
        .await?;
    ctx.step(format!("{owner} crashed, and {next} took over"));
    for &address in &addresses {
        ctx.owns_since_lost(&next, address, &owner).await?;
    }
    ctx.announced_by("web", &next).await?;
    calm(ctx).await?;
    // The first that lives tells of the others.
    let nodes = ctx.nodes();
    let teller = nodes.iter().find(|node| **node != owner);
    let mut statuses = 0;
    for ((resource, name), times) in written(ctx, mark)? {
        ctx.step(format!("{resource} {name} written {times} times"));
        if resource == "l2statuses/status" {
            ensure!(
                name == next || Some(&name) == teller,
                "the status of {name} was written, which has nothing to tell"
            );
            statuses += times;
        }
    }
    ctx.measured("statuses", f64::from(statuses), "writes");
    // What a peer is seen as goes by steps; they are gathered for a second.
    ensure!(statuses <= 6, "statuses were written {statuses} times");
    let told = ctx.event_count("Service", "web", "Announcing").await?;
    ensure!(told == 2, "{told} events say who announces, after one move");

    faults::boot_node(ctx.lab(), &owner)?;
    ctx.lab().nodes_ready(wait::PATIENCE).await?;
    ctx.speakers_see_each_other().await?;
    calm(ctx).await?;
    let told = ctx.event_count("Service", "web", "Announcing").await?;
    ensure!(
        told == 2,
        "{told} events say who announces, though nothing moved"
    );
    ctx.step(format!("{owner} is back, and nothing more was told"));
    Ok(())
}

async fn takeovers(ctx: &Context) -> Result<f64> {
    ctx.over_speakers("herald_l2_takeovers_total", &[]).await
}

/// The owner lives and is heard, but nobody hears its answers.
pub(super) async fn mute_owner(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    let before = takeovers(ctx).await?;
    let mut probing = probe(ctx, &addresses).await?;
    faults::mute(&owner, LAN, &addresses)?;
    // A client that knew the way would use it for a while yet.
    ctx.client()
        .run("ip", &["neigh", "flush", "dev", "lan0"])
        .await?;
    let begin = Instant::now();
    ctx.step(format!(
        "nobody hears what {owner} says about its addresses"
    ));
    let mut next = Vec::new();
    for &address in &addresses {
        let what = format!("another than {owner} to answer for {address}");
        let node = wait::until_for(NOTICED * vm::patience(), &what, || async {
            ctx.client().owner(address).await
        })
        .await?;
        ensure!(node != owner, "{owner} is heard");
        next.push(node);
    }
    ctx.measured_since("noticed", begin);
    ctx.step(format!("{} answer", next.join(" and ")));
    ctx.announced_by("web", &next[0]).await?;

    // A clock made of answers.
    let answers = STILL * u64::from(rate().get());
    for probing in &mut probing {
        let limit = Duration::from_secs(STILL * 3) * vm::patience();
        probing.wait_answered_for(limit, answers).await?;
    }
    let (lost, gap) = worst(&stop(ctx, probing).await?);
    ctx.measured_ms("gap", gap);
    ctx.measured("lost", count(lost), "probes");
    ensure!(
        gap < NOTICED * vm::patience(),
        "dark for {} s",
        gap.as_secs()
    );
    // Both addresses are one group: one move.
    let moves = takeovers(ctx).await? - before;
    ensure!(moves < 1.5, "{moves} moves, and one was due");
    faults::heal(&owner, LAN)?;
    ctx.speakers_see_each_other().await?;
    calm(ctx).await?;
    for (&address, next) in addresses.iter().zip(&next) {
        ctx.client().owned_by(address, next).await?;
    }
    let moves = takeovers(ctx).await? - before;
    ensure!(moves < 1.5, "{moves} moves, and one was due");
    ctx.step(format!("{owner} may speak again, and nothing moved back"));
    Ok(())
}
