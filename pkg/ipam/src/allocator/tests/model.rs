//! The allocator against a slow, obvious one, over random histories.

use herald_core::{AddressRange, Protocol, ServicePort, TargetPort};
use proptest::prelude::*;

use super::*;

/// How long addresses rest here.
const REST: u64 = 50;

#[derive(Clone, Debug)]
enum Step {
    /// A Service asks: its number, its sharing key, its port, whether its policy
    /// is Local, the place of the address that it asks for.
    Ask(u8, u8, u16, bool, Option<u8>),
    /// A Service is gone.
    Leave(u8),
    /// So many seconds pass.
    Wait(u64),
    /// A new operator knows only what stands in the API.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ask = (
        0u8..14,
        0u8..3,
        80u16..83,
        any::<bool>(),
        proptest::option::weighted(0.2, 0u8..14),
    );
    let step = prop_oneof![
        6 => ask.prop_map(|(id, key, port, local, wish)| Step::Ask(id, key, port, local, wish)),
        3 => (0u8..14).prop_map(Step::Leave),
        1 => (0u64..40).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..150)
}

fn pools() -> Vec<Pool> {
    let rest = |pool: Pool| Pool {
        reuse_after: Duration::from_secs(REST),
        ..pool
    };
    vec![
        rest(Pool {
            priority: Some(1),
            ..pool("first", &["192.0.2.254-192.0.3.1", "fd00::-fd00::3"])
        }),
        rest(pool("second", &["198.51.100.0/30", "fd01::-fd01::1"])),
    ]
}

/// Every address of a pool, in order.
fn addresses(pool: &Pool) -> Vec<IpAddr> {
    let all = |range: &AddressRange| (0..range.size()).filter_map(|i| range.nth(i)).collect();
    pool.ranges
        .iter()
        .flat_map(|range| -> Vec<IpAddr> { all(range) })
        .collect()
}

/// A third of the Services have both families.
fn request(id: u8, key: u8, port: u16, local: bool, wish: Option<u8>) -> ServiceRequest {
    let families: &[IpFamily] = match id % 3 {
        0 => &[IpFamily::V4, IpFamily::V6],
        1 => &[IpFamily::V4],
        _ => &[IpFamily::V6],
    };
    let wish = wish.and_then(|place| {
        let all: Vec<IpAddr> = pools().iter().flat_map(addresses).collect();
        let address = all[usize::from(place) % all.len()];
        families
            .contains(&IpFamily::of(&address))
            .then_some(address)
    });
    ServiceRequest {
        // No key for some.
        sharing_key: (key > 0).then(|| key.to_string()),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port,
            node_port: None,
            target_port: TargetPort::Number(port),
        }],
        traffic_policy: if local {
            TrafficPolicy::Local
        } else {
            TrafficPolicy::Cluster
        },
        requested_addresses: wish.into_iter().collect(),
        ..service(&id.to_string(), families)
    }
}

/// What is obvious: lists, searched from end to end.
#[derive(Clone, Default)]
struct Model {
    held: BTreeMap<u8, (ServiceRequest, Vec<IpAddr>)>,
    freed: BTreeMap<IpAddr, u64>,
    now: u64,
}

impl Model {
    fn may_share(a: &ServiceRequest, b: &ServiceRequest) -> bool {
        a.sharing_key.is_some()
            && a.sharing_key == b.sharing_key
            && a.ports
                .iter()
                .all(|port| b.ports.iter().all(|other| port.port != other.port))
            && a.traffic_policy == b.traffic_policy
    }

    fn fits(&self, id: u8, request: &ServiceRequest, address: &IpAddr) -> bool {
        self.held.iter().all(|(other, (holder, held))| {
            *other == id || !held.contains(address) || Self::may_share(request, holder)
        })
    }

    fn others_have(&self, id: u8, address: &IpAddr) -> bool {
        let mut all = self.held.iter();
        all.any(|(other, (_, held))| *other != id && held.contains(address))
    }

    fn has(&self, id: u8) -> Vec<IpAddr> {
        self.held
            .get(&id)
            .map(|(_, held)| held.clone())
            .unwrap_or_default()
    }

    /// The address of a family from a pool.
    fn pick(
        &self,
        id: u8,
        request: &ServiceRequest,
        pool: &Pool,
        family: IpFamily,
        kept: &[IpAddr],
    ) -> Option<IpAddr> {
        let mut all = addresses(pool);
        all.retain(|ip| IpFamily::of(ip) == family);
        let own = kept.iter().find(|ip| all.contains(ip));
        let shared = || {
            all.iter()
                .find(|ip| self.others_have(id, ip) && self.fits(id, request, ip))
        };
        let untaken = |ip: &&IpAddr| self.held.values().all(|(_, held)| !held.contains(ip));
        let rests = |ip: &IpAddr| self.freed.get(ip).is_some_and(|at| self.now - at < REST);
        let fresh = || all.iter().filter(untaken).find(|ip| !rests(ip));
        let oldest = || {
            let resting = all.iter().filter(untaken).filter(|ip| rests(ip));
            resting.min_by_key(|ip| (self.freed[*ip], **ip))
        };
        own.or_else(shared).or_else(fresh).or_else(oldest).copied()
    }

    fn decide(&self, id: u8, request: &ServiceRequest) -> Option<Vec<IpAddr>> {
        let pools = pools();
        let held = self.has(id);
        let kept: Vec<IpAddr> = held
            .iter()
            .filter(|ip| self.fits(id, request, ip))
            .copied()
            .collect();
        let all = |pool: &Pool| -> Option<Vec<IpAddr>> {
            let families = request.ip_families.iter();
            families
                .map(|family| self.pick(id, request, pool, *family, &kept))
                .collect()
        };
        let pool_of = |ip: &IpAddr| pools.iter().find(|pool| addresses(pool).contains(ip));
        if let Some(wish) = request.requested_addresses.first() {
            if !kept.contains(wish) && !self.fits(id, request, wish) {
                return None;
            }
            let home = pool_of(wish).unwrap();
            let families = request.ip_families.iter();
            return families
                .map(|family| {
                    if *family == IpFamily::of(wish) {
                        return Some(*wish);
                    }
                    self.pick(id, request, home, *family, &kept)
                })
                .collect();
        }
        if kept.len() == request.ip_families.len() {
            return Some(kept);
        }
        let home = kept.first().and_then(pool_of);
        home.into_iter().chain(&pools).find_map(all)
    }

    fn set(&mut self, id: u8, request: Option<ServiceRequest>, addresses: Vec<IpAddr>) {
        let before = self.has(id);
        self.held.remove(&id);
        for lost in before.iter().filter(|ip| !addresses.contains(ip)) {
            if !self.others_have(id, lost) {
                self.freed.insert(*lost, self.now);
            }
        }
        for address in &addresses {
            self.freed.remove(address);
        }
        if let Some(request) = request.filter(|_| !addresses.is_empty()) {
            self.held.insert(id, (request, addresses));
        }
    }
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// What a new operator finds.
fn restarted(model: &Model, before: &Allocator) -> Allocator {
    let mut after = allocator(pools());
    for (request, held) in model.held.values() {
        after.adopt(request, held, at(model.now)).unwrap();
    }
    let reports = before.reports();
    let resting: Vec<_> = reports
        .iter()
        .flat_map(|report| report.resting.clone())
        .collect();
    after.restore(&resting);
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Over any history, restarts in it, every answer is the slow model's, and
    /// the counts add up. Another replica that sees what stands in the API gives
    /// the same answer to the next question.
    #[test]
    fn the_allocator_answers_as_a_slow_model(steps in steps()) {
        let mut allocator = allocator(pools());
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Ask(id, key, port, local, wish) => {
                    let request = request(id, key, port, local, wish);
                    let expected = model.decide(id, &request);
                    let mut replica = restarted(&model, &allocator);
                    let now = at(model.now);
                    prop_assert_eq!(
                        replica.decide(&request, now).map(|decision| decision.addresses),
                        allocator.decide(&request, now).map(|decision| decision.addresses)
                    );
                    let got = serve_at(&mut allocator, &request, now).ok();
                    prop_assert_eq!(got, expected.as_ref().map(|ips| texts(ips)));
                    let addresses = expected.unwrap_or_else(|| {
                        let mut kept = model.has(id);
                        kept.retain(|ip| model.fits(id, &request, ip));
                        kept
                    });
                    model.set(id, Some(request), addresses);
                }
                Step::Leave(id) => {
                    allocator.release(&format!("uid-{id}"), at(model.now));
                    model.set(id, None, Vec::new());
                }
                Step::Wait(seconds) => model.now += seconds,
                Step::Restart => allocator = restarted(&model, &allocator),
            }
            for (id, (_, held)) in &model.held {
                prop_assert_eq!(&allocator.held(&format!("uid-{id}")), held);
            }
            for (pool, report) in pools().iter().zip(allocator.reports()) {
                let all = addresses(pool);
                let taken: BTreeSet<&IpAddr> = model
                    .held
                    .values()
                    .flat_map(|(_, held)| held)
                    .filter(|ip| all.contains(ip))
                    .collect();
                let usage = report.usage;
                let assigned = usage.assigned_v4 + usage.assigned_v6;
                prop_assert_eq!(assigned, u128::try_from(taken.len()).unwrap());
                let total = assigned + usage.available_v4 + usage.available_v6;
                prop_assert_eq!(total, u128::try_from(all.len()).unwrap());
            }
        }
    }
}
