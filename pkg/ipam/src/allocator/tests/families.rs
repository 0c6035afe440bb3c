//! `PreferDualStack` in `MetalLB`'s own seven cases, a test each.

use super::*;
use crate::Outside;

const FOUR: &str = "192.0.2.0/24";
const SIX: &str = "fd00::/120";

fn prefers(families: [IpFamily; 2]) -> ServiceRequest {
    ServiceRequest {
        ip_family_policy: IpFamilyPolicy::PreferDualStack,
        ..service("web", &families)
    }
}

fn usual() -> ServiceRequest {
    prefers([IpFamily::V4, IpFamily::V6])
}

fn dual() -> Pool {
    pool("dual", &["198.51.100.0/24", "fd01::/120"])
}

#[test]
fn a_pool_of_both_families_comes_first() {
    let mut allocator = allocator(vec![pool("a", &[FOUR]), pool("b", &[SIX]), dual()]);
    let given = serve(&mut allocator, &usual()).unwrap();
    assert_eq!(given, ["198.51.100.0", "fd01::"]);
}

#[test]
fn of_pools_of_one_family_that_of_the_primary_one_is_taken() {
    for (families, given) in [
        ([IpFamily::V4, IpFamily::V6], "192.0.2.0"),
        ([IpFamily::V6, IpFamily::V4], "fd00::"),
    ] {
        for pools in [[FOUR, SIX], [SIX, FOUR]] {
            let [first, second] = pools;
            let mut allocator = allocator(vec![pool("a", &[first]), pool("b", &[second])]);
            assert_eq!(serve(&mut allocator, &prefers(families)).unwrap(), [given]);
        }
    }
}

#[test]
fn the_second_is_given_when_its_own_pool_gains_the_family() {
    let mut allocator = allocator(vec![pool("lan", &["192.0.2.128/25"])]);
    assert_eq!(serve(&mut allocator, &usual()).unwrap(), ["192.0.2.128"]);
    allocator.set_pools(vec![pool("lan", &[FOUR, SIX])]);
    let given = serve(&mut allocator, &usual()).unwrap();
    assert_eq!(given, ["192.0.2.128", "fd00::"]);
}

#[test]
fn who_requires_both_of_a_pool_of_one_gets_none_and_keeps_what_it_has() {
    let mut allocator = allocator(vec![pool("lan", &[FOUR])]);
    assert_eq!(serve(&mut allocator, &usual()).unwrap(), ["192.0.2.0"]);
    let requires = service("web", &[IpFamily::V4, IpFamily::V6]);
    let refused = serve(&mut allocator, &requires).unwrap_err();
    assert_eq!(refused.reason(), "NoPool");
    // MetalLB takes it away.
    assert_eq!(allocator.held("uid-web").len(), 1);
    assert_eq!(serve(&mut allocator, &usual()).unwrap(), ["192.0.2.0"]);
    let new = service("new", &[IpFamily::V4, IpFamily::V6]);
    assert_eq!(serve(&mut allocator, &new).unwrap_err().reason(), "NoPool");
    assert!(allocator.held("uid-new").is_empty());
}

#[test]
fn it_does_not_leave_its_pool_for_one_of_both() {
    let mut allocator = allocator(vec![pool("lan", &[FOUR])]);
    assert_eq!(serve(&mut allocator, &usual()).unwrap(), ["192.0.2.0"]);
    allocator.set_pools(vec![pool("lan", &[FOUR]), dual()]);
    assert_eq!(serve(&mut allocator, &usual()).unwrap(), ["192.0.2.0"]);
}

#[test]
fn one_whose_pool_loses_a_family_goes_where_both_are() {
    let mut allocator = Allocator::new(Outside::Move);
    allocator.set_pools(vec![pool("lan", &[FOUR, SIX])]);
    let given = serve(&mut allocator, &usual()).unwrap();
    assert_eq!(given, ["192.0.2.0", "fd00::"]);
    allocator.set_pools(vec![pool("lan", &[SIX])]);
    assert_eq!(serve(&mut allocator, &usual()).unwrap(), ["fd00::"]);
    allocator.set_pools(vec![pool("lan", &[FOUR, SIX])]);
    serve(&mut allocator, &usual()).unwrap();
    allocator.set_pools(vec![pool("lan", &[SIX]), dual()]);
    let given = serve(&mut allocator, &usual()).unwrap();
    assert_eq!(given, ["198.51.100.0", "fd01::"]);
}

#[test]
fn one_whose_pool_loses_a_family_keeps_the_other_where_no_pool_is_open_to_it() {
    let mut allocator = Allocator::new(Outside::Move);
    allocator.set_pools(vec![pool("lan", &[FOUR, SIX])]);
    serve(&mut allocator, &usual()).unwrap();
    let quiet = Pool {
        auto_assign: false,
        ..pool("lan", &[SIX])
    };
    allocator.set_pools(vec![quiet]);
    assert_eq!(serve(&mut allocator, &usual()).unwrap(), ["fd00::"]);
}
