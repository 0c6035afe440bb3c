//! For how long a client sees nothing when the owner of an address goes.

use std::net::IpAddr;

use anyhow::Result;
use nix::sys::signal::Signal;
use serde_json::json;

use super::{FLOWING, Outside, ms, probe};
use crate::faults::{self, Direction};
use crate::network::Network;
use crate::prober::ProbeReport;
use crate::scenario::Context;
use crate::scenario::wait::PATIENCE;

const LAN: Network = Network::Lan(0);

/// Rounds of each shape, unless told.
const ROUNDS: u32 = 20;

/// What happens to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Crash,
    LinkCut,
    Killed,
    Stopped,
}

impl Fault {
    const ALL: [Self; 4] = [Self::Crash, Self::LinkCut, Self::Killed, Self::Stopped];

    const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::LinkCut => "link-cut",
            Self::Killed => "sigkill",
            Self::Stopped => "sigstop",
        }
    }

    /// Does it to a node, or to the pod of its speaker.
    fn strike(self, ctx: &Context, node: &str, speaker: &str) -> Result<()> {
        match self {
            Self::Crash => faults::crash_node(ctx.lab(), node),
            Self::LinkCut => faults::cut(node, LAN, Direction::Both),
            Self::Killed => ctx.signal(speaker, "speaker", Signal::SIGKILL),
            Self::Stopped => ctx.signal(speaker, "speaker", Signal::SIGSTOP),
        }
    }

    /// Undoes it.
    async fn heal(self, ctx: &Context, node: &str, speaker: &str) -> Result<()> {
        match self {
            Self::Crash => faults::boot_node(ctx.lab(), node),
            Self::LinkCut => faults::heal(node, LAN),
            Self::Killed => ctx.replace_speaker(node, speaker).await,
            Self::Stopped => ctx.signal(speaker, "speaker", Signal::SIGCONT),
        }
    }
}

/// What is measured over several rounds.
#[derive(Clone, Copy, Debug)]
struct Shape {
    fault: Fault,
    profile: &'static str,
    /// Whether the API server is stopped meanwhile.
    api_away: bool,
}

impl Shape {
    /// `crash/default`, `crash-api-away/default`.
    fn name(self) -> String {
        let away = if self.api_away { "-api-away" } else { "" };
        format!("{}{away}/{}", self.fault.name(), self.profile)
    }

    /// Those with one profile. The API server's absence is another world, not
    /// another speed: it is measured with one profile.
    fn of(profile: &'static str) -> impl Iterator<Item = Self> {
        let away: &[bool] = match profile {
            "default" => &[false, true],
            _ => &[false],
        };
        away.iter().flat_map(move |&api_away| {
            Fault::ALL.map(|fault| Self {
                fault,
                profile,
                api_away,
            })
        })
    }
}

/// Every fault with every profile, over and over in the same lab.
pub(in crate::scenarios) async fn l2_failover(ctx: &mut Context) -> Result<()> {
    let mut outside = Outside::start(ctx).await?;
    for profile in ["default", "fast"] {
        ctx.advertise(json!({"profile": profile})).await?;
        let wanted = |shape: &Shape| ctx.effort().wants(&shape.name());
        let shapes: Vec<Shape> = Shape::of(profile).filter(wanted).collect();
        for shape in shapes {
            measure(ctx, &mut outside, shape).await?;
        }
    }
    Ok(())
}

async fn measure(ctx: &mut Context, outside: &mut Outside, shape: Shape) -> Result<()> {
    let name = shape.name();
    let rounds = ctx.effort().rounds(ROUNDS);
    let (mut dark, mut late, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for i in 1..=rounds {
        let report = round(ctx, outside, shape).await?;
        ctx.step(format!(
            "{name} {i} of {rounds}: dark for {} ms, {} of {} probes lost; the prober was {} ms late",
            report.longest_gap_ms, report.lost, report.sent, report.longest_stall_ms
        ));
        dark.push(ms(report.longest_gap_ms));
        late.push(ms(report.longest_stall_ms));
        lost.push(ms(report.lost));
    }
    ctx.spread(&name, &dark, "ms");
    ctx.spread(&format!("{name}/lost"), &lost, "probes");
    ctx.spread(&format!("{name}/prober-late"), &late, "ms");
    Ok(())
}

/// From a healthy cluster to a healthy cluster.
async fn round(ctx: &mut Context, outside: &mut Outside, shape: Shape) -> Result<ProbeReport> {
    ctx.speakers_hear_each_other().await?;
    let (service, address) = outside.serve(ctx).await?;
    let owner = ctx.client().owner(address).await?;
    let speaker = ctx.speaker_on(&owner).await?;
    let mut probing = probe(ctx, address).await?;
    if shape.api_away {
        faults::stop_api_server()?;
        probing.wait_answered(FLOWING).await?;
    }
    shape.fault.strike(ctx, &owner, &speaker)?;
    // By its own traffic only: a question of ours would be news to the client.
    probing.wait_answered(FLOWING).await?;
    taken_over(ctx, shape.fault, address, &owner).await?;
    let report = probing.stop().await?;
    let mark = ctx.audit_mark()?;
    if shape.api_away {
        ctx.lab().start_api_server().await?;
        ctx.forgive_denials()?;
    }
    shape.fault.heal(ctx, &owner, &speaker).await?;
    ctx.lab().nodes_ready(PATIENCE).await?;
    ctx.speakers_are_well().await?;
    if shape.api_away {
        ctx.speakers_follow_since(mark).await?;
    }
    ctx.delete_service(&service).await?;
    Ok(report)
}

/// Another node has the address; after a kill any one may, as the speaker may
/// be back before it is missed.
async fn taken_over(ctx: &Context, fault: Fault, address: IpAddr, owner: &str) -> Result<()> {
    match fault {
        Fault::Killed => ctx.client().owner(address).await.map(drop),
        _ => ctx
            .client()
            .owned_by_other_than(address, owner)
            .await
            .map(drop),
    }
}
