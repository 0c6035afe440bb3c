//! Mistakes, and how people learn of them.

use std::fmt::Debug;

use anyhow::{Context as _, Result, ensure};
use herald_api::names::{ANNOTATION_LOAD_BALANCER_IPS, CONDITION_VALID};
use herald_api::{BFDProfile, BGPAdvertisement, BGPPeer, Community};
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::{Api, DeleteParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::bgp_fabric as fabric;
use crate::scenario::{Context, Family, wait};

/// Every mistake is told where it was made, and disturbs nothing else.
pub(super) async fn bad_objects(ctx: &mut Context) -> Result<()> {
    ctx.pool("good", 8).await?;
    ctx.deploy_echo("web", 1).await?;
    ctx.expose("web").create().await?;
    let addresses = ctx.addresses("web").await?;

    let family = ctx.ip_families()[0];
    ctx.pool_condition("good", "True", "Accepted").await?;

    let overlapping = ctx.range(family, 4, 8);
    ctx.pool_of("overlapping", &[overlapping]).await?;
    let message = ctx
        .pool_condition("overlapping", "False", "Overlap")
        .await?;
    ctx.step(format!("overlapping pools: {message}"));
    ctx.herald_event("IPAddressPool", &ctx.pool_name("overlapping"), "Overlap")
        .await?;

    let upside_down = format!("{}-{}", ctx.nth(family, 30), ctx.nth(family, 20));
    refused(ctx, "upside-down", upside_down).await?;
    let host_bits = match family {
        Family::V4 => format!("{}/28", ctx.nth(family, 17)),
        Family::V6 => format!("{}/124", ctx.nth(family, 17)),
    };
    refused(ctx, "host-bits", host_bits).await?;
    refused(ctx, "no-address", "all of them".to_owned()).await?;

    ctx.expose("unknown-class")
        .in_front_of("web")
        .class("herald.dev/nonsense")
        .create()
        .await?;
    let message = ctx
        .condition("unknown-class", "False", "UnknownClass")
        .await?;
    ctx.step(format!("unknown class: {message}"));
    ctx.event("Service", "unknown-class", "UnknownClass")
        .await?;

    let twice = format!("{0},{0}", ctx.nth(family, 2));
    for (name, wish) in [("twice", twice), ("malformed", "10.20.100".to_owned())] {
        ctx.expose(name)
            .in_front_of("web")
            .annotate(ANNOTATION_LOAD_BALANCER_IPS, wish)
            .create()
            .await?;
        let message = ctx.condition(name, "False", "InvalidRequest").await?;
        ctx.step(format!("{name}: {message}"));
        ctx.event("Service", name, "InvalidRequest").await?;
    }

    bgp_objects(ctx).await?;

    // Another implementation's Service is its own business.
    ctx.expose("foreign")
        .in_front_of("web")
        .class("example.com/other")
        .create()
        .await?;
    ctx.expose("unharmed").in_front_of("web").create().await?;
    for address in ctx.addresses("unharmed").await? {
        ctx.client().curl(address).await?;
    }
    let foreign = ctx.service("foreign").await?;
    let conditions = foreign
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    ensure!(
        conditions.is_empty(),
        "a foreign Service was touched: {conditions:?}"
    );

    ensure!(
        ctx.addresses_now("web").await? == addresses,
        "the good Service lost its addresses"
    );
    for address in addresses {
        ctx.client().curl(address).await?;
    }
    Ok(())
}

/// Objects of BGP are told of as well, and are in force as soon as they are mended.
async fn bgp_objects(ctx: &Context) -> Result<()> {
    let nowhere = json!([{"matchLabels": {"there-is": "no-such-node"}}]);
    let peer = json!({
        "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1",
        "nodeSelectors": nowhere, "bfdProfile": "not-there-yet",
    });
    fabric::create::<BGPPeer>(ctx, "mistaken", &peer).await?;
    let advertisement = json!({
        "ipAddressPools": [ctx.pool_name("good")], "peers": ["mistaken"],
        "communities": ["not-named-yet"],
    });
    fabric::create::<BGPAdvertisement>(ctx, "mistaken", &advertisement).await?;
    told::<BGPPeer>(ctx, "mistaken", "UnknownBFDProfile").await?;
    told::<BGPAdvertisement>(ctx, "mistaken", "UnknownCommunity").await?;

    let echo = json!({"echoMode": true});
    fabric::create::<BFDProfile>(ctx, "not-there-yet", &echo).await?;
    told::<BFDProfile>(ctx, "not-there-yet", "EchoNotSupported").await?;
    let named = json!({"communities": [{"name": "not-named-yet", "value": "64512:7"}]});
    fabric::create::<Community>(ctx, "names", &named).await?;
    let again = json!({"communities": [{"name": "not-named-yet", "value": "64512:8"}]});
    fabric::create::<Community>(ctx, "names-again", &again).await?;
    told::<Community>(ctx, "names-again", "DuplicateName").await?;
    for in_force in [
        valid::<BGPPeer>(ctx, "mistaken", "Accepted").await?,
        valid::<BGPAdvertisement>(ctx, "mistaken", "Accepted").await?,
        valid::<Community>(ctx, "names", "Accepted").await?,
    ] {
        ensure!(in_force.is_empty(), "{in_force}");
    }
    ctx.step("mended, the objects of BGP are in force");
    let now = DeleteParams::default();
    let peers: Api<BGPPeer> = ctx.herald_api();
    peers.delete("mistaken", &now).await?;
    let advertisements: Api<BGPAdvertisement> = ctx.herald_api();
    advertisements.delete("mistaken", &now).await?;
    let profiles: Api<BFDProfile> = ctx.herald_api();
    profiles.delete("not-there-yet", &now).await?;
    let communities: Api<Community> = ctx.herald_api();
    for name in ["names", "names-again"] {
        communities.delete(name, &now).await?;
    }
    Ok(())
}

/// Waits until an object's condition and an event tell what is wrong with it.
async fn told<K: BgpObject>(ctx: &Context, name: &str, reason: &str) -> Result<()> {
    let message = valid::<K>(ctx, name, reason).await?;
    let kind = K::kind(&());
    ctx.herald_event(&kind, name, reason).await?;
    ctx.step(format!("{kind} {name}: {message}"));
    Ok(())
}

/// Waits until an object's condition `Valid` has this reason; what it says.
pub(super) async fn valid<K: BgpObject>(ctx: &Context, name: &str, reason: &str) -> Result<String> {
    let api: Api<K> = ctx.herald_api();
    let what = format!("{} {name} to be {reason}", K::kind(&()));
    wait::until(&what, || async {
        let object = serde_json::to_value(api.get(name).await?)?;
        let conditions = object["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let condition = conditions.find(|condition| condition["type"] == CONDITION_VALID);
        let condition = condition.context("it has no condition")?;
        ensure!(condition["reason"] == reason, "{condition}");
        Ok(condition["message"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

/// A kind that BGP is set up by.
pub(super) trait BgpObject:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
{
}

impl BgpObject for BGPPeer {}
impl BgpObject for BGPAdvertisement {}
impl BgpObject for BFDProfile {}
impl BgpObject for Community {}

/// The API refuses the pool with words, or its condition and an event have
/// them.
async fn refused(ctx: &Context, name: &str, addresses: String) -> Result<()> {
    if let Err(error) = ctx.pool_of(name, std::slice::from_ref(&addresses)).await {
        let Some(kube::Error::Api(status)) = error.downcast_ref() else {
            return Err(error);
        };
        let text = &status.message;
        ensure!(
            text.contains("addresses"),
            "the API's refusal names no field: {text}"
        );
        ctx.step(format!("{name} ({addresses}): refused: {text}"));
        return Ok(());
    }
    let message = ctx
        .pool_condition(name, "False", "InvalidAddresses")
        .await?;
    ctx.herald_event("IPAddressPool", &ctx.pool_name(name), "InvalidAddresses")
        .await?;
    ctx.step(format!("{name} ({addresses}): {message}"));
    Ok(())
}
