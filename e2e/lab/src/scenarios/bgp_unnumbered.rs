//! Peers without addresses: FRR at the other end of a cable to each node, found by its
//! router advertisements, and finding the node by ours.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use herald_api::{BFDProfile, BGPPeer, BGPSession};
use kube::api::{Api, DeleteParams, ListParams};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::bgp_fabric::{self as fabric, PATIENCE, has, next_hops, told_of};
use super::bgp_matrix::{OURS, THEIRS, routers};
use crate::network::batch;
use crate::plan::Host;
use crate::router::{Announces, Bfd, Neighbor, Place, Router, RouterConfig};
use crate::scenario::{Context, wait};

/// A node's end of its cable. The router's is called as the node is.
const CABLE: &str = "up0";
/// A node's interface with nobody at the other end.
const LOOSE: &str = "up1";
const TIMERS: Bfd = Bfd {
    interval: 50,
    multiplier: 3,
};
/// The sessions' hold time.
const HOLD: Duration = Duration::from_secs(9);

/// Both families over one session without addresses, traffic, BFD, a router that
/// changes its address, and the words for what is not there.
pub(super) async fn without_addresses(ctx: &mut Context) -> Result<()> {
    let all = routers(ctx)?;
    let router = all.first().context("there is a router")?;
    lay_cables(ctx, router)?;
    start(ctx, router).await?;
    let begin = Instant::now();
    peers(ctx).await?;
    is_up(ctx, None).await?;
    ctx.measured_since("session", begin);

    fabric::pool(ctx).await?;
    fabric::advertise(ctx).await?;
    ctx.deploy_echo("web", 2).await?;
    ctx.expose("web").create().await?;
    let addresses = ctx.addresses("web").await?;
    let hops = ends(ctx, router).await?;
    let far = Host::Far(router.number()?).name();
    for address in &addresses {
        has(router, *address, &hops).await?;
        for _ in 0..10 {
            ctx.client_named(&far).curl(*address).await?;
        }
    }
    ctx.step(format!(
        "{router} has {addresses:?} by {hops:?}, and its client gets through"
    ));

    told_of(ctx, "no-interface", "that it is not there", |session| {
        says(session, "this node has no interface up9")
    })
    .await?;
    told_of(ctx, "nobody", "that no router is heard", |session| {
        says(session, "no router advertises itself on interface up1")
    })
    .await?;
    ctx.step("peers on an interface that is not there, and on one without a router, are told");

    silent_speaker(ctx, router, addresses[0]).await?;

    let begin = Instant::now();
    let moved = move_router(ctx)?;
    is_up(ctx, Some(moved)).await?;
    ctx.measured_since("router-moved", begin);
    for address in &addresses {
        has(router, *address, &hops).await?;
    }
    ctx.step(format!("{router} is {moved} now, and has them again"));

    router.stop().await?;
    told_of(ctx, "tor", "that it is not up", |session| {
        session.state != "Established" && session.last_error.is_some()
    })
    .await?;
    fabric::clean(ctx, &[]).await?;
    let profiles: Api<BFDProfile> = ctx.herald_api();
    profiles
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await?;
    Ok(())
}

/// A cable from the router to each node, and one to each that nobody is at.
fn lay_cables(ctx: &Context, router: &Router) -> Result<()> {
    let name = router.name();
    for node in ctx.nodes() {
        batch(
            None,
            &format!(
                "link add {node} netns {name} type veth peer name {CABLE} netns {node}\n\
                 link add {node}-loose netns {name} type veth peer name {LOOSE} netns {node}\n"
            ),
        )?;
        batch(
            Some(&node),
            &format!("link set {CABLE} up\nlink set {LOOSE} up\n"),
        )?;
        batch(
            Some(name),
            &format!("link set {node} up\nlink set {node}-loose up\n"),
        )?;
    }
    Ok(())
}

async fn start(ctx: &Context, router: &Router) -> Result<()> {
    let (own, _) = Host::Router(router.number()?).lan(0).context("on LAN 0")?;
    let neighbor = |node: String| {
        let mut neighbor = Neighbor::new(own.into(), OURS);
        neighbor.place = Place::Interface(node);
        neighbor.v6 = true;
        neighbor.bfd = Some(TIMERS);
        neighbor.hold = u16::try_from(HOLD.as_secs()).unwrap_or(9);
        neighbor
    };
    let config = RouterConfig {
        asn: THEIRS,
        id: own,
        neighbors: ctx.nodes().into_iter().map(neighbor).collect(),
        announces: Announces::default(),
    };
    router.start(&config, ctx.lab().logs()).await
}

/// One that is there, one on an interface that is not, and one that nobody is at.
async fn peers(ctx: &Context) -> Result<()> {
    let profile = json!({
        "receiveInterval": TIMERS.interval,
        "transmitInterval": TIMERS.interval,
        "detectMultiplier": TIMERS.multiplier,
    });
    fabric::create::<BFDProfile>(ctx, "fast", &profile).await?;
    for (name, interface) in [("tor", CABLE), ("no-interface", "up9"), ("nobody", LOOSE)] {
        let spec = json!({
            "myASN": OURS, "dynamicASN": "external", "interface": interface,
            "holdTime": format!("{}s", HOLD.as_secs()), "connectTime": "2s",
            "bfdProfile": "fast",
        });
        fabric::create::<BGPPeer>(ctx, name, &spec).await?;
    }
    Ok(())
}

fn says(session: &BGPSession, words: &str) -> bool {
    let problem = session.problem.as_ref();
    problem.is_some_and(|problem| problem.contains(words))
}

/// Waits until every node has the session, with the router at this address if one is
/// given, and BFD.
async fn is_up(ctx: &Context, at: Option<IpAddr>) -> Result<()> {
    told_of(ctx, "tor", "that it is up", |session| {
        let address: Option<IpAddr> = session.address.as_ref().and_then(|a| a.parse().ok());
        let link_local = matches!(address, Some(IpAddr::V6(v6)) if v6.is_unicast_link_local());
        session.state == "Established"
            && session.interface.as_deref() == Some(CABLE)
            && link_local
            && at.is_none_or(|at| address == Some(at))
            && session.families == ["ipv4", "ipv6"]
            && session.bfd.as_ref().is_some_and(|bfd| bfd.state == "Up")
    })
    .await
}

/// The link-local addresses of the nodes' ends.
async fn ends(ctx: &Context, router: &Router) -> Result<BTreeSet<IpAddr>> {
    let mut ends = BTreeSet::new();
    for node in ctx.nodes() {
        ends.insert(link_local(ctx, &node, CABLE).await?);
    }
    ensure!(
        ends.len() == ctx.nodes().len(),
        "two ends of {router} are one"
    );
    Ok(ends)
}

async fn link_local(ctx: &Context, host: &str, interface: &str) -> Result<IpAddr> {
    let arguments = ["-json", "-6", "address", "show", "dev", interface];
    let said = ctx.client_named(host).run("ip", &arguments).await?;
    let said: Value = serde_json::from_str(&said)?;
    let address = said[0]["addr_info"][0]["local"].as_str();
    let address = address.with_context(|| format!("{interface} of {host}: {said}"))?;
    Ok(address.parse()?)
}

/// A speaker that is stopped is missed by BFD, long before the hold time.
async fn silent_speaker(ctx: &mut Context, router: &Router, address: IpAddr) -> Result<()> {
    let hops = ends(ctx, router).await?;
    let silent = link_local(ctx, "n1", CABLE).await?;
    let pod = ctx.speaker_on("n1").await?;
    let begin = Instant::now();
    ctx.signal(&pod, "speaker", Signal::SIGSTOP)?;
    let gone = wait::until_for(
        PATIENCE,
        &format!("{router} to miss the speaker of n1"),
        || async {
            let seen = next_hops(router, address).await?;
            ensure!(!seen.contains(&silent), "by {seen:?}");
            Ok(())
        },
    )
    .await;
    let took = begin.elapsed();
    ctx.signal(&pod, "speaker", Signal::SIGCONT)?;
    gone?;
    ensure!(took < HOLD / 2, "after {took:?}, which was not BFD");
    ctx.measured_ms("silent-speaker", took);
    has(router, address, &hops).await?;
    is_up(ctx, None).await
}

/// Gives the router's ends another link-local address.
fn move_router(ctx: &Context) -> Result<IpAddr> {
    let moved: IpAddr = "fe80::99".parse()?;
    for node in ctx.nodes() {
        batch(
            Some("r1"),
            &format!(
                "addr flush dev {node} scope link\naddr add {moved}/64 dev {node} scope link nodad\n"
            ),
        )?;
    }
    Ok(moved)
}
