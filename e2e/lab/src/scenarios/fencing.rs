//! The operator's replicas, when they are stopped, cut off, killed, or the API
//! fails them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::churn;
use crate::faults::{self, Direction};
use crate::network::Network;
use crate::scenario::workloads::node_of;
use crate::scenario::{Context, herald, wait};

/// Services of each round.
const LOAD: u32 = 100;
/// Requests of a hundred that fail.
const ERRORS: u8 = 30;

/// What is done to a leader.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Stopped,
    CutOff,
}

/// A leader that cannot know that it is none any more.
pub(super) async fn stopped(ctx: &mut Context) -> Result<()> {
    ctx.crowd_pool().await?;
    let rounds = [Fault::Stopped, Fault::Stopped, Fault::CutOff];
    for (round, fault) in (1u32..).zip(rounds) {
        let mark = ctx.audit_mark()?;
        let leader = ctx.leader().await?;
        let pods: Api<Pod> = ctx.herald_api();
        let pod = pods.get(&leader).await?;
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        let address = address.context("the leader has an address")?;
        let node = node_of(&pod)?;
        let name = format!("round-{round}");
        // It is in the midst of its work.
        let (_, since) = tokio::try_join!(ctx.crowd(&name, LOAD), async {
            sleep(Duration::from_millis(u64::from(round) * 150)).await;
            replaced(ctx, &leader, &node, fault).await
        })?;
        match fault {
            Fault::Stopped => ctx.signal(&leader, "operator", Signal::SIGCONT)?,
            Fault::CutOff => faults::heal(&node, Network::Management)?,
        }
        ctx.crowd_served(round * LOAD).await?;
        ctx.operator_is_well().await?;
        let (late, before): (Vec<_>, Vec<_>) = ctx
            .writes_since(mark)?
            .into_iter()
            .filter(|write| write.from == address)
            .partition(|write| write.answered > since);
        ensure!(!before.is_empty(), "{leader} wrote nothing while it led");
        ensure!(
            late.is_empty(),
            "{leader} wrote when it led no more: {late:?}"
        );
        ctx.step(format!(
            "{fault:?}: {} Services have addresses of their own, the former leader wrote nothing",
            round * LOAD
        ));
        if matches!(fault, Fault::CutOff) {
            ctx.lab().nodes_ready(wait::PATIENCE).await?;
            ctx.speakers_are_well().await?;
        }
    }
    ctx.crowd_leaves().await
}

/// Does it, and waits until another leads; since when it does.
async fn replaced(ctx: &Context, leader: &str, node: &str, fault: Fault) -> Result<Timestamp> {
    match fault {
        Fault::Stopped => ctx.signal(leader, "operator", Signal::SIGSTOP)?,
        Fault::CutOff => faults::cut(node, Network::Management, Direction::Both)?,
    }
    let next = ctx.leader_other_than(&[leader.to_owned()]).await?;
    let leases: Api<Lease> = ctx.herald_api();
    let lease = leases.get(herald::OPERATOR).await?;
    let since = lease.spec.and_then(|spec| spec.acquire_time);
    ctx.step(format!("{fault:?}: {leader}, and {next} leads"));
    // It is at work by itself for a while.
    sleep(Duration::from_secs(1)).await;
    Ok(since.context("a Lease says since when")?.0)
}

pub(super) async fn killed(ctx: &mut Context) -> Result<()> {
    killed_times(ctx, 10).await
}

pub(super) async fn killed_often(ctx: &mut Context) -> Result<()> {
    killed_times(ctx, 100).await
}

/// Kills leaders at random moments while Services come, change and go.
async fn killed_times(ctx: &mut Context, times: u32) -> Result<()> {
    churn::pools(ctx).await?;
    let mark = ctx.audit_mark()?;
    let kills = async {
        for _ in 0..times {
            let leader = ctx.leader().await?;
            sleep(Duration::from_millis(fastrand::u64(0..400))).await;
            // It may have been replaced meanwhile; then it is another pod's turn.
            let _ = ctx.signal(&leader, "operator", Signal::SIGKILL);
            let _ = ctx.kill_herald_pod(&leader).await;
            ctx.leader_other_than(&[leader]).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::select! {
        killed = kills => killed?,
        churned = churn::churn(ctx) => churned?,
    }
    let writes = ctx.writes_since(mark)?.len();
    ctx.step(format!("{times} leaders killed among {writes} writes"));
    ctx.operator_is_well().await?;
    let count = churn::settled(ctx).await?;
    ctx.step(format!(
        "{count} load balancers have exactly what they should"
    ));
    ctx.crowd_leaves().await
}

/// Requests fail before and after they are done, connections break, and the API
/// server goes and comes.
pub(super) async fn api_faults(ctx: &mut Context) -> Result<()> {
    const HALF: u32 = 500;
    ctx.crowd_pool().await?;
    ctx.operator_behind_proxy(ERRORS).await?;
    ctx.step(format!("{ERRORS} % of the operator's requests fail"));
    ctx.crowd("first", HALF).await?;
    faults::stop_api_server()?;
    ctx.lab().start_api_server().await?;
    ctx.forgive_denials()?;
    ctx.step("the API server is started anew");
    tokio::try_join!(ctx.crowd("second", HALF), async {
        for _ in 0..3 {
            sleep(Duration::from_secs(1)).await;
            ctx.restart_api_proxy(ERRORS).await?;
        }
        Ok(())
    })?;
    ctx.crowd_served(2 * HALF).await?;
    ctx.step(format!("{} Services have addresses of their own", 2 * HALF));
    ctx.crowd_leaves().await?;
    // Also what is given back arrives in the end.
    let left = ctx.crowd_settled().await?;
    ensure!(left == 0, "{left} Services are left");
    Ok(())
}
