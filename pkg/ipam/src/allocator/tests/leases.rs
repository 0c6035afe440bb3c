//! Pools whose addresses come from outside, against a source that is a map.

use proptest::prelude::*;

use super::*;
use crate::{Lease, LeaseRequest, WhyNot};

fn outside() -> Pool {
    Pool {
        external: true,
        ..pool("outside", &["192.0.2.0/28", "fd00::/124"])
    }
}

/// A source that gives the first free of so many addresses a family.
#[derive(Clone, Default)]
struct Source {
    size: u8,
    given: BTreeMap<String, IpAddr>,
    calls: usize,
}

impl Source {
    fn with(size: u8) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    fn put(&mut self, request: &LeaseRequest) -> Result<IpAddr, String> {
        self.calls += 1;
        if let Some(address) = self.given.get(&request.id) {
            return Ok(*address);
        }
        let nth = |n: u8| match request.family {
            IpFamily::V4 => IpAddr::from([192, 0, 2, n]),
            IpFamily::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)]),
        };
        let free = |ip: &IpAddr| self.given.values().all(|other| other != ip);
        let mut all = (0..self.size).map(nth);
        let found = match request.address {
            Some(address) => all.find(|ip| *ip == address).filter(free),
            None => all.find(free),
        };
        let address = found.ok_or_else(|| "nothing is left".to_owned())?;
        self.given.insert(request.id.clone(), address);
        Ok(address)
    }

    fn list(&self) -> Vec<Lease> {
        let lease = |(id, address): (&String, &IpAddr)| Lease {
            id: id.clone(),
            address: *address,
        };
        self.given.iter().map(lease).collect()
    }
}

/// As the provider does: asks until there is an answer, then assigns.
fn lease(
    allocator: &mut Allocator,
    source: &mut Source,
    service: &ServiceRequest,
    now: SystemTime,
) -> Result<Vec<String>, AllocationError> {
    for _ in 0..16 {
        match serve_at(allocator, service, now) {
            Err(AllocationError::Unasked(request)) => {
                assert!(!allocator.is_returning(&request), "it would wait");
                let said = source.put(&request);
                allocator.answer(&request, said, now);
            }
            served => return served,
        }
    }
    panic!("it asks for ever");
}

fn give_back(allocator: &mut Allocator, source: &mut Source) {
    while let Some(id) = allocator.next_departing("outside") {
        source.given.remove(&id);
        allocator.returned("outside", &id, true);
    }
}

fn audit(allocator: &mut Allocator, source: &mut Source) {
    let begun = allocator.audit_begins("outside");
    let missing = allocator.audit("outside", source.list(), begun);
    for request in missing {
        let said = source.put(&request).map(drop);
        allocator.reclaimed(&request, said);
    }
}

#[test]
fn an_address_is_asked_for_once_and_given_back() {
    let mut allocator = allocator(vec![outside()]);
    let mut source = Source::with(4);
    let web = service("web", &[IpFamily::V4, IpFamily::V6]);
    let served = lease(&mut allocator, &mut source, &web, at(0)).unwrap();
    assert_eq!(served, ["192.0.2.0", "fd00::"]);
    assert_eq!(source.calls, 2);
    assert_eq!(
        source.given.keys().collect::<Vec<_>>(),
        ["uid-web.ipv4", "uid-web.ipv6"]
    );
    // Nothing is asked again for what it has.
    assert_eq!(
        lease(&mut allocator, &mut source, &web, at(1)).unwrap(),
        served
    );
    assert_eq!(source.calls, 2);
    allocator.release("uid-web", at(2));
    give_back(&mut allocator, &mut source);
    assert!(source.given.is_empty());
}

#[test]
fn what_a_source_refuses_is_asked_again_when_there_is_room() {
    let mut allocator = allocator(vec![outside()]);
    let mut source = Source::with(1);
    lease(&mut allocator, &mut source, &v4("web"), at(0)).unwrap();
    let error = lease(&mut allocator, &mut source, &v4("late"), at(0)).unwrap_err();
    assert_eq!(error.reason(), "SourceRefused");
    assert_eq!(
        error.to_string(),
        "no pool gives this Service its IPv4 address; pool \"outside\": its source gives none: \
         nothing is left"
    );
    let calls = source.calls;
    assert!(lease(&mut allocator, &mut source, &v4("late"), at(30)).is_err());
    assert_eq!(source.calls, calls, "it said so a moment ago");
    assert_eq!(allocator.due(at(30)).next, Some(at(60)));
    assert_eq!(allocator.due(at(60)).services, [v4("late").key]);
    assert!(lease(&mut allocator, &mut source, &v4("late"), at(60)).is_err());
    allocator.release("uid-web", at(61));
    give_back(&mut allocator, &mut source);
    assert_eq!(allocator.due(at(61)).services, [v4("late").key]);
    assert!(lease(&mut allocator, &mut source, &v4("late"), at(61)).is_ok());
}

#[test]
fn a_source_comes_before_the_pool_behind_it_and_a_no_opens_that() {
    let behind = pool("then", &["198.51.100.0/30"]);
    let mut allocator = allocator(vec![outside(), behind]);
    let mut source = Source::with(1);
    let served = |allocator: &mut Allocator, source: &mut Source, name| {
        lease(allocator, source, &v4(name), at(0)).unwrap()
    };
    assert_eq!(served(&mut allocator, &mut source, "a"), ["192.0.2.0"]);
    assert_eq!(served(&mut allocator, &mut source, "b"), ["198.51.100.0"]);
}

#[test]
fn an_answer_that_makes_no_sense_is_refused_and_given_back() {
    let kept = Pool {
        excluded: vec!["192.0.2.7-192.0.2.7".parse().unwrap()],
        ..outside()
    };
    let mut allocator = allocator(vec![kept, pool("other", &["198.51.100.0/30"])]);
    let web = ServiceRequest {
        requested_pools: vec!["outside".into()],
        ..v4("web")
    };
    for (given, words) in [
        ("198.51.100.1", "not among spec.addresses"),
        ("203.0.113.1", "not among spec.addresses"),
        ("192.0.2.7", "spec.excludedAddresses"),
        ("fd00::1", "not asked for"),
    ] {
        let Err(AllocationError::Unasked(request)) = allocator.decide(&web, at(0)) else {
            panic!("{given}: nothing is asked");
        };
        allocator.answer(&request, Ok(given.parse().unwrap()), at(0));
        let error = allocator.decide(&web, at(0)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(
            allocator.next_departing("outside"),
            Some("uid-web.ipv4".into())
        );
        allocator.returned("outside", "uid-web.ipv4", true);
        // It is not asked again and again because of that.
        assert!(matches!(
            allocator.decide(&web, at(1)),
            Err(AllocationError::Unavailable { pools, .. }) if matches!(pools[0].1, WhyNot::Source(_))
        ));
        allocator.set_pools(vec![
            Pool {
                excluded: vec!["192.0.2.7-192.0.2.7".parse().unwrap()],
                ..outside()
            },
            pool("other", &["198.51.100.0/30"]),
        ]);
    }
}

#[test]
fn limits_hold_before_a_source_is_asked() {
    let limited = Pool {
        limits: Limits {
            addresses: Some(1),
            services: None,
        },
        ..outside()
    };
    let mut allocator = allocator(vec![limited]);
    let mut source = Source::with(4);
    lease(&mut allocator, &mut source, &v4("a"), at(0)).unwrap();
    let error = lease(&mut allocator, &mut source, &v4("b"), at(0)).unwrap_err();
    assert_eq!(error.reason(), "LimitReached");
    assert_eq!(source.calls, 1);
}

#[test]
fn who_asks_for_an_address_that_is_just_given_back_waits() {
    let mut allocator = allocator(vec![outside()]);
    let mut source = Source::with(4);
    lease(&mut allocator, &mut source, &v4("web"), at(0)).unwrap();
    allocator.release("uid-web", at(1));
    // Not begun: it simply keeps it.
    assert!(lease(&mut allocator, &mut source, &v4("web"), at(1)).is_ok());
    assert_eq!(allocator.next_departing("outside"), None);
    assert_eq!(source.calls, 1);
    // Begun: the source may forget it at any moment.
    allocator.release("uid-web", at(2));
    let id = allocator.next_departing("outside").unwrap();
    let Err(AllocationError::Unasked(request)) = allocator.decide(&v4("web"), at(2)) else {
        panic!("it has what is being given back");
    };
    assert!(allocator.is_returning(&request));
    allocator.returned("outside", &id, true);
    assert!(!allocator.is_returning(&request));
}

#[test]
fn a_source_that_has_forgotten_is_reminded_and_one_that_disagrees_is_told_of() {
    let mut allocator = allocator(vec![outside()]);
    let mut source = Source::with(4);
    lease(&mut allocator, &mut source, &v4("web"), at(0)).unwrap();
    source.given.clear();
    audit(&mut allocator, &mut source);
    assert_eq!(
        source.given["uid-web.192.0.2.0"],
        IpAddr::from([192, 0, 2, 0])
    );
    source.given.clear();
    source
        .given
        .insert("somebody.ipv4".into(), [192, 0, 2, 0].into());
    let begun = allocator.audit_begins("outside");
    // Of another scope: it is not listed.
    let missing = allocator.audit("outside", Vec::new(), begun);
    assert_eq!(missing.len(), 1);
    assert!(allocator.reclaimed(&missing[0], Err("it is taken".into())));
    assert!(!allocator.reclaimed(&missing[0], Err("it is taken".into())));
    let notice = &allocator.notices(&v4("web"))[0];
    assert_eq!(notice.reason, "SourceDisagrees");
    assert!(allocator.reclaimed(&missing[0], Ok(())));
    assert!(allocator.notices(&v4("web")).is_empty());
}

#[test]
fn a_no_counts_more_than_an_earlier_yes() {
    let mut allocator = allocator(vec![outside()]);
    let mut source = Source::with(1);
    lease(&mut allocator, &mut source, &v4("web"), at(0)).unwrap();
    allocator.release("uid-web", at(1));
    // The source has it back, and its answer is lost.
    let id = allocator.next_departing("outside").unwrap();
    source.given.remove(&id);
    allocator.returned("outside", &id, false);
    lease(&mut allocator, &mut source, &v4("late"), at(1)).unwrap();
    let calls = source.calls;
    let error = lease(&mut allocator, &mut source, &v4("web"), at(1)).unwrap_err();
    assert_eq!(error.reason(), "SourceRefused");
    assert_eq!(source.calls, calls + 1);
    give_back(&mut allocator, &mut source);
    assert_eq!(source.given.keys().collect::<Vec<_>>(), ["uid-late.ipv4"]);
}

#[test]
fn what_a_source_gave_twice_is_given_back_by_who_can_not_have_it() {
    let mut allocator = allocator(vec![outside()]);
    let mut source = Source::with(1);
    lease(&mut allocator, &mut source, &v4("web"), at(0)).unwrap();
    source.given.clear();
    let error = lease(&mut allocator, &mut source, &v4("late"), at(0)).unwrap_err();
    assert_eq!(error.reason(), "SourceRefused");
    allocator.withdraw("uid-late");
    allocator.release("uid-web", at(1));
    give_back(&mut allocator, &mut source);
    assert!(source.given.is_empty(), "{:?}", source.given);
}

/// One that may share its address, with this port.
fn sharing(name: &str, port: u16) -> ServiceRequest {
    ServiceRequest {
        sharing_key: Some("key".into()),
        ports: vec![herald_core::ServicePort {
            name: String::new(),
            protocol: herald_core::Protocol::Tcp,
            port,
            node_port: None,
            target_port: herald_core::TargetPort::Number(port),
        }],
        ..v4(name)
    }
}

#[test]
fn a_shared_address_is_one_lease_until_the_last_has_left() {
    let mut allocator = allocator(vec![outside()]);
    let mut source = Source::with(4);
    let first = lease(&mut allocator, &mut source, &sharing("a", 80), at(0)).unwrap();
    let second = lease(&mut allocator, &mut source, &sharing("b", 81), at(0)).unwrap();
    assert_eq!(first, second);
    assert_eq!(source.calls, 1);
    allocator.release("uid-a", at(1));
    give_back(&mut allocator, &mut source);
    assert_eq!(source.given.len(), 1);
    allocator.release("uid-b", at(1));
    give_back(&mut allocator, &mut source);
    assert!(source.given.is_empty());
}

#[test]
fn who_moves_away_from_a_shared_address_leaves_its_lease_to_the_others() {
    let mut allocator = allocator(vec![outside()]);
    let mut source = Source::with(4);
    lease(&mut allocator, &mut source, &sharing("a", 80), at(0)).unwrap();
    lease(&mut allocator, &mut source, &sharing("b", 81), at(0)).unwrap();
    let moved = lease(&mut allocator, &mut source, &sharing("a", 81), at(1)).unwrap();
    assert_eq!(moved, ["192.0.2.1"]);
    give_back(&mut allocator, &mut source);
    assert_eq!(
        source.given.keys().collect::<Vec<_>>(),
        ["uid-a.ipv4", "uid-a.ipv4-2"]
    );
    // An operator that starts now knows of no lease, and no more of them goes.
    let mut next = self::allocator(vec![outside()]);
    let b = [IpAddr::from([192, 0, 2, 0])];
    next.adopt(&sharing("b", 81), &b, at(2)).unwrap();
    let again = lease(&mut next, &mut source, &sharing("a", 81), at(2)).unwrap();
    assert_eq!(again, ["192.0.2.1"]);
    give_back(&mut next, &mut source);
    assert_eq!(source.given.len(), 2);
    next.release("uid-b", at(3));
    give_back(&mut next, &mut source);
    assert_eq!(source.given.keys().collect::<Vec<_>>(), ["uid-a.ipv4-2"]);
    next.release("uid-a", at(4));
    give_back(&mut next, &mut source);
    assert!(source.given.is_empty(), "{:?}", source.given);
}

#[test]
fn what_may_have_been_given_back_is_asked_for_anew() {
    let mut allocator = allocator(vec![outside()]);
    let mut source = Source::with(1);
    lease(&mut allocator, &mut source, &v4("web"), at(0)).unwrap();
    allocator.release("uid-web", at(1));
    // The source has it back, and its answer is lost.
    let id = allocator.next_departing("outside").unwrap();
    source.given.remove(&id);
    allocator.returned("outside", &id, false);
    lease(&mut allocator, &mut source, &v4("web"), at(1)).unwrap();
    assert_eq!(source.given.keys().collect::<Vec<_>>(), ["uid-web.ipv4"]);
    give_back(&mut allocator, &mut source);
    assert_eq!(source.given.len(), 1, "it is given back while it is in use");
}

#[derive(Clone, Debug)]
enum Step {
    /// With both families, or with one and a port of those that share.
    Ask(u8, Option<u16>),
    /// The operator dies between the source's answer and the write of status.
    AskAndDie(u8),
    Leave(u8),
    /// A deletion that no operator saw.
    LeaveUnseen(u8),
    GiveBack,
    /// Giving back fails, although the source did it, or not.
    Fail(bool),
    Audit,
    Forget,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..8, proptest::option::of(80u16..83)).prop_map(|(id, port)| Step::Ask(id, port)),
        2 => (0u8..8).prop_map(Step::AskAndDie),
        3 => (0u8..8).prop_map(Step::Leave),
        1 => (0u8..8).prop_map(Step::LeaveUnseen),
        2 => Just(Step::GiveBack),
        1 => any::<bool>().prop_map(Step::Fail),
        2 => Just(Step::Audit),
        1 => Just(Step::Forget),
        1 => (0u64..70).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..120)
}

fn some(id: u8, port: Option<u16>) -> ServiceRequest {
    let name = id.to_string();
    match port {
        Some(port) => sharing(&name, port),
        None => service(&name, &[IpFamily::V4, IpFamily::V6]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens to the operator, and whatever the source forgets: no address
    /// is given twice, and in the end the source has given exactly what Services have.
    #[test]
    fn nothing_is_leaked_and_nothing_given_twice(steps in steps()) {
        let mut allocator = allocator(vec![outside()]);
        let mut source = Source::with(5);
        // What stands in the API.
        let mut written: BTreeMap<u8, (ServiceRequest, Vec<IpAddr>)> = BTreeMap::new();
        let mut now = 0;
        let mut forgot = false;
        let restart = |written: &BTreeMap<u8, (ServiceRequest, Vec<IpAddr>)>, now| {
            let mut next = self::allocator(vec![outside()]);
            for (request, held) in written.values() {
                next.adopt(request, held, at(now)).unwrap();
            }
            next
        };
        for step in steps {
            match step {
                Step::Ask(id, port) => {
                    let request = some(id, port);
                    let _ = lease(&mut allocator, &mut source, &request, at(now));
                    let held = allocator.held(&request.uid);
                    if held.is_empty() {
                        written.remove(&id);
                    } else {
                        written.insert(id, (request, held));
                    }
                }
                Step::AskAndDie(id) => {
                    let _ = lease(&mut allocator, &mut source, &some(id, None), at(now));
                    allocator = restart(&written, now);
                }
                Step::Leave(id) => {
                    let uid = format!("uid-{id}");
                    allocator.withdraw(&uid);
                    allocator.release(&uid, at(now));
                    written.remove(&id);
                }
                Step::LeaveUnseen(id) => {
                    written.remove(&id);
                    allocator = restart(&written, now);
                }
                Step::GiveBack => give_back(&mut allocator, &mut source),
                Step::Fail(done) => {
                    if let Some(id) = allocator.next_departing("outside") {
                        if done {
                            source.given.remove(&id);
                        }
                        allocator.returned("outside", &id, false);
                    }
                }
                Step::Audit => audit(&mut allocator, &mut source),
                Step::Forget => {
                    source.given.clear();
                    forgot = true;
                }
                Step::Wait(seconds) => now += seconds,
            }
            let mut seen: BTreeMap<IpAddr, BTreeSet<Option<u16>>> = BTreeMap::new();
            for (request, held) in written.values() {
                for address in held {
                    let ports = seen.entry(*address).or_default();
                    let new = ports.insert(request.ports.first().map(|port| port.port));
                    let alone = ports.len() == 1 || !ports.contains(&None);
                    prop_assert!(new && alone, "{} is given twice", address);
                    let leased = source.given.values().any(|given| given == address);
                    prop_assert!(leased || forgot, "{} was given back early", address);
                }
            }
        }
        // Those that wait have left, too.
        for id in 0..8 {
            if !written.contains_key(&id) {
                allocator.withdraw(&format!("uid-{id}"));
            }
        }
        for _ in 0..2 {
            give_back(&mut allocator, &mut source);
            audit(&mut allocator, &mut source);
        }
        give_back(&mut allocator, &mut source);
        let leased: BTreeSet<IpAddr> = source.given.values().copied().collect();
        let held: BTreeSet<IpAddr> = written.values().flat_map(|(_, held)| held.clone()).collect();
        prop_assert_eq!(leased, held);
    }
}
