//! Services by the thousand, that nobody serves but the operator: no `NodePort`s, no
//! kube-proxy, no endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::services::ingress_addresses;
use super::{Context, audit, traffic, wait};
use crate::vm;

/// Requests under way at once, as many as the operator has.
const AT_ONCE: usize = 16;
/// How long thousands of something may take.
const LIMIT: Duration = Duration::from_mins(6);

impl Context {
    /// A pool of the scenario for a crowd: a block of addresses that no network of
    /// the lab has.
    pub async fn crowd_pool(&self) -> Result<()> {
        self.pool_of("crowd", &["10.40.0.0/16".to_owned()]).await
    }

    /// Makes the Services `NAME-0` and on, and returns how long it took.
    pub async fn crowd(&self, name: &str, count: u32) -> Result<Duration> {
        let begin = Instant::now();
        let services: Api<Service> = self.api();
        stream::iter(0..count)
            .map(|i| {
                let services = services.clone();
                async move { create(&services, &format!("{name}-{i}"), json!({})).await }
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        Ok(begin.elapsed())
    }

    /// `EndpointSlice`s for the Services `NAME-0` and on, before or after they are
    /// made: with one endpoint that is ready, and where nothing is.
    pub async fn crowd_endpoints(&self, name: &str, count: u32) -> Result<()> {
        // For the documentation (RFC 5737).
        let nowhere = [IpAddr::from([192, 0, 2, 1])];
        stream::iter(0..count)
            .map(|i| async move {
                let ports = json!([{"port": 80, "protocol": "TCP"}]);
                self.endpoints_by_hand(&format!("{name}-{i}"), &nowhere, ports)
                    .await
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    /// One Service as those of a crowd.
    pub async fn crowd_one(&self, name: &str, labels: Value) -> Result<()> {
        create(&self.api(), name, labels).await
    }

    /// What the API server takes from a client that does nothing but patch the
    /// status of Services, with the operator's preconditions: patches a second.
    pub async fn bare_pace(&self, count: u32) -> Result<f64> {
        let services: Api<Service> = self.api();
        let some = services.list(&ListParams::default().limit(count)).await?;
        let begin = Instant::now();
        let count = some.items.len();
        stream::iter(some.items)
            .map(|service| {
                let services = services.clone();
                async move {
                    let patch = json!({
                        "metadata": {"resourceVersion": service.resource_version(), "uid": service.uid()},
                        "status": {"conditions": [{
                            "type": "lab.herald.dev/Bare", "status": "True", "reason": "Measured",
                            "message": "10.40.0.1 from pool \"crowd\"", "observedGeneration": 0,
                            "lastTransitionTime": "2026-01-01T00:00:00Z",
                        }]},
                    });
                    services
                        .patch_status(&service.name_any(), &PatchParams::default(), &Patch::Merge(patch))
                        .await
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await
            .context("patch a status as a bare client")?;
        Ok(per_second(count, begin.elapsed()))
    }

    /// Waits until all of a crowd have an address, and checks that none is given
    /// twice. Returns the addresses and resource versions by name.
    pub async fn crowd_served(&self, count: u32) -> Result<BTreeMap<String, (IpAddr, String)>> {
        let pool = self.pool_name("crowd");
        let wanted = i64::from(count);
        wait::object_for(
            LIMIT,
            self.herald_api::<herald_api::IPAddressPool>(),
            &pool,
            &format!("{count} addresses of pool crowd to be in use"),
            |pool| (pool?.status.as_ref()?.assigned_ipv4 >= wanted).then_some(()),
        )
        .await?;
        // The allocator is ahead of the statuses by what is under way.
        wait::until_for(LIMIT, "every Service to have its address", || async {
            self.crowd_addresses(count).await
        })
        .await
    }

    async fn crowd_addresses(&self, count: u32) -> Result<BTreeMap<String, (IpAddr, String)>> {
        let services: Api<Service> = self.api();
        let mut found = BTreeMap::new();
        let mut taken = BTreeMap::new();
        for service in services.list(&ListParams::default()).await? {
            let name = service.name_any();
            let addresses = ingress_addresses(&service);
            ensure!(addresses.len() == 1, "Service {name} has {addresses:?}");
            if let Some(other) = taken.insert(addresses[0], name.clone()) {
                anyhow::bail!("{} was given to {name} and to {other}", addresses[0]);
            }
            let version = service.resource_version().unwrap_or_default();
            found.insert(name, (addresses[0], version));
        }
        let wanted = usize::try_from(count)?;
        ensure!(
            found.len() == wanted,
            "{} of {count} Services exist",
            found.len()
        );
        Ok(found)
    }

    /// Waits until every Service of type `LoadBalancer` has an address of its own, no
    /// other has any, and no more are in use. Returns how many there are.
    pub async fn crowd_settled(&self) -> Result<usize> {
        let pools: Api<herald_api::IPAddressPool> = self.herald_api();
        wait::until("every Service to have exactly what it should", || async {
            let services: Api<Service> = self.api();
            let mut taken = BTreeMap::new();
            for service in services.list(&ListParams::default()).await? {
                let name = service.name_any();
                let addresses = ingress_addresses(&service);
                let spec = service.spec.as_ref();
                let balancer = spec.is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer"));
                ensure!(
                    addresses.len() == usize::from(balancer),
                    "Service {name} has {addresses:?}"
                );
                for address in addresses {
                    if let Some(other) = taken.insert(address, name.clone()) {
                        anyhow::bail!("{address} was given to {name} and to {other}");
                    }
                }
            }
            let pool = pools.get(&self.pool_name("crowd")).await?;
            let used = pool.status.map_or(0, |status| status.assigned_ipv4);
            ensure!(
                usize::try_from(used)? == taken.len(),
                "{used} addresses are in use for {} Services",
                taken.len()
            );
            Ok(taken.len())
        })
        .await
    }

    /// Deletes all Services of the scenario, in portions.
    pub async fn crowd_leaves(&self) -> Result<()> {
        let services: Api<Service> = self.api();
        let all = services.list_metadata(&ListParams::default()).await?;
        stream::iter(all.items)
            .map(|service| {
                let services = services.clone();
                async move {
                    services
                        .delete(&service.name_any(), &DeleteParams::default())
                        .await
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await
            .context("delete the crowd")?;
        Ok(())
    }

    /// Where the audit log is now, for [`Context::writes_since`].
    pub fn audit_mark(&self) -> Result<u64> {
        audit::length(&self.lab().audit_log())
    }

    /// What Herald has written since, and was allowed to, but for its leases.
    pub fn writes_since(&self, mark: u64) -> Result<Vec<traffic::Write>> {
        let mut writes = traffic::writes(&self.lab().audit_log(), mark)?;
        writes.retain(|write| write.succeeded() && write.resource != "leases");
        Ok(writes)
    }
}

/// A rate, from a count and the time it took.
pub fn per_second(count: usize, took: Duration) -> f64 {
    let count = u32::try_from(count).map_or(f64::from(u32::MAX), f64::from);
    (count / took.as_secs_f64().max(0.001) * 10.0).round() / 10.0
}

async fn create(services: &Api<Service>, name: &str, labels: Value) -> Result<()> {
    let mut all = json!({"service.kubernetes.io/service-proxy-name": "nobody"});
    if let (Some(all), Value::Object(labels)) = (all.as_object_mut(), labels) {
        all.extend(labels);
    }
    let service = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": all},
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": false,
            "ipFamilyPolicy": "SingleStack",
            "ipFamilies": ["IPv4"],
            "ports": [{"port": 80, "protocol": "TCP"}],
        },
    }))?;
    // The API server may be slow where it is asked for thousands.
    tokio::time::timeout(
        Duration::from_mins(1) * vm::patience(),
        services.create(&PostParams::default(), &service),
    )
    .await
    .with_context(|| format!("create Service {name} within a minute"))?
    .with_context(|| format!("create Service {name}"))?;
    Ok(())
}
