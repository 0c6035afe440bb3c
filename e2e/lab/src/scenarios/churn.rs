//! Services that come, change and go all the time, and what each of them must have
//! when they come to rest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use herald_api::names::{
    ANNOTATION_ADDRESS_POOL, ANNOTATION_ALLOW_SHARED_IP, ANNOTATION_LOAD_BALANCER_IPS,
    CONDITION_LOAD_BALANCER_READY,
};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::scenario::services::ingress_addresses;
use crate::scenario::{Context, wait};

/// Names that Services of the churn have.
const NAMES: u32 = 40;
/// The pool that is only had by asking for it, and of it those that are asked for by
/// address: fewer than those who ask.
const NAMED: &str = "10.41.0.0/24";
const WISHES: u8 = 4;

/// The pools that the churn takes its addresses from.
pub(super) async fn pools(ctx: &Context) -> Result<()> {
    ctx.crowd_pool().await?;
    let more = json!({"autoAssign": false});
    ctx.pool_with("named", &[NAMED.to_owned()], more).await
}

/// Changes one Service after the other at random, until it is dropped: it comes, is of
/// another type, asks for a pool, for an address, to share one, for none of it, or goes.
pub(super) async fn churn(ctx: &Context) -> Result<()> {
    let services: Api<Service> = ctx.api();
    let parameters = PatchParams::apply("herald-lab").force();
    loop {
        let name = format!("churn-{}", fastrand::u32(0..NAMES));
        if fastrand::u8(0..5) == 0 {
            let gone = services.delete(&name, &DeleteParams::default()).await;
            if let Err(error) = gone {
                let absent = matches!(&error, kube::Error::Api(status) if status.code == 404);
                ensure!(absent, "delete Service {name}: {error}");
            }
        } else {
            let service = wish(ctx, &name);
            services
                .patch(&name, &parameters, &Patch::Apply(&service))
                .await
                .with_context(|| format!("change Service {name}"))?;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// A Service, at random.
fn wish(ctx: &Context, name: &str) -> Value {
    let annotations = match fastrand::u8(0..5) {
        0 => json!({}),
        1 => json!({ANNOTATION_ADDRESS_POOL: ctx.pool_name("named")}),
        2 => json!({ANNOTATION_LOAD_BALANCER_IPS: format!("10.41.0.{}", fastrand::u8(1..=WISHES))}),
        _ => json!({ANNOTATION_ALLOW_SHARED_IP: format!("key-{}", fastrand::u8(0..2))}),
    };
    let mut spec = json!({
        "type": "ClusterIP",
        "ipFamilyPolicy": "SingleStack",
        "ipFamilies": ["IPv4"],
        "ports": [{"port": fastrand::u16(80..84), "protocol": "TCP"}],
    });
    if fastrand::u8(0..4) > 0 {
        spec["type"] = "LoadBalancer".into();
        spec["allocateLoadBalancerNodePorts"] = false.into();
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "annotations": annotations,
            "labels": {"service.kubernetes.io/service-proxy-name": "nobody"},
        },
        "spec": spec,
    })
}

/// Waits until every Service has exactly what it asks for, nobody else's address, and
/// no more addresses are in use than Services have. Returns how many load balancers
/// there are.
pub(super) async fn settled(ctx: &Context) -> Result<usize> {
    wait::until("every Service to have exactly what it should", || async {
        let services: Api<Service> = ctx.api();
        let services = services.list(&ListParams::default()).await?.items;
        let mut holders: BTreeMap<IpAddr, Vec<&Service>> = BTreeMap::new();
        for service in &services {
            for address in ingress_addresses(service) {
                holders.entry(address).or_default().push(service);
            }
        }
        for (address, holders) in &holders {
            may_share(*address, holders)?;
        }
        let mut balancers = 0;
        for service in &services {
            balancers += usize::from(is_balancer(service));
            has_its_own(service, &holders)?;
        }
        for (pool, network) in [("crowd", "10.40."), ("named", "10.41.")] {
            let held = holders
                .keys()
                .filter(|ip| ip.to_string().starts_with(network));
            let (held, status) = (held.count(), ctx.get_pool(pool).await?.status);
            let used = status.map_or(0, |status| status.assigned_ipv4);
            ensure!(
                usize::try_from(used)? == held,
                "{used} addresses of pool {pool} are in use, and Services have {held}"
            );
        }
        Ok(balancers)
    })
    .await
}

fn is_balancer(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
}

fn asks<'a>(service: &'a Service, annotation: &str) -> Option<&'a str> {
    service.annotations().get(annotation).map(String::as_str)
}

fn port(service: &Service) -> Option<i32> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    ports.first().map(|port| port.port)
}

/// One Service has an address alone, or all ask for the same key and have different
/// ports.
fn may_share(address: IpAddr, holders: &[&Service]) -> Result<()> {
    for (i, one) in holders.iter().enumerate() {
        for other in &holders[i + 1..] {
            let key = asks(one, ANNOTATION_ALLOW_SHARED_IP);
            ensure!(
                key.is_some()
                    && key == asks(other, ANNOTATION_ALLOW_SHARED_IP)
                    && port(one) != port(other),
                "{address} was given to {} and to {}",
                one.name_any(),
                other.name_any()
            );
        }
    }
    Ok(())
}

/// What a Service has is what it asks for.
fn has_its_own(service: &Service, holders: &BTreeMap<IpAddr, Vec<&Service>>) -> Result<()> {
    let (name, addresses) = (service.name_any(), ingress_addresses(service));
    if !is_balancer(service) {
        let told = reason(service);
        ensure!(
            addresses.is_empty() && told.is_none(),
            "Service {name} is no load balancer and has {addresses:?}, {told:?}"
        );
        return Ok(());
    }
    if let Some(wish) = asks(service, ANNOTATION_LOAD_BALANCER_IPS) {
        let wish: IpAddr = wish.parse()?;
        if addresses == [wish] {
            return Ok(());
        }
        // It keeps what it had until the other lets go.
        let others = holders
            .get(&wish)
            .with_context(|| format!("Service {name} waits for {wish}, which nobody has"))?;
        let told = reason(service);
        ensure!(
            told.as_deref() == Some("AddressTaken") && addresses.len() <= 1,
            "Service {name} asks for {wish}, which {} has, is told {told:?} and has {addresses:?}",
            others[0].name_any()
        );
        return Ok(());
    }
    let [address] = addresses[..] else {
        bail!("Service {name} has {addresses:?}");
    };
    let named = address.to_string().starts_with("10.41.");
    ensure!(
        named || asks(service, ANNOTATION_ADDRESS_POOL).is_none(),
        "Service {name} asks for the other pool, and has {address}"
    );
    ensure!(
        reason(service).as_deref() == Some("AddressAssigned"),
        "Service {name} has {address}, and is told {:?}",
        reason(service)
    );
    Ok(())
}

/// What the operator says of a Service.
fn reason(service: &Service) -> Option<String> {
    let mut conditions = service.status.as_ref()?.conditions.iter().flatten();
    let ours = conditions.find(|c| c.type_ == CONDITION_LOAD_BALANCER_READY)?;
    Some(ours.reason.clone())
}
