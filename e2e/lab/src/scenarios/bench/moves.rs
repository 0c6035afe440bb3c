//! What planned moves lose.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use herald_api::names::LABEL_EXCLUDE_NODE;
use nix::sys::signal::Signal;

use super::{Outside, ms, probe};
use crate::scenario::{Context, herald};

/// Probes of each move, at least.
const PROBES: u64 = 10_000;

/// How long they may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// A planned move.
#[derive(Clone, Copy, Debug)]
enum Move {
    Sigterm,
    RollOut,
    Drain,
    Exclude,
    Rebalance,
}

impl Move {
    const ALL: [Self; 5] = [
        Self::Sigterm,
        Self::RollOut,
        Self::Drain,
        Self::Exclude,
        Self::Rebalance,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Sigterm => "sigterm",
            Self::RollOut => "roll-out",
            Self::Drain => "drain",
            Self::Exclude => "exclude",
            Self::Rebalance => "rebalance",
        }
    }

    /// Makes the owner of an address lose it, and undoes it.
    async fn make(self, ctx: &Context, address: IpAddr, owner: &str) -> Result<()> {
        match self {
            Self::Sigterm => {
                left_and_back(ctx, address, owner).await?;
            }
            Self::RollOut => {
                ctx.restart("daemonset", herald::SPEAKER).await?;
            }
            Self::Drain => {
                ctx.drain(owner).await?;
                ctx.client().owner(address).await?;
                ctx.uncordon(owner).await?;
            }
            Self::Exclude => {
                ctx.label_node(owner, LABEL_EXCLUDE_NODE, Some("")).await?;
                let left = ctx.client().owned_by_other_than(address, owner).await;
                ctx.label_node(owner, LABEL_EXCLUDE_NODE, None).await?;
                left?;
            }
            Self::Rebalance => {
                left_and_back(ctx, address, owner).await?;
                ctx.rebalance(&address.to_string()).await?;
                ctx.client().owned_by(address, owner).await?;
            }
        }
        Ok(())
    }
}

/// The owner's speaker is told to end, and is back, without the address.
async fn left_and_back(ctx: &Context, address: IpAddr, owner: &str) -> Result<()> {
    let speaker = ctx.speaker_on(owner).await?;
    ctx.signal(&speaker, "speaker", Signal::SIGTERM)?;
    ctx.client().owned_by_other_than(address, owner).await?;
    ctx.replace_speaker(owner, &speaker).await?;
    ctx.speakers_hear_each_other().await
}

/// Every planned move, each with an address that has not moved before.
pub(in crate::scenarios) async fn l2_move(ctx: &mut Context) -> Result<()> {
    let mut outside = Outside::start(ctx).await?;
    for planned in Move::ALL {
        let name = planned.name();
        if !ctx.effort().wants(name) {
            continue;
        }
        let rounds = ctx.effort().rounds(1);
        let (mut lost, mut sent, mut gaps, mut late) = (0, 0, Vec::new(), Vec::new());
        for i in 1..=rounds {
            ctx.speakers_are_well().await?;
            ctx.speakers_hear_each_other().await?;
            let (service, address) = outside.serve(ctx).await?;
            let owner = ctx.client().owner(address).await?;
            let mut probing = probe(ctx, address).await?;
            planned.make(ctx, address, &owner).await?;
            let answered = probing.progress().answered;
            probing
                .wait_answered_for(PATIENCE, PROBES.saturating_sub(answered).max(1000))
                .await?;
            let report = probing.stop().await?;
            ctx.step(format!(
                "{name} {i} of {rounds}: {} of {} probes lost, longest gap {} ms; the prober was {} ms late",
                report.lost, report.sent, report.longest_gap_ms, report.longest_stall_ms
            ));
            lost += report.lost;
            sent += report.sent;
            gaps.push(ms(report.longest_gap_ms));
            late.push(ms(report.longest_stall_ms));
            ctx.delete_service(&service).await?;
        }
        ctx.figure(&format!("{name}/lost"), ms(lost), "probes");
        ctx.figure(&format!("{name}/sent"), ms(sent), "probes");
        ctx.spread(&format!("{name}/gap"), &gaps, "ms");
        ctx.spread(&format!("{name}/prober-late"), &late, "ms");
    }
    Ok(())
}
