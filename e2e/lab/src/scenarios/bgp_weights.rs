//! Nodes with more endpoints get more of the traffic: FRR weighs its paths by the link
//! bandwidth that each node tells.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use herald_api::names::ANNOTATION_LINK_BANDWIDTH;
use serde_json::{Value, json};

use super::bgp_fabric::{self as fabric, PATIENCE};
use super::bgp_matrix::routers;
use crate::router::Router;
use crate::scenario::{Context, Family, wait};

/// Three endpoints on a node and one on the other are 3:1, and then two and one.
pub(super) async fn by_endpoints(ctx: &mut Context) -> Result<()> {
    let all = routers(ctx)?;
    let router = all.first().context("there is a router")?;
    fabric::start(ctx, router, |_| {}).await?;
    fabric::peer(ctx, router, json!({})).await?;
    fabric::pool(ctx).await?;
    fabric::advertise(ctx).await?;
    ctx.deploy_echo_on("one", 1, Some("n2")).await?;
    ctx.deploy_echo_on("many", 3, Some("n1")).await?;
    for app in ["one", "many"] {
        // One Service for both.
        let selector = format!("app={app}");
        ctx.kubectl(&["label", "pod", "--selector", &selector, "serves=web"])
            .await?;
    }
    ctx.expose("web")
        .with("selector", json!({"serves": "web"}))
        .only(Family::V4)
        .local()
        .annotate(ANNOTATION_LINK_BANDWIDTH, "1000")
        .create()
        .await?;
    let address = ctx.address("web", Family::V4).await?;
    let share = split(ctx, router, address, 3.0).await?;
    ctx.measured("3-to-1/share", share, "times");
    ctx.scale("many", 2).await?;
    let share = split(ctx, router, address, 2.0).await?;
    ctx.measured("2-to-1/share", share, "times");
    router.stop().await?;
    fabric::clean(ctx, &[]).await
}

/// Waits until the router's kernel sends n1 this many times as much as n2; how many
/// times it is.
async fn split(ctx: &Context, router: &Router, address: IpAddr, times: f64) -> Result<f64> {
    let what = format!("{router} to send n1 {times} times as much as n2");
    let (first, second) = (fabric::node(1)?, fabric::node(2)?);
    wait::until_for(PATIENCE, &what, || async {
        let weights = weights(ctx, router, address).await?;
        let of = |node: &IpAddr| weights.get(node).copied().context("a path by each");
        let (one, two) = (of(&first)?, of(&second)?);
        let share = one / two;
        // They are whole hundredths of the whole.
        ensure!((share - times).abs() < 0.1, "{weights:?}");
        Ok(share)
    })
    .await
}

/// How the router's kernel shares out an address's traffic.
async fn weights(ctx: &Context, router: &Router, address: IpAddr) -> Result<BTreeMap<IpAddr, f64>> {
    let address = address.to_string();
    let arguments = ["-json", "route", "show", &address];
    let said = ctx
        .client_named(router.name())
        .run("ip", &arguments)
        .await?;
    let said: Value = serde_json::from_str(&said)?;
    let mut weights = BTreeMap::new();
    for hop in said[0]["nexthops"].as_array().into_iter().flatten() {
        let gateway = hop["gateway"].as_str().context("a gateway")?;
        let weight = hop["weight"].as_f64().context("a weight")?;
        weights.insert(gateway.parse()?, weight);
    }
    Ok(weights)
}
