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

/// The rules of the two pools: which free address is given, and how much a namespace
/// may have.
type Rules = [(Selection, Limits); 2];

fn rules() -> impl Strategy<Value = Rules> {
    let selection = prop_oneof![
        Just(Selection::FirstFit),
        Just(Selection::Random),
        Just(Selection::LeastRecentlyUsed),
    ];
    let limit = || proptest::option::weighted(0.3, 0u32..4);
    let limits = (limit(), limit()).prop_map(|(addresses, services)| Limits {
        addresses,
        services,
    });
    let one = (selection, limits);
    [one.clone(), one]
}

fn pools([first, second]: Rules) -> Vec<Pool> {
    let ruled = |(selection, limits), pool: Pool| Pool {
        reuse_after: Duration::from_secs(REST),
        selection,
        limits,
        ..pool
    };
    vec![
        ruled(
            first,
            Pool {
                priority: Some(1),
                ..pool("first", &["192.0.2.254-192.0.3.1", "fd00::-fd00::3"])
            },
        ),
        ruled(
            second,
            pool("second", &["198.51.100.0/30", "fd01::-fd01::1"]),
        ),
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

/// A third of the Services have both families; every second is of another namespace.
fn request(id: u8, key: u8, port: u16, local: bool, wish: Option<u8>) -> ServiceRequest {
    let families: &[IpFamily] = match id % 3 {
        0 => &[IpFamily::V4, IpFamily::V6],
        1 => &[IpFamily::V4],
        _ => &[IpFamily::V6],
    };
    let wish = wish.and_then(|place| {
        let any = [(Selection::FirstFit, Limits::default()); 2];
        let all: Vec<IpAddr> = pools(any).iter().flat_map(addresses).collect();
        let address = all[usize::from(place) % all.len()];
        families
            .contains(&IpFamily::of(&address))
            .then_some(address)
    });
    let namespace = if id.is_multiple_of(2) {
        "default"
    } else {
        "other"
    };
    ServiceRequest {
        key: ServiceKey::new(namespace, id.to_string()),
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
#[derive(Clone)]
struct Model {
    pools: Vec<Pool>,
    held: BTreeMap<u8, (ServiceRequest, Vec<IpAddr>)>,
    freed: BTreeMap<IpAddr, u64>,
    now: u64,
}

impl Model {
    fn new(rules: Rules) -> Self {
        Self {
            pools: pools(rules),
            held: BTreeMap::new(),
            freed: BTreeMap::new(),
            now: 0,
        }
    }

    /// Whether the namespace may have another address of a pool.
    fn within_limits(
        &self,
        id: u8,
        request: &ServiceRequest,
        pool: &Pool,
        address: &IpAddr,
        beside: &[IpAddr],
    ) -> bool {
        let all = addresses(pool);
        let others = self.held.iter().filter(|(other, (holder, held))| {
            **other != id
                && holder.key.namespace == request.key.namespace
                && held.iter().any(|ip| all.contains(ip))
        });
        let mut services = 0;
        let mut taken: BTreeSet<IpAddr> = beside.iter().copied().collect();
        taken.insert(*address);
        for (_, (_, held)) in others {
            services += 1;
            taken.extend(held);
        }
        taken.retain(|ip| all.contains(ip));
        let fits = |limit: Option<u32>, count: usize| limit.is_none_or(|l| count <= l as usize);
        fits(pool.limits.services, services + 1) && fits(pool.limits.addresses, taken.len())
    }

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
        beside: &[IpAddr],
    ) -> Option<IpAddr> {
        let mut all = addresses(pool);
        all.retain(|ip| IpFamily::of(ip) == family);
        if let Some(own) = kept.iter().find(|ip| all.contains(ip)) {
            return Some(*own);
        }
        let shared = || {
            all.iter()
                .find(|ip| self.others_have(id, ip) && self.fits(id, request, ip))
        };
        let untaken = |ip: &&IpAddr| self.held.values().all(|(_, held)| !held.contains(ip));
        let used = pool.selection == Selection::LeastRecentlyUsed;
        let rests = |ip: &IpAddr| {
            let freed = self.freed.get(ip);
            freed.is_some_and(|at| used || self.now - at < REST)
        };
        let first = match pool.selection {
            Selection::Random if !all.is_empty() => {
                let place = crate::stock::hash(&request.uid) % all.len() as u128;
                usize::try_from(place).unwrap()
            }
            _ => 0,
        };
        let from_there = all[first..].iter().chain(&all[..first]);
        let fresh = || from_there.filter(untaken).find(|ip| !rests(ip));
        let oldest = || {
            let resting = all.iter().filter(untaken).filter(|ip| rests(ip));
            resting.min_by_key(|ip| (self.freed[*ip], **ip))
        };
        let found = shared().or_else(fresh).or_else(oldest).copied();
        let beside = [kept, beside].concat();
        found.filter(|ip| self.within_limits(id, request, pool, ip, &beside))
    }

    /// An address of each family from a pool; some are given already.
    fn pick_all(
        &self,
        id: u8,
        request: &ServiceRequest,
        pool: &Pool,
        kept: &[IpAddr],
        wish: Option<IpAddr>,
    ) -> Option<Vec<IpAddr>> {
        let mut beside: Vec<IpAddr> = wish.into_iter().collect();
        let mut all = Vec::new();
        for family in &request.ip_families {
            let wished = wish.filter(|wish| IpFamily::of(wish) == *family);
            let pick = || self.pick(id, request, pool, *family, kept, &beside);
            let address = wished.or_else(pick)?;
            beside.push(address);
            all.push(address);
        }
        Some(all)
    }

    fn decide(&self, id: u8, request: &ServiceRequest) -> Option<Vec<IpAddr>> {
        let pools = &self.pools;
        let held = self.has(id);
        let kept: Vec<IpAddr> = held
            .iter()
            .filter(|ip| self.fits(id, request, ip))
            .copied()
            .collect();
        let all = |pool: &Pool| self.pick_all(id, request, pool, &kept, None);
        let pool_of = |ip: &IpAddr| pools.iter().find(|pool| addresses(pool).contains(ip));
        if let Some(wish) = request.requested_addresses.first() {
            let home = pool_of(wish).unwrap();
            let free = kept.contains(wish)
                || (self.fits(id, request, wish)
                    && self.within_limits(id, request, home, wish, &kept));
            return self
                .pick_all(id, request, home, &kept, Some(*wish))
                .filter(|_| free);
        }
        if kept.len() == request.ip_families.len() {
            return Some(kept);
        }
        let home = kept.first().and_then(pool_of);
        home.into_iter().chain(pools).find_map(all)
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
    let mut after = allocator(model.pools.clone());
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
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Over any history, restarts in it, every answer is the slow model's, and
    /// the counts add up. Another replica that sees what stands in the API gives
    /// the same answer to the next question.
    #[test]
    fn the_allocator_answers_as_a_slow_model(steps in steps(), rules in rules()) {
        let mut model = Model::new(rules);
        let mut allocator = allocator(model.pools.clone());
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
            for (pool, report) in model.pools.iter().zip(allocator.reports()) {
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
