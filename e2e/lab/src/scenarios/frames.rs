//! The segment itself: hostile frames, hosts that use an address of ours, and
//! settings of nodes that stand in the way.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::frames::AskArguments;
use crate::isolate;
use crate::prober::Target;
use crate::scenario::{Context, Family, herald, wait};

/// A host on the LAN that is neither node nor client.
const FOREIGN: &str = "cloud";

/// Answers after which traffic counts as flowing.
const FLOWING: u64 = 100;

/// Runs a shell command on a host of the lab.
async fn sh(ctx: &Context, host: &str, script: &str) -> Result<String> {
    let output = ctx
        .lab()
        .command(host, "sh")
        .args(["-c", script])
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{host}: {script}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How often containers of the speakers have been started again.
async fn restarts(ctx: &Context) -> Result<i32> {
    let pods = ctx.herald_pods(herald::SPEAKER).await?;
    let statuses = pods
        .iter()
        .filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref())
        .flatten();
    Ok(statuses.map(|status| status.restart_count).sum())
}

/// A Service of both families and the node that answers for each address.
async fn served(ctx: &Context) -> Result<Vec<(IpAddr, String)>> {
    ctx.pool("pool", 4).await?;
    ctx.deploy_echo("web", 3).await?;
    ctx.expose("web").create().await?;
    let mut served = Vec::new();
    for address in ctx.addresses("web").await? {
        ctx.client().curl(address).await?;
        let owner = ctx.client().owner(address).await?;
        served.push((address, owner));
    }
    Ok(served)
}

/// Thousands of frames that are malformed in every way.
pub(super) async fn hostile_frames(ctx: &mut Context) -> Result<()> {
    const EACH: &str = "5000";
    let served = served(ctx).await?;
    let [(v4, _), (v6, _)] = served.as_slice() else {
        bail!("not an address of each family: {served:?}");
    };
    let restarts_before = restarts(ctx).await?;
    let mut probing = ctx.client().probe(Target::udp(*v4, 9000))?;
    probing.wait_answered(FLOWING).await?;
    for seed in ["1", "2", "3"] {
        let output = ctx
            .lab()
            .command(FOREIGN, isolate::own_path()?)
            .args(["__hostile", &v4.to_string(), &v6.to_string()])
            .args(["--seed", seed, "--count", EACH])
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "sending failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let sent = String::from_utf8_lossy(&output.stdout);
        ctx.step(format!("seed {seed}: {} sent", sent.trim()));
    }
    probing.wait_answered(FLOWING).await?;
    let report = probing.stop().await?;
    ensure!(report.lost == 0, "{} probes lost", report.lost);
    for (address, owner) in &served {
        ctx.client().owned_by(*address, owner).await?;
    }
    ensure!(
        restarts(ctx).await? == restarts_before,
        "a speaker was started again"
    );
    for reason in [
        "AddressConflict",
        "AddressAnsweredTwice",
        "AddressUnanswered",
    ] {
        let told = ctx.event_count("Service", "web", reason).await?;
        ensure!(told == 0, "{told} events {reason}");
    }
    ctx.step("the same owners, no probe lost, no speaker started again");
    Ok(())
}

/// Why speakers do not take a heartbeat in.
const REASONS: [&str; 4] = ["replayed", "forged", "unknown-key", "unsealed"];

/// Heartbeats of a session that is over and of one that goes on, its sender's
/// last word among them, recorded and sent again, and forged without the key.
pub(super) async fn hostile_heartbeats(ctx: &mut Context) -> Result<()> {
    let served = served(ctx).await?;
    let (address, leaver) = &served[0];
    ctx.speakers_hear_each_other().await?;
    let file = ctx.directory().join("heartbeats.jsonl");
    let program = isolate::own_path()?;
    let recorder = ctx
        .lab()
        .command(FOREIGN, &program)
        .arg("__record")
        .arg(&file)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // A whole life: what it says at last, and what it says anew.
    let speaker = ctx.speaker_on(leaver).await?;
    ctx.signal(&speaker, "speaker", Signal::SIGTERM)?;
    ctx.replace_speaker(leaver, &speaker).await?;
    ctx.speakers_hear_each_other().await?;
    let pid = recorder.id().context("the recorder runs")?;
    kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM)?;
    let output = recorder.wait_with_output().await?;
    ensure!(
        output.status.success(),
        "recording ended with {}",
        output.status
    );
    ctx.step(String::from_utf8_lossy(&output.stdout).trim());

    let mut owners = Vec::new();
    for (address, _) in &served {
        owners.push(ctx.client().owner(*address).await?);
    }
    let restarts_before = restarts(ctx).await?;
    let taken = ctx.over_speakers("herald_l2_takeovers_total", &[]).await?;
    let rejected = async |reason: &str| {
        ctx.over_speakers("herald_l2_heartbeats_rejected_total", &[("reason", reason)])
            .await
    };
    let mut before = Vec::new();
    for reason in REASONS {
        before.push(rejected(reason).await?);
    }
    let mut probing = ctx.client().probe(Target::udp(*address, 9000))?;
    probing.wait_answered(FLOWING).await?;
    for _ in 0..3 {
        let sent = ctx
            .lab()
            .command(FOREIGN, &program)
            .arg("__replay")
            .arg(&file)
            .kill_on_drop(true)
            .output()
            .await?;
        ensure!(
            sent.status.success(),
            "sending failed: {}",
            String::from_utf8_lossy(&sent.stderr)
        );
        ctx.step(format!(
            "{} sent",
            String::from_utf8_lossy(&sent.stdout).trim()
        ));
    }
    probing.wait_answered(FLOWING).await?;
    let report = probing.stop().await?;
    ensure!(report.lost == 0, "{} probes lost", report.lost);
    for (reason, before) in REASONS.iter().zip(before) {
        let count = rejected(reason).await? - before;
        ctx.step(format!("{count} counted as {reason}"));
        ensure!(count > 0.5, "nothing was counted as {reason}");
    }
    let moved = ctx.over_speakers("herald_l2_takeovers_total", &[]).await? - taken;
    ensure!(moved.abs() < 0.5, "{moved} groups moved");
    for ((address, _), owner) in served.iter().zip(&owners) {
        let now = ctx.client().owner(*address).await?;
        ensure!(now == *owner, "{address} moved from {owner} to {now}");
    }
    ctx.speakers_hear_each_other().await?;
    ensure!(
        restarts(ctx).await? == restarts_before,
        "a speaker was started again"
    );
    ctx.step("no probe lost, nothing moved, and all speakers hear each other");
    Ok(())
}

/// A host that has an address before us, and one that takes it later.
pub(super) async fn address_conflict(ctx: &mut Context) -> Result<()> {
    ctx.pool("pool", 4).await?;
    ctx.deploy_echo("web", 2).await?;
    // The speakers know what has been used before: this address has not.
    let address = ctx.nth(Family::V4, 1);
    sh(ctx, FOREIGN, &format!("ip addr add {address}/16 dev lan0")).await?;
    let result = in_use(ctx, address).await;
    sh(ctx, FOREIGN, &format!("ip addr del {address}/16 dev lan0")).await?;
    result?;
    ctx.client().owner(address).await?;
    ctx.client().curl(address).await?;
    ctx.step("the host gave the address up: it is announced and served");

    // It comes back, and says so for longer than a successor would.
    let claim = format!(
        "ip addr add {address}/32 dev lan0; for i in 1 2 3 4 5 6; do \
         arping -q -U -c 1 -I lan0 {address} || true; sleep 1; done; \
         ip addr del {address}/32 dev lan0"
    );
    let capture = ctx.capture_lan("conflict").await?;
    sh(ctx, FOREIGN, &claim).await?;
    ctx.step(ctx.event("Service", "web", "AddressConflict").await?);
    let owner = ctx.client().owner(address).await?;
    let mac = ctx.mac(&owner).await?;
    let frames = capture.stop().await?;
    let defended = frames
        .iter()
        .filter(|frame| frame.announces(address) && frame.claims(address) == Some(mac))
        .count();
    ctx.step(format!("{owner} announced it {defended} times meanwhile"));
    ensure!(defended >= 1, "the owner did not defend it");
    ctx.client().curl(address).await?;
    Ok(())
}

async fn in_use(ctx: &Context, address: IpAddr) -> Result<()> {
    ctx.expose("web")
        .only(Family::V4)
        .annotate("herald.dev/loadBalancerIPs", address.to_string())
        .create()
        .await?;
    let got = ctx.address("web", Family::V4).await?;
    ensure!(got == address, "{got} was given, not {address}");
    let text = ctx.event("Service", "web", "AddressInUse").await?;
    ensure!(text.contains("is not announced"), "told: {text}");
    ctx.step(text);
    let answers = ctx
        .client()
        .run(
            "arping",
            &["-c", "2", "-w", "2", "-I", "lan0", &address.to_string()],
        )
        .await?
        .to_lowercase();
    for node in ctx.nodes() {
        let mac = ctx.mac(&node).await?.to_string();
        ensure!(!answers.contains(&mac), "{node} answers too: {answers}");
    }
    Ok(())
}

/// Addresses on a node's own interfaces, and a reverse path filter that drops.
pub(super) async fn node_traps(ctx: &mut Context) -> Result<()> {
    let served = served(ctx).await?;
    let (address, owner) = &served[0];
    let other = ctx
        .nodes()
        .into_iter()
        .find(|node| node != owner)
        .context("there is another node")?;
    sh(ctx, &other, &format!("ip addr add {address}/32 dev lan0")).await?;
    let told = wait::until("the address on a node to be told of", || async {
        let text = ctx.event("Service", "web", "AddressOnHost").await?;
        ensure!(text.contains(&other), "told: {text}");
        Ok(text)
    })
    .await;
    // Seen from the segment too: two hosts answer.
    let twice = ctx.event("Service", "web", "AddressAnsweredTwice").await;
    sh(ctx, &other, &format!("ip addr del {address}/32 dev lan0")).await?;
    ctx.step(told?);
    ctx.step(twice?);
    ctx.client().owned_by(*address, owner).await?;

    let filter = |value: u8| format!("echo {value} > /proc/sys/net/ipv4/conf/lan0/rp_filter");
    sh(ctx, owner, &filter(1)).await?;
    let told = ctx.event("Service", "web", "StrictReversePath").await;
    sh(ctx, owner, &filter(0)).await?;
    ctx.step(told?);
    Ok(())
}

/// A host that wants a VIP for itself asks first, and is told that it is taken.
pub(super) async fn address_test(ctx: &mut Context) -> Result<()> {
    let served = served(ctx).await?;
    let (address, owner) = served
        .iter()
        .find(|(address, _)| address.is_ipv6())
        .context("no IPv6 address")?;
    let mut probing = ctx.client().probe(Target::udp(*address, 9000))?;
    probing.wait_answered(FLOWING).await?;
    let knob = "/proc/sys/net/ipv6/conf";
    sh(
        ctx,
        FOREIGN,
        &format!("echo 1 > {knob}/all/accept_dad; echo 1 > {knob}/lan0/accept_dad"),
    )
    .await?;
    sh(ctx, FOREIGN, &format!("ip addr add {address}/64 dev lan0")).await?;
    let failed = wait::until("the host to see that the address is taken", || async {
        let addresses = sh(ctx, FOREIGN, "ip -6 addr show dev lan0").await?;
        ensure!(addresses.contains("dadfailed"), "it has {addresses}");
        Ok(())
    })
    .await;
    sh(
        ctx,
        FOREIGN,
        &format!(
            "ip addr del {address}/64 dev lan0; echo 0 > {knob}/all/accept_dad; \
             echo 0 > {knob}/lan0/accept_dad"
        ),
    )
    .await?;
    failed?;
    ctx.step(format!("IPv6's test of {address} failed on {FOREIGN}"));
    // ARP's, as a DHCP client does it: told by the tool's status.
    let v4 = &served[0].0;
    let (free, said) = arp_test(ctx, v4).await?;
    ensure!(!free, "{v4} counts as free: {said}");
    ctx.step(format!("ARP's test of {v4} found it taken"));
    probing.wait_answered(FLOWING).await?;
    let report = probing.stop().await?;
    ensure!(report.lost == 0, "{} probes lost", report.lost);
    ctx.client().owned_by(*address, owner).await
}

async fn arp_test(ctx: &Context, address: &IpAddr) -> Result<(bool, String)> {
    let output = ctx
        .lab()
        .command(FOREIGN, "arping")
        .args(["-D", "-f", "-w", "2", "-I", "lan0", &address.to_string()])
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.success(), said))
}

/// The first of the addresses that the bench puts into Services.
const MANY: Ipv4Addr = Ipv4Addr::new(10, 20, 128, 0);
/// Addresses of one Service.
const OF_ONE: u32 = 1000;
/// Rounds of each measurement.
const ROUNDS: usize = 5;

/// Answers a second, beside the kernel's for the node's own address.
pub(super) async fn arp_rate(ctx: &mut Context) -> Result<()> {
    // It would take back what is no pool's to give.
    ctx.scale_operator(0).await?;
    ctx.pool_of("many", &["10.20.128.0/18".to_owned()]).await?;
    ctx.announce().await?;
    ctx.deploy_echo("web", 1).await?;
    let program = isolate::own_path()?;
    let mut held = 0;
    for vips in [1, 1000, 10_000] {
        while held < vips {
            let more = (vips - held).min(OF_ONE);
            hold(ctx, held, more).await?;
            held += more;
        }
        let (own, ours) = rates(ctx, &program, vips).await?;
        ctx.step(format!(
            "{vips} VIPs: {ours:.0} answers/s, the kernel's own address {own:.0}/s, {:.2}",
            ours / own
        ));
        ctx.figure(&format!("{vips}/kernel"), own.round(), "answers/s");
        ctx.figure(&format!("{vips}/herald"), ours.round(), "answers/s");
        ctx.figure(&format!("{vips}/ratio"), ours / own, "of-kernel");
    }
    ctx.scale_operator(2).await
}

/// A Service with many addresses, from a place on, held by the node.
async fn hold(ctx: &Context, from: u32, count: u32) -> Result<()> {
    let name = format!("many-{from}");
    ctx.expose(&name)
        .in_front_of("web")
        .only(Family::V4)
        .create()
        .await?;
    let address = |i: u32| IpAddr::V4(Ipv4Addr::from_bits(MANY.to_bits() + i));
    let ingress: Vec<_> = (from..from + count)
        .map(|i| json!({"ip": address(i), "ipMode": "VIP"}))
        .collect();
    let services: Api<Service> = ctx.api();
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    services
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .with_context(|| format!("give Service {name} its addresses"))?;
    ctx.client().owner(address(from + count - 1)).await?;
    Ok(())
}

/// Medians of the answers a second for the node's own address and for VIPs,
/// measured in turns.
async fn rates(ctx: &Context, program: &Path, vips: u32) -> Result<(f64, f64)> {
    let node = ctx.client().owner(MANY.into()).await?;
    let number: u8 = node.trim_start_matches('n').parse()?;
    let (own, _) = crate::plan::Host::Node(number)
        .lan(0)
        .context("nodes are on LAN 0")?;
    let ask = |first: Ipv4Addr, count: u32| AskArguments {
        first,
        count,
        interface: "lan0".into(),
        duration: Duration::from_secs(2),
    };
    let (mut kernel, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        kernel.push(ask(own, 1).from_host("c1", program).await?.rate());
        ours.push(ask(MANY, vips).from_host("c1", program).await?.rate());
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    Ok((median(&mut kernel), median(&mut ours)))
}
