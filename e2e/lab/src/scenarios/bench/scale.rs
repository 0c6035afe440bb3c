//! A node with thousands of addresses dies.

use anyhow::{Result, ensure};

use super::fleet::Fleet;
use super::ms;
use crate::faults;
use crate::frames::epoch_ms;
use crate::scenario::Context;
use crate::scenario::wait::PATIENCE;

const SERVICES: u32 = 1000;
const EACH: u32 = 10;
const ROUNDS: u32 = 3;

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
        fleet.quiet(ctx).await?;
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
