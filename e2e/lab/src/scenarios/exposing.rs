//! From `kubectl expose` to an answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::json;

use crate::capture::Mac;
use crate::prober::Target;
use crate::scenario::services::ensure_ip_mode;
use crate::scenario::workloads::ECHO;
use crate::scenario::{Context, herald, wait};
use crate::vm;

/// The commands of every tutorial, and curl from outside.
pub(super) async fn expose(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 8).await?;
    let capture = ctx.capture_lan("expose").await?;

    ctx.kubectl(&[
        "create",
        "deployment",
        "web",
        "--image",
        ECHO,
        "--replicas=3",
    ])
    .await?;
    ctx.rolled_out("web").await?;
    ctx.kubectl(&[
        "expose",
        "deployment",
        "web",
        "--type=LoadBalancer",
        "--port=80",
        "--target-port=8080",
    ])
    .await?;
    let [address] = ctx.addresses("web").await?[..] else {
        anyhow::bail!("a Service of one family has not one address");
    };
    let reply = ctx.client().curl(address).await?;
    ctx.step(format!("curl http://{address}/ answered by {}", reply.pod));

    // A second family, asked for later, leaves the first as it is.
    ctx.change_service(
        "web",
        json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}}),
    )
    .await?;
    let addresses = ctx.addresses("web").await?;
    ensure!(addresses[0] == address, "{address} became {}", addresses[0]);
    ensure!(
        addresses.len() == ctx.ip_families().len(),
        "addresses: {addresses:?}"
    );
    ensure_ip_mode(&ctx.service("web").await?, "VIP")?;
    ctx.condition("web", "True", "AddressAssigned").await?;
    for &address in &addresses {
        ctx.client().curl(address).await?;
        let owner = ctx.client().owner(address).await?;
        ctx.step(format!("{owner} answers for {address}"));
    }

    create_to_answer(ctx).await?;
    for (app, container) in [(herald::OPERATOR, "operator"), (herald::SPEAKER, "speaker")] {
        let mib = ctx.memory_mib(app, container).await?;
        ctx.measured(&format!("{container}-memory"), mib, "MiB");
    }

    let owners = owners(ctx, &addresses).await?;
    let frames = capture.stop().await?;
    for (address, owner) in addresses.iter().zip(owners) {
        let mac = ctx.mac(&owner).await?;
        ensure!(
            frames.iter().any(|frame| frame.announces(*address)),
            "{address} was never announced to the segment"
        );
        let others = frames
            .iter()
            .filter_map(|frame| frame.claims(*address))
            .filter(|claimed| *claimed != mac)
            .count();
        // Under software emulation a speaker can stall for long enough to lose it.
        ensure!(
            others == 0 || vm::inside(),
            "{others} frames claim {address} for another than {owner} ({mac})"
        );
    }
    Ok(())
}

/// Every node's kernel has every VIP on kube-ipvs0 and answers ARP for it,
/// whatever Herald does.
pub(super) async fn strict_arp_off(ctx: &mut Context) -> Result<()> {
    ctx.lab().set_strict_arp(false)?;
    let result = served_by_any(ctx).await;
    // Whatever came of it: the lab has other scenarios to run.
    ctx.lab().set_strict_arp(true)?;
    result?;
    for address in ctx.addresses("web").await? {
        wait::until("one node alone to answer", || async {
            ctx.client().owner(address).await?;
            let claimants = claimants(ctx, address).await?;
            ensure!(claimants.len() == 1, "{claimants:?} answer");
            Ok(())
        })
        .await?;
    }
    ctx.step("with strictARP one node alone answers");
    Ok(())
}

async fn served_by_any(ctx: &Context) -> Result<()> {
    ctx.pool("pool", 4).await?;
    ctx.deploy_echo("web", 2).await?;
    ctx.expose("web").create().await?;
    for address in ctx.addresses("web").await? {
        let reply = ctx.client().curl(address).await?;
        ctx.step(format!("curl http://{address}/ answered by {}", reply.pod));
        if address.is_ipv4() {
            let count = wait::until("several nodes to answer ARP", || async {
                let claimants = claimants(ctx, address).await?;
                ensure!(claimants.len() > 1, "only {claimants:?} answer");
                Ok(claimants.len())
            })
            .await?;
            ctx.step(format!("{count} nodes answer ARP for {address}"));
        }
    }
    let log = ctx
        .kubectl(&["-n", "herald-system", "logs", "daemonset/herald-speaker"])
        .await?;
    ensure!(
        log.contains("set strictARP: true"),
        "the speaker does not tell what is wrong: {log}"
    );
    ctx.step("the speaker says what to do about it");
    Ok(())
}

/// Who answers on the segment when the client asks once.
async fn claimants(ctx: &Context, address: IpAddr) -> Result<BTreeSet<Mac>> {
    let capture = ctx.capture_lan("claims").await?;
    ctx.client().owner(address).await?;
    let frames = capture.stop().await?;
    Ok(frames.iter().filter_map(|f| f.claims(address)).collect())
}

async fn owners(ctx: &Context, addresses: &[IpAddr]) -> Result<Vec<String>> {
    let mut owners = Vec::new();
    for address in addresses {
        owners.push(ctx.client().owner(*address).await?);
    }
    Ok(owners)
}

/// How long it takes from the API's "created" to the address, and to the first
/// answer.
async fn create_to_answer(ctx: &mut Context) -> Result<()> {
    let begin = ctx
        .expose("timed")
        .in_front_of("web")
        .port("http", "TCP", 80, 8080)
        .create()
        .await?;
    let created = Timestamp::now();
    let addresses = ctx.addresses("timed").await?;
    ctx.measured_since("create-to-address", begin);
    // Many connections at once: one whose first packet is lost waits a second
    // for its next, and would measure that.
    let report = ctx
        .client()
        .reaches(&Target::http(addresses[0], 80))
        .await?;
    let waited = report.first_answer_ms.context("no answer was counted")?;
    let answered = report.began + Duration::from_millis(waited);
    ctx.measured_ms(
        "create-to-answer",
        answered.duration_since(created).unsigned_abs(),
    );
    Ok(())
}

/// Several ports, and both protocols on one of them.
pub(super) async fn ports(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 4).await?;
    ctx.deploy_echo("web", 2).await?;
    ctx.expose("web")
        .port("http", "TCP", 80, 8080)
        .port("alt", "TCP", 8000, 8080)
        .port("echo-udp", "UDP", 7, 9000)
        .port("echo-tcp", "TCP", 7, 9000)
        .create()
        .await?;
    for address in ctx.addresses("web").await? {
        ctx.client().curl(address).await?;
        ctx.client().curl_port(address, 8000).await?;
        for target in [Target::udp(address, 7), Target::tcp(address, 7)] {
            let report = ctx.client().reaches(&target).await?;
            let pods: Vec<&String> = report.answerers.keys().collect();
            ctx.step(format!("{target} answered by {pods:?}"));
        }
    }
    Ok(())
}

/// The client's address arrives, and the VIP goes where the pod is.
pub(super) async fn traffic_policy_local(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 4).await?;
    ctx.deploy_echo_on("web", 1, Some("n1")).await?;
    ctx.expose("web").local().create().await?;
    let addresses = ctx.addresses("web").await?;
    for &address in &addresses {
        client_is_seen(ctx, address, "n1").await?;
    }

    let probing = ctx.client().probe(Target::udp(addresses[0], 9000))?;
    let begin = Instant::now();
    ctx.move_to("web", "n2").await?;
    for &address in &addresses {
        ctx.client().owned_by(address, "n2").await?;
        client_is_seen(ctx, address, "n2").await?;
    }
    ctx.measured_since("pod-to-other-node", begin);
    let report = probing.stop().await?;
    ctx.step(format!(
        "while the pod moved: {} of {} probes lost, longest gap {} ms",
        report.lost, report.sent, report.longest_gap_ms
    ));
    ctx.measured_ms("pod-moves-gap", report.longest_gap());

    // Without a ready endpoint no node may answer.
    ctx.scale("web", 0).await?;
    for &address in &addresses {
        ctx.client().nobody_owns(address).await?;
    }
    ctx.scale("web", 1).await?;
    for &address in &addresses {
        client_is_seen(ctx, address, "n2").await?;
    }
    Ok(())
}

async fn client_is_seen(ctx: &Context, address: IpAddr, node: &str) -> Result<()> {
    let client = ctx.client();
    let own = client.address_like(&address)?;
    // kube-proxy's ipvs mode serves an address before the rules that spare its
    // clients the masquerade are in force.
    wait::until("the pod to see the client's address", || async {
        let reply = client.curl(address).await?;
        ensure!(
            reply.client.ip() == own,
            "the pod behind {address} sees {}, not the client {own}",
            reply.client.ip()
        );
        Ok(())
    })
    .await?;
    client.owned_by(address, node).await?;
    ctx.step(format!(
        "{node} answers for {address}, and the pod sees the client as {own}"
    ));
    Ok(())
}

/// Endpoints that somebody else takes care of.
pub(super) async fn selector_less(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 4).await?;
    ctx.deploy_echo("backend", 2).await?;
    ctx.expose("manual")
        .without_selector()
        .port("http", "TCP", 80, 8080)
        .create()
        .await?;
    let addresses = ctx.addresses("manual").await?;
    for &address in &addresses {
        // No endpoint anywhere: no node attracts traffic that it must drop.
        ctx.client().nobody_owns(address).await?;
    }

    let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    ctx.endpoints_of("manual", "backend", ports).await?;
    for &address in &addresses {
        let reply = ctx.client().curl(address).await?;
        ensure!(
            reply.pod.starts_with("backend-"),
            "{address} answered by {}",
            reply.pod
        );
    }
    Ok(())
}
