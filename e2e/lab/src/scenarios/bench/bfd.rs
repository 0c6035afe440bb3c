//! Hundreds of BFD sessions in one speaker, on a machine that has too much to do.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use herald_api::BFDProfile;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use super::super::bgp_fabric as fabric;
use crate::announcer::bfd::{self, BfdPeers, Standing};
use crate::network::batch;
use crate::process::{self, Found, POD};
use crate::scenario::{Context, HERALD, herald, wait};
use crate::{isolate, vm};

/// Sessions, and their timers.
const SESSIONS: u32 = 500;
const INTERVAL: u16 = 50;
const MULTIPLIER: u8 = 3;
/// Busy loops: one for each core of the machine that figures are told of.
const HOGS: usize = 2;
/// How long it is measured, unless told.
const LASTING: Duration = Duration::from_mins(1);
/// How long all sessions may take to be up at their full rate.
const PATIENCE: Duration = Duration::from_mins(3);
/// Requests to the API server at a time.
const AT_ONCE: usize = 16;
/// Where the peers are.
const HOST: &str = "c1";
/// The first one's address, on LAN 0.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 20, 16, 1);
/// The speaker's thread for BFD.
const THREAD: &str = "bfd";

/// 500 sessions of 50 ms, three times, with a busy loop on every core: flaps that either
/// side saw, and the time that the speaker's BFD thread took.
pub(in crate::scenarios) async fn bfd_500(ctx: &mut Context) -> Result<()> {
    let IpAddr::V4(node) = fabric::node(1)? else {
        anyhow::bail!("an IPv4 address");
    };
    let settings = BfdPeers {
        node,
        first: FIRST,
        count: SESSIONS,
        interval: INTERVAL,
        multiplier: MULTIPLIER,
    };
    enlist(ctx, &settings).await?;
    let mut peers = Peers::start(&settings)?;
    full_rate(ctx, &mut peers).await?;
    let speaker = speaker(ctx).await?;

    let mut hogs = Vec::new();
    for _ in 0..HOGS {
        hogs.push(busy_loop()?);
    }
    sleep(Duration::from_secs(2)).await;
    let lasting = ctx.effort().lasting(LASTING);
    ctx.step(format!(
        "{SESSIONS} sessions are up; {HOGS} busy loops for {} s",
        lasting.as_secs()
    ));
    let before = Taken::now(ctx, &speaker).await?;
    let theirs = peers.newest().await?;
    sleep(lasting).await;
    let after = Taken::now(ctx, &speaker).await?;
    let standing = peers.newest().await?;
    drop(hogs);

    let seconds = after.at.saturating_duration_since(before.at).as_secs_f64();
    let share = |after: Duration, before: Duration| {
        (after.saturating_sub(before).as_secs_f64() / seconds * 1000.0).round() / 10.0
    };
    let rate = |after: f64, before: f64| ((after - before) / seconds).round();
    ctx.figure("cpu", share(after.thread, before.thread), "% of a core");
    ctx.figure(
        "cpu/speaker",
        share(after.process, before.process),
        "% of a core",
    );
    ctx.figure("sent", rate(after.sent, before.sent), "packets/s");
    ctx.figure(
        "received",
        rate(after.received, before.received),
        "packets/s",
    );
    let flaps = after.downs - before.downs;
    ctx.figure("flaps", flaps, "flaps");
    let by_peers = f64::from(u32::try_from(standing.downs - theirs.downs)?);
    ctx.figure("flaps/peers", by_peers, "flaps");
    // With their jitter they come faster than that; fewer would be no measurement of it.
    let least = f64::from(SESSIONS) * 1000.0 / f64::from(INTERVAL);
    let sent = rate(after.sent, before.sent);
    ensure!(
        sent >= 0.95 * least,
        "{sent} packets a second were sent, of {least}"
    );
    ensure!(
        standing.up == SESSIONS,
        "{} sessions of {SESSIONS} are up in the end",
        standing.up
    );
    drop(peers);
    fabric::clean(ctx, &[]).await?;
    fabric::delete_all::<BFDProfile>(ctx).await
}

/// An address and a `BGPPeer` for each. They have BFD, and no BGP: nobody listens.
async fn enlist(ctx: &Context, settings: &BfdPeers) -> Result<()> {
    let profile = json!({
        "receiveInterval": INTERVAL, "transmitInterval": INTERVAL, "detectMultiplier": MULTIPLIER,
    });
    fabric::create::<BFDProfile>(ctx, "fast", &profile).await?;
    let mut lines = String::new();
    for address in settings.addresses() {
        writeln!(lines, "addr add {address}/32 dev lan0")?;
    }
    batch(Some(HOST), &lines)?;
    stream::iter(settings.addresses().enumerate())
        .map(|(i, address)| async move {
            let more = json!({"bfdProfile": "fast", "passive": true});
            fabric::peer_at(ctx, &format!("peer-{i}"), address.into(), more).await
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await
}

/// Waits until every session is up, and its packets come as often as was agreed on.
async fn full_rate(ctx: &Context, peers: &mut Peers) -> Result<()> {
    let up = async {
        loop {
            let standing = peers.newest().await?;
            if standing.up == SESSIONS {
                return anyhow::Ok(());
            }
        }
    };
    let up = timeout(PATIENCE * vm::patience(), up).await;
    up.with_context(|| format!("{SESSIONS} sessions are not up"))??;
    let least = 0.95 * f64::from(SESSIONS) * 1000.0 / f64::from(INTERVAL);
    let node = &ctx.nodes()[0];
    wait::until_for(PATIENCE, "all packets to come", || async {
        let name = "herald_bfd_control_packet_input";
        let before = ctx.speaker_metrics(node).await?.sum(name, &[]);
        let begin = Instant::now();
        sleep(Duration::from_secs(3)).await;
        let after = ctx.speaker_metrics(node).await?.sum(name, &[]);
        let rate = (after - before) / begin.elapsed().as_secs_f64();
        ensure!(rate >= least, "{rate} a second, of {least}");
        Ok(())
    })
    .await
}

/// The speaker's process.
async fn speaker(ctx: &Context) -> Result<Found> {
    let pods = ctx.herald_pods(herald::SPEAKER).await?;
    let pod = pods.into_iter().next().context("there is a speaker")?;
    let name = pod.metadata.name.context("a pod has a name")?;
    let found = process::find(POD, &format!("{HERALD}/{name}/speaker"));
    let with_thread = |found: &Found| found.thread_cpu_time(THREAD).is_some();
    let found = found.into_iter().find(with_thread);
    found.context("no process of the speaker has a BFD thread")
}

/// A process that takes all the time it gets.
fn busy_loop() -> Result<Child> {
    Command::new("sh")
        .args(["-c", "while :; do :; done"])
        .kill_on_drop(true)
        .spawn()
        .context("start a busy loop")
}

/// What the speaker has taken since it started.
struct Taken {
    at: Instant,
    thread: Duration,
    process: Duration,
    sent: f64,
    received: f64,
    downs: f64,
}

impl Taken {
    async fn now(ctx: &Context, speaker: &Found) -> Result<Self> {
        let metrics = ctx.speaker_metrics(&ctx.nodes()[0]).await?;
        let thread = speaker.thread_cpu_time(THREAD);
        Ok(Self {
            at: Instant::now(),
            thread: thread.context("the speaker has ended")?,
            process: speaker.cpu_time().context("the speaker has ended")?,
            sent: metrics.sum("herald_bfd_control_packet_output", &[]),
            received: metrics.sum("herald_bfd_control_packet_input", &[]),
            downs: metrics.sum("herald_bfd_session_down_events", &[]),
        })
    }
}

/// The peers at work; dropped, they are killed.
struct Peers {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peers {
    fn start(settings: &BfdPeers) -> Result<Self> {
        let mut command = Command::from(process::in_host(Some(HOST), &isolate::own_path()?));
        let mut child = command
            .args([bfd::SUBCOMMAND, &serde_json::to_string(settings)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the BFD peers")?;
        let output = child.stdout.take().context("standard output is piped")?;
        Ok(Self {
            _child: child,
            lines: BufReader::new(output).lines(),
        })
    }

    /// How they stand now: what was said before is passed over.
    async fn newest(&mut self) -> Result<Standing> {
        let mut last = None;
        loop {
            // They speak each second: what comes at once has waited.
            let line = timeout(Duration::from_millis(100), self.lines.next_line()).await;
            match (line, &last) {
                (Ok(line), _) => {
                    let line = line?.context("the BFD peers ended")?;
                    last = Some(serde_json::from_str(&line).context("read the BFD peers")?);
                }
                (Err(_), Some(last)) => return Ok(*last),
                (Err(_), None) => {}
            }
        }
    }
}
