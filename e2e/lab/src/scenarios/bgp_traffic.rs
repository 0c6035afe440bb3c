//! A client behind each router: what it loses when speakers, nodes, links and the API
//! server go. A flow takes one of three nodes (ECMP), and a probe is a flow.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use herald_api::names::LABEL_EXCLUDE_NODE;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::process::Child;
use tokio::time::sleep;

use super::bgp_fabric::{self as fabric, has, next_hops};
use super::bgp_matrix::routers;
use super::failover::{count, stop};
use crate::faults::{self, Direction};
use crate::network::Network;
use crate::plan::Host;
use crate::prober::{ProbeReport, Probing, Target};
use crate::router::Router;
use crate::scenario::wait::PATIENCE;
use crate::scenario::{Context, Family, herald, wait};

/// Probes a second, from each client to each address.
const RATE: NonZeroU16 = NonZeroU16::new(100).expect("it is not zero");
/// Answers after which traffic counts as flowing.
const FLOWING: u64 = 50;
/// Hold times with FRR and BIRD.
const HOLD: [u64; 2] = [9, 3];
/// How much later than the hold time a path may stand in a table that is read from
/// outside, on a machine that has other things to do.
const LATE: Duration = Duration::from_secs(2);

/// A Service that clients behind the routers use.
struct Served {
    routers: Vec<Router>,
    addresses: Vec<IpAddr>,
    /// Behind it: outside of the cluster, so that no probe is lost with a pod.
    _server: Child,
}

/// Sessions of every node with every router, both families in each, and a Service.
async fn serve(ctx: &Context) -> Result<Served> {
    let routers = routers(ctx)?;
    for (router, hold) in routers.iter().zip(HOLD) {
        fabric::start(ctx, router, |neighbor| {
            neighbor.graceful_restart = Some(60);
            neighbor.v6 = true;
            neighbor.hold = 9;
        })
        .await?;
        let more = json!({
            "holdTime": format!("{hold}s"), "connectTime": "2s", "addressFamilies": ["ipv4", "ipv6"],
        });
        fabric::peer(ctx, router, more).await?;
    }
    let server = ctx.server_outside()?;
    fabric::pool(ctx).await?;
    fabric::advertise(ctx).await?;
    ctx.expose("web")
        .without_selector()
        .port("probe", "UDP", 9000, 9000)
        .create()
        .await?;
    let (v4, v6) = Host::Cloud.management().context("it is on management")?;
    let ports = json!([{"name": "probe", "port": 9000, "protocol": "UDP"}]);
    for address in [IpAddr::from(v4), v6.into()] {
        ctx.endpoints_by_hand("web", &[address], ports.clone())
            .await?;
    }
    let served = Served {
        routers,
        addresses: ctx.addresses("web").await?,
        _server: server,
    };
    served.whole(ctx).await?;
    served.spread(ctx).await?;
    ctx.step("the flows of each client are spread over all nodes");
    Ok(served)
}

impl Served {
    /// Waits until every router has every address by every node.
    async fn whole(&self, ctx: &Context) -> Result<()> {
        self.by(&(1..=ctx.node_count()).collect()).await?;
        fabric::told(ctx, self.routers.len()).await
    }

    /// Waits until every router has every address by just these nodes.
    async fn by(&self, nodes: &BTreeSet<u8>) -> Result<()> {
        for router in &self.routers {
            for address in &self.addresses {
                has(router, *address, &hops(nodes, address)?).await?;
            }
        }
        Ok(())
    }

    /// Probes every address from behind every router; returns when all answer.
    async fn probe(&self, ctx: &Context) -> Result<Vec<Probing>> {
        let mut all = Vec::new();
        for router in &self.routers {
            let client = Host::Far(router.number()?).name();
            for &address in &self.addresses {
                let target = Target::udp(address, 9000);
                all.push(ctx.client_named(&client).probe_at(target, RATE)?);
            }
        }
        for probing in &mut all {
            probing.wait_answered(FLOWING).await?;
        }
        Ok(all)
    }

    /// Every client's flows go by all nodes: a server sees the node that a flow came
    /// by as its client.
    async fn spread(&self, ctx: &Context) -> Result<()> {
        let probing = self.probe(ctx).await?;
        for report in stop(ctx, probing).await? {
            ensure!(
                report.clients.len() == usize::from(ctx.node_count()),
                "flows to {} came by {:?}",
                report.target,
                report.clients
            );
        }
        Ok(())
    }

    /// Does something under traffic. No probe is lost.
    async fn without_loss(
        &self,
        ctx: &mut Context,
        what: &str,
        deed: impl AsyncFnOnce(&mut Context) -> Result<()>,
    ) -> Result<()> {
        let probing = self.probe(ctx).await?;
        deed(ctx).await?;
        let lost = lost(&stop(ctx, probing).await?);
        ctx.measured(&format!("{what}/lost"), count(lost), "probes");
        ensure!(lost == 0, "{lost} probes lost at {what}");
        ctx.step(format!("{what}: no probe was lost"));
        Ok(())
    }

    /// How long it takes from now until a router has no path by a node any more, by
    /// its hold time.
    async fn gone(&self, router: usize, node: u8) -> Result<Duration> {
        let begin = Instant::now();
        let limit = Duration::from_secs(HOLD[router]) + LATE;
        let router = &self.routers[router];
        let what = format!("{router} to have no path by n{node} any more");
        wait::until_for(limit, &what, || async {
            for address in &self.addresses {
                let seen = next_hops(router, *address).await?;
                let left = hops(&[node].into(), address)?;
                ensure!(seen.is_disjoint(&left), "{address} by {seen:?}");
            }
            Ok(())
        })
        .await?;
        Ok(begin.elapsed())
    }
}

fn lost(reports: &[ProbeReport]) -> u64 {
    reports.iter().map(|report| report.lost).sum()
}

/// The nodes' addresses of a family.
fn hops(nodes: &BTreeSet<u8>, like: &IpAddr) -> Result<BTreeSet<IpAddr>> {
    let address = |i: &u8| {
        let (v4, v6) = Host::Node(*i).lan(0).context("a node is on LAN 0")?;
        Ok(match Family::of(like) {
            Family::V4 => v4.into(),
            Family::V6 => v6.into(),
        })
    };
    nodes.iter().map(address).collect()
}

/// What is planned loses nothing: the speakers rolled out anew, a node excluded and
/// back, a node cordoned and back. Nor does a speaker restarted without the API.
pub(super) async fn nothing_lost(ctx: &mut Context) -> Result<()> {
    let served = serve(ctx).await?;
    served
        .without_loss(ctx, "roll-out", async |ctx| {
            ctx.restart("daemonset", herald::SPEAKER).await?;
            served.whole(ctx).await
        })
        .await?;
    served
        .without_loss(ctx, "exclude", async |ctx| {
            ctx.label_node("n1", LABEL_EXCLUDE_NODE, Some("")).await?;
            served.by(&[2, 3].into()).await?;
            ctx.label_node("n1", LABEL_EXCLUDE_NODE, None).await?;
            served.whole(ctx).await
        })
        .await?;
    served
        .without_loss(ctx, "cordon", async |ctx| {
            ctx.kubectl(&["cordon", "n2"]).await?;
            served.by(&[1, 3].into()).await?;
            ctx.uncordon("n2").await?;
            served.whole(ctx).await
        })
        .await?;
    served
        .without_loss(ctx, "api-away", async |ctx| {
            restart_without_api(ctx, &served).await
        })
        .await?;
    served.spread(ctx).await?;
    leave(ctx, &served).await
}

/// A cut link, and a node that crashes. BIRD takes the paths out after the hold time;
/// FRR keeps them for the restart time more, as RFC 8538 has it, and is not waited for.
pub(super) async fn silent_nodes(ctx: &mut Context) -> Result<()> {
    const BIRD: usize = 1;
    let served = serve(ctx).await?;
    let lan = Network::Lan(0);
    let probing = served.probe(ctx).await?;
    faults::cut("n2", lan, Direction::Both)?;
    ctx.step("nothing passes between n2 and the LAN");
    let took = served.gone(BIRD, 2).await?;
    ctx.measured_ms(&format!("cut/bird/hold-{}s", HOLD[BIRD]), took);
    faults::heal("n2", lan)?;
    served.whole(ctx).await?;
    let lost = lost(&stop(ctx, probing).await?);
    ctx.measured("cut/lost", count(lost), "probes");
    ctx.step("n2 is back");

    let probing = served.probe(ctx).await?;
    faults::crash_node(ctx.lab(), "n3")?;
    ctx.step("n3 crashed");
    let took = served.gone(BIRD, 3).await?;
    ctx.measured_ms(&format!("crash/bird/hold-{}s", HOLD[BIRD]), took);
    let lost = self::lost(&stop(ctx, probing).await?);
    ctx.measured("crash/lost", count(lost), "probes");
    faults::boot_node(ctx.lab(), "n3")?;
    ctx.lab().nodes_ready(PATIENCE).await?;
    ctx.speakers_are_well().await?;
    served.whole(ctx).await?;
    ctx.step("n3 is back");
    served.spread(ctx).await?;
    leave(ctx, &served).await
}

/// A speaker that starts without the API knows nothing. The routers keep its paths,
/// and the node forwards.
async fn restart_without_api(ctx: &mut Context, served: &Served) -> Result<()> {
    let pod = ctx.speaker_on("n1").await?;
    faults::stop_api_server()?;
    ctx.signal(&pod, "speaker", Signal::SIGTERM)?;
    ctx.step("the API server is stopped, and the speaker of n1 told to end");
    let node = fabric::node(1)?.to_string();
    for router in &served.routers {
        let what = format!("{router} to have no session with n1");
        wait::until(&what, || async {
            let sessions = router.sessions().await?;
            let session = sessions.iter().find(|session| session.neighbor == node);
            ensure!(!session.context("n1 is a neighbour")?.established, "it has");
            Ok(())
        })
        .await?;
    }
    // Longer than any hold time: what keeps the paths is graceful restart.
    sleep(Duration::from_secs(10)).await;
    served.by(&(1..=ctx.node_count()).collect()).await?;
    ctx.lab().start_api_server().await?;
    ctx.forgive_denials()?;
    served.whole(ctx).await?;
    ctx.speakers_are_well().await
}

async fn leave(ctx: &Context, served: &Served) -> Result<()> {
    ctx.delete_service("web").await?;
    for router in &served.routers {
        for address in &served.addresses {
            has(router, *address, &BTreeSet::new()).await?;
        }
        router.stop().await?;
    }
    fabric::clean(ctx, &[]).await
}
