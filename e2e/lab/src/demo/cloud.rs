//! The same Deployment behind a load balancer of the pretend cloud, and what
//! Herald does when the cloud, a node or Herald itself fails.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::bare_metal::to_float;
use super::stage::{Stage, note, say};
use crate::faults;
use crate::scenario::wait;

pub(super) async fn walk(stage: &mut Stage) -> Result<()> {
    install(stage).await?;
    provision(stage).await?;
    node_dies(stage).await?;
    cloud_fails(stage).await?;
    operator_dies(stage).await?;
    clean_up(stage).await
}

async fn install(stage: &mut Stage) -> Result<()> {
    stage.heading("Herald in a cloud");
    say(
        "In a cloud the operator makes a load balancer for each Service, which sends to the \
         nodes' NodePorts. The cloud here is herald-fakecloud, a server outside the cluster: it \
         takes its time, checks the health of its targets, forwards real traffic, and fails on \
         demand.",
    );
    stage.kubectl("delete service web").await?;
    note("$ kubectl apply --server-side -k deploy/overlays/fake-cloud");
    stage.lab().install("fake-cloud").await
}

async fn provision(stage: &mut Stage) -> Result<()> {
    let begin = Instant::now();
    stage
        .kubectl(
            "expose deployment web --name=shop --type=LoadBalancer --port=80 --target-port=8080",
        )
        .await?;
    let message = stage.condition("shop", "Provisioning").await?;
    note(&format!("Provisioning: {message}"));
    stage.condition("shop", "Provisioned").await?;
    stage.figure(
        "cloud/create-to-address",
        begin.elapsed().as_secs_f64(),
        "s",
    );
    stage.kubectl("get service shop").await?;
    let address = stage.addresses("shop").await?[0];
    stage.client().curl(address).await?;
    stage
        .on_client(&format!("curl -s http://{address}/"))
        .await?;
    targets(stage, &["n1", "n2", "n3"]).await
}

async fn node_dies(stage: &mut Stage) -> Result<()> {
    say("Again a node dies, and the cloud's health check sees it.");
    let address = stage.addresses("shop").await?[0];
    let probing = stage.ask(address).await?;
    faults::crash_node(stage.lab(), "n3")?;
    note("n3 is dead");
    targets(stage, &["n1", "n2"]).await?;
    let report = stage.until_all_is_well(probing).await?;
    say(
        "Only requests that had gone to n3, or to the pod on it, were lost, until the health \
         check and Kubernetes took them out.",
    );
    stage.figure(
        "cloud/node-crash/gap",
        report.longest_gap().as_secs_f64(),
        "s",
    );
    stage.figure("cloud/node-crash/lost", to_float(report.lost), "requests");
    faults::boot_node(stage.lab(), "n3")?;
    stage.all_is_well().await?;
    note("n3 has booted, and is a target again");
    targets(stage, &["n1", "n2", "n3"]).await
}

async fn cloud_fails(stage: &mut Stage) -> Result<()> {
    stage.heading("The cloud fails");
    say(
        "The next load balancer will not come up: the cloud was told so. Herald says why on \
         the Service, and tries again.",
    );
    stage
        .cloud()?
        .fault(
            "CreateLoadBalancer",
            json!({"kind": "failProvisioning", "message": "no capacity left"}),
        )
        .await?;
    stage
        .kubectl(
            "expose deployment web --name=second --type=LoadBalancer --port=80 --target-port=8080",
        )
        .await?;
    let message = stage.condition("second", "ProvisioningFailed").await?;
    note(&format!("ProvisioningFailed: {message}"));
    let message = stage.condition("second", "Provisioned").await?;
    note(&format!("Provisioned: {message}"));
    let address = stage.addresses("second").await?[0];
    stage.client().curl(address).await?;
    stage.kubectl("get services shop second").await.map(drop)
}

async fn operator_dies(stage: &mut Stage) -> Result<()> {
    stage.heading("Herald fails, in the worst moment");
    say(
        "The cloud makes a third load balancer but holds its answer back, and in that moment \
         the operator is killed: nobody has learned that the load balancer exists.",
    );
    let cloud = stage.cloud()?;
    cloud
        .fault(
            "CreateLoadBalancer",
            json!({"kind": "hold", "phase": "after"}),
        )
        .await?;
    stage
        .kubectl(
            "expose deployment web --name=third --type=LoadBalancer --port=80 --target-port=8080",
        )
        .await?;
    cloud.holds_a_call().await?;
    let holder = stage
        .kubectl("-n herald-system get lease herald-operator -o jsonpath={.spec.holderIdentity}")
        .await?;
    let leader = holder.split('_').next().unwrap_or_default().trim();
    let begin = Instant::now();
    faults::signal_container(&format!("herald-system/{leader}/operator"), Signal::SIGKILL)?;
    cloud.no_faults().await?;
    note(&format!("{leader} killed"));
    stage.condition("third", "Provisioned").await?;
    stage.figure(
        "cloud/operator-killed/to-provisioned",
        begin.elapsed().as_secs_f64(),
        "s",
    );
    let address = stage.addresses("third").await?[0];
    stage.client().curl(address).await?;
    stage.kubectl("get services shop second third").await?;
    let balancers = cloud.load_balancers().await?;
    for balancer in &balancers {
        println!("  {} {}: {}", balancer.id, balancer.name, balancer.state);
    }
    println!();
    ensure!(
        balancers.len() == 3,
        "3 Services, but {} load balancers",
        balancers.len()
    );
    say(
        "Three Services, three load balancers: what the killed operator had begun was found \
         and finished, not made twice.",
    );
    Ok(())
}

async fn clean_up(stage: &mut Stage) -> Result<()> {
    say("And when the Services go, nothing is left in the account.");
    stage.kubectl("delete services shop second third").await?;
    let cloud = stage.cloud()?;
    cloud.is_empty().await?;
    note("load balancers in the cloud: 0");
    Ok(())
}

/// Waits until exactly these nodes are healthy targets of `shop`, and says so.
async fn targets(stage: &Stage, nodes: &[&str]) -> Result<()> {
    let cloud = stage.cloud()?;
    let balancer = wait::until(&format!("targets {nodes:?} to be healthy"), || async {
        let balancers = cloud.load_balancers().await?;
        let balancer = balancers.into_iter().next().context("no load balancer")?;
        let healthy: Vec<&str> = balancer
            .targets
            .iter()
            .filter(|target| target.health == "healthy")
            .map(|target| target.name.as_str())
            .collect();
        ensure!(healthy == nodes, "healthy are {healthy:?}");
        Ok(balancer)
    })
    .await?;
    for target in &balancer.targets {
        println!(
            "  target {} {}: {}",
            target.name, target.address, target.health
        );
    }
    println!();
    Ok(())
}
