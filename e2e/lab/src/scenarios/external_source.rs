//! A pool whose addresses come from a source outside: `deploy/overlays/external-source`,
//! with the example that is shipped.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use nix::sys::signal::Signal;
use rcgen::generate_simple_self_signed;
use serde::Deserialize;
use serde_json::json;

use crate::scenario::services::ingress_addresses;
use crate::scenario::workloads::is_rolled_out;
use crate::scenario::{Context, Family, HERALD, wait};

const SOURCE: &str = "herald-example-source";
const TOKEN: &str = "the lab's own";
/// Services under way when the leader is killed.
const LOAD: u8 = 20;
/// What the source may give; the pool has fewer.
const GIVES: u8 = 40;
const HAS: u8 = 32;

/// The whole life: asked, killed in it, away, forgetful, given back.
pub(super) async fn external_source(ctx: &mut Context) -> Result<()> {
    installed(ctx).await?;
    let from_source = json!({"source": "example"});
    ctx.pool_with("outside", &ranges(ctx, 0, HAS), from_source.clone())
        .await?;
    ctx.announce().await?;
    ctx.deploy_echo("web", 1).await?;
    let begin = ctx.expose("web").create().await?;
    let addresses = ctx.addresses("web").await?;
    ctx.measured_since("first-address", begin);
    for &address in &addresses {
        ctx.client().curl(address).await?;
    }
    ensure!(
        leased(ctx, "outside").await? == addresses.iter().copied().collect(),
        "the source knows of other addresses than {addresses:?}"
    );
    ctx.step(format!("the source gave {addresses:?}, and they answer"));

    killed_in_it(ctx).await?;
    away(ctx).await?;

    // What it gives must be the pool's.
    ctx.pool_with("wrong", &ranges(ctx, 44, 4), from_source)
        .await?;
    ctx.expose("strange")
        .annotate("herald.dev/address-pool", ctx.pool_name("wrong"))
        .create()
        .await?;
    let told = ctx.condition("strange", "False", "SourceRefused").await?;
    ensure!(told.contains("not among spec.addresses"), "{told}");
    ctx.delete_service("strange").await?;
    ctx.step(format!("an address of another pool is refused: {told}"));

    forgetful(ctx).await?;
    given_back(ctx).await
}

fn ranges(ctx: &Context, offset: u8, count: u8) -> Vec<String> {
    let families = ctx.ip_families().into_iter();
    families
        .map(|family| ctx.range(family, offset, count))
        .collect()
}

/// The example overlay, with ranges and a certificate of the lab.
async fn installed(ctx: &mut Context) -> Result<()> {
    // There is no DNS in the lab: it is known by the address of its Service.
    shown(ctx, "not-yet-known").await?;
    ctx.lab().install("external-source").await?;
    ctx.forgive_denials()?;
    let host = source_host(ctx).await?;
    shown(ctx, &host).await?;
    let mut args = vec![
        "--state=/state/leases.json".to_owned(),
        "--token=/secret/token".to_owned(),
        "--certificate=/secret/tls.crt".to_owned(),
        "--key=/secret/tls.key".to_owned(),
    ];
    for family in ctx.ip_families() {
        args.push(format!("--range={}", ctx.range(family, 0, GIVES)));
    }
    ctx.set_args::<Deployment>(SOURCE, "source", &args).await?;
    source_is_well(ctx).await?;
    let host = in_url(&host);
    ctx.operator_flag(&format!(
        "--source=name=example,url=https://{host}:8095,timeout=2s,\
         ca=/var/run/secrets/herald.dev/source/tls.crt,\
         token=/var/run/secrets/herald.dev/source/token"
    ))
    .await
}

/// What the source and the operator show each other.
async fn shown(ctx: &Context, host: &str) -> Result<()> {
    let made = generate_simple_self_signed([host.to_owned()]).context("make a certificate")?;
    let certificate = made.cert.pem();
    std::fs::write(certificate_file(ctx), &certificate).context("keep the certificate")?;
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SOURCE, "namespace": HERALD},
        "stringData": {
            "token": TOKEN,
            "tls.crt": certificate,
            "tls.key": made.signing_key.serialize_pem(),
        },
    });
    ctx.lab().apply(&secret.to_string()).await
}

/// Where curl finds the certificate.
fn certificate_file(ctx: &Context) -> PathBuf {
    ctx.directory().join("source.crt")
}

async fn source_host(ctx: &Context) -> Result<String> {
    let services: Api<Service> = ctx.herald_api();
    let spec = services.get(SOURCE).await?.spec.unwrap_or_default();
    spec.cluster_ip.context("the source has a cluster IP")
}

fn in_url(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

async fn source_is_well(ctx: &Context) -> Result<()> {
    wait::object(
        ctx.herald_api(),
        SOURCE,
        "the source to be rolled out",
        |deployment| is_rolled_out(deployment?).then_some(()),
    )
    .await
}

async fn source_pod(ctx: &Context) -> Result<Pod> {
    let pods = ctx.herald_pods(SOURCE).await?;
    pods.into_iter().next().context("the source has a pod")
}

#[derive(Deserialize)]
struct Leases {
    leases: Vec<Lease>,
}

#[derive(Deserialize)]
struct Lease {
    address: IpAddr,
}

/// What the source has given to a pool, as it says itself.
async fn leased(ctx: &Context, pool: &str) -> Result<BTreeSet<IpAddr>> {
    let host = in_url(&source_host(ctx).await?);
    let namespaces: Api<Namespace> = Api::all(ctx.kube());
    let cluster = namespaces.get("kube-system").await?.uid();
    let url = format!(
        "https://{host}:8095/v1/leases?cluster={}&pool={}",
        cluster.unwrap_or_default(),
        ctx.pool_name(pool)
    );
    let token = format!("Authorization: Bearer {TOKEN}");
    let output = ctx
        .lab()
        .command("n1", "curl")
        .args(["-sS", "--fail", "--max-time", "5", "-H", &token, &url])
        .arg("--cacert")
        .arg(certificate_file(ctx))
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "ask the source for its leases: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let leases: Leases = serde_json::from_slice(&output.stdout)?;
    Ok(leases
        .leases
        .into_iter()
        .map(|lease| lease.address)
        .collect())
}

/// What Services have of the pool `outside`, as their statuses say.
async fn held(ctx: &Context) -> Result<BTreeSet<IpAddr>> {
    let services: Api<Service> = ctx.api();
    let all = services.list(&ListParams::default()).await?;
    let of_pool = |ip: &IpAddr| (0..HAS).any(|i| ctx.nth(Family::of(ip), i) == *ip);
    Ok(all
        .iter()
        .flat_map(ingress_addresses)
        .filter(of_pool)
        .collect())
}

/// Waits until the source has given exactly what Services have.
async fn agree(ctx: &Context) -> Result<()> {
    wait::until("the source to have given what Services have", || async {
        let (held, leased) = (held(ctx).await?, leased(ctx, "outside").await?);
        ensure!(
            held == leased,
            "Services have {held:?}, the source gave {leased:?}"
        );
        Ok(())
    })
    .await
}

/// The leader dies between the source's answers and its own writes.
async fn killed_in_it(ctx: &mut Context) -> Result<()> {
    let leader = ctx.leader().await?;
    let create = try_join_all((0..LOAD).map(|i| {
        let ctx = &*ctx;
        async move { ctx.expose(&format!("load-{i}")).create().await }
    }));
    let kill = async {
        wait::until("the source to be asked", || async {
            ensure!(leased(ctx, "outside").await?.len() > 4);
            Ok(())
        })
        .await?;
        ctx.signal(&leader, "operator", Signal::SIGKILL)?;
        ctx.kill_herald_pod(&leader).await
    };
    tokio::try_join!(create, kill)?;
    let mut seen = BTreeSet::new();
    for i in 0..LOAD {
        for address in ctx.addresses(&format!("load-{i}")).await? {
            ensure!(seen.insert(address), "{address} is given twice");
        }
    }
    agree(ctx).await?;
    ctx.operator_is_well().await?;
    ctx.step(format!(
        "{leader} killed while {LOAD} Services are served: each has its own, and nothing is left over"
    ));
    for i in 1..LOAD {
        ctx.delete_service(&format!("load-{i}")).await?;
    }
    agree(ctx).await
}

/// The source does not answer: nobody else waits for it, and what is given back
/// meanwhile arrives.
async fn away(ctx: &mut Context) -> Result<()> {
    let local = ranges(ctx, 50, 4);
    ctx.pool_with("local", &local, json!({"autoAssign": false}))
        .await?;
    let pod = source_pod(ctx).await?.name_any();
    ctx.signal(&pod, "source", Signal::SIGSTOP)?;
    ctx.expose("late").create().await?;
    let told = ctx.condition("late", "False", "SourceUnavailable").await?;
    ctx.step(format!("without the source: {told}"));
    let begin = Instant::now();
    ctx.expose("plain")
        .annotate("herald.dev/address-pool", ctx.pool_name("local"))
        .create()
        .await?;
    ctx.addresses("plain").await?;
    ctx.measured_since("beside-it", begin);
    // It does not stand in the way of a deletion.
    ctx.delete_service("load-0").await?;
    ctx.signal(&pod, "source", Signal::SIGCONT)?;
    ctx.addresses("late").await?;
    agree(ctx).await?;
    ctx.step("it is back: who waited is served, what was given back has arrived");
    Ok(())
}

/// The source forgets all, and is reminded by the next leader.
async fn forgetful(ctx: &mut Context) -> Result<()> {
    let before = held(ctx).await?;
    let pod = source_pod(ctx).await?.name_any();
    ctx.kill_herald_pod(&pod).await?;
    source_is_well(ctx).await?;
    wait::until("another source", || async {
        ensure!(source_pod(ctx).await?.name_any() != pod);
        ensure!(leased(ctx, "outside").await?.is_empty());
        Ok(())
    })
    .await?;
    let leader = ctx.leader().await?;
    ctx.signal(&leader, "operator", Signal::SIGKILL)?;
    ctx.kill_herald_pod(&leader).await?;
    ctx.leader_other_than(&[leader]).await?;
    agree(ctx).await?;
    ensure!(held(ctx).await? == before, "addresses have changed");
    ctx.operator_is_well().await?;
    ctx.step("the source had lost its memory, and knows again who has what");
    Ok(())
}

/// The pool goes when the source has all back, and not before.
async fn given_back(ctx: &mut Context) -> Result<()> {
    ctx.delete_pool("outside").await?;
    let told = ctx.pool_condition("outside", "False", "Deleted").await?;
    ensure!(!leased(ctx, "outside").await?.is_empty());
    ctx.delete_service("web").await?;
    ctx.delete_service("late").await?;
    ctx.pool_is_gone("outside").await?;
    ensure!(
        leased(ctx, "outside").await?.is_empty(),
        "the source has some still"
    );
    ctx.step(format!("the pool is gone with its last address ({told})"));
    Ok(())
}
