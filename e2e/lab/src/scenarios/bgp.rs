//! The speakers and routers that are not ours.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use herald_api::names::LABEL_EXCLUDE_NODE;
use herald_api::{BGPAdvertisement, BGPPeer, BGPStatus};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::bgp_matrix::{OURS, THEIRS, routers};
use crate::plan::Host;
use crate::router::{Announces, Neighbor, Router, RouterConfig};
use crate::scenario::{Context, HERALD, herald, wait};

const PATIENCE: Duration = Duration::from_secs(30);

/// A Service reaches the tables of routers with a path for each node; an excluded
/// node leaves; a roll-out withdraws nothing.
pub(super) async fn routes_of_a_service(ctx: &mut Context) -> Result<()> {
    let routers = routers(ctx)?;
    for router in &routers {
        start(ctx, router).await?;
    }
    for (i, router) in routers.iter().enumerate() {
        peer(ctx, router, i == 0).await?;
    }
    ctx.pool("pool", 2).await?;
    advertise(ctx).await?;
    ctx.deploy_echo("web", 2).await?;
    ctx.expose("web").create().await?;
    let addresses = ctx.addresses("web").await?;
    let address = *addresses.iter().find(|a| a.is_ipv4()).context("IPv4")?;
    let mut all = BTreeSet::new();
    for i in 1..=ctx.node_count() {
        let (v4, _) = Host::Node(i).lan(0).context("a node is on LAN 0")?;
        all.insert(IpAddr::from(v4));
    }
    for router in &routers {
        has(router, address, &all).await?;
    }
    ctx.step("every router has a path by every node");
    told(ctx, routers.len()).await?;

    let mut others = all.clone();
    let (first, _) = Host::Node(1).lan(0).context("on LAN 0")?;
    others.remove(&IpAddr::from(first));
    ctx.label_node("n1", LABEL_EXCLUDE_NODE, Some("")).await?;
    for router in &routers {
        has(router, address, &others).await?;
    }
    ctx.label_node("n1", LABEL_EXCLUDE_NODE, None).await?;
    for router in &routers {
        has(router, address, &all).await?;
    }
    ctx.step("an excluded node's paths went, and came back");

    restart(ctx, &routers, address, &all).await?;

    ctx.delete_service("web").await?;
    for router in &routers {
        has(router, address, &BTreeSet::new()).await?;
        router.stop().await?;
    }
    clean(ctx).await
}

async fn start(ctx: &Context, router: &Router) -> Result<()> {
    let (own, _) = Host::Router(router.number()?).lan(0).context("on LAN 0")?;
    let mut neighbors = Vec::new();
    for i in 1..=ctx.node_count() {
        let (node, _) = Host::Node(i).lan(0).context("on LAN 0")?;
        let mut neighbor = Neighbor::new(node.into(), OURS);
        neighbor.local = Some(own.into());
        neighbor.graceful_restart = Some(60);
        neighbor.password = (router.number()? == 1).then(|| "secret".to_owned());
        neighbors.push(neighbor);
    }
    let config = RouterConfig {
        asn: THEIRS,
        id: own,
        neighbors,
        announces: Announces::default(),
    };
    router.start(&config, ctx.lab().logs()).await
}

async fn peer(ctx: &Context, router: &Router, password: bool) -> Result<()> {
    let (own, _) = Host::Router(router.number()?).lan(0).context("on LAN 0")?;
    let mut spec = json!({
        "myASN": OURS, "peerASN": THEIRS, "peerAddress": own, "holdTime": "9s",
    });
    if password {
        let secret = json!({
            "metadata": {"name": "bgp-password"},
            "stringData": {"password": "secret"},
        });
        let secrets = Api::<Secret>::namespaced(ctx.kube(), HERALD);
        secrets
            .create(&PostParams::default(), &serde_json::from_value(secret)?)
            .await?;
        spec["passwordSecret"] = json!({"name": "bgp-password"});
    }
    let peer: BGPPeer = object(router.name(), &spec)?;
    ctx.herald_api()
        .create(&PostParams::default(), &peer)
        .await
        .context("create the BGPPeer")?;
    Ok(())
}

fn object<K: serde::de::DeserializeOwned>(name: &str, spec: &Value) -> Result<K> {
    Ok(serde_json::from_value(
        json!({"metadata": {"name": name}, "spec": spec}),
    )?)
}

async fn advertise(ctx: &Context) -> Result<()> {
    let advertisement: BGPAdvertisement = object("all", &json!({"communities": ["64512:7"]}))?;
    ctx.herald_api()
        .create(&PostParams::default(), &advertisement)
        .await
        .context("create the BGPAdvertisement")?;
    Ok(())
}

/// Waits until a router sends an address to these next hops. Of equal paths some
/// routers show only the best.
async fn has(router: &Router, address: IpAddr, hops: &BTreeSet<IpAddr>) -> Result<()> {
    let what = format!("{router} to have {address} by {hops:?}");
    wait::until_for(PATIENCE, &what, || async {
        let seen = next_hops(router, address).await?;
        ensure!(seen == *hops, "by {seen:?}");
        Ok(())
    })
    .await
}

/// Where a router sends an address to now.
async fn next_hops(router: &Router, address: IpAddr) -> Result<BTreeSet<IpAddr>> {
    let routes = router.routes().await?;
    let routes = routes.iter().filter(|route| route.prefix.addr() == address);
    Ok(routes.map(|route| route.next_hop).collect())
}

async fn told(ctx: &Context, sessions: usize) -> Result<()> {
    let statuses: Api<BGPStatus> = ctx.herald_api();
    wait::until_for(PATIENCE, "every node to tell of its sessions", || async {
        let all = statuses.list(&ListParams::default()).await?;
        ensure!(all.items.len() == usize::from(ctx.node_count()));
        for status in all.items.iter().filter_map(|object| object.status.as_ref()) {
            ensure!(
                usize::try_from(status.established)? == sessions && status.problems.is_empty(),
                "{status:?}"
            );
        }
        Ok(())
    })
    .await
}

/// Every speaker is told to stop and comes back; no router misses a path meanwhile.
async fn restart(
    ctx: &Context,
    routers: &[Router],
    address: IpAddr,
    all: &BTreeSet<IpAddr>,
) -> Result<()> {
    for pod in ctx.herald_pods(herald::SPEAKER).await? {
        ctx.signal(&pod.name_any(), "speaker", Signal::SIGTERM)?;
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(8);
    while tokio::time::Instant::now() < end {
        for router in routers {
            let seen = next_hops(router, address).await?;
            ensure!(seen == *all, "{router} lost paths at a restart: {seen:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ctx.speakers_are_well().await?;
    told(ctx, routers.len()).await?;
    ctx.step("all speakers were restarted, and no router lost a path");
    Ok(())
}

async fn clean(ctx: &Context) -> Result<()> {
    let all = ListParams::default();
    let now = DeleteParams::default();
    let peers: Api<BGPPeer> = ctx.herald_api();
    peers.delete_collection(&now, &all).await?;
    let advertisements: Api<BGPAdvertisement> = ctx.herald_api();
    advertisements.delete_collection(&now, &all).await?;
    let secrets = Api::<Secret>::namespaced(ctx.kube(), HERALD);
    secrets.delete("bgp-password", &now).await?;
    Ok(())
}
