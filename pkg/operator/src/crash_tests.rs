//! An operator that dies right after a write, for every write of a history: whatever it
//! had begun, the next one ends where one that never dies ends.
//!
//! What is written counts from the moment the API server, or the cloud, has it; the
//! process dies before it hears so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_api::convert;
use herald_core::ServiceKey;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::simulated::{CLOUD, Operator, Shared, World};

/// A step of the history: what users do.
type Deed = (&'static str, Value);

fn history() -> Vec<Deed> {
    let balancer = json!({"spec": {"type": "LoadBalancer"}});
    let cloudy = json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": CLOUD}});
    let plain = json!({"spec": {"type": "ClusterIP", "loadBalancerClass": null}});
    let gone = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let key = json!({"metadata": {"annotations": {"herald.dev/allow-shared-ip": "key"}}});
    let another = json!({"metadata": {"annotations": {"herald.dev/loadBalancerIPs": "192.0.2.6"}}});
    vec![
        ("a", balancer.clone()),
        ("b", balancer.clone()),
        ("c", cloudy.clone()),
        ("a", key),
        ("b", another),
        // Of another type, and again.
        ("a", plain.clone()),
        ("a", balancer.clone()),
        // From one provider to the other, and back.
        ("b", plain.clone()),
        ("b", cloudy.clone()),
        ("c", plain.clone()),
        ("c", balancer.clone()),
        ("b", gone.clone()),
        ("a", gone.clone()),
        // Made anew under the same name.
        ("a", cloudy),
        ("a", gone.clone()),
        ("c", gone),
        ("b", balancer),
    ]
}

/// Plays the history; the operator dies after a write, if at all. What is left, and how
/// many writes there were.
async fn play(dies_after: Option<usize>) -> (BTreeMap<String, Value>, usize) {
    let world = Shared::default();
    world.lock().unwrap().dies_after = dies_after;
    let mut had: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut operator = Operator::start(&world);
    for (name, change) in history() {
        let key = ServiceKey::new("default", name);
        world.lock().unwrap().put(&key, &change);
        if !operator.settle().await {
            operator = Operator::start(&world);
            assert!(operator.settle().await, "it dies once");
        }
        promises(&world.lock().unwrap(), &mut had);
    }
    let world = world.lock().unwrap();
    let left = world.all().into_iter().map(|service| {
        let status = service.status.clone().unwrap_or_default();
        let balancer = status.load_balancer.unwrap_or_default();
        // Which address is new depends on what rests, which a crash forgets.
        let mut ingress = balancer.ingress.unwrap_or_default();
        for ingress in &mut ingress {
            ingress.ip = ingress.ip.take().map(|_| "an address".to_owned());
        }
        let text = json!({
            "finalizers": service.finalizers(),
            "ingress": ingress,
            "conditions": status.conditions.unwrap_or_default().into_iter()
                .map(|c| format!("{} {} {}", c.type_, c.status, c.reason)).collect::<Vec<_>>(),
        });
        (service.name_any(), text)
    });
    (left.collect(), world.writes)
}

/// What must be so whenever an operator has come to rest.
fn promises(world: &World, had: &mut BTreeMap<String, Vec<IpAddr>>) {
    let mut taken = BTreeSet::new();
    let mut balancers = BTreeSet::new();
    let mut have = BTreeMap::new();
    for service in world.all() {
        let name = service.name_any();
        let spec = service.spec.clone().unwrap();
        let uid = service.uid().unwrap();
        let addresses: Vec<IpAddr> = convert::vips(&service).collect();
        let balancer = spec.type_.as_deref() == Some("LoadBalancer");
        let cloudy = balancer && spec.load_balancer_class.as_deref() == Some(CLOUD);
        if cloudy {
            balancers.insert(uid.clone());
        }
        assert_eq!(addresses.len(), usize::from(balancer && !cloudy), "{name}");
        for address in &addresses {
            assert!(taken.insert(*address), "{address} is given twice");
        }
        assert_eq!(
            !service.finalizers().is_empty(),
            cloudy,
            "finalizer of {name}"
        );
        if !addresses.is_empty() {
            let pinned = service.annotations().get("herald.dev/loadBalancerIPs");
            let before = had.get(&uid).filter(|_| pinned.is_none());
            assert!(
                before.is_none_or(|before| *before == addresses),
                "{name} had {before:?} and has {addresses:?}"
            );
            have.insert(uid, addresses);
        }
    }
    assert_eq!(world.cloud, balancers, "load balancers of Services");
    *had = have;
}

#[tokio::test]
async fn an_operator_may_die_after_any_write() {
    let (expected, writes) = play(None).await;
    assert!(writes > 20, "only {writes} writes");
    for k in 1..=writes {
        let (left, _) = play(Some(k)).await;
        assert_eq!(
            left.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
        for (name, left) in left {
            assert_eq!(
                left, expected[&name],
                "{name}, killed after write {k} of {writes}"
            );
        }
    }
}
