//! What the speakers settle among themselves when the segment, a node or a
//! speaker is not well.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use herald_api::names::ANNOTATION_ALLOW_SHARED_IP;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::sleep;

use super::failover::{count, gap, loss, probe, served, served_as, stop, worst};
use crate::capture::Capture;
use crate::cgroup::CpuLimit;
use crate::faults::{self, Direction};
use crate::network::Network;
use crate::process::{self, POD};
use crate::scenario::wait::PATIENCE;
use crate::scenario::{Context, HERALD, wait};

const LAN: Network = Network::Lan(0);

/// What a throttled speaker may take of each 100 ms: less than it needs.
const LIMIT: Duration = Duration::from_millis(1);

/// Every address is with exactly one node, and with another than this one.
async fn left(ctx: &Context, addresses: &[IpAddr], node: &str) -> Result<Vec<String>> {
    let mut owners = Vec::new();
    for &address in addresses {
        owners.push(ctx.client().owned_by_other_than(address, node).await?);
    }
    Ok(owners)
}

/// Every address is with exactly one node, and still with the same.
async fn stays(ctx: &Context, addresses: &[IpAddr], owners: &[String]) -> Result<()> {
    for (&address, owner) in addresses.iter().zip(owners) {
        let now = ctx.client().owner(address).await?;
        ensure!(now == *owner, "{address} moved from {owner} to {now}");
    }
    Ok(())
}

/// Of two owners the one that gives way has done so after 2 s, whatever it has heard.
const ASKED_ON: Duration = Duration::from_secs(3);
/// So many answers of the owner alone say that the other one is silent.
const ENOUGH: usize = 5;

/// Ends a cut, and notes how long it takes until only one of two owners answers: asked
/// for by `c1` all the while, when the other one answers for the last time.
async fn settles(
    ctx: &mut Context,
    address: IpAddr,
    loser: &str,
    heal: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let capture = ctx.capture_lan("settled").await?;
    let ask = format!("while :; do arping -q -f -w 1 -I lan0 {address}; sleep 0.01; done");
    let asking = ctx
        .lab()
        .command("c1", "sh")
        .args(["-c", &ask])
        .kill_on_drop(true)
        .spawn()
        .context("ask for the address")?;
    let healed = Timestamp::now();
    heal()?;
    ctx.speakers_see_each_other().await?;
    // A loser that answers still is heard.
    sleep(ASKED_ON).await;
    drop(asking);
    let mac = ctx.mac(loser).await?;
    let frames = capture.stop().await?;
    let answers = frames.iter().filter(|frame| frame.at >= healed);
    let answers: Vec<_> = answers
        .filter_map(|frame| Some((frame.at, frame.claims(address)?)))
        .collect();
    let of_loser = answers.iter().filter(|(_, from)| *from == mac);
    let last = of_loser.map(|(at, _)| *at).max().unwrap_or(healed);
    let of_owner = answers
        .iter()
        .filter(|(at, from)| *from != mac && *at > last);
    ensure!(
        of_owner.count() >= ENOUGH,
        "too few answers to say when {loser} became silent: {}",
        answers.len()
    );
    let took = last.duration_since(healed).unsigned_abs();
    ctx.step(format!(
        "{loser} answered for {address} for {} ms more",
        took.as_millis()
    ));
    ctx.measured_ms("settled", took);
    Ok(())
}

/// The owner's frames are lost, then its cable is pulled.
pub(super) async fn link_cut(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    let probing = probe(ctx, &addresses).await?;
    faults::cut(&owner, LAN, Direction::Both)?;
    ctx.step(format!("nothing passes between {owner} and the LAN"));
    let next = left(ctx, &addresses, &owner).await?;
    gap(ctx, "cut", &stop(ctx, probing).await?)?;
    settles(ctx, addresses[0], &owner, || faults::heal(&owner, LAN)).await?;
    // Cut off, it went on answering; it stops when it has heard that another has them.
    for (&address, next) in addresses.iter().zip(&next) {
        ctx.client().owned_by(address, next).await?;
    }
    ctx.step(format!("{owner} is back, and nothing moved"));

    // A carrier that is lost is not waited for.
    let owner = &next[0];
    let probing = probe(ctx, &addresses).await?;
    faults::plug(owner, LAN, false)?;
    ctx.step(format!("the cable of {owner} is pulled"));
    left(ctx, &addresses, owner).await?;
    gap(ctx, "unplugged", &stop(ctx, probing).await?)?;
    faults::plug(owner, LAN, true)?;
    ctx.speakers_see_each_other().await?;
    for &address in &addresses {
        ctx.client().owner(address).await?;
    }
    Ok(())
}

/// One way only: the owner is not heard, then it does not hear.
pub(super) async fn one_way(ctx: &mut Context) -> Result<()> {
    let (addresses, _) = served(ctx).await?;
    for (what, direction) in [("unheard", Direction::Out), ("deaf", Direction::In)] {
        ctx.speakers_see_each_other().await?;
        let owner = ctx.client().owner(addresses[0]).await?;
        let probing = probe(ctx, &addresses).await?;
        faults::cut(&owner, LAN, direction)?;
        ctx.step(format!("{owner} is {what}"));
        left(ctx, &addresses, &owner).await?;
        gap(ctx, what, &stop(ctx, probing).await?)?;
        faults::heal(&owner, LAN)?;
    }
    ctx.speakers_see_each_other().await?;
    for &address in &addresses {
        ctx.client().owner(address).await?;
    }
    Ok(())
}

/// A link goes off and on, and then the node that has the addresses dies.
pub(super) async fn flap_then_crash(ctx: &mut Context) -> Result<()> {
    let (addresses, flapping) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    for _ in 0..3 {
        faults::plug(&flapping, LAN, false)?;
        sleep(Duration::from_millis(150)).await;
        faults::plug(&flapping, LAN, true)?;
        sleep(Duration::from_millis(350)).await;
    }
    ctx.step(format!("the link of {flapping} flapped"));
    let owner = ctx.client().owner(addresses[0]).await?;
    let probing = probe(ctx, &addresses).await?;
    faults::crash_node(ctx.lab(), &owner)?;
    ctx.step(format!("{owner} crashed"));
    left(ctx, &addresses, &owner).await?;
    gap(ctx, "", &stop(ctx, probing).await?)
}

/// The owner's speaker is killed, and the next one's is stopped for a while.
pub(super) async fn speaker_killed(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    let probing = probe(ctx, &addresses).await?;
    let speaker = ctx.speaker_on(&owner).await?;
    ctx.signal(&speaker, "speaker", Signal::SIGKILL)?;
    ctx.step(format!("SIGKILL to the speaker of {owner}"));
    // One that is started again at once may well be back before the others know.
    ctx.restarted(&speaker, "speaker").await?;
    ctx.speakers_see_each_other().await?;
    let mut owners = Vec::new();
    for &address in &addresses {
        owners.push(ctx.client().owner(address).await?);
    }
    gap(ctx, "killed", &stop(ctx, probing).await?)?;

    let stopped = owners[0].clone();
    let probing = probe(ctx, &addresses).await?;
    let speaker = ctx.speaker_on(&stopped).await?;
    ctx.signal(&speaker, "speaker", Signal::SIGSTOP)?;
    ctx.step(format!("SIGSTOP to the speaker of {stopped}"));
    let next = left(ctx, &addresses, &stopped).await?;
    ctx.signal(&speaker, "speaker", Signal::SIGCONT)?;
    ctx.step("it runs again, and must see that others have what it had");
    ctx.speakers_see_each_other().await?;
    stays(ctx, &addresses, &next).await?;
    gap(ctx, "stopped", &stop(ctx, probing).await?)?;
    short_stall(ctx, &addresses, &next).await
}

/// A speaker that does not run for a moment, shorter than it takes to give it up:
/// it notices, and nothing moves.
async fn short_stall(ctx: &mut Context, addresses: &[IpAddr], owners: &[String]) -> Result<()> {
    const STALL: Duration = Duration::from_millis(150);
    let node = &owners[0];
    let speaker = ctx.speaker_on(node).await?;
    let stalls = async || {
        let metrics = ctx.speaker_metrics(node).await?;
        anyhow::Ok(metrics.sum("herald_l2_stalls_total", &[]))
    };
    let before = stalls().await?;
    let probing = probe(ctx, addresses).await?;
    let begin = Instant::now();
    ctx.signal(&speaker, "speaker", Signal::SIGSTOP)?;
    sleep(STALL).await;
    ctx.signal(&speaker, "speaker", Signal::SIGCONT)?;
    let lasted = begin.elapsed();
    wait::until("the speaker to count its stall", || async {
        ensure!(stalls().await? > before, "it counts none");
        Ok(())
    })
    .await?;
    stays(ctx, addresses, owners).await?;
    ctx.step(format!(
        "stopped for {} ms: it noticed, and nothing moved",
        lasted.as_millis()
    ));
    loss(ctx, "stalled", &stop(ctx, probing).await?)
}

/// A CPU limit keeps the owner's speaker from running for most of the time.
pub(super) async fn throttled(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    let speaker = ctx.speaker_on(&owner).await?;
    let processes = process::find(POD, &format!("{HERALD}/{speaker}/speaker"));
    let process = processes.first().context("the speaker runs")?;
    let limit = CpuLimit::set(process, LIMIT)?;
    ctx.step(format!(
        "the speaker of {owner} may run for {} ms of each 100 ms",
        LIMIT.as_millis()
    ));
    let text = ctx.node_event(&owner, "SpeakerThrottled").await?;
    ensure!(
        text.contains("resources.limits.cpu"),
        "it does not say what to do: {text}"
    );
    ctx.step(text);
    drop(limit);
    ctx.speakers_see_each_other().await?;
    let metrics = ctx.speaker_metrics(&owner).await?;
    let seconds = metrics.sum("herald_speaker_throttled_seconds", &[]);
    ensure!(seconds > 0.0, "the metric says that it was not throttled");
    for &address in &addresses {
        ctx.client().owner(address).await?;
    }
    ctx.step(format!(
        "it was kept from running for {seconds:.1} s; each VIP has one owner"
    ));
    Ok(())
}

/// The owner is cut off from the cluster, and is well on the LAN.
pub(super) async fn management_cut(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    faults::cut(&owner, Network::Management, Direction::Both)?;
    ctx.step(format!(
        "{owner} is cut off from the API and the other pods"
    ));
    // When Kubernetes calls it NotReady, it gives its addresses to others.
    left(ctx, &addresses, &owner).await?;
    for &address in &addresses {
        ctx.client().curl(address).await?;
    }
    ctx.step("others have its addresses, and traffic gets through");
    faults::heal(&owner, Network::Management)?;
    ctx.lab().nodes_ready(PATIENCE).await?;
    for &address in &addresses {
        ctx.client().owner(address).await?;
    }
    Ok(())
}

/// The LAN in two parts, with a client in each, and whole again.
async fn split(ctx: &mut Context, policy: &str) -> Result<()> {
    let (addresses, owner) = served_as(ctx, json!({"policy": policy})).await?;
    ctx.speakers_see_each_other().await?;
    let address = addresses[0];
    // The part with one node, which had it, and the first client.
    faults::split(&[&owner, "c1"], LAN)?;
    ctx.step(format!("{owner} and c1 hear nobody else on the LAN"));
    let others = ctx.client_named("c2");
    let next = others.owned_by_other_than(address, &owner).await?;
    ctx.step(format!("{next} answers in the part with most nodes"));
    if policy == "strict" {
        ctx.client().nobody_owns(address).await?;
        ctx.step(format!("{owner} is silent in its part"));
    } else {
        ctx.client().owned_by(address, &owner).await?;
        ctx.step(format!("{owner} answers in its part"));
    }
    if policy == "strict" {
        faults::split(&[], LAN)?;
        ctx.speakers_see_each_other().await?;
    } else {
        settles(ctx, address, &owner, || faults::split(&[], LAN)).await?;
    }
    for client in [ctx.client(), ctx.client_named("c2")] {
        client.owned_by(address, &next).await?;
    }
    ctx.step("whole again, and one answers");
    Ok(())
}

/// Under `available`.
pub(super) async fn split_available(ctx: &mut Context) -> Result<()> {
    split(ctx, "available").await
}

/// Under `strict`.
pub(super) async fn split_strict(ctx: &mut Context) -> Result<()> {
    split(ctx, "strict").await
}

/// Without the API server the owner dies; when it is back, nothing moves.
pub(super) async fn api_away_crash(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    let probing = probe(ctx, &addresses).await?;
    faults::stop_api_server()?;
    faults::crash_node(ctx.lab(), &owner)?;
    ctx.step(format!("the API server is stopped, and {owner} crashed"));
    let next = left(ctx, &addresses, &owner).await?;
    gap(ctx, "", &stop(ctx, probing).await?)?;
    ctx.lab().start_api_server().await?;
    ctx.forgive_denials()?;
    faults::boot_node(ctx.lab(), &owner)?;
    ctx.lab().nodes_ready(PATIENCE).await?;
    ctx.speakers_see_each_other().await?;
    stays(ctx, &addresses, &next).await?;
    ctx.step("the API server and the node are back, and nothing moved");
    Ok(())
}

/// With the fast profile, and another Service at the same addresses.
pub(super) async fn fast_crash(ctx: &mut Context) -> Result<()> {
    const KEY: &str = "together";
    const PORT: u16 = 81;
    ctx.pool("pool", 4).await?;
    ctx.advertise(json!({"profile": "fast"})).await?;
    ctx.deploy_echo("web", 3).await?;
    ctx.expose("web")
        .annotate(ANNOTATION_ALLOW_SHARED_IP, KEY)
        .create()
        .await?;
    let addresses = ctx.addresses("web").await?;
    ctx.expose("also")
        .in_front_of("web")
        .annotate(ANNOTATION_ALLOW_SHARED_IP, KEY)
        .port("http", "TCP", PORT, 8080)
        .create()
        .await?;
    let shared = ctx.addresses("also").await?;
    ensure!(shared == addresses, "{shared:?} is not {addresses:?}");
    for &address in &addresses {
        ctx.client().curl(address).await?;
        ctx.client().curl_port(address, PORT).await?;
    }
    let owner = ctx.client().owner(addresses[0]).await?;
    ctx.speakers_see_each_other().await?;
    let probing = probe(ctx, &addresses).await?;
    faults::crash_node(ctx.lab(), &owner)?;
    ctx.step(format!("{owner} crashed"));
    let next = left(ctx, &addresses, &owner).await?;
    gap(ctx, "", &stop(ctx, probing).await?)?;
    let node = &next[0];
    ensure!(next.iter().all(|n| n == node), "apart: {next:?}");
    for service in ["web", "also"] {
        ctx.announced_by(service, node).await?;
    }
    for &address in &addresses {
        ctx.client().curl_port(address, PORT).await?;
    }
    ctx.step(format!("{node} has both Services, at both addresses"));
    Ok(())
}

/// Heartbeats to each peer, where multicast does not get through.
pub(super) async fn unicast(ctx: &mut Context) -> Result<()> {
    ctx.speaker_flags(&["--heartbeats=unicast"]).await?;
    let (addresses, owner) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    let file = ctx.directory().join("heartbeats.pcap");
    let capture = Capture::start(None, &LAN.bridge(), "udp port 7474 and multicast", &file).await?;
    let probing = probe(ctx, &addresses).await?;
    faults::crash_node(ctx.lab(), &owner)?;
    ctx.step(format!("{owner} crashed"));
    left(ctx, &addresses, &owner).await?;
    gap(ctx, "", &stop(ctx, probing).await?)?;
    let frames = capture.stop().await?;
    ensure!(
        frames.is_empty(),
        "{} heartbeats by multicast",
        frames.len()
    );
    Ok(())
}

/// Addresses go back when somebody asks for it, and not before.
pub(super) async fn rebalance(ctx: &mut Context) -> Result<()> {
    let (addresses, owner) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    let probing = probe(ctx, &addresses).await?;
    let speaker = ctx.speaker_on(&owner).await?;
    ctx.signal(&speaker, "speaker", Signal::SIGTERM)?;
    let next = left(ctx, &addresses, &owner).await?;
    ctx.restarted(&speaker, "speaker").await?;
    ctx.speakers_see_each_other().await?;
    stays(ctx, &addresses, &next).await?;
    ctx.step(format!("{owner} is back, and nothing moved"));
    ctx.rebalance("once").await?;
    for &address in &addresses {
        ctx.client().owned_by(address, &owner).await?;
    }
    ctx.step(format!("asked for, {owner} has them again"));
    loss(ctx, "rebalance", &stop(ctx, probing).await?)
}

/// New keys for the heartbeats, step by step.
pub(super) async fn rotate_keys(ctx: &mut Context) -> Result<()> {
    let (addresses, _) = served(ctx).await?;
    ctx.speakers_see_each_other().await?;
    let mut owners = Vec::new();
    for &address in &addresses {
        owners.push(ctx.client().owner(address).await?);
    }
    let probing = probe(ctx, &addresses).await?;
    let old = ctx.heartbeat_key().await?;
    let new = ByteString(vec![7; 32]);
    let steps: [&[(&str, Option<&ByteString>)]; 3] = [
        &[("next", Some(&new))],
        &[
            ("primary", Some(&new)),
            ("next", None),
            ("previous", Some(&old)),
        ],
        &[("previous", None)],
    ];
    for step in steps {
        ctx.set_heartbeat_keys(step).await?;
        // A speaker that does not follow would be dead to the others by now.
        sleep(Duration::from_secs(2)).await;
        stays(ctx, &addresses, &owners).await?;
        ctx.step("a step further, and nothing moved");
    }
    ctx.speakers_see_each_other().await?;
    let reports = stop(ctx, probing).await?;
    let (lost, _) = worst(&reports);
    ctx.measured("lost", count(lost), "probes");
    ensure!(lost == 0, "{lost} probes lost");
    Ok(())
}
