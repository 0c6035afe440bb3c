//! BFD with routers that are not ours: how soon they know that a node is gone.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use herald_api::{BFDProfile, BGPAdvertisement, BGPPeer, BGPStatus};
use kube::ResourceExt as _;
use kube::api::Api;
use nix::sys::signal::Signal;
use serde_json::json;

use super::bgp_fabric::{self as fabric, PATIENCE, has, next_hops};
use super::bgp_matrix::{OURS, THEIRS, routers};
use super::route_monitor::RouteMonitor;
use crate::faults::{self, Direction};
use crate::network::Network;
use crate::plan;
use crate::router::{Bfd, Place, Router, Software};
use crate::scenario::{Context, herald, wait};

/// The hold time of all sessions, and what may come on top of it.
const HOLD: u16 = 3;
const HOLD_SLACK: Duration = Duration::from_millis(1500);
/// The node that has no BFD with BIRD.
const WITHOUT: &str = "n2";
/// Found out after 150 ms at the latest.
const FAST: Bfd = Bfd {
    interval: 50,
    multiplier: 3,
};
/// With time for a router to act on it, on a machine that is busy; far below the hold
/// time.
const FAST_LIMIT: Duration = Duration::from_millis(500);

/// Sessions up; speakers that are restarted; nodes that die without a word, with BFD
/// and without.
pub(super) async fn a_dead_node(ctx: &mut Context) -> Result<()> {
    let routers = routers(ctx)?;
    let vip = service(ctx).await?;
    set_up(ctx, &routers, vip, FAST).await?;
    ctx.step("BFD is up wherever both sides have it, and BGP everywhere");

    restart(ctx, &routers, vip).await?;

    let mut left = fabric::nodes(ctx)?;
    left.remove(&fabric::node(3)?);
    let gone = silence(ctx, &routers, vip, "n3", true).await?;
    for (router, took) in routers.iter().zip(&gone) {
        ensure!(
            *took <= FAST_LIMIT,
            "{router} sent traffic to n3 for {took:?}"
        );
        ctx.measured_ms(&format!("crash/{}", router.software), *took);
        has(router, vip, &left).await?;
    }
    ctx.step("a node died, and the routers knew by BFD");

    let gone = silence(ctx, &routers, vip, WITHOUT, true).await?;
    for (router, took) in routers.iter().zip(&gone) {
        if router.software == Software::Bird {
            let limit = Duration::from_secs(HOLD.into()) + HOLD_SLACK;
            ensure!(
                *took <= limit,
                "{router} waited {took:?}, beyond the hold time"
            );
            ctx.measured_ms("hold-time/bird", *took);
        } else {
            ensure!(*took <= FAST_LIMIT, "{router} knew after {took:?}");
        }
    }
    ctx.step("another died, and who had no BFD with it waited for the hold time");
    for router in &routers {
        router.stop().await?;
    }
    clean(ctx).await
}

/// Links that are cut, again and again, with the fastest timers that routers have.
pub(super) async fn fast(ctx: &mut Context) -> Result<()> {
    let routers = routers(ctx)?;
    let vip = service(ctx).await?;
    for timers in [
        FAST,
        Bfd {
            interval: 10,
            multiplier: 3,
        },
    ] {
        set_up(ctx, &routers, vip, timers).await?;
        let all = fabric::nodes(ctx)?;
        let mut times = vec![Vec::new(); routers.len()];
        for _ in 0..ctx.effort().rounds(10) {
            let gone = silence(ctx, &routers, vip, "n3", false).await?;
            for (times, took) in times.iter_mut().zip(gone) {
                times.push(took.as_secs_f64() * 1000.0);
            }
            faults::heal("n3", Network::Lan(0))?;
            for router in &routers {
                has(router, vip, &all).await?;
            }
            watched(ctx, &routers, timers).await?;
        }
        for (router, times) in routers.iter().zip(&times) {
            let what = format!(
                "cut/{}x{}/{}",
                timers.interval, timers.multiplier, router.software
            );
            ctx.spread(&what, times, "ms");
        }
        for router in &routers {
            router.stop().await?;
        }
        clean(ctx).await?;
    }
    Ok(())
}

/// Routers that are two hops away (RFC 5883): by their loopbacks, behind each other.
pub(super) async fn far_away(ctx: &mut Context) -> Result<()> {
    let routers = routers(ctx)?;
    let vip = service(ctx).await?;
    fabric::create::<BGPAdvertisement>(ctx, "all", &json!({})).await?;
    let mut all = fabric::nodes(ctx)?;
    for router in &routers {
        let profile = json!({
            "receiveInterval": FAST.interval,
            "transmitInterval": FAST.interval,
            "detectMultiplier": FAST.multiplier,
            "minimumTtl": farthest(router),
        });
        fabric::create::<BFDProfile>(ctx, router.name(), &profile).await?;
        let (loopback, _) = plan::loopback(router.number()?);
        fabric::start(ctx, router, |neighbor| {
            neighbor.local = Some(loopback.into());
            neighbor.multihop = Some(4);
            neighbor.bfd = Some(FAST);
        })
        .await?;
        let more = json!({"ebgpMultiHop": true, "bfdProfile": router.name()});
        fabric::peer_at(ctx, router.name(), loopback.into(), more).await?;
        has(router, vip, &all).await?;
    }
    for router in &routers {
        fabric::told_of(ctx, router.name(), "that BFD is up", |session| {
            session.bfd.as_ref().is_some_and(|bfd| bfd.state == "Up")
        })
        .await?;
        for node in ctx.nodes() {
            at_full_rate(ctx, &node, router.name(), FAST).await?;
        }
    }
    ctx.step("BFD is up over two hops");
    let gone = silence(ctx, &routers, vip, "n3", true).await?;
    all.remove(&fabric::node(3)?);
    for (router, took) in routers.iter().zip(&gone) {
        ensure!(*took <= FAST_LIMIT, "{router} knew after {took:?}");
        ctx.measured_ms(&format!("crash/{}", router.software), *took);
        has(router, vip, &all).await?;
        router.stop().await?;
    }
    clean(ctx).await
}

/// The TTL that a router's packets have behind one more router: BIRD sends them as any
/// others where the peer is not on the link.
fn farthest(router: &Router) -> u8 {
    match router.software {
        Software::Bird => 63,
        _ => 254,
    }
}

/// A Service, and its IPv4 address.
async fn service(ctx: &Context) -> Result<IpAddr> {
    ctx.pool("pool", 2).await?;
    ctx.deploy_echo("web", 2).await?;
    ctx.expose("web").create().await?;
    let addresses = ctx.addresses("web").await?;
    let vip = addresses.into_iter().find(IpAddr::is_ipv4);
    vip.context("the Service has an IPv4 address")
}

/// Routers and peers; returns when every router has the address by every node and BFD
/// runs at full speed.
async fn set_up(ctx: &Context, routers: &[Router], vip: IpAddr, timers: Bfd) -> Result<()> {
    let profile = json!({
        "receiveInterval": timers.interval,
        "transmitInterval": timers.interval,
        "detectMultiplier": timers.multiplier,
    });
    fabric::create::<BFDProfile>(ctx, "fast", &profile).await?;
    fabric::create::<BGPAdvertisement>(ctx, "all", &json!({})).await?;
    let without = Place::Address(node_address(WITHOUT)?);
    for router in routers {
        let without = (!has_bfd(router, WITHOUT)).then_some(&without);
        fabric::start(ctx, router, |neighbor| {
            neighbor.hold = HOLD;
            neighbor.graceful_restart = Some(60);
            neighbor.bfd = (Some(&neighbor.place) != without).then_some(timers);
        })
        .await?;
        let own = fabric::address(router)?;
        let mut spec = json!({
            "myASN": OURS, "holdTime": format!("{HOLD}s"), "bfdProfile": "fast",
        });
        if is_dynamic(router) {
            spec["listenRanges"] = json!([format!("{own}/32")]);
            spec["dynamicASN"] = json!("external");
        } else {
            spec["peerAddress"] = json!(own);
            spec["peerASN"] = json!(THEIRS);
        }
        fabric::create::<BGPPeer>(ctx, router.name(), &spec).await?;
    }
    for router in routers {
        has(router, vip, &fabric::nodes(ctx)?).await?;
    }
    watched(ctx, routers, timers).await
}

/// BIRD dials, and is known by its range only.
fn is_dynamic(router: &Router) -> bool {
    router.software == Software::Bird
}

fn node_address(name: &str) -> Result<IpAddr> {
    let number = name.strip_prefix('n').and_then(|i| i.parse().ok());
    fabric::node(number.context("a node has a number")?)
}

fn has_bfd(router: &Router, node: &str) -> bool {
    router.software != Software::Bird || node != WITHOUT
}

/// Waits until every session has BFD as it should, and its packets come at the rate
/// that was agreed on: only then does it find a failure in time.
async fn watched(ctx: &Context, routers: &[Router], timers: Bfd) -> Result<()> {
    let statuses: Api<BGPStatus> = ctx.herald_api();
    for node in ctx.nodes() {
        wait::until_for(PATIENCE, &format!("BFD on {node}"), || async {
            let object = statuses.get(&node).await?;
            let status = object.status.context("it has a status")?;
            for router in routers {
                let mut peers = status.peers.iter();
                let session = peers.find(|peer| peer.peer == router.name());
                let session = session.context("each peer is told")?;
                let bfd = session.bfd.as_ref().context("each peer has BFD")?;
                let state = if has_bfd(router, &node) { "Up" } else { "Down" };
                ensure!(
                    session.state == "Established" && bfd.state == state,
                    "{router}: {session:?}"
                );
            }
            Ok(())
        })
        .await?;
        for router in routers.iter().filter(|router| has_bfd(router, &node)) {
            let own = fabric::address(router)?;
            let peer = if is_dynamic(router) {
                format!("{}/{own}", router.name())
            } else {
                router.name().to_owned()
            };
            at_full_rate(ctx, &node, &peer, timers).await?;
        }
    }
    Ok(())
}

/// Waits until a peer's packets come to a node as often as was agreed on.
async fn at_full_rate(ctx: &Context, node: &str, peer: &str, timers: Bfd) -> Result<()> {
    let labels = [("peer", peer)];
    let name = "herald_bfd_control_packet_input";
    let what = format!("{peer} to send {node} packets fast");
    wait::until_for(PATIENCE, &what, || async {
        let before = ctx.speaker_metrics(node).await?.sum(name, &labels);
        let begin = Instant::now();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = ctx.speaker_metrics(node).await?.sum(name, &labels);
        let rate = (after - before) / begin.elapsed().as_secs_f64();
        let least = 0.8 * 1000.0 / f64::from(timers.interval);
        ensure!(rate >= least, "{rate} a second, of {least}");
        Ok(())
    })
    .await
}

/// Silences a node, by a crash or by a cut of its link to the segment. Returns how
/// long each router's kernel went on sending the address's traffic to it.
async fn silence(
    ctx: &Context,
    routers: &[Router],
    vip: IpAddr,
    node: &str,
    crash: bool,
) -> Result<Vec<Duration>> {
    let hop = node_address(node)?;
    let mut monitors = Vec::new();
    for router in routers {
        monitors.push(RouteMonitor::start(router).await?);
    }
    let begin = Instant::now();
    if crash {
        faults::crash_node(ctx.lab(), node)?;
    } else {
        faults::cut(node, Network::Lan(0), Direction::Both)?;
    }
    let watches = monitors
        .iter_mut()
        .map(|monitor| monitor.is_without(vip, hop));
    let mut times = Vec::new();
    for (router, at) in routers.iter().zip(futures::future::join_all(watches).await) {
        let at = at.with_context(|| format!("the kernel's routes of {router}"))?;
        times.push(at.saturating_duration_since(begin));
    }
    Ok(times)
}

/// Every speaker is told to stop and comes back. Who keeps the routes of a speaker
/// that restarts although BFD says that it is down does not miss one.
async fn restart(ctx: &Context, routers: &[Router], vip: IpAddr) -> Result<()> {
    let all = fabric::nodes(ctx)?;
    for pod in ctx.herald_pods(herald::SPEAKER).await? {
        ctx.signal(&pod.name_any(), "speaker", Signal::SIGTERM)?;
    }
    let end = Instant::now() + Duration::from_secs(6);
    let mut least = vec![all.len(); routers.len()];
    while Instant::now() < end {
        for (least, router) in least.iter_mut().zip(routers) {
            *least = (*least).min(next_hops(router, vip).await?.len());
        }
    }
    ctx.speakers_are_well().await?;
    for (router, least) in routers.iter().zip(least) {
        ctx.step(format!("{router} had {least} paths at the least"));
        // BIRD 2.0 takes AdminDown for a failure of the path.
        ensure!(
            router.software != Software::Frr || least == all.len(),
            "{router} lost paths at a restart"
        );
        has(router, vip, &all).await?;
    }
    watched(ctx, routers, FAST).await
}

async fn clean(ctx: &Context) -> Result<()> {
    fabric::clean(ctx, &[]).await?;
    fabric::delete_all::<BFDProfile>(ctx).await
}
