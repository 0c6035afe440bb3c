use std::collections::BTreeMap;

use herald_core::TrafficPolicy;
use proptest::prelude::*;

use super::*;
use crate::Admission;

fn pool(name: &str, ranges: &[&str]) -> Pool {
    Pool {
        name: name.into(),
        created: "2026-01-01T00:00:00Z".into(),
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        auto_assign: true,
        avoid_buggy_ips: false,
        priority: None,
        admission: Admission::new(|_| true),
    }
}

fn service(name: &str, families: &[IpFamily]) -> ServiceRequest {
    ServiceRequest {
        key: ServiceKey::new("default", name),
        uid: format!("uid-{name}"),
        labels: BTreeMap::new(),
        namespace_labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        ip_families: families.to_vec(),
        ip_family_policy: if families.len() == 2 {
            IpFamilyPolicy::RequireDualStack
        } else {
            IpFamilyPolicy::SingleStack
        },
        requested_addresses: Vec::new(),
        requested_pool: None,
        ports: Vec::new(),
        traffic_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
        source_ranges: Vec::new(),
        ingress: Vec::new(),
    }
}

fn v4(name: &str) -> ServiceRequest {
    service(name, &[IpFamily::V4])
}

fn allocator(pools: Vec<Pool>) -> Allocator {
    let mut allocator = Allocator::default();
    allocator.set_pools(pools);
    allocator
}

/// Decides and assigns, as a provider does.
fn serve(
    allocator: &mut Allocator,
    service: &ServiceRequest,
) -> Result<Vec<String>, AllocationError> {
    let decision = allocator.decide(service)?;
    let addresses: Vec<IpAddr> = decision.addresses.iter().map(|(ip, _)| *ip).collect();
    allocator
        .assign(&service.uid, &service.key, &addresses)
        .unwrap();
    Ok(addresses.iter().map(ToString::to_string).collect())
}

#[test]
fn the_first_free_address_is_given_and_a_freed_one_again() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    assert_eq!(serve(&mut allocator, &v4("a")).unwrap(), ["192.0.2.0"]);
    assert_eq!(serve(&mut allocator, &v4("b")).unwrap(), ["192.0.2.1"]);
    allocator.release("uid-a");
    assert_eq!(serve(&mut allocator, &v4("c")).unwrap(), ["192.0.2.0"]);
}

#[test]
fn what_is_held_is_kept() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    allocator
        .assign("uid-a", &v4("a").key, &["192.0.2.2".parse().unwrap()])
        .unwrap();
    assert_eq!(serve(&mut allocator, &v4("a")).unwrap(), ["192.0.2.2"]);
    allocator.set_pools(Vec::new());
    let kept = allocator.decide(&v4("a")).unwrap();
    assert_eq!(kept.addresses, [("192.0.2.2".parse().unwrap(), None)]);
}

#[test]
fn a_full_pool_says_so_and_serves_when_one_is_freed() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.7-192.0.2.7"])]);
    serve(&mut allocator, &v4("a")).unwrap();
    let error = serve(&mut allocator, &v4("b")).unwrap_err();
    assert_eq!(error.reason(), "PoolExhausted");
    assert_eq!(
        error.to_string(),
        "no IPv4 address is left in pool \"lan\"; add addresses or free some"
    );
    allocator.release("uid-a");
    assert!(serve(&mut allocator, &v4("b")).is_ok());
}

#[test]
fn a_requested_address_is_given_or_its_holder_named() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    let ask = |name: &str, ip: &str| ServiceRequest {
        requested_addresses: vec![ip.parse().unwrap()],
        ..v4(name)
    };
    assert_eq!(
        serve(&mut allocator, &ask("a", "192.0.2.3")).unwrap(),
        ["192.0.2.3"]
    );
    assert_eq!(
        serve(&mut allocator, &ask("b", "192.0.2.3"))
            .unwrap_err()
            .to_string(),
        "192.0.2.3 is taken by Service default/a"
    );
    let outside = serve(&mut allocator, &ask("c", "198.51.100.1")).unwrap_err();
    assert_eq!(outside.reason(), "AddressOutsidePools");
    // A changed request moves the Service.
    assert_eq!(
        serve(&mut allocator, &ask("a", "192.0.2.1")).unwrap(),
        ["192.0.2.1"]
    );
    assert!(serve(&mut allocator, &ask("b", "192.0.2.3")).is_ok());
}

#[test]
fn two_addresses_of_one_family_are_refused() {
    let allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    let asking = ServiceRequest {
        requested_addresses: vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()],
        ..v4("a")
    };
    assert_eq!(
        allocator.decide(&asking).unwrap_err().reason(),
        "InvalidRequest"
    );
}

#[test]
fn both_families_come_from_one_pool() {
    let both = [IpFamily::V6, IpFamily::V4];
    let mut allocator = allocator(vec![
        pool("a-v4", &["192.0.2.0/24"]),
        pool("b-dual", &["198.51.100.0/24", "fd00::/120"]),
    ]);
    let got = serve(&mut allocator, &service("web", &both)).unwrap();
    assert_eq!(got, ["fd00::", "198.51.100.0"]);
}

#[test]
fn one_that_prefers_two_families_takes_one_and_gains_the_other() {
    let prefers = ServiceRequest {
        ip_family_policy: IpFamilyPolicy::PreferDualStack,
        ..service("web", &[IpFamily::V4, IpFamily::V6])
    };
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/24"])]);
    assert_eq!(serve(&mut allocator, &prefers).unwrap(), ["192.0.2.0"]);
    allocator.set_pools(vec![pool("lan", &["192.0.2.0/24", "fd00::/120"])]);
    assert_eq!(
        serve(&mut allocator, &prefers).unwrap(),
        ["192.0.2.0", "fd00::"]
    );
    let requires = service("other", &[IpFamily::V4, IpFamily::V6]);
    allocator.set_pools(vec![pool("lan", &["192.0.2.0/24"])]);
    assert_eq!(
        serve(&mut allocator, &requires).unwrap_err().reason(),
        "NoPool"
    );
}

#[test]
fn the_younger_of_two_overlapping_pools_is_left_out() {
    let young = Pool {
        created: "2026-02-01T00:00:00Z".into(),
        ..pool("a", &["192.0.2.128/25"])
    };
    let other = pool("z", &["198.51.100.0/24"]);
    let allocator = allocator(vec![young, pool("b", &["192.0.2.0/24"]), other]);
    assert!(
        matches!(allocator.refusal("a"), Some(PoolProblem::Overlap { other, .. }) if other == "b")
    );
    assert_eq!(allocator.refusal("b"), None);
    assert_eq!(allocator.refusal("z"), None);
}

#[test]
fn pools_are_tried_by_priority_then_by_name() {
    let first = Pool {
        priority: Some(1),
        ..pool("z", &["192.0.2.0-192.0.2.0"])
    };
    let second = Pool {
        priority: Some(2),
        ..pool("y", &["192.0.2.1-192.0.2.1"])
    };
    let last = Pool {
        priority: Some(0),
        ..pool("a", &["192.0.2.2-192.0.2.2"])
    };
    let open = pool("b", &["192.0.2.3-192.0.2.3"]);
    let mut allocator = allocator(vec![open, last, second, first]);
    let given: Vec<String> = ["a", "b", "c", "d"]
        .iter()
        .flat_map(|name| serve(&mut allocator, &v4(name)).unwrap())
        .collect();
    assert_eq!(given, ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
}

#[test]
fn a_pool_without_auto_assign_is_given_by_name_only() {
    let quiet = Pool {
        auto_assign: false,
        ..pool("quiet", &["192.0.2.0/24"])
    };
    let mut allocator = allocator(vec![quiet]);
    assert_eq!(
        serve(&mut allocator, &v4("a")).unwrap_err().reason(),
        "NoPool"
    );
    let named = ServiceRequest {
        requested_pool: Some("quiet".into()),
        ..v4("a")
    };
    assert!(serve(&mut allocator, &named).is_ok());
    let unknown = ServiceRequest {
        requested_pool: Some("none".into()),
        ..v4("b")
    };
    assert_eq!(
        serve(&mut allocator, &unknown).unwrap_err().reason(),
        "UnknownPool"
    );
}

#[test]
fn buggy_addresses_are_left_out() {
    let careful = Pool {
        avoid_buggy_ips: true,
        ..pool("lan", &["192.0.2.255-192.0.3.1"])
    };
    let mut allocator = allocator(vec![careful]);
    let available = |allocator: &Allocator| allocator.usage().next().unwrap().1.available_v4;
    assert_eq!(available(&allocator), 1);
    assert_eq!(serve(&mut allocator, &v4("a")).unwrap(), ["192.0.3.1"]);
    assert_eq!(available(&allocator), 0);
    assert_eq!(
        serve(&mut allocator, &v4("b")).unwrap_err().reason(),
        "PoolExhausted"
    );
}

#[test]
fn a_buggy_address_from_before_is_held_but_was_never_available() {
    let careful = Pool {
        avoid_buggy_ips: true,
        ..pool("lan", &["192.0.2.0/23"])
    };
    let mut allocator = allocator(vec![careful]);
    allocator
        .assign("uid-a", &v4("a").key, &["192.0.2.255".parse().unwrap()])
        .unwrap();
    let usage = allocator.usage().next().unwrap().1;
    assert_eq!((usage.assigned_v4, usage.available_v4), (1, 512 - 4));
    allocator.release("uid-a");
    let usage = allocator.usage().next().unwrap().1;
    assert_eq!((usage.assigned_v4, usage.available_v4), (0, 512 - 4));
}

#[test]
fn an_address_of_another_is_never_assigned() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    serve(&mut allocator, &v4("a")).unwrap();
    let taken = allocator
        .assign("uid-b", &v4("b").key, &["192.0.2.0".parse().unwrap()])
        .unwrap_err();
    assert_eq!(taken.holder, ServiceKey::new("default", "a"));
    assert_eq!(allocator.held("uid-b"), &[] as &[IpAddr]);
}

proptest! {
    /// Over any history, an address has one holder, the answer is the first
    /// free address of a slow model, and usage adds up.
    #[test]
    fn the_allocator_answers_as_a_slow_model(
        steps in proptest::collection::vec((0u8..12, any::<bool>()), 1..120),
    ) {
        let range: herald_core::AddressRange = "192.0.2.250-192.0.3.1".parse().unwrap();
        let mut allocator = allocator(vec![pool("lan", &["192.0.2.250-192.0.3.1"])]);
        let mut model: BTreeMap<u8, IpAddr> = BTreeMap::new();
        for (id, present) in steps {
            let asking = v4(&id.to_string());
            if present {
                let expected = model.get(&id).copied().or_else(|| {
                    (0..range.size())
                        .filter_map(|i| range.nth(i))
                        .find(|ip| model.values().all(|used| used != ip))
                });
                let got = serve(&mut allocator, &asking).ok();
                prop_assert_eq!(got, expected.map(|ip| vec![ip.to_string()]));
                model.extend(expected.map(|ip| (id, ip)));
            } else {
                allocator.release(&asking.uid);
                model.remove(&id);
            }
            let (_, usage) = allocator.usage().next().unwrap();
            prop_assert_eq!(usage.assigned_v4, u128::try_from(model.len()).unwrap());
            prop_assert_eq!(usage.assigned_v4 + usage.available_v4, range.size());
        }
    }
}
