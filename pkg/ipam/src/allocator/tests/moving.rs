use proptest::prelude::*;

use super::*;
use crate::PoolState;

const OVERLAP: u64 = 60;

fn draining(pool: Pool) -> Pool {
    Pool {
        state: PoolState::Draining {
            interval: Duration::from_secs(10),
            overlap: Duration::from_secs(OVERLAP),
        },
        ..pool
    }
}

fn old() -> Pool {
    pool("old", &["192.0.2.0/29", "fd00::/120"])
}

fn new(last: u8) -> Pool {
    pool(
        "new",
        &[&format!("198.51.100.0-198.51.100.{last}"), "fd01::/120"],
    )
}

fn names(due: &Due) -> Vec<&str> {
    due.services.iter().map(|key| key.name.as_str()).collect()
}

#[test]
fn services_leave_a_draining_pool_one_by_one_and_have_both_addresses_for_a_while() {
    let mut allocator = allocator(vec![old()]);
    for name in ["a", "b"] {
        serve(&mut allocator, &v4(name)).unwrap();
    }
    allocator.set_pools(vec![draining(old()), new(9)]);
    assert_eq!(names(&allocator.due(at(0))), ["a"]);
    assert_eq!(
        serve(&mut allocator, &v4("a")).unwrap(),
        ["198.51.100.0", "192.0.2.0"]
    );
    // The next one's turn is after the interval.
    let due = allocator.due(at(1));
    assert_eq!((names(&due), due.next), (Vec::new(), Some(at(10))));
    let early = serve_at(&mut allocator, &v4("b"), at(9)).unwrap();
    assert_eq!(early, ["192.0.2.1"]);
    assert_eq!(names(&allocator.due(at(10))), ["b"]);
    let moved = serve_at(&mut allocator, &v4("b"), at(10)).unwrap();
    assert_eq!(moved, ["198.51.100.1", "192.0.2.1"]);
    assert_eq!(allocator.reports()[1].to_move, Some(2));
    // The old address leaves after the overlap, and rests.
    let due = allocator.due(at(11));
    assert_eq!((names(&due), due.next), (Vec::new(), Some(at(OVERLAP))));
    let still = serve_at(&mut allocator, &v4("a"), at(OVERLAP - 1)).unwrap();
    assert_eq!(still.len(), 2);
    assert_eq!(names(&allocator.due(at(OVERLAP))), ["a"]);
    let gone = serve_at(&mut allocator, &v4("a"), at(OVERLAP)).unwrap();
    assert_eq!(gone, ["198.51.100.0"]);
    serve_at(&mut allocator, &v4("b"), at(10 + OVERLAP)).unwrap();
    assert_eq!(allocator.reports()[1].to_move, Some(0));
    assert_eq!(allocator.due(at(9_999)), Due::default());
}

#[test]
fn a_restart_in_the_middle_of_a_move_loses_no_address() {
    let mut allocator = allocator(vec![draining(old()), new(9)]);
    adopt(&mut allocator, &v4("a"), &["198.51.100.0", "192.0.2.0"]);
    assert_eq!(
        serve(&mut allocator, &v4("a")).unwrap(),
        ["198.51.100.0", "192.0.2.0"]
    );
    let gone = serve_at(&mut allocator, &v4("a"), at(OVERLAP)).unwrap();
    assert_eq!(gone, ["198.51.100.0"]);
}

#[test]
fn who_has_nowhere_to_go_stays_and_does_not_hold_up_the_others() {
    let both = [IpFamily::V4, IpFamily::V6];
    let pinned = ask("pinned", &["192.0.2.6"]);
    let fixed = ServiceRequest {
        requested_pools: vec!["old".into()],
        ..v4("fixed")
    };
    let mut allocator = allocator(vec![old()]);
    let services = [pinned, fixed, service("dual", &both), v4("z")];
    for service in &services {
        serve(&mut allocator, service).unwrap();
    }
    // Room for one only, and for no family beside.
    let narrow = || pool("new", &["198.51.100.0-198.51.100.0"]);
    allocator.set_pools(vec![draining(old()), narrow()]);
    let mut moved = Vec::new();
    for _ in 0..9 {
        for key in allocator.due(at(0)).services {
            let service = services.iter().find(|s| s.key == key).unwrap();
            let held = serve(&mut allocator, service).unwrap();
            if held.iter().any(|ip| ip.starts_with("198")) {
                moved.push(key.name);
            }
        }
    }
    assert_eq!(moved, ["z"]);
    for service in &services[..3] {
        let held = allocator.held(&service.uid);
        assert!(!held.is_empty());
        let notices = allocator.notices(service);
        assert_eq!(notices[0].reason, "CannotMove", "{}", service.key);
    }
    // A pool with room, and it goes on.
    allocator.set_pools(vec![
        draining(old()),
        narrow(),
        pool("wide", &["203.0.113.0/24", "fd02::/120"]),
    ]);
    let dual = serve_at(&mut allocator, &services[2], at(10)).unwrap();
    assert_eq!(dual.len(), 4);
}

#[test]
fn what_no_pool_holds_is_kept_or_moved_or_released() {
    for (rule, with_room, without) in [
        (Outside::Keep, "192.0.2.0", 1),
        (Outside::Move, "198.51.100.0", 1),
        (Outside::Release, "198.51.100.0", 0),
    ] {
        let mut allocator = Allocator::new(rule);
        allocator.set_pools(vec![old()]);
        serve(&mut allocator, &v4("a")).unwrap();
        allocator.set_pools(Vec::new());
        let refused = serve(&mut allocator, &v4("a"));
        assert_eq!(refused.is_ok(), rule == Outside::Keep);
        assert_eq!(allocator.held("uid-a").len(), without, "{rule:?}");
        let told = allocator.notices(&v4("a"));
        assert_eq!(told.len(), without);
        allocator.set_pools(vec![new(9)]);
        assert_eq!(serve(&mut allocator, &v4("a")).unwrap(), [with_room]);
    }
}

#[test]
fn a_family_is_gained_and_lost_without_losing_the_other() {
    let mut allocator = allocator(vec![old(), new(9)]);
    serve(&mut allocator, &v4("first")).unwrap();
    let single = v4("a");
    let in_old = ServiceRequest {
        requested_pools: vec!["old".into()],
        ..single.clone()
    };
    serve(&mut allocator, &in_old).unwrap();
    // The pool that it is in comes before the first in the order.
    let both = [IpFamily::V4, IpFamily::V6];
    for policy in [
        IpFamilyPolicy::RequireDualStack,
        IpFamilyPolicy::PreferDualStack,
    ] {
        let dual = ServiceRequest {
            ip_family_policy: policy,
            ..service("a", &both)
        };
        assert_eq!(
            serve(&mut allocator, &dual).unwrap(),
            ["192.0.2.0", "fd00::"]
        );
        assert_eq!(serve(&mut allocator, &single).unwrap(), ["192.0.2.0"]);
        // The address rests.
        allocator.decide(&v4("x"), at(9_999)).unwrap();
    }
}

#[test]
fn families_come_from_two_pools_where_two_are_named() {
    let v4_only = pool("four", &["192.0.2.0/29"]);
    let v6_only = pool("six", &["fd00::/120"]);
    let mut allocator = allocator(vec![v4_only, v6_only]);
    let dual = service("a", &[IpFamily::V6, IpFamily::V4]);
    let alone = serve(&mut allocator, &dual).unwrap_err();
    assert_eq!(alone.reason(), "NoPool");
    let named = ServiceRequest {
        requested_pools: vec!["four".into(), "six".into()],
        ..dual.clone()
    };
    let both = ["fd00::", "192.0.2.0"];
    assert_eq!(serve(&mut allocator, &named).unwrap(), both);
    assert_eq!(serve(&mut allocator, &named).unwrap(), both);
    let asking = ServiceRequest {
        requested_addresses: vec!["192.0.2.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        ..named
    };
    assert_eq!(
        serve(&mut allocator, &asking).unwrap(),
        ["fd00::5", "192.0.2.5"]
    );
    let unnamed = ServiceRequest {
        requested_pools: Vec::new(),
        uid: "uid-b".into(),
        requested_addresses: vec!["192.0.2.6".parse().unwrap(), "fd00::6".parse().unwrap()],
        ..asking
    };
    let apart = serve(&mut allocator, &unnamed).unwrap_err();
    assert_eq!(apart.reason(), "AddressOutsidePools");
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u8),
    Leave(u8),
    Wait(u64),
    /// Looks at those whose turn it is, as the operator does.
    Turn,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0u8..6).prop_map(Step::Ask),
        1 => (0u8..6).prop_map(Step::Leave),
        2 => (0u64..40).prop_map(Step::Wait),
        4 => Just(Step::Turn),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// However Services come and go while a pool is drained: nobody is without an address
    /// for a moment, nobody has another's, an address stays for the overlap, not more than
    /// one Service is moved in an interval, and in the end the pool is as empty as the
    /// room elsewhere allows.
    #[test]
    fn a_pool_is_drained_make_before_break(room in 0u8..8, steps in steps()) {
        let mut allocator = allocator(vec![old()]);
        let mut here: BTreeSet<u8> = (0..6).collect();
        for id in 0..6 {
            serve(&mut allocator, &v4(&id.to_string())).unwrap();
        }
        let next = if room == 0 {
            pool("new", &["fd01::/120"])
        } else {
            new(room - 1)
        };
        allocator.set_pools(vec![draining(old()), next]);
        let mut now = 0;
        let mut moved_at: Vec<u64> = Vec::new();
        // When each left the old pool, and which address it had there.
        let mut moved: BTreeMap<u8, (u64, IpAddr)> = BTreeMap::new();
        let end = (0..40).flat_map(|_| [Step::Turn, Step::Wait(10)]);
        for step in steps.into_iter().chain(end) {
            let looked_at: Vec<u8> = match step {
                Step::Ask(id) => vec![id],
                Step::Leave(id) => {
                    allocator.withdraw(&format!("uid-{id}"));
                    allocator.release(&format!("uid-{id}"), at(now));
                    here.remove(&id);
                    moved.remove(&id);
                    vec![]
                }
                Step::Wait(seconds) => {
                    now += seconds;
                    vec![]
                }
                Step::Turn => {
                    let due = allocator.due(at(now)).services;
                    due.iter().map(|key| key.name.parse().unwrap()).collect()
                }
            };
            for id in looked_at {
                let uid = format!("uid-{id}");
                let before = allocator.held(&uid);
                let asked = serve_at(&mut allocator, &v4(&id.to_string()), at(now));
                let after = allocator.held(&uid);
                if asked.is_ok() {
                    here.insert(id);
                }
                prop_assert!(before.is_empty() || !after.is_empty(), "{} lost its address", id);
                let of_old = |ip: &&IpAddr| allocator.pool_of(ip) == Some("old");
                let was = before.first().filter(of_old);
                if let (Some(was), Some(is)) = (was, after.first())
                    && was != is
                {
                    prop_assert!(after.contains(was), "{} lost {} at once", id, was);
                    moved.insert(id, (now, *was));
                    moved_at.push(now);
                }
                if let Some((since, address)) = moved.get(&id) {
                    let stays = now < since + OVERLAP;
                    prop_assert_eq!(after.contains(address), stays, "{} of {}", address, id);
                }
            }
            let mut taken = BTreeSet::new();
            for id in 0..6 {
                for address in allocator.held(&format!("uid-{id}")) {
                    prop_assert!(taken.insert(address), "{} is given twice", address);
                }
            }
        }
        prop_assert!(moved_at.windows(2).all(|pair| pair[1] >= pair[0] + 10), "{:?}", moved_at);
        let left = here.iter().filter(|id| {
            let held = allocator.held(&format!("uid-{id}"));
            held.iter().any(|ip| allocator.pool_of(ip) == Some("old"))
        });
        prop_assert_eq!(left.count(), here.len().saturating_sub(usize::from(room)));
    }
}
