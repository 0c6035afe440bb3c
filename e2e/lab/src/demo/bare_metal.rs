//! A Service on bare metal: its addresses, who answers for them, and what
//! happens when that node dies.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::stage::{Stage, note, say};
use crate::faults;

const POOL: &str = r#"
apiVersion: herald.dev/v1alpha1
kind: IPAddressPool
metadata: {name: demo, namespace: herald-system}
spec: {addresses: [10.20.100.1-10.20.100.20, "fd20::1:1-fd20::1:20"]}
---
apiVersion: herald.dev/v1alpha1
kind: L2Advertisement
metadata: {name: demo, namespace: herald-system}
spec: {ipAddressPools: [demo]}
"#;

pub(super) async fn walk(stage: &mut Stage) -> Result<()> {
    install(stage).await?;
    let addresses = expose(stage).await?;
    node_dies(stage, &addresses).await
}

async fn install(stage: &mut Stage) -> Result<()> {
    stage.heading("Herald on bare metal");
    say(
        "The operator gives Services addresses, a speaker on each node answers for them. Both \
         are installed by the manifests that you would apply to a cluster of yours.",
    );
    note("$ kubectl apply --server-side -k deploy/overlays/bare-metal");
    let begin = Instant::now();
    stage.lab().install("bare-metal").await?;
    stage.figure("install", begin.elapsed().as_secs_f64(), "s");
    stage.kubectl("-n herald-system get pods -o wide").await?;
    say(
        "Herald has to be told which addresses are its to give, and that they are to be \
         announced on the local segment.",
    );
    stage.apply(POOL).await
}

async fn expose(stage: &mut Stage) -> Result<Vec<IpAddr>> {
    stage.heading("kubectl expose");
    stage
        .kubectl("create deployment web --image=ghcr.io/herald-lb/echo:v0.1.0 --replicas=3")
        .await?;
    stage.kubectl("rollout status deployment/web").await?;
    let begin = Instant::now();
    stage
        .kubectl("expose deployment web --type=LoadBalancer --port=80 --target-port=8080")
        .await?;
    let first = stage.addresses("web").await?;
    stage.figure(
        "create-to-address",
        begin.elapsed().as_secs_f64() * 1000.0,
        "ms",
    );
    let first = *first.first().context("the Service has an address")?;
    stage.first_answer(first).await?;
    stage.figure(
        "create-to-answer",
        begin.elapsed().as_secs_f64() * 1000.0,
        "ms",
    );
    stage.kubectl("get service web").await?;
    say("The address is real: curl, on a machine that is no part of the cluster.");
    stage.on_client(&format!("curl -s http://{first}/")).await?;
    say("A second family is added when the Service asks for it; the first stays.");
    stage
        .kubectl(r#"patch service web -p {"spec":{"ipFamilyPolicy":"PreferDualStack"}}"#)
        .await?;
    let addresses = stage.addresses("web").await?;
    for &address in &addresses {
        stage.client().curl(address).await?;
    }
    stage.kubectl("get service web").await?;
    say(
        "Who is it that has these addresses? No interface anywhere. A speaker answers the \
         question that every machine on the segment asks, by ARP and by neighbour discovery, \
         and kube-proxy on its node takes it from there.",
    );
    for address in &addresses {
        if address.is_ipv4() {
            stage
                .on_client(&format!("arping -c 1 -I lan0 {address}"))
                .await?;
        } else {
            stage
                .on_client(&format!("curl -s http://[{address}]/"))
                .await?;
            stage
                .on_client(&format!("ndisc6 -m -r 1 {address} lan0"))
                .await?;
        }
    }
    Ok(addresses)
}

async fn node_dies(stage: &mut Stage, addresses: &[IpAddr]) -> Result<()> {
    let address = *addresses.first().context("the Service has an address")?;
    let owner = stage.client().owner(address).await?;
    stage.heading("The node that answers dies");
    say(&format!(
        "That hardware address is {owner}'s. While c1 asks {address} again and again, {owner} \
         loses its power: all its processes and its cables, at once.",
    ));
    let probing = stage.ask(address).await?;
    faults::crash_node(stage.lab(), &owner)?;
    note(&format!("{owner} is dead"));
    let heir = stage.client().owned_by_other_than(address, &owner).await?;
    note(&format!("{heir} answers for {address}"));
    let report = stage.until_all_is_well(probing).await?;
    stage.figure("node-crash/gap", report.longest_gap().as_secs_f64(), "s");
    stage.figure("node-crash/lost", to_float(report.lost), "requests");
    stage.kubectl("get nodes").await?;
    say(
        "The speakers hear each other on the segment itself, and take over when nobody has \
         heard one for 280 ms. What Kubernetes says of the node does not matter, nor when: 4 s \
         later in this lab, 40 s and more in most clusters.",
    );
    faults::boot_node(stage.lab(), &owner)?;
    stage.all_is_well().await?;
    note(&format!("{owner} has booted, and takes part again"));
    Ok(())
}

/// A count as a figure's value.
pub(super) fn to_float(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
