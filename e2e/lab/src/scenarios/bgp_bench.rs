//! How fast Herald's BGP engine tells a peer, beside others that tell the same peer
//! the same in the same run.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::bgp_fabric::address;
use super::bgp_matrix::{OURS, THEIRS, routers};
use crate::announcer::sink::{self, Seen, Sink};
use crate::announcer::{Announcer, Order, Peer, Routes, Settings};
use crate::plan::Host;
use crate::router::{Announces, Neighbor, Router, RouterConfig, Software};
use crate::scenario::{Context, statistics, wait};
use crate::{isolate, process};

const PREFIXES: u32 = 100_000;
/// Prefixes of the table whose memory is measured, and the peers that have it.
const MANY: u32 = 1_000_000;
const PEERS: u8 = 4;
/// How often each is measured, unless told otherwise; the median counts.
const ROUNDS: u32 = 5;
/// AS of the peer that is told.
const SINK: u16 = 64_600;
/// Where the peer is, and where Herald's engine is.
const SINK_HOST: Host = Host::Client(1);
const OUR_HOST: &str = "c2";

/// What a sender took, in seconds, a value for each round.
#[derive(Debug, Default)]
struct Taken {
    /// From the session's start to the last prefix.
    announce: Vec<f64>,
    /// From the order to the last withdrawal.
    withdraw: Vec<f64>,
    /// From the first withdrawal to the last: without what the order takes.
    withdrawing: Vec<f64>,
    messages: u32,
}

impl Taken {
    /// Takes a round in, whose withdrawals were ordered at `ordered`.
    fn note(&mut self, announced: Seen, ordered: f64, withdrawn: Seen) {
        self.announce.push(announced.ended - announced.began);
        self.withdraw.push(withdrawn.ended - ordered);
        self.withdrawing.push(withdrawn.ended - withdrawn.began);
        self.messages = announced.messages;
    }

    /// The medians of announcing and withdrawing.
    fn tell(&self, ctx: &mut Context, who: &str) -> Result<(f64, f64)> {
        let (announce, withdraw) = (median(&self.announce)?, median(&self.withdraw)?);
        ctx.figure(&format!("{who}/announce"), ms(announce), "ms");
        ctx.figure(&format!("{who}/withdraw"), ms(withdraw), "ms");
        let (messages, withdrawing) = (f64::from(self.messages), median(&self.withdrawing)?);
        ctx.figure(&format!("{who}/messages"), messages, "messages");
        ctx.figure(&format!("{who}/withdrawing"), ms(withdrawing), "ms");
        ctx.step(format!("{who}: {self:?}"));
        Ok((announce, withdraw))
    }
}

/// A table of 100,000 hosts to a newly established peer, and all withdrawn: by each
/// sender for itself, in turn.
pub(super) async fn hundred_thousand(ctx: &mut Context) -> Result<()> {
    let rounds = ctx.effort().rounds(ROUNDS);
    let mut ours = Taken::default();
    for _ in 0..rounds {
        herald(&mut ours).await?;
    }
    let ours = ours.tell(ctx, "herald")?;
    let (feeders, others): (Vec<Router>, Vec<Router>) = routers(ctx)?
        .into_iter()
        .partition(|r| r.software == Software::Bird);
    let bird = feeders.into_iter().next();
    let bird = bird.context("BIRD is needed, the others learn their routes from it")?;
    let mut best: Option<(f64, f64)> = None;
    for router in std::iter::once(&bird).chain(&others) {
        let mut taken = Taken::default();
        for _ in 0..rounds {
            feed(ctx, &bird, (*router != bird).then_some(router)).await?;
            let (mut sink, seen) = announced(address(router)?, SINK_HOST, PREFIXES).await?;
            let ordered = now()?;
            router.lose_routes(address(&bird)?).await?;
            taken.note(seen, ordered, sink.seen().await?);
            // What it has learnt is no business of the next one.
            router.stop().await?;
            bird.stop().await?;
        }
        let theirs = taken.tell(ctx, &router.software.to_string())?;
        best = Some(best.map_or(theirs, |best| (best.0.min(theirs.0), best.1.min(theirs.1))));
    }
    let best = best.context("somebody else was measured")?;
    ctx.figure(
        "announce/ratio",
        hundredths(ours.0 / best.0),
        "of-fastest-other",
    );
    ctx.figure(
        "withdraw/ratio",
        hundredths(ours.1 / best.1),
        "of-fastest-other",
    );
    memory(ctx).await
}

/// One round of Herald's engine.
async fn herald(taken: &mut Taken) -> Result<()> {
    let mut announcer = Announcer::start(OUR_HOST, &settings(PREFIXES, &[SINK_HOST])?).await?;
    let (mut sink, seen) = announced(our_address()?.into(), SINK_HOST, PREFIXES).await?;
    let ordered = now()?;
    let order = Order::Withdraw(Routes::hosts(PREFIXES));
    announcer.order(&order).await?;
    taken.note(seen, ordered, sink.seen().await?);
    announcer.kill().await
}

/// What a prefix costs, and each further peer that has it: by the memory with a million
/// of them and with one, told to one peer and to several.
async fn memory(ctx: &mut Context) -> Result<()> {
    let mut kib = Vec::new();
    for (prefixes, peers) in [(1, 1), (MANY, 1), (MANY, PEERS)] {
        // Routers are on the LAN too, and none of their daemons runs now.
        let hosts: Vec<Host> = std::iter::once(SINK_HOST)
            .chain((1..peers).map(Host::Router))
            .collect();
        let announcer = Announcer::start(OUR_HOST, &settings(prefixes, &hosts)?).await?;
        let mut sinks = Vec::new();
        for host in hosts {
            sinks.push(announced(our_address()?.into(), host, prefixes).await?);
        }
        kib.push(announcer.rss_kib().context("the announcer runs")?);
        announcer.kill().await?;
    }
    let more = |from: usize, to: usize| -> Result<f64> {
        let kib = u32::try_from(kib[to].saturating_sub(kib[from]))?;
        Ok(f64::from(kib) * 1024.0 / f64::from(MANY))
    };
    ctx.figure("herald/memory-per-prefix", more(0, 1)?.round(), "B");
    let bits = more(1, 2)? * 8.0 / f64::from(PEERS - 1);
    let bits = (bits * 10.0).round() / 10.0;
    ctx.figure("herald/memory-per-prefix-and-further-peer", bits, "bit");
    Ok(())
}

/// Seconds as milliseconds, to a tenth.
fn ms(seconds: f64) -> f64 {
    (seconds * 10_000.0).round() / 10.0
}

fn hundredths(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

fn our_address() -> Result<Ipv4Addr> {
    on_lan(Host::Client(2))
}

/// A host's address on the LAN.
pub(super) fn on_lan(host: Host) -> Result<Ipv4Addr> {
    let (address, _) = host.lan(0).context("the host is on LAN 0")?;
    Ok(address)
}

/// BIRD has the routes, and another one learns them from it. Returns when it has.
async fn feed(ctx: &Context, bird: &Router, other: Option<&Router>) -> Result<()> {
    let config = |router: &Router, peer: Option<&Router>, hosts_v4| -> Result<RouterConfig> {
        let IpAddr::V4(own) = address(router)? else {
            anyhow::bail!("an IPv4 address");
        };
        let mut sink = Neighbor::new(on_lan(SINK_HOST)?.into(), SINK.into());
        sink.passive = true;
        sink.hold = 180;
        let mut neighbors = vec![sink];
        if let Some(peer) = peer {
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
            announces: Announces { hosts_v4, odd: &[] },
        })
    };
    let logs = ctx.lab().logs();
    bird.start(&config(bird, other, PREFIXES)?, logs).await?;
    let Some(other) = other else { return Ok(()) };
    other.start(&config(other, Some(bird), 0)?, logs).await?;
    wait::until(&format!("{other} to have the routes"), || async {
        let count = other.prefixes_received().await?;
        ensure!(count >= PREFIXES.into(), "it has {count}");
        Ok(())
    })
    .await
}

/// So many prefixes for peers on these hosts.
fn settings(prefixes: u32, hosts: &[Host]) -> Result<Settings> {
    let our = our_address()?;
    let peers = hosts.iter().map(|host| peer(our, *host));
    Ok(Settings {
        asn: OURS,
        id: our,
        peers: peers.collect::<Result<_>>()?,
        routes: Routes::hosts(prefixes),
    })
}

/// A peer on a host that dials us at an address.
pub(super) fn peer(our: Ipv4Addr, host: Host) -> Result<Peer> {
    let mut peer = Peer::new(on_lan(host)?.into(), our.into(), SINK.into());
    peer.passive = true;
    peer.hold = 180;
    Ok(peer)
}

/// A peer on a host that has been told everything by a speaker.
async fn announced(speaker: IpAddr, host: Host, prefixes: u32) -> Result<(Sinking, Seen)> {
    wait::until(&format!("{speaker} to tell its routes"), || async {
        let mut sink = Sinking::start(host, speaker, prefixes, false)?;
        let seen = sink.seen().await?;
        Ok((sink, seen))
    })
    .await
}

/// A peer that counts, at work; dropped, it is killed.
pub(super) struct Sinking {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Sinking {
    /// It expects so many prefixes of a speaker; `deaf`: it reads nothing.
    pub(super) fn start(host: Host, speaker: IpAddr, prefixes: u32, deaf: bool) -> Result<Self> {
        let settings = Sink {
            address: speaker,
            source: on_lan(host)?.into(),
            asn: SINK,
            prefixes,
            deaf,
        };
        let program = isolate::own_path()?;
        let mut command = Command::from(process::in_host(Some(&host.name()), &program));
        command
            .args([sink::SUBCOMMAND, &serde_json::to_string(&settings)?])
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

    /// What it has seen next: all announcements, then all withdrawals.
    pub(super) async fn seen(&mut self) -> Result<Seen> {
        let line = self.lines.next_line().await?;
        serde_json::from_str(&line.context("the sink ended too early")?).context("read the sink")
    }
}

fn median(times: &[f64]) -> Result<f64> {
    statistics::percentile(times, 50).context("something was measured")
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}
