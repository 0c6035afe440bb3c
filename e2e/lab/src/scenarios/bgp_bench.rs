//! How fast Herald's BGP engine tells a peer, beside others that tell the same peer
//! the same in the same run.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::bgp_matrix::{OURS, THEIRS, routers};
use crate::announcer::sink::{self, Seen, Sink};
use crate::announcer::{Announcer, Order, Peer, Routes, Settings};
use crate::plan::Host;
use crate::router::{Announces, Neighbor, Router, RouterConfig, Software};
use crate::scenario::{Context, wait};
use crate::{isolate, process};

const PREFIXES: u32 = 100_000;
/// How often each is measured; the median counts.
const ROUNDS: usize = 5;
/// AS of the peer that is told.
const SINK: u16 = 64_600;
/// Where the peer is, and where Herald's engine is.
const SINK_HOST: &str = "c1";
const OUR_HOST: &str = "n1";

/// A table of 100,000 hosts to a newly established peer, and all withdrawn.
pub(super) async fn hundred_thousand(ctx: &mut Context) -> Result<()> {
    let all = routers(ctx)?;
    let (feeders, others): (Vec<Router>, Vec<Router>) =
        all.into_iter().partition(|r| r.software == Software::Bird);
    let bird = feeders.into_iter().next();
    let bird = bird.context("BIRD is needed, the others learn their routes from it")?;
    feed(ctx, &bird, &others).await?;
    let mut best: Option<f64> = None;
    for router in std::iter::once(&bird).chain(&others) {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let (_sink, seen) = announced(address(router)?).await?;
            times.push(seen.ended - seen.began);
            ctx.step(format!(
                "{router}: {:.3} s, {} messages",
                seen.ended - seen.began,
                seen.messages
            ));
        }
        let time = median(times)?;
        ctx.figure(
            &format!("{}/announce", router.software),
            time * 1000.0,
            "ms",
        );
        best = Some(best.map_or(time, |best| best.min(time)));
    }
    // What they learnt goes with the next step, and would take the machine's time.
    for router in &others {
        router.stop().await?;
    }
    let mut withdrawn = Vec::new();
    for _ in 0..ROUNDS {
        feed(ctx, &bird, &[]).await?;
        let (mut sink, _) = announced(address(&bird)?).await?;
        let begin = now()?;
        bird.withdraw_hosts().await?;
        withdrawn.push(sink.seen().await?.ended - begin);
    }
    bird.stop().await?;
    let theirs = median(withdrawn)?;
    ctx.figure("bird/withdraw", theirs * 1000.0, "ms");

    let (mut announce, mut withdraw) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut announcer = Announcer::start(OUR_HOST, &settings()?)?;
        let (our, _) = Host::Node(1).lan(0).context("n1 is on LAN 0")?;
        let (mut sink, seen) = announced(our.into()).await?;
        announce.push(seen.ended - seen.began);
        ctx.step(format!(
            "herald: {:.3} s, {} messages",
            seen.ended - seen.began,
            seen.messages
        ));
        let begin = now()?;
        announcer
            .order(&Order::Withdraw(Routes::hosts(PREFIXES)))
            .await?;
        withdraw.push(sink.seen().await?.ended - begin);
        announcer.kill().await?;
    }
    let (announce, withdraw) = (median(announce)?, median(withdraw)?);
    ctx.figure("herald/announce", announce * 1000.0, "ms");
    ctx.figure("herald/withdraw", withdraw * 1000.0, "ms");
    let best = best.context("somebody else was measured")?;
    ctx.figure("announce/ratio", announce / best, "of-fastest-other");
    ctx.figure("withdraw/ratio", withdraw / theirs, "of-bird");
    Ok(())
}

fn address(router: &Router) -> Result<IpAddr> {
    let (v4, _) = Host::Router(router.number()?).lan(0).context("on LAN 0")?;
    Ok(v4.into())
}

fn sink_address() -> Result<Ipv4Addr> {
    Ok(Host::Client(1).lan(0).context("a client is on LAN 0")?.0)
}

/// BIRD has the routes; the others learn them from it. Returns when they have.
async fn feed(ctx: &Context, bird: &Router, others: &[Router]) -> Result<()> {
    let config = |router: &Router, peers: &[&Router], hosts_v4| -> Result<RouterConfig> {
        let IpAddr::V4(own) = address(router)? else {
            anyhow::bail!("an IPv4 address");
        };
        let mut sink = Neighbor::new(sink_address()?.into(), SINK.into());
        sink.passive = true;
        sink.hold = 180;
        let mut neighbors = vec![sink];
        for peer in peers {
            let asn = THEIRS + u32::from(peer.number()?);
            neighbors.push(Neighbor::new(address(peer)?, asn));
        }
        for neighbor in &mut neighbors {
            neighbor.local = Some(own.into());
        }
        Ok(RouterConfig {
            asn: THEIRS + u32::from(router.number()?),
            id: own,
            neighbors,
            announces: Announces { hosts_v4 },
        })
    };
    let peers: Vec<&Router> = others.iter().collect();
    let logs = ctx.lab().logs();
    bird.start(&config(bird, &peers, PREFIXES)?, logs).await?;
    for router in others {
        router.start(&config(router, &[bird], 0)?, logs).await?;
        wait::until(&format!("{router} to have the routes"), || async {
            let count = router.routes().await?.len();
            ensure!(count >= PREFIXES as usize, "it has {count}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn settings() -> Result<Settings> {
    let (our, _) = Host::Node(1).lan(0).context("n1 is on LAN 0")?;
    Ok(Settings {
        asn: OURS,
        id: our,
        peers: vec![Peer {
            address: sink_address()?.into(),
            source: our.into(),
            asn: SINK.into(),
            passive: true,
            v4: true,
            v6: false,
            hold: 180,
            graceful_restart: None,
        }],
        routes: Routes::hosts(PREFIXES),
    })
}

/// A peer that has been told everything.
async fn announced(address: IpAddr) -> Result<(Sinking, Seen)> {
    wait::until(&format!("{address} to tell its routes"), || async {
        let mut sink = Sinking::start(&Sink {
            address,
            source: sink_address()?.into(),
            asn: SINK,
            prefixes: PREFIXES,
        })?;
        let seen = sink.seen().await?;
        Ok((sink, seen))
    })
    .await
}

struct Sinking {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Sinking {
    fn start(settings: &Sink) -> Result<Self> {
        let program = isolate::own_path()?;
        let mut command = Command::from(process::in_host(Some(SINK_HOST), &program));
        command
            .args([sink::SUBCOMMAND, &serde_json::to_string(settings)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn().context("start the sink")?;
        let output = child.stdout.take().context("standard output is piped")?;
        Ok(Self {
            _child: child,
            lines: BufReader::new(output).lines(),
        })
    }

    async fn seen(&mut self) -> Result<Seen> {
        let line = self.lines.next_line().await?;
        serde_json::from_str(&line.context("the sink ended too early")?).context("read the sink")
    }
}

fn median(mut times: Vec<f64>) -> Result<f64> {
    times.sort_by(f64::total_cmp);
    times
        .get(times.len() / 2)
        .copied()
        .context("something was measured")
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}
