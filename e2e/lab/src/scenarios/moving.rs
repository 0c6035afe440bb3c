//! What docs/operations.md says to do when a pool runs dry and when an address must
//! move.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use herald_api::names::{
    ANNOTATION_LOAD_BALANCER_IPS, CONDITION_DRAINED, CONDITION_SERVICES_WAITING,
};
use serde_json::json;

use super::pools::holds;
use crate::scenario::{Context, Family, wait};

/// The pool is widened, a part of it drained away, a Service led to another address.
pub(super) async fn by_the_book(ctx: &mut Context) -> Result<()> {
    let family = ctx.ip_families()[0];
    let nth = |at| ctx.nth(family, at);
    let range = |at, count| ctx.range(family, at, count);
    ctx.pool_with("lan", &[range(0, 4)], json!({})).await?;
    ctx.announce().await?;
    ctx.deploy_echo("web", 2).await?;
    for (place, name) in (0..).zip(["web", "a", "b", "c"]) {
        ctx.expose(name)
            .only(family)
            .in_front_of("web")
            .create()
            .await?;
        holds(ctx, name, &[nth(place)]).await?;
    }
    ctx.expose("late")
        .only(family)
        .in_front_of("web")
        .create()
        .await?;
    ctx.condition("late", "False", "PoolExhausted").await?;
    let told = ctx
        .pool_says("lan", CONDITION_SERVICES_WAITING, "True")
        .await?;
    ctx.step(format!("dry: {told}"));
    ctx.change_pool("lan", json!({"addresses": [range(0, 4), range(8, 4)]}))
        .await?;
    holds(ctx, "late", &[nth(8)]).await?;
    ctx.client().curl(nth(8)).await?;
    ctx.step("widened: the one that waits is served");

    one_service(ctx, family).await?;
    part_of_a_pool(ctx, family).await
}

/// To a certain address, with both for a while.
async fn one_service(ctx: &Context, family: Family) -> Result<()> {
    let (old, new) = (ctx.nth(family, 8), ctx.nth(family, 11));
    ask(ctx, "late", &[old, new]).await?;
    holds(ctx, "late", &[old, new]).await?;
    for address in [old, new] {
        ctx.client().curl(address).await?;
    }
    ask(ctx, "late", &[new]).await?;
    holds(ctx, "late", &[new]).await?;
    ctx.client().curl(new).await?;
    ctx.step(format!(
        "a Service went from {old} to {new}, with both meanwhile"
    ));
    Ok(())
}

async fn ask(ctx: &Context, name: &str, addresses: &[IpAddr]) -> Result<()> {
    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let annotations = json!({ANNOTATION_LOAD_BALANCER_IPS: list.join(",")});
    ctx.change_service(name, json!({"metadata": {"annotations": annotations}}))
        .await
}

/// The first two addresses are to be given back: excluded, a pool of their own, drained.
async fn part_of_a_pool(ctx: &Context, family: Family) -> Result<()> {
    let range = |at, count| ctx.range(family, at, count);
    ctx.change_pool("lan", json!({"excludedAddresses": [range(0, 2)]}))
        .await?;
    ctx.warned("web", "is among spec.excludedAddresses").await?;
    let rest = json!({"addresses": [range(2, 2), range(8, 4)], "excludedAddresses": null});
    ctx.change_pool("lan", rest).await?;
    ctx.pool_with("part", &[range(0, 2)], json!({"autoAssign": false}))
        .await?;
    holds(ctx, "web", &[ctx.nth(family, 0)]).await?;
    ctx.client().curl(ctx.nth(family, 0)).await?;
    let drain = json!({"state": "draining", "drain": {"interval": "1s", "overlap": "3s"}});
    ctx.change_pool("part", drain).await?;
    let told = ctx.pool_says("part", CONDITION_DRAINED, "True").await?;
    ctx.step(format!("a part of the pool is drained: {told}"));
    // Which of the two goes first is nobody's promise. What one leaves rests still.
    let mut asked = vec![ctx.nth(family, 9), ctx.nth(family, 10)];
    wait::until(
        &format!("a and web to have one each of {asked:?}"),
        || async {
            let mut have = ctx.addresses_now("a").await?;
            have.extend(ctx.addresses_now("web").await?);
            have.sort();
            ensure!(have == asked, "they have {have:?}");
            Ok(())
        },
    )
    .await?;
    for (name, place) in [("b", 2), ("c", 3), ("late", 11)] {
        holds(ctx, name, &[ctx.nth(family, place)]).await?;
        asked.push(ctx.nth(family, place));
    }
    for address in asked {
        ctx.client().curl(address).await?;
    }
    ctx.delete_pool("part").await?;
    ctx.pool_is_gone("part").await
}
