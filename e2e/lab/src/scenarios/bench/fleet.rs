//! Many Services with many addresses, made by the bench itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::sleep;

use crate::capture::Mac;
use crate::frames::Surveying;
use crate::isolate;
use crate::scenario::{Context, wait};

/// The first of the addresses.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 20, 128, 0);
/// Requests to the API server at a time.
const AT_A_TIME: usize = 16;
/// How long the repeats of 10,000 addresses may take, each said seven times.
const QUIET: Duration = Duration::from_mins(5);
/// For how long announcements are counted, to see whether there are repeats.
const LOOK: Duration = Duration::from_secs(3);

/// Services whose addresses the bench gives. kube-proxy leaves them alone, as
/// this is about who answers for an address, and not about what is behind it.
pub(super) struct Fleet {
    services: u32,
    each: u32,
}

impl Fleet {
    /// Makes Services without addresses, in the place of the operator, which would
    /// take back what no pool gave.
    pub(super) async fn make(ctx: &Context, services: u32) -> Result<Self> {
        ctx.scale_operator(0).await?;
        ctx.pool_of("many", &[format!("{FIRST}/18")]).await?;
        ctx.announce().await?;
        let (all, slices): (Api<Service>, Api<EndpointSlice>) = (ctx.api(), ctx.api());
        let make = |i: u32| {
            let (all, slices) = (all.clone(), slices.clone());
            async move {
                let (service, slice) = objects(i)?;
                all.create(&PostParams::default(), &service).await?;
                slices.create(&PostParams::default(), &slice).await?;
                Ok::<_, anyhow::Error>(())
            }
        };
        stream::iter((0..services).map(make))
            .buffer_unordered(AT_A_TIME)
            .try_collect::<()>()
            .await
            .context("make many Services")?;
        ctx.step(format!("{services} Services made"));
        Ok(Self { services, each: 0 })
    }

    /// Gives each Service so many addresses.
    pub(super) async fn give(&mut self, ctx: &Context, each: u32) -> Result<()> {
        let services: Api<Service> = ctx.api();
        let give = |i: u32| {
            let services = services.clone();
            let ingress: Vec<_> = (i * each..(i + 1) * each)
                .map(|k| json!({"ip": Ipv4Addr::from_bits(FIRST.to_bits() + k), "ipMode": "VIP"}))
                .collect();
            async move {
                let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
                services
                    .patch_status(&name(i), &PatchParams::default(), &Patch::Merge(&status))
                    .await
                    .map(drop)
            }
        };
        stream::iter((0..self.services).map(give))
            .buffer_unordered(AT_A_TIME)
            .try_collect::<()>()
            .await
            .context("give Services their addresses")?;
        self.each = each;
        Ok(())
    }

    /// All the addresses.
    pub(super) const fn addresses(&self) -> u32 {
        self.services * self.each
    }

    /// Asks from the client for all of them, until each is answered for; says who
    /// has most.
    pub(super) async fn survey(&self, ctx: &Context) -> Result<(Surveying, String, Mac)> {
        let program = isolate::own_path()?;
        let (surveying, owners) = Surveying::start("c1", &program, FIRST, self.addresses()).await?;
        let answered: u32 = owners.values().sum();
        ensure!(
            answered == self.addresses(),
            "{answered} of {} addresses are answered for",
            self.addresses()
        );
        let mut most: Option<(u32, String, Mac)> = None;
        for node in ctx.nodes() {
            let mac = ctx.mac(&node).await?;
            let count = owners.get(&mac.to_string()).copied().unwrap_or(0);
            ctx.step(format!("{node} has {count} addresses"));
            if most.as_ref().is_none_or(|(best, ..)| count > *best) {
                most = Some((count, node, mac));
            }
        }
        let (_, node, mac) = most.context("there are nodes")?;
        Ok((surveying, node, mac))
    }

    /// Waits until the repeats of earlier announcements have gone out, of which
    /// thousands take a minute at the rate that is allowed, and only refreshes are
    /// left.
    pub(super) async fn quiet(&self, ctx: &Context) -> Result<()> {
        // Each address every 90 s on average; twice that is no repeat.
        let most = f64::from(self.addresses()) / 90.0 * 2.0 * LOOK.as_secs_f64() + 1.0;
        let sent = async || {
            ctx.over_speakers("herald_l2_gratuitous_sent_total", &[])
                .await
        };
        wait::until_for(QUIET, "only refreshes to be announced", || async {
            let before = sent().await?;
            sleep(LOOK).await;
            let more = sent().await? - before;
            ensure!(more < most, "{more} announcements in {} s", LOOK.as_secs());
            Ok(())
        })
        .await
    }
}

fn name(i: u32) -> String {
    format!("many-{i}")
}

fn objects(i: u32) -> Result<(Service, EndpointSlice)> {
    let service = serde_json::from_value(json!({
        "metadata": {
            "name": name(i),
            "labels": {"service.kubernetes.io/service-proxy-name": "none"},
        },
        "spec": {
            "type": "LoadBalancer",
            "ipFamilyPolicy": "SingleStack",
            "ipFamilies": ["IPv4"],
            "allocateLoadBalancerNodePorts": false,
            "ports": [{"name": "probe", "protocol": "UDP", "port": 9000}],
        },
    }))?;
    let slice = serde_json::from_value(json!({
        "metadata": {
            "name": name(i),
            "labels": {
                "kubernetes.io/service-name": name(i),
                "endpointslice.kubernetes.io/managed-by": "lab.herald.dev",
            },
        },
        "addressType": "IPv4",
        // For the documentation (RFC 5737): nobody sends anything there.
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "probe", "protocol": "UDP", "port": 9000}],
    }))?;
    Ok((service, slice))
}
