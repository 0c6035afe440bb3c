//! The shipped roles: enough, and no more.

use anyhow::{Result, ensure};
use herald_api::names::{CLASS_BARE_METAL, CLASS_FAKE, LABEL_EXCLUDE_NODE};
use herald_api::{BFDProfile, BGPAdvertisement, BGPPeer, BGPStatus, Community};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use nix::sys::signal::Signal;
use serde_json::json;

use super::bad_objects::valid;
use super::bgp_fabric as fabric;
use crate::scenario::HERALD;
use crate::scenario::audit::{Audit, rules};
use crate::scenario::{Context, herald, wait};

/// A BGP peer that no node reaches, with a password in a Secret.
async fn peer_with_password(ctx: &Context) -> Result<()> {
    let secrets = Api::<Secret>::namespaced(ctx.kube(), HERALD);
    let secret = serde_json::from_value(json!({
        "metadata": {"name": "bgp-password"},
        "stringData": {"password": "secret"},
    }))?;
    secrets.create(&PostParams::default(), &secret).await?;
    let peers = Api::<BGPPeer>::namespaced(ctx.kube(), HERALD);
    let peer = serde_json::from_value(json!({
        "metadata": {"name": "nowhere"},
        "spec": {
            "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.99",
            "passwordSecret": {"name": "bgp-password"},
        },
    }))?;
    peers.create(&PostParams::default(), &peer).await?;
    let statuses = Api::<BGPStatus>::namespaced(ctx.kube(), HERALD);
    wait::until("a node to tell of the peer", || async {
        let all = statuses.list(&ListParams::default()).await?;
        let told = all.items.iter().filter_map(|object| object.status.as_ref());
        let mut peers = told.flat_map(|status| &status.peers);
        ensure!(peers.any(|peer| peer.peer == "nowhere" && peer.problem.is_none()));
        Ok(())
    })
    .await?;
    judged(ctx).await?;
    let now = DeleteParams::default();
    peers.delete("nowhere", &now).await?;
    secrets.delete("bgp-password", &now).await?;
    Ok(())
}

/// Of each kind that BGP is set up by the operator says whether it is in force.
async fn judged(ctx: &Context) -> Result<()> {
    valid::<BGPPeer>(ctx, "nowhere", "Accepted").await?;
    let advertisement = json!({"peers": ["nowhere"]});
    fabric::create::<BGPAdvertisement>(ctx, "nowhere", &advertisement).await?;
    valid::<BGPAdvertisement>(ctx, "nowhere", "Accepted").await?;
    fabric::create::<BFDProfile>(ctx, "nowhere", &json!({})).await?;
    valid::<BFDProfile>(ctx, "nowhere", "Accepted").await?;
    fabric::create::<Community>(ctx, "nowhere", &json!({})).await?;
    valid::<Community>(ctx, "nowhere", "Accepted").await?;
    let now = DeleteParams::default();
    let advertisements: Api<BGPAdvertisement> = ctx.herald_api();
    advertisements.delete("nowhere", &now).await?;
    let profiles: Api<BFDProfile> = ctx.herald_api();
    profiles.delete("nowhere", &now).await?;
    let communities: Api<Community> = ctx.herald_api();
    communities.delete("nowhere", &now).await?;
    Ok(())
}

/// Once through all that Herald does; then the audit log is held against the
/// roles.
pub(super) async fn least_privilege(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 1).await?;
    ctx.deploy_echo("web", 1).await?;
    ctx.expose("web").class(CLASS_BARE_METAL).create().await?;
    let addresses = ctx.addresses("web").await?;
    for &address in &addresses {
        ctx.client().curl(address).await?;
    }
    // The same events again: a repetition is a patch of the first.
    let owner = ctx.client().owner(addresses[0]).await?;
    ctx.label_node(&owner, LABEL_EXCLUDE_NODE, Some("")).await?;
    ctx.client()
        .owned_by_other_than(addresses[0], &owner)
        .await?;
    ctx.label_node(&owner, LABEL_EXCLUDE_NODE, None).await?;
    ctx.change_service("web", json!({"spec": {"type": "ClusterIP"}}))
        .await?;
    ctx.no_addresses("web").await?;
    let again = json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": CLASS_BARE_METAL}});
    ctx.change_service("web", again).await?;
    ctx.addresses("web").await?;

    // Conditions of both outcomes, a pool in error.
    for name in ["waiting", "waiting-too"] {
        ctx.expose(name)
            .in_front_of("web")
            .class(CLASS_BARE_METAL)
            .create()
            .await?;
        ctx.event("Service", name, "PoolExhausted").await?;
    }
    let overlapping = ctx.range(ctx.ip_families()[0], 0, 2);
    ctx.pool_of("overlapping", &[overlapping]).await?;
    ctx.pool_condition("overlapping", "False", "Overlap")
        .await?;
    ctx.change_service("web", json!({"spec": {"type": "ClusterIP"}}))
        .await?;
    ctx.no_addresses("web").await?;

    ctx.expose("cloud")
        .in_front_of("web")
        .class(CLASS_FAKE)
        .create()
        .await?;
    ctx.condition("cloud", "True", "Provisioned").await?;
    ctx.label_node("n1", LABEL_EXCLUDE_NODE, Some("")).await?;
    ctx.delete_service("cloud").await?;
    ctx.label_node("n1", LABEL_EXCLUDE_NODE, None).await?;

    peer_with_password(ctx).await?;
    // Another leader, a restarted speaker.
    let leader = ctx.leader().await?;
    ctx.signal(&leader, "operator", Signal::SIGTERM)?;
    for pod in ctx.herald_pods(herald::SPEAKER).await? {
        ctx.signal(&pod.name_any(), "speaker", Signal::SIGTERM)?;
    }
    ctx.speakers_are_well().await?;
    ctx.operator_is_well().await?;
    ctx.leader().await?;

    let rules = rules(&ctx.kube()).await?;
    ensure!(!rules.is_empty(), "no role is bound to Herald's accounts");
    let log = ctx.lab().audit_log();
    wait::until("every rule of the shipped roles to be used", || async {
        let audit = Audit::read(&log)?;
        let unused: Vec<String> = audit
            .unused(&rules)
            .iter()
            .map(ToString::to_string)
            .collect();
        ensure!(unused.is_empty(), "not needed: {}", unused.join("; "));
        Ok(())
    })
    .await?;
    let denied = Audit::read(&log)?;
    let denied: Vec<String> = denied.denied().iter().map(ToString::to_string).collect();
    ensure!(denied.is_empty(), "denied: {}", denied.join("; "));
    ctx.step(format!(
        "{} rules, each of them used; nothing denied",
        rules.len()
    ));
    Ok(())
}
