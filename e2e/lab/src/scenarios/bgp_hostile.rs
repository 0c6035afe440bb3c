//! Peers that mean harm, or know no better, beside a good one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::sleep;

use super::bgp_fabric::{self as fabric, has, next_hops};
use super::bgp_matrix::{THEIRS, routers};
use crate::announcer::hostile::{self, Answer, Deed, Done, Hostile};
use crate::network::batch;
use crate::router::Router;
use crate::scenario::{Context, herald};
use crate::{isolate, process};

/// Where the hostile peers are.
const HOST: &str = "c1";
/// MiB that a speaker may have more when all is over.
const MORE_MEMORY: f64 = 32.0;
/// Writes of a speaker's status while all this goes on.
const FEW_WRITES: usize = 200;

/// Every deed, each by a peer of its own, while a router is told of a Service.
pub(super) async fn hostile_peers(ctx: &mut Context) -> Result<()> {
    let routers = routers(ctx)?;
    let good = routers.first().context("there is a router")?;
    fabric::start(ctx, good, |_| {}).await?;
    fabric::peer(ctx, good, json!({})).await?;
    let address = fabric::serve(ctx, good, 1).await?;
    let nodes = fabric::nodes(ctx)?;

    let hostile = Hostile {
        speaker: fabric::node(1)?,
        source: Ipv4Addr::new(10, 20, 1, 101),
        stranger: Ipv4Addr::new(10, 20, 1, 99),
        asn: u16::try_from(THEIRS)?,
    };
    enlist(ctx, &hostile).await?;
    let since = fabric::since(ctx, good).await?;
    let memory = ctx.memory_mib(herald::SPEAKER, "speaker").await?;
    let mark = ctx.audit_mark()?;
    let done = tokio::select! {
        done = attack(&hostile) => done?,
        lost = watch(good, address, &nodes) => return Err(lost),
    };
    judge(ctx, &done)?;

    has(good, address, &nodes).await?;
    ensure!(
        fabric::since(ctx, good).await? == since,
        "the good peer's session ended meanwhile"
    );
    for pod in ctx.herald_pods(herald::SPEAKER).await? {
        let statuses = pod.status.and_then(|status| status.container_statuses);
        let restarts: i32 = statuses.iter().flatten().map(|c| c.restart_count).sum();
        ensure!(restarts == 0, "a speaker was restarted");
    }
    let more = ctx.memory_mib(herald::SPEAKER, "speaker").await? - memory;
    ctx.measured("memory-grown", more.max(0.0), "MiB");
    ensure!(more < MORE_MEMORY, "the speaker has {more} MiB more");
    let writes = ctx.writes_since(mark)?;
    let writes = writes
        .iter()
        .filter(|write| write.resource.starts_with("bgpstatuses"));
    let writes = writes.count();
    ctx.measured("status-writes", f64::from(u32::try_from(writes)?), "writes");
    ensure!(writes < FEW_WRITES, "{writes} writes of the status");
    good.stop().await?;
    fabric::clean(ctx, &[]).await
}

/// An address and a `BGPPeer` for each deed.
async fn enlist(ctx: &Context, hostile: &Hostile) -> Result<()> {
    let mut lines = format!("addr add {}/16 dev lan0\n", hostile.stranger);
    for (i, deed) in Deed::ALL.iter().enumerate() {
        let source = hostile.source_of(*deed);
        writeln!(lines, "addr add {source}/16 dev lan0")?;
        let more = json!({"passive": true});
        fabric::peer_at(ctx, &format!("hostile-{i}"), source.into(), more).await?;
    }
    batch(Some(HOST), &lines)?;
    let all = i32::try_from(Deed::ALL.len() + 1)?;
    crate::scenario::wait::until("the speaker to have all peers", || async {
        let statuses = fabric::statuses(ctx).await?;
        let configured = statuses.first().map_or(0, |status| status.configured);
        ensure!(configured == all, "it has {configured}");
        Ok(())
    })
    .await
}

/// Since when the good peer's session is up.
async fn attack(hostile: &Hostile) -> Result<Vec<Done>> {
    let program = isolate::own_path()?;
    let mut command = Command::from(process::in_host(Some(HOST), &program));
    let mut child = command
        .args([hostile::SUBCOMMAND, &serde_json::to_string(hostile)?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start the hostile peers")?;
    let output = child.stdout.take().context("standard output is piped")?;
    let mut lines = BufReader::new(output).lines();
    let mut done = Vec::new();
    while let Some(line) = lines.next_line().await? {
        done.push(serde_json::from_str(&line).with_context(|| format!("it said {line:?}"))?);
    }
    let output = child.wait_with_output().await?;
    ensure!(
        output.status.success(),
        "the hostile peers ended: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(done)
}

/// Ends when the router does not have a path by every node any more, with what it has.
async fn watch(router: &Router, address: IpAddr, nodes: &BTreeSet<IpAddr>) -> anyhow::Error {
    loop {
        match next_hops(router, address).await {
            Ok(seen) if seen == *nodes => {}
            Ok(seen) => return anyhow::anyhow!("{router} has {address} by {seen:?}"),
            Err(error) => return error,
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn judge(ctx: &Context, done: &[Done]) -> Result<()> {
    let mut wrong = Vec::new();
    for Done { deed, answer } in done {
        let said = match answer {
            Answer::Stays => "the session stays".to_owned(),
            Answer::Notification(code, subcode) => format!("NOTIFICATION {code}/{subcode}"),
            Answer::Closed => "closed".to_owned(),
            Answer::Silence => "nothing".to_owned(),
        };
        ctx.step(format!("{deed}: {said}"));
        if *answer != deed.expected() {
            wrong.push(format!("{deed}: {said}, not {:?}", deed.expected()));
        }
    }
    if done.len() != Deed::ALL.len() {
        bail!("{} deeds of {} were done", done.len(), Deed::ALL.len());
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}
