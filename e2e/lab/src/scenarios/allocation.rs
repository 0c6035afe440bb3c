//! Who gets which address, and what is said when there is none.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use herald_api::names::ANNOTATION_LOAD_BALANCER_IPS;
use kube::ResourceExt;
use serde_json::json;

use crate::scenario::{Context, Family};

/// One address a family, two Services.
pub(super) async fn type_change(ctx: &mut Context) -> Result<()> {
    ctx.pool("single", 1).await?;
    ctx.deploy_echo("web", 1).await?;
    ctx.deploy_echo("next", 1).await?;
    others(ctx).await?;

    ctx.expose("web").create().await?;
    let addresses = ctx.addresses("web").await?;
    ctx.expose("next").create().await?;
    ctx.condition("next", "False", "PoolExhausted").await?;

    ctx.change_service("web", json!({"spec": {"type": "ClusterIP"}}))
        .await?;
    passes_on(ctx, &addresses, "web", "next").await?;
    ctx.change_service("web", json!({"spec": {"type": "LoadBalancer"}}))
        .await?;
    ctx.condition("web", "False", "PoolExhausted").await?;

    ctx.change_service("next", json!({"spec": {"type": "NodePort"}}))
        .await?;
    passes_on(ctx, &addresses, "next", "web").await?;
    ctx.change_service("next", json!({"spec": {"type": "LoadBalancer"}}))
        .await?;
    ctx.condition("next", "False", "PoolExhausted").await?;

    ctx.change_service(
        "web",
        json!({"spec": {
            "type": "ExternalName", "externalName": "example.org",
            "clusterIP": null, "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
        }}),
    )
    .await?;
    passes_on(ctx, &addresses, "web", "next").await?;
    untouched(ctx).await
}

/// The addresses leave one Service and serve the other.
async fn passes_on(ctx: &Context, addresses: &[IpAddr], from: &str, to: &str) -> Result<()> {
    ctx.no_addresses(from).await?;
    let got = ctx.addresses(to).await?;
    ensure!(got == addresses, "{to} got {got:?}, not {addresses:?}");
    for &address in addresses {
        crate::scenario::wait::until(&format!("{to} to answer at {address}"), || async {
            let reply = ctx.client().curl(address).await?;
            ensure!(
                reply.pod.starts_with(&format!("{to}-")),
                "answered by {}",
                reply.pod
            );
            Ok(())
        })
        .await?;
    }
    ctx.step(format!("{from} gave its addresses to {to}"));
    Ok(())
}

const OTHERS: [&str; 4] = ["cluster-ip", "node-port", "external-name", "headless"];

/// Services that are none of Herald's business.
async fn others(ctx: &Context) -> Result<()> {
    ctx.expose("cluster-ip")
        .of_type("ClusterIP")
        .create()
        .await?;
    ctx.expose("node-port").of_type("NodePort").create().await?;
    ctx.expose("headless")
        .of_type("ClusterIP")
        .with("clusterIP", json!("None"))
        .create()
        .await?;
    ctx.kubectl(&[
        "create",
        "service",
        "externalname",
        "external-name",
        "--external-name=example.org",
    ])
    .await?;
    Ok(())
}

async fn untouched(ctx: &Context) -> Result<()> {
    for name in OTHERS {
        let service = ctx.service(name).await?;
        let writers: Vec<&String> = service
            .managed_fields()
            .iter()
            .filter_map(|field| field.manager.as_ref())
            .filter(|manager| manager.contains("herald") && !manager.contains("herald-lab"))
            .collect();
        ensure!(writers.is_empty(), "{writers:?} wrote to Service {name}");
        let conditions = service
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .map_or(0, Vec::len);
        ensure!(
            service.finalizers().is_empty() && conditions == 0,
            "Service {name} was touched: {:?}",
            service.status
        );
    }
    Ok(())
}

/// No pool, a full pool, another pool.
pub(super) async fn pool_exhausted(ctx: &mut Context) -> Result<()> {
    ctx.deploy_echo("first", 1).await?;
    ctx.expose("first").create().await?;
    let message = ctx.condition("first", "False", "NoPool").await?;
    ctx.step(format!("without a pool: {message}"));

    ctx.pool("small", 1).await?;
    for address in ctx.addresses("first").await? {
        ctx.client().curl(address).await?;
    }
    ctx.expose("second").in_front_of("first").create().await?;
    let message = ctx.condition("second", "False", "PoolExhausted").await?;
    ctx.step(format!("with a full pool: {message}"));
    ctx.event("Service", "second", "PoolExhausted").await?;
    ensure!(
        ctx.addresses_now("second").await?.is_empty(),
        "it has an address all the same"
    );

    ctx.pool_at("more", 8, 4).await?;
    for address in ctx.addresses("second").await? {
        ctx.client().curl(address).await?;
    }
    ctx.condition("second", "True", "AddressAssigned").await?;
    let told = ctx
        .event_count("Service", "second", "PoolExhausted")
        .await?;
    ensure!(told <= 2, "one state of things was told {told} times");
    Ok(())
}

/// Free, taken, in no pool; by annotation and by the old field.
pub(super) async fn requested_address(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 8).await?;
    ctx.deploy_echo("web", 1).await?;
    let families = ctx.ip_families();
    let wish = |offset| {
        let wishes: Vec<String> = families
            .iter()
            .map(|family| ctx.nth(*family, offset).to_string())
            .collect();
        wishes.join(",")
    };

    ctx.expose("web")
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, wish(5))
        .create()
        .await?;
    for address in ctx.addresses("web").await? {
        ensure!(
            address == ctx.nth(Family::of(&address), 5),
            "got {address}, asked for {}",
            wish(5)
        );
        ctx.client().curl(address).await?;
    }

    let first = families[0];
    let old_way = ctx.nth(first, 6);
    ctx.expose("old-way")
        .in_front_of("web")
        .only(first)
        .with("loadBalancerIP", json!(old_way))
        .create()
        .await?;
    ensure!(
        ctx.addresses("old-way").await? == [old_way],
        "spec.loadBalancerIP is not honoured"
    );

    ctx.expose("late")
        .in_front_of("web")
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, wish(5))
        .create()
        .await?;
    let message = ctx.condition("late", "False", "AddressTaken").await?;
    ctx.step(format!("taken: {message}"));
    ctx.delete_service("web").await?;
    for address in ctx.addresses("late").await? {
        ensure!(
            address == ctx.nth(Family::of(&address), 5),
            "got {address}, asked for {}",
            wish(5)
        );
        ctx.client().curl(address).await?;
    }

    // In the scenario's block, but in none of its pools.
    ctx.expose("outside")
        .in_front_of("web")
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, wish(40))
        .create()
        .await?;
    let message = ctx
        .condition("outside", "False", "AddressOutsidePools")
        .await?;
    ctx.step(format!("outside: {message}"));
    ctx.event("Service", "outside", "AddressOutsidePools")
        .await?;
    Ok(())
}
