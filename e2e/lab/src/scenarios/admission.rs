//! What the API server refuses with the admission policies, and what it does not.

use anyhow::{Result, bail, ensure};
use herald_api::names::{ANNOTATION_LOAD_BALANCER_IPS, CLASS_BARE_METAL};
use serde_json::json;

use crate::scenario::{Context, wait};

/// The shipped policies, as a user adds them.
pub(super) async fn policies(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 8).await?;
    // Made before the policies: it may be bad, and must not be stuck.
    ctx.expose("old")
        .annotate("herald.dev/adress-pool", "x")
        .create()
        .await?;
    let components = ctx.lab().deploy("components")?;
    ctx.lab()
        .kubectl(&[
            "apply",
            "-f",
            &format!("{components}/admission/policy.yaml"),
        ])
        .await?;
    let family = ctx.ip_families()[0];
    let nonsense = || {
        ctx.expose("nonsense")
            .annotate(ANNOTATION_LOAD_BALANCER_IPS, "web")
    };
    // A policy is in force a moment after it is written.
    wait::until("the policy to be in force", || async {
        match nonsense().create().await {
            Ok(_) => {
                ctx.delete_service("nonsense").await?;
                bail!("it was taken")
            }
            Err(error) => told(&error, "must be IP addresses"),
        }
    })
    .await?;
    let address = ctx.nth(family, 3).to_string();
    let other = ctx.nth(family, 4).to_string();
    let bad = ctx
        .expose("contradiction")
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, &address)
        .annotate("metallb.io/loadBalancerIPs", &other);
    refused(bad.create().await, "ask for different things")?;
    let bad = ctx
        .expose("field")
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, &address)
        .with("loadBalancerIP", json!(other));
    refused(bad.create().await, "spec.loadBalancerIP")?;
    let bad = ctx
        .expose("pools")
        .annotate("herald.dev/address-pool", "a")
        .annotate("metallb.io/address-pool", "b");
    refused(bad.create().await, "address-pool")?;
    let bad = ctx
        .expose("family")
        .only(family)
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, "2001:db8::1,192.0.2.1");
    refused(bad.create().await, "a family")?;
    refused(
        ctx.expose("class")
            .class("herald.dev/bare-mettle")
            .create()
            .await,
        "classes",
    )?;
    ctx.step("what contradicts itself is refused, with the reason");

    ctx.expose("good")
        .class(CLASS_BARE_METAL)
        .only(family)
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, &address)
        .annotate("herald.dev/adress-pool", "not strict yet")
        .create()
        .await?;
    ensure!(
        ctx.addresses("good").await? == [ctx.nth(family, 3)],
        "another address"
    );
    let foreign = ctx.expose("foreign").class("example.com/other");
    foreign
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, "theirs")
        .create()
        .await?;
    let inner = ctx.expose("inner").of_type("ClusterIP");
    inner
        .annotate(ANNOTATION_LOAD_BALANCER_IPS, "nobody's")
        .create()
        .await?;
    ctx.step("what is good, and what is none of Herald's business, is taken");

    ctx.lab()
        .kubectl(&[
            "apply",
            "-f",
            &format!("{components}/admission-strict/policy.yaml"),
        ])
        .await?;
    let typing_mistake = || {
        ctx.expose("typo")
            .annotate("herald.dev/adress-pool", "pool")
    };
    wait::until("the strict policy to be in force", || async {
        match typing_mistake().create().await {
            Ok(_) => {
                ctx.delete_service("typo").await?;
                bail!("it was taken")
            }
            Err(error) => told(&error, "herald.dev/adress-pool"),
        }
    })
    .await?;
    // Old mistakes hold up nothing but a change of the annotations.
    ctx.kubectl(&["label", "service", "old", "a=b"]).await?;
    ctx.addresses("old").await?;
    refused(
        ctx.change_service("old", json!({"metadata": {"annotations": {"c": "d"}}}))
            .await,
        "nobody knows",
    )?;
    let mended = json!({"metadata": {"annotations": {"herald.dev/adress-pool": null, "c": "d"}}});
    ctx.change_service("old", mended).await?;
    let aws = ctx
        .expose("aws")
        .annotate("herald.dev/aws-load-balancer-scheme", "internal");
    aws.create().await?;
    ctx.delete_service("old").await?;
    ctx.step("strict: an unknown annotation is refused where it is written");
    Ok(())
}

fn refused<T>(result: Result<T>, reason: &str) -> Result<()> {
    match result {
        Ok(_) => bail!("it was taken, in spite of: {reason}"),
        Err(error) => told(&error, reason),
    }
}

fn told(error: &anyhow::Error, reason: &str) -> Result<()> {
    let text = format!("{error:#}");
    ensure!(text.contains(reason), "it was refused otherwise: {text}");
    Ok(())
}
