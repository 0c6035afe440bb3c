//! Routers and a whole cluster as BGP peers: what both sides are told, what stands in
//! the routers' tables, and what the speakers say of it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use herald_api::{BGPAdvertisement, BGPPeer, BGPSession, BGPStatus, BGPStatusStatus};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::bgp_matrix::{OURS, THEIRS};
use crate::plan::{self, Host};
use crate::router::{Announces, Neighbor, Router, RouterConfig};
use crate::scenario::{Context, Family, HERALD, wait};

/// How long routes and sessions may take to be as they should.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A router's address on the LAN.
pub(super) fn address(router: &Router) -> Result<IpAddr> {
    let (v4, _) = Host::Router(router.number()?)
        .lan(0)
        .context("a router is on LAN 0")?;
    Ok(v4.into())
}

/// A node's address on the LAN.
pub(super) fn node(i: u8) -> Result<IpAddr> {
    Ok(Host::Node(i).lan(0).context("a node is on LAN 0")?.0.into())
}

/// Those of all nodes.
pub(super) fn nodes(ctx: &Context) -> Result<BTreeSet<IpAddr>> {
    (1..=ctx.node_count()).map(node).collect()
}

/// Starts a router that has every node as its neighbour, with settings as they are
/// given.
pub(super) async fn start(
    ctx: &Context,
    router: &Router,
    settings: impl Fn(&mut Neighbor),
) -> Result<()> {
    let (own, _) = Host::Router(router.number()?).lan(0).context("on LAN 0")?;
    let mut neighbors = Vec::new();
    for address in nodes(ctx)? {
        let mut neighbor = Neighbor::new(address, OURS);
        neighbor.local = Some(own.into());
        settings(&mut neighbor);
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

/// A `BGPPeer` of the router's name, with more in its specification.
pub(super) async fn peer(ctx: &Context, router: &Router, more: Value) -> Result<()> {
    peer_at(ctx, router.name(), address(router)?, more).await
}

/// A `BGPPeer` at an address, with more in its specification.
pub(super) async fn peer_at(ctx: &Context, name: &str, at: IpAddr, more: Value) -> Result<()> {
    let mut spec = json!({
        "myASN": OURS, "peerASN": THEIRS, "peerAddress": at, "holdTime": "9s",
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    create::<BGPPeer>(ctx, name, &spec).await
}

/// A Secret with a password for peers.
pub(super) async fn secret(ctx: &Context, name: &str, password: &str) -> Result<()> {
    let secret = json!({"metadata": {"name": name}, "stringData": {"password": password}});
    Api::<Secret>::namespaced(ctx.kube(), HERALD)
        .create(&PostParams::default(), &serde_json::from_value(secret)?)
        .await
        .with_context(|| format!("create Secret {name}"))?;
    Ok(())
}

/// Makes an object of Herald's with this specification.
pub(super) async fn create<K>(ctx: &Context, name: &str, spec: &Value) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let made = ctx
        .herald_api::<K>()
        .create(&PostParams::default(), &object(name, spec)?)
        .await;
    made.with_context(|| format!("create {} {name}", K::kind(&())))?;
    Ok(())
}

/// An object with this specification.
pub(super) fn object<K: DeserializeOwned>(name: &str, spec: &Value) -> Result<K> {
    Ok(serde_json::from_value(
        json!({"metadata": {"name": name}, "spec": spec}),
    )?)
}

/// Announces all pools to all peers.
pub(super) async fn advertise(ctx: &Context) -> Result<()> {
    create::<BGPAdvertisement>(ctx, "all", &json!({"communities": ["64512:7"]})).await
}

/// Makes pool, advertisement and a Service of so many pods; returns its IPv4 address
/// when a router sends it to every node.
pub(super) async fn serve(ctx: &Context, router: &Router, pods: u32) -> Result<IpAddr> {
    pool(ctx).await?;
    advertise(ctx).await?;
    ctx.deploy_echo("web", pods).await?;
    ctx.expose("web").only(Family::V4).create().await?;
    let address = ctx.address("web", Family::V4).await?;
    has(router, address, &nodes(ctx)?).await?;
    Ok(address)
}

/// A pool of addresses that are on no network, not announced on the LAN.
pub(super) async fn pool(ctx: &Context) -> Result<()> {
    let ranges = [
        format!("{}/24", plan::ROUTED_POOL_V4),
        format!("{}/120", plan::ROUTED_POOL_V6),
    ];
    ctx.pool_of("routed", &ranges).await
}

/// Waits until a router sends an address to these next hops.
pub(super) async fn has(router: &Router, address: IpAddr, hops: &BTreeSet<IpAddr>) -> Result<()> {
    let what = format!("{router} to have {address} by {hops:?}");
    wait::until_for(PATIENCE, &what, || async {
        let seen = next_hops(router, address).await?;
        ensure!(seen == *hops, "by {seen:?}");
        Ok(())
    })
    .await
}

/// Where a router sends an address to now.
pub(super) async fn next_hops(router: &Router, address: IpAddr) -> Result<BTreeSet<IpAddr>> {
    let routes = router.routes().await?;
    let routes = routes.iter().filter(|route| route.prefix.addr() == address);
    Ok(routes.map(|route| route.next_hop).collect())
}

/// What the speakers say, one for each node.
pub(super) async fn statuses(ctx: &Context) -> Result<Vec<BGPStatusStatus>> {
    let statuses: Api<BGPStatus> = ctx.herald_api();
    let all = statuses.list(&ListParams::default()).await?.items;
    ensure!(
        all.len() == usize::from(ctx.node_count()),
        "{} nodes tell of their sessions",
        all.len()
    );
    let status = |object: BGPStatus| object.status.context("a BGPStatus has a status");
    all.into_iter().map(status).collect()
}

/// Waits until every node says that it has so many sessions, and no problems.
pub(super) async fn told(ctx: &Context, sessions: usize) -> Result<()> {
    wait::until_for(PATIENCE, "every node to tell of its sessions", || async {
        for status in statuses(ctx).await? {
            ensure!(
                usize::try_from(status.established)? == sessions && status.problems.is_empty(),
                "{status:?}"
            );
        }
        Ok(())
    })
    .await
}

/// Waits until every node says of a peer what is asked for.
pub(super) async fn told_of(
    ctx: &Context,
    peer: &str,
    what: &str,
    is_so: impl Fn(&BGPSession) -> bool,
) -> Result<()> {
    let what = format!("every node to say of {peer} {what}");
    wait::until_for(PATIENCE, &what, || async {
        for status in statuses(ctx).await? {
            let session = status.peers.iter().find(|session| session.peer == peer);
            let session = session.context("nothing is said of it")?;
            ensure!(is_so(session), "{session:?}");
        }
        Ok(())
    })
    .await
}

/// Since when each node has its session with a router.
pub(super) async fn since(ctx: &Context, router: &Router) -> Result<Vec<String>> {
    told_of(ctx, router.name(), "that it is up", |session| {
        session.state == "Established"
    })
    .await?;
    let mut all = Vec::new();
    for status in statuses(ctx).await? {
        let sessions = status.peers.into_iter();
        all.extend(
            sessions
                .filter(|session| session.peer == router.name())
                .map(|session| session.since),
        );
    }
    Ok(all)
}

/// Takes away the peers, the advertisements and these Secrets.
pub(super) async fn clean(ctx: &Context, secrets: &[&str]) -> Result<()> {
    delete_all::<BGPPeer>(ctx).await?;
    delete_all::<BGPAdvertisement>(ctx).await?;
    for name in secrets {
        Api::<Secret>::namespaced(ctx.kube(), HERALD)
            .delete(name, &DeleteParams::default())
            .await?;
    }
    Ok(())
}

/// Deletes all objects of Herald's of a kind.
pub(super) async fn delete_all<K>(ctx: &Context) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let deleted = ctx
        .herald_api::<K>()
        .delete_collection(&DeleteParams::default(), &ListParams::default())
        .await;
    deleted.with_context(|| format!("delete every {}", K::kind(&())))?;
    Ok(())
}
