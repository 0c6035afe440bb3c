//! Herald takes a cluster over from `MetalLB`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use herald_api::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement,
};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::scenario::{Context, wait};

pub(super) const THEIRS: &str = "metallb-system";
/// Label of copies that follow `MetalLB`'s objects.
pub(super) const ADOPTED: &str = "herald.dev/adopted-from";

/// The whole way: adopted, changed there, migrated, `MetalLB` gone.
pub(super) async fn metallb(ctx: &mut Context) -> Result<()> {
    ctx.deploy_echo("web", 2).await?;
    ctx.scale_operator(0).await?;
    metallb_is_there(ctx).await?;
    let before = served_by_metallb(ctx).await?;
    ctx.expose("pending").in_front_of("web").create().await?;

    ctx.lab().install("adopt-metallb").await?;
    ctx.forgive_denials()?;
    for name in before.keys() {
        ctx.condition(name, "True", "AddressAssigned").await?;
    }
    ctx.addresses("pending").await?;
    same_addresses(ctx, &before).await?;
    for addresses in before.values() {
        for &address in addresses {
            ctx.client().curl(address).await?;
        }
    }
    ctx.step("all addresses are as MetalLB gave them, announced by Herald, and answer");
    bgp_is_copied(ctx).await?;

    followed(ctx).await?;
    migrated(ctx).await?;
    same_addresses(ctx, &before).await?;
    Ok(())
}

/// `MetalLB`'s kinds as far as this needs them, and objects in them.
pub(super) async fn metallb_is_there(ctx: &Context) -> Result<()> {
    let mut kinds = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {THEIRS}}}\n");
    for (kind, plural, versions) in [
        ("IPAddressPool", "ipaddresspools", &["v1beta1"][..]),
        ("L2Advertisement", "l2advertisements", &["v1beta1"]),
        ("BGPAdvertisement", "bgpadvertisements", &["v1beta1"]),
        ("BFDProfile", "bfdprofiles", &["v1beta1"]),
        ("Community", "communities", &["v1beta1"]),
        ("BGPPeer", "bgppeers", &["v1beta1", "v1beta2"]),
    ] {
        let versions: Vec<_> = versions
            .iter()
            .enumerate()
            .map(|(i, version)| {
                json!({
                    "name": version, "served": true, "storage": i + 1 == versions.len(),
                    "schema": {"openAPIV3Schema": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    }},
                })
            })
            .collect();
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.metallb.io")},
            "spec": {
                "group": "metallb.io", "scope": "Namespaced", "versions": versions,
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            },
        });
        writeln!(kinds, "---\n{definition}")?;
    }
    ctx.lab().apply(&kinds).await?;
    ctx.lab()
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=60s",
        ])
        .await?;
    let pool: Vec<String> = ctx
        .ip_families()
        .into_iter()
        .map(|family| format!("{} - {}", ctx.nth(family, 0), ctx.nth(family, 9)))
        .collect();
    let objects = [
        (
            "IPAddressPool",
            "v1beta1",
            "lan",
            json!({"addresses": pool}),
        ),
        (
            "L2Advertisement",
            "v1beta1",
            "lan",
            json!({"ipAddressPools": ["lan"], "interfaces": ["lan0"]}),
        ),
        (
            "BGPPeer",
            "v1beta1",
            "tor",
            json!({
                "myASN": 64512, "peerASN": 64513, "peerAddress": "10.20.1.200", "holdTime": "30s",
                "bfdProfile": "quick", "password": "",
            }),
        ),
        (
            "BGPAdvertisement",
            "v1beta1",
            "routers",
            json!({"ipAddressPools": ["other"], "communities": ["vip"], "localPref": 200}),
        ),
        (
            "BFDProfile",
            "v1beta1",
            "quick",
            json!({"receiveInterval": 50}),
        ),
        (
            "Community",
            "v1beta1",
            "names",
            json!({"communities": [{"name": "vip", "value": "64512:100"}]}),
        ),
    ];
    let mut manifests = String::new();
    for (kind, version, name, spec) in objects {
        let object = json!({
            "apiVersion": format!("metallb.io/{version}"), "kind": kind,
            "metadata": {"name": name, "namespace": THEIRS}, "spec": spec,
        });
        writeln!(manifests, "---\n{object}")?;
    }
    ctx.lab().apply(&manifests).await
}

/// Services with the addresses that `MetalLB` gave them, not the first of the pool.
pub(super) async fn served_by_metallb(ctx: &Context) -> Result<BTreeMap<String, Vec<IpAddr>>> {
    let services: Api<Service> = ctx.api();
    let mut given = BTreeMap::new();
    for (name, offset) in [("first", 7), ("second", 4), ("pinned", 2)] {
        let addresses: Vec<IpAddr> = ctx
            .ip_families()
            .into_iter()
            .map(|family| ctx.nth(family, offset))
            .collect();
        let mut exposing = ctx.expose(name).in_front_of("web");
        if name == "pinned" {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            exposing = exposing.annotate("metallb.io/loadBalancerIPs", list.join(","));
        }
        exposing.create().await?;
        let ingress: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        services
            .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        given.insert(name.to_owned(), addresses);
    }
    Ok(given)
}

pub(super) async fn same_addresses(
    ctx: &Context,
    before: &BTreeMap<String, Vec<IpAddr>>,
) -> Result<()> {
    for (name, addresses) in before {
        let now = ctx.addresses_now(name).await?;
        ensure!(
            now == *addresses,
            "{name} had {addresses:?} and has {now:?}"
        );
    }
    Ok(())
}

async fn bgp_is_copied(ctx: &Context) -> Result<()> {
    let peer = wait::object(ctx.herald_api(), "tor", "a copy of the BGPPeer", |peer| {
        let peer: &BGPPeer = peer?;
        Some(peer.clone())
    })
    .await?;
    ensure!(
        peer.spec.my_asn == 64512
            && peer.spec.peer_address.as_deref() == Some("10.20.1.200")
            && peer.spec.bfd_profile.as_deref() == Some("quick"),
        "the peer became {:?}",
        peer.spec
    );
    let advertisement = wait::object(
        ctx.herald_api(),
        "routers",
        "a copy of the BGPAdvertisement",
        |found| {
            let found: &BGPAdvertisement = found?;
            Some(found.clone())
        },
    )
    .await?;
    ensure!(
        advertisement.spec.local_pref == Some(200),
        "localPref is lost"
    );
    let profiles: Api<BFDProfile> = ctx.herald_api();
    ensure!(
        profiles.get("quick").await?.spec.receive_interval == 50,
        "BFDProfile"
    );
    let names: Api<Community> = ctx.herald_api();
    ensure!(
        names.get("names").await?.spec.communities[0].value == "64512:100",
        "Community"
    );
    ctx.step("peers, profiles, communities and advertisements are Herald's too");
    Ok(())
}

/// While it is adopted a change there is a change here.
async fn followed(ctx: &Context) -> Result<()> {
    let wider: Vec<String> = ctx
        .ip_families()
        .into_iter()
        .map(|family| ctx.range(family, 0, 12))
        .collect();
    let patch = json!({"spec": {"addresses": wider}}).to_string();
    let args = [
        "-n",
        THEIRS,
        "patch",
        "ipaddresspools.metallb.io",
        "lan",
        "--type=merge",
        "-p",
    ];
    ctx.lab().kubectl(&[&args[..], &[&patch]].concat()).await?;
    wait::object(
        ctx.herald_api(),
        "lan",
        "the copy to follow the pool",
        |pool| {
            let pool: &IPAddressPool = pool?;
            (pool.spec.addresses == wider).then_some(())
        },
    )
    .await?;
    ctx.lab()
        .kubectl(&["-n", THEIRS, "delete", "bgppeers.metallb.io", "tor"])
        .await?;
    wait::object(
        ctx.herald_api(),
        "tor",
        "the copy of a deleted peer to go",
        |peer| {
            let peer: Option<&BGPPeer> = peer;
            peer.is_none().then_some(())
        },
    )
    .await?;
    ctx.step("a change and a deletion there are followed");
    Ok(())
}

/// The copies become the user's own, and outlive `MetalLB`.
async fn migrated(ctx: &Context) -> Result<()> {
    let run = |args: &'static [&'static str]| async move {
        let output = ctx.lab().operator_command(args)?.output().await?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success(),
            "herald-operator {args:?}: {errors}"
        );
        Ok::<_, anyhow::Error>(String::from_utf8(output.stdout)?)
    };
    let dry = run(&["migrate", "--dry-run"]).await?;
    ensure!(dry.matches("---").count() == 5, "it would write:\n{dry}");
    let pools: Api<IPAddressPool> = ctx.herald_api();
    ensure!(
        pools.get("lan").await?.labels().contains_key(ADOPTED),
        "a dry run wrote"
    );
    let wrote = run(&["migrate"]).await?;
    ensure!(
        wrote == dry,
        "it wrote something else than it said:\n{wrote}"
    );
    ensure!(
        !pools.get("lan").await?.labels().contains_key(ADOPTED),
        "what is migrated still follows MetalLB"
    );
    // What a user does now: Herald without the component, and MetalLB away.
    ctx.lab().install("bare-metal").await?;
    ctx.lab()
        .kubectl(&["delete", "namespace", THEIRS, "--wait=false"])
        .await?;
    ctx.lab()
        .kubectl(&[
            "delete",
            "crd",
            "ipaddresspools.metallb.io",
            "l2advertisements.metallb.io",
        ])
        .await?;
    ctx.expose("after").in_front_of("web").create().await?;
    for address in ctx.addresses("after").await? {
        ctx.client().curl(address).await?;
    }
    let advertisements: Api<L2Advertisement> = ctx.herald_api();
    advertisements
        .get("lan")
        .await
        .context("the advertisement went with MetalLB")?;
    ctx.step("migrated, Herald goes on without MetalLB");
    Ok(())
}
