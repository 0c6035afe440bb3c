//! A node with thousands of addresses dies.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::fleet::Fleet;
use super::ms;
use crate::faults;
use crate::frames::epoch_ms;
use crate::scenario::Context;
use crate::scenario::wait::{self, PATIENCE};

const SERVICES: u32 = 1000;
const EACH: u32 = 10;
const ROUNDS: u32 = 3;

/// How long the repeats of 10,000 addresses may take, each said seven times.
const QUIET: Duration = Duration::from_mins(5);

/// When others answer for what it had, and have announced it.
pub(in crate::scenarios) async fn l2_scale(ctx: &mut Context) -> Result<()> {
    let mut fleet = Fleet::make(ctx, SERVICES).await?;
    fleet.give(ctx, EACH).await?;
    let rounds = ctx.effort().rounds(ROUNDS);
    let mut figures: [(&str, Vec<f64>); 4] = [
        ("first-answer", Vec::new()),
        ("last-answer", Vec::new()),
        ("first-announcement", Vec::new()),
        ("last-announcement", Vec::new()),
    ];
    for i in 1..=rounds {
        ctx.speakers_hear_each_other().await?;
        quiet(ctx, fleet.addresses()).await?;
        let (mut surveying, node, mac) = fleet.survey(ctx).await?;
        surveying.watch(mac).await?;
        let crash = epoch_ms();
        faults::crash_node(ctx.lab(), &node)?;
        let moved = surveying.moved().await?;
        let after = [
            moved.first_answer,
            moved.last_answer,
            moved.first_announcement,
            moved.last_announcement,
        ]
        .map(|at| at.saturating_sub(crash));
        ctx.step(format!(
            "{i} of {rounds}: of {} addresses of {node} {} are answered for by others after {} to \
             {} ms, and {} announced after {} to {} ms",
            moved.addresses,
            moved.answered,
            after[0],
            after[1],
            moved.announced,
            after[2],
            after[3]
        ));
        ensure!(
            moved.answered == moved.addresses && moved.announced == moved.addresses,
            "not all were taken over: {moved:?}"
        );
        for ((_, values), value) in figures.iter_mut().zip(after) {
            values.push(ms(value));
        }
        faults::boot_node(ctx.lab(), &node)?;
        ctx.lab().nodes_ready(PATIENCE).await?;
        ctx.speakers_are_well().await?;
    }
    for (what, values) in figures {
        ctx.spread(what, &values, "ms");
    }
    Ok(())
}

/// Waits until the repeats of earlier announcements have gone out, of which
/// thousands take a minute at the rate that is allowed, and only refreshes are
/// left.
async fn quiet(ctx: &Context, addresses: u32) -> Result<()> {
    const LOOK: Duration = Duration::from_secs(3);
    // Each address every 90 s on average; twice that is no repeat.
    let most = f64::from(addresses) / 90.0 * 2.0 * LOOK.as_secs_f64();
    let sent = async || {
        ctx.over_speakers("herald_l2_gratuitous_sent_total", &[])
            .await
    };
    wait::until_for(QUIET, "only refreshes to be announced", || async {
        let before = sent().await?;
        sleep(LOOK).await;
        let more = sent().await? - before;
        ensure!(more < most, "{more} announcements in {} s", LOOK.as_secs());
        Ok(())
    })
    .await
}
