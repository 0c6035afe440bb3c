//! A peer that is there and does not read (RFC 9687). No daemon can be made to be one,
//! so it is the lab's own.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::bgp_bench::{Sinking, on_lan, peer};
use super::bgp_matrix::OURS;
use crate::announcer::{Announcer, Order, Report, Routes, Settings};
use crate::plan::Host;
use crate::scenario::Context;

/// Routes of 10 MB on the wire: more than the kernels at both ends take.
const PREFIXES: u32 = 2_000_000;
/// In seconds: the hold time, and the send hold time.
const HOLD: u16 = 3;
const SEND_HOLD: u16 = 5;
/// What may come on top of it on a machine that is busy.
const SLACK: Duration = Duration::from_secs(10);
const OUR: Host = Host::Client(1);
const DEAF: Host = Host::Client(2);
const GOOD: Host = Host::Client(3);

/// One peer sends its KEEPALIVEs and reads nothing, another one reads: the first one's
/// session is ended, and the other has all routes meanwhile.
pub(super) async fn a_peer_that_does_not_read(ctx: &mut Context) -> Result<()> {
    let our = on_lan(OUR)?;
    let mut peers = vec![peer(our, DEAF)?, peer(our, GOOD)?];
    for peer in &mut peers {
        peer.hold = HOLD;
        peer.send_hold = Some(SEND_HOLD);
    }
    let settings = Settings {
        asn: OURS,
        id: our,
        peers,
        routes: Routes::hosts(PREFIXES),
    };
    let mut announcer = Announcer::start(&OUR.name(), &settings).await?;
    let deaf = Sinking::start(DEAF, our.into(), PREFIXES, true)?;
    let address = on_lan(DEAF)?;
    announcer
        .report("a session with the peer that does not read", |report| {
            matches!(report, Report::Up { peer } if *peer == address).then_some(())
        })
        .await?;
    let begin = Instant::now();
    let mut good = Sinking::start(GOOD, our.into(), PREFIXES, false)?;
    let seen = good.seen().await?;
    ctx.step(format!(
        "the good peer had {PREFIXES} prefixes after {:.1} s",
        seen.ended - seen.began
    ));
    let why = announcer
        .report("the session to end", |report| match report {
            Report::Down { peer, why } if *peer == address => Some(why.clone()),
            _ => None,
        })
        .await?;
    let took = begin.elapsed();
    ensure!(
        why.to_lowercase().contains("send hold"),
        "the session ended because {why}"
    );
    let time = Duration::from_secs(SEND_HOLD.into());
    ensure!(
        (time..time + SLACK).contains(&took),
        "it ended after {took:?}, with a send hold time of {time:?}"
    );
    ctx.measured_ms("ended", took);
    ctx.step(format!("the one that does not read: {why}"));
    drop(deaf);
    announcer
        .order(&Order::Withdraw(Routes::hosts(PREFIXES)))
        .await?;
    good.seen().await?;
    announcer.kill().await
}
