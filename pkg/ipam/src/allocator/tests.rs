use std::collections::BTreeMap;

use herald_core::{IpFamilyPolicy, TrafficPolicy};

use super::*;
use crate::{AllocationError, Limits, Reservation, Selection, Usage};

mod families;
mod leases;
mod limits;
mod model;
mod moving;
mod sharing;

fn pool(name: &str, ranges: &[&str]) -> Pool {
    let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    Pool {
        created: "2026-01-01T00:00:00Z".into(),
        ..Pool::new(name, ranges)
    }
}

/// So many seconds after the beginning of each test.
fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn usage(allocator: &Allocator, pool: &str) -> Usage {
    let mut reports = allocator.reports().into_iter();
    reports.find(|report| report.pool == pool).unwrap().usage
}

fn service(name: &str, families: &[IpFamily]) -> ServiceRequest {
    ServiceRequest {
        ip_families: families.to_vec(),
        ip_family_policy: if families.len() == 2 {
            IpFamilyPolicy::RequireDualStack
        } else {
            IpFamilyPolicy::SingleStack
        },
        ..ServiceRequest::new(ServiceKey::new("default", name), format!("uid-{name}"))
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

/// Decides and assigns, as a provider does, at the beginning.
fn serve(
    allocator: &mut Allocator,
    service: &ServiceRequest,
) -> Result<Vec<String>, AllocationError> {
    serve_at(allocator, service, at(0))
}

/// Decides and assigns, as a provider does. What it has beside, for a while, comes
/// last.
fn serve_at(
    allocator: &mut Allocator,
    service: &ServiceRequest,
    now: SystemTime,
) -> Result<Vec<String>, AllocationError> {
    let claim = Claim::of(service);
    let (decision, refused) = match allocator.decide(service, now) {
        Ok(decision) => (decision, None),
        Err(error) => (allocator.tenable(service), Some(error)),
    };
    if !allocator.is_settled(&claim, &decision) {
        allocator.assign(claim.clone(), &decision, now).unwrap();
        assert!(allocator.is_settled(&claim, &decision));
    }
    match refused {
        Some(error) => Err(error),
        None => Ok(allocator
            .held(&service.uid)
            .iter()
            .map(ToString::to_string)
            .collect()),
    }
}

/// What a Service has in its status when an operator starts.
fn adopt(allocator: &mut Allocator, service: &ServiceRequest, addresses: &[&str]) {
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    allocator.adopt(service, &addresses, at(0)).unwrap();
}

fn release(allocator: &mut Allocator, name: &str) {
    allocator.release(&format!("uid-{name}"), at(0));
}

fn ask(name: &str, addresses: &[&str]) -> ServiceRequest {
    ServiceRequest {
        requested_addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..v4(name)
    }
}

#[test]
fn the_first_free_address_is_given_and_a_freed_one_after_a_rest() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/29"])]);
    assert_eq!(serve(&mut allocator, &v4("a")).unwrap(), ["192.0.2.0"]);
    assert_eq!(serve(&mut allocator, &v4("b")).unwrap(), ["192.0.2.1"]);
    release(&mut allocator, "a");
    assert_eq!(serve(&mut allocator, &v4("c")).unwrap(), ["192.0.2.2"]);
    let later = serve_at(&mut allocator, &v4("d"), at(299)).unwrap();
    assert_eq!(later, ["192.0.2.3"]);
    let rested = serve_at(&mut allocator, &v4("e"), at(300)).unwrap();
    assert_eq!(rested, ["192.0.2.0"]);
}

#[test]
fn a_full_pool_gives_what_rests_for_longest() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/31"])]);
    serve(&mut allocator, &v4("a")).unwrap();
    serve(&mut allocator, &v4("b")).unwrap();
    allocator.release("uid-b", at(1));
    allocator.release("uid-a", at(2));
    let given = serve_at(&mut allocator, &v4("c"), at(3)).unwrap();
    assert_eq!(given, ["192.0.2.1"]);
    // One that is asked for is given whether it rests or not.
    let asked = serve_at(&mut allocator, &ask("d", &["192.0.2.0"]), at(3)).unwrap();
    assert_eq!(asked, ["192.0.2.0"]);
}

#[test]
fn what_rests_is_known_after_a_restart() {
    let pools = || vec![pool("lan", &["192.0.2.0/29"])];
    let mut before = allocator(pools());
    serve(&mut before, &v4("a")).unwrap();
    release(&mut before, "a");
    let resting = before.reports()[0].resting.clone();
    let mut after = allocator(pools());
    after.restore(&resting);
    assert_eq!(serve(&mut after, &v4("b")).unwrap(), ["192.0.2.1"]);
    // Neither does a change of pools forget it.
    after.set_pools(vec![pool("lan", &["192.0.2.0/28"])]);
    assert_eq!(serve(&mut after, &v4("c")).unwrap(), ["192.0.2.2"]);
}

#[test]
fn the_least_recently_used_address_is_one_that_nobody_had() {
    let mut allocator = allocator(vec![Pool {
        selection: Selection::LeastRecentlyUsed,
        ..pool("lan", &["192.0.2.0/30"])
    }]);
    for name in ["a", "b"] {
        serve(&mut allocator, &v4(name)).unwrap();
    }
    release(&mut allocator, "b");
    allocator.release("uid-a", at(1));
    // Long after they have rested.
    let given: Vec<String> = ["c", "d", "e", "f"]
        .iter()
        .flat_map(|name| serve_at(&mut allocator, &v4(name), at(9_999)).unwrap())
        .collect();
    assert_eq!(given, ["192.0.2.2", "192.0.2.3", "192.0.2.1", "192.0.2.0"]);
}

#[test]
fn a_random_address_follows_from_the_uid_and_all_are_given() {
    let random = || {
        allocator(vec![Pool {
            selection: Selection::Random,
            avoid_buggy_ips: true,
            ..pool(
                "lan",
                &["192.0.2.250-192.0.3.5", "198.51.100.0/29", "fd00::/64"],
            )
        }])
    };
    let (mut one, mut other) = (random(), random());
    let mut given = BTreeSet::new();
    // 12 less .255 and .0, and 8 less .0.
    for n in 0..17 {
        let service = v4(&n.to_string());
        let address = serve(&mut one, &service).unwrap();
        assert_eq!(serve(&mut other, &service).unwrap(), address);
        assert!(given.insert(address));
    }
    let full = serve(&mut one, &v4("more")).unwrap_err();
    assert_eq!(full.reason(), "PoolExhausted");
    let v6 = service("v6", &[IpFamily::V6]);
    assert_ne!(serve(&mut one, &v6).unwrap(), ["fd00::"]);
}

#[test]
fn excluded_addresses_are_never_given() {
    let mut allocator = allocator(vec![Pool {
        excluded: ["192.0.2.0-192.0.2.2", "192.0.2.2-192.0.2.3"]
            .map(|range| range.parse().unwrap())
            .into(),
        ..pool("lan", &["192.0.2.0/29"])
    }]);
    assert_eq!(usage(&allocator, "lan").available_v4, 4);
    assert_eq!(serve(&mut allocator, &v4("a")).unwrap(), ["192.0.2.4"]);
    let asked = serve(&mut allocator, &ask("b", &["192.0.2.1"])).unwrap_err();
    assert_eq!(asked.reason(), "AddressOutsidePools");
    // One that had it before keeps it, and is told.
    adopt(&mut allocator, &v4("c"), &["192.0.2.2"]);
    assert_eq!(serve(&mut allocator, &v4("c")).unwrap(), ["192.0.2.2"]);
    assert_eq!(allocator.notices(&v4("c"))[0].reason, "AddressExcluded");
    release(&mut allocator, "c");
    assert_eq!(usage(&allocator, "lan").available_v4, 3);
    assert!(allocator.reports()[0].resting.is_empty());
}

#[test]
fn a_reserved_address_waits_for_its_service() {
    let reserving = Pool {
        reservations: vec![Reservation {
            address: "192.0.2.0".parse().unwrap(),
            service: ServiceKey::new("default", "late"),
        }],
        ..pool("z", &["192.0.2.0/30"])
    };
    let mut allocator = allocator(vec![reserving, pool("a", &["198.51.100.0/24"])]);
    let early = ServiceRequest {
        requested_pools: vec!["z".into()],
        ..v4("early")
    };
    assert_eq!(serve(&mut allocator, &early).unwrap(), ["192.0.2.1"]);
    let greedy = serve(&mut allocator, &ask("greedy", &["192.0.2.0"])).unwrap_err();
    assert_eq!(
        greedy.to_string(),
        "192.0.2.0 is reserved for Service default/late in IPAddressPool \"z\""
    );
    // It need not ask, and the pool's place in the order does not matter.
    assert_eq!(serve(&mut allocator, &v4("late")).unwrap(), ["192.0.2.0"]);
    release(&mut allocator, "late");
    assert_eq!(serve(&mut allocator, &v4("late")).unwrap(), ["192.0.2.0"]);
    let stray = Pool {
        reservations: vec![Reservation {
            address: "203.0.113.1".parse().unwrap(),
            service: ServiceKey::new("default", "late"),
        }],
        ..pool("stray", &["203.0.114.0/24"])
    };
    allocator.set_pools(vec![stray]);
    assert_eq!(
        allocator.refusal("stray").map(PoolProblem::reason),
        Some("InvalidReservation")
    );
}

#[test]
fn addresses_of_the_cluster_are_given_only_to_those_who_ask() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    let node = Obstacle {
        range: "192.0.2.0-192.0.2.0".parse().unwrap(),
        owner: "node \"n1\"".into(),
    };
    let elsewhere = Obstacle {
        range: "10.0.0.0/8".parse().unwrap(),
        owner: "the cluster's Services".into(),
    };
    assert!(!allocator.set_obstacles(vec![elsewhere.clone()]));
    assert!(allocator.set_obstacles(vec![elsewhere.clone(), node.clone()]));
    assert!(!allocator.set_obstacles(vec![node.clone(), elsewhere]));
    assert_eq!(allocator.reports()[0].conflicts, [node]);
    assert_eq!(serve(&mut allocator, &v4("a")).unwrap(), ["192.0.2.1"]);
    let asking = ask("b", &["192.0.2.0"]);
    assert_eq!(serve(&mut allocator, &asking).unwrap(), ["192.0.2.0"]);
    let notices = allocator.notices(&asking);
    assert!(
        notices[0]
            .message
            .starts_with("192.0.2.0 is among the addresses of node \"n1\" too"),
        "{notices:?}"
    );
    assert!(allocator.set_obstacles(Vec::new()));
    assert!(allocator.notices(&asking).is_empty());
    assert_eq!(usage(&allocator, "lan").available_v4, 2);
}

#[test]
fn what_is_held_is_kept() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    adopt(&mut allocator, &v4("a"), &["192.0.2.2"]);
    assert_eq!(serve(&mut allocator, &v4("a")).unwrap(), ["192.0.2.2"]);
    allocator.set_pools(Vec::new());
    let kept = allocator.decide(&v4("a"), at(0)).unwrap();
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
    release(&mut allocator, "a");
    assert!(serve(&mut allocator, &v4("b")).is_ok());
}

#[test]
fn a_requested_address_is_given_or_its_holder_named() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    assert_eq!(
        serve(&mut allocator, &ask("a", &["192.0.2.3"])).unwrap(),
        ["192.0.2.3"]
    );
    assert_eq!(
        serve(&mut allocator, &ask("b", &["192.0.2.3"]))
            .unwrap_err()
            .to_string(),
        "192.0.2.3 is taken by Service default/a"
    );
    let outside = serve(&mut allocator, &ask("c", &["198.51.100.1"])).unwrap_err();
    assert_eq!(outside.reason(), "AddressOutsidePools");
    // A changed request moves the Service.
    assert_eq!(
        serve(&mut allocator, &ask("a", &["192.0.2.1"])).unwrap(),
        ["192.0.2.1"]
    );
    assert!(serve(&mut allocator, &ask("b", &["192.0.2.3"])).is_ok());
}

#[test]
fn several_addresses_of_a_family_are_given_to_who_asks_for_them() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/28"])]);
    let two = ask("a", &["192.0.2.5", "192.0.2.2"]);
    assert_eq!(
        serve(&mut allocator, &two).unwrap(),
        ["192.0.2.5", "192.0.2.2"]
    );
    assert_eq!(
        serve(&mut allocator, &ask("a", &["192.0.2.2"])).unwrap(),
        ["192.0.2.2"]
    );
    let twice = ask("b", &["192.0.2.3", "192.0.2.3"]);
    let many = [
        "192.0.2.3",
        "192.0.2.4",
        "192.0.2.5",
        "192.0.2.6",
        "192.0.2.7",
    ];
    let many = [
        &many[..],
        &["192.0.2.8", "192.0.2.9", "192.0.2.10", "192.0.2.11"],
    ]
    .concat();
    for wrong in [twice, ask("b", &many), ask("b", &["fd00::1"])] {
        let error = serve(&mut allocator, &wrong).unwrap_err();
        assert_eq!(error.reason(), "InvalidRequest", "{error}");
    }
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
        requested_pools: vec!["quiet".into()],
        ..v4("a")
    };
    assert!(serve(&mut allocator, &named).is_ok());
    let unknown = ServiceRequest {
        requested_pools: vec!["none".into()],
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
    let available = |allocator: &Allocator| usage(allocator, "lan").available_v4;
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
    adopt(&mut allocator, &v4("a"), &["192.0.2.255"]);
    let held = usage(&allocator, "lan");
    assert_eq!((held.assigned_v4, held.available_v4), (1, 512 - 4));
    release(&mut allocator, "a");
    let free = usage(&allocator, "lan");
    assert_eq!((free.assigned_v4, free.available_v4), (0, 512 - 4));
}

#[test]
fn an_address_of_another_is_never_assigned() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.0/30"])]);
    serve(&mut allocator, &v4("a")).unwrap();
    let address = "192.0.2.0".parse().unwrap();
    let decision = Decision {
        addresses: vec![(address, None)],
        ..Decision::default()
    };
    let claim = Claim::of(&v4("b"));
    let clash = allocator.assign(claim, &decision, at(0)).unwrap_err();
    assert_eq!(clash.holder, ServiceKey::new("default", "a"));
    assert!(allocator.held("uid-b").is_empty());
    // Of an address that two have in their status, the first keeps it; what the
    // other has beside stays its own.
    let own = "192.0.2.1".parse().unwrap();
    let both = ask("b", &["192.0.2.0", "192.0.2.1"]);
    let clash = allocator.adopt(&both, &[address, own], at(0)).unwrap_err();
    assert_eq!(clash.address, address);
    assert_eq!(allocator.held("uid-b"), [own]);
}
