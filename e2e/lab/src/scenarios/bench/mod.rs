//! What does nothing but measure: how fast, how much, how often. They assert
//! only that what they measure took place.

mod bfd;
mod bgp;
mod failover;
mod fleet;
mod idle;
mod moves;
mod scale;
mod soak;

pub(super) use bfd::bfd_500;
pub(super) use bgp::{bgp_5000, bgp_created};
pub(super) use failover::l2_failover;
pub(super) use idle::idle;
pub(super) use moves::l2_move;
pub(super) use scale::l2_scale;
pub(super) use soak::soak;

use std::net::IpAddr;
use std::num::NonZeroU16;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::process::Child;

use crate::plan::Host;
use crate::prober::{Probing, Target};
use crate::scenario::{Context, Family};

/// Probes a second.
const RATE: NonZeroU16 = NonZeroU16::new(1000).expect("it is not zero");

/// Answers after which traffic counts as flowing.
const FLOWING: u64 = 300;

/// Addresses of the bench's pool: all of its block.
const POOL: u8 = 64;

/// Services that no pod serves but a host outside of the cluster, so that no
/// probe is lost with a pod, on whichever node something is done.
pub(super) struct Outside {
    host: IpAddr,
    made: u8,
    _server: Child,
}

impl Outside {
    /// Starts the server, and makes the pool and its announcement.
    async fn start(ctx: &Context) -> Result<Self> {
        let server = ctx.server_outside()?;
        let (host, _) = Host::Cloud.management().context("it is on management")?;
        ctx.pool("pool", POOL).await?;
        Ok(Self {
            host: host.into(),
            made: 0,
            _server: server,
        })
    }

    /// A Service of its own and its IPv4 address, once it is served. An address
    /// comes again after 64 others only: what is known of its earlier moves would
    /// keep it where it is (damping).
    async fn serve(&mut self, ctx: &Context) -> Result<(String, IpAddr)> {
        let name = format!("vip-{}", self.made);
        let address = ctx.nth(Family::V4, self.made % POOL);
        self.made = self.made.wrapping_add(1);
        // One of an earlier lap.
        let _ = ctx
            .kubectl(&["delete", "endpointslice", &format!("{name}-ipv4")])
            .await;
        ctx.expose(&name)
            .only(Family::V4)
            .without_selector()
            .annotate("herald.dev/loadBalancerIPs", address.to_string())
            .port("probe", "UDP", 9000, 9000)
            .create()
            .await?;
        let ports = json!([{"name": "probe", "port": 9000, "protocol": "UDP"}]);
        ctx.endpoints_by_hand(&name, &[self.host], ports).await?;
        let address = ctx.address(&name, Family::V4).await?;
        ctx.client().reaches(&Target::udp(address, 9000)).await?;
        // By every node: a kube-proxy that follows the API late, as after an outage,
        // would be taken for a slow take-over. In nftables mode one serves NodePorts at
        // its node's own address only, which is on the management network.
        let ports = ctx.service(&name).await?.spec.and_then(|spec| spec.ports);
        let port = ports.iter().flatten().find_map(|port| port.node_port);
        let port = u16::try_from(port.context("the Service has a NodePort")?)?;
        for i in 1..=ctx.node_count() {
            let (node, _) = Host::Node(i)
                .management()
                .context("nodes are on management")?;
            ctx.client_named("cloud")
                .reaches(&Target::udp(node.into(), port))
                .await?;
        }
        Ok((name, address))
    }
}

/// Probes an address at [`RATE`]; returns when traffic flows.
async fn probe(ctx: &Context, address: IpAddr) -> Result<Probing> {
    let mut probing = ctx.client().probe_at(Target::udp(address, 9000), RATE)?;
    probing.wait_answered(FLOWING).await?;
    Ok(probing)
}

/// Milliseconds as a figure's value.
fn ms(milliseconds: u64) -> f64 {
    u32::try_from(milliseconds).map_or(f64::INFINITY, f64::from)
}
