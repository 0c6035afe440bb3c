//! Mistakes, and how people learn of them.

use anyhow::{Result, ensure};
use herald_api::names::ANNOTATION_LOAD_BALANCER_IPS;

use crate::scenario::{Context, Family};

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
