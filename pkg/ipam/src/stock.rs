//! A pool in force: what is free in it, what rests, who has some of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::SystemTime;

use herald_core::{AddressRange, IpFamily, ServiceKey};

use crate::free::Free;
use crate::pool::{Obstacle, Pool, PoolState, Selection, Usage};

/// A pool in force and what is free in it. What an operation costs depends on what
/// is used, not on how large the pool is.
#[derive(Debug)]
pub(crate) struct Stocked {
    pub(crate) pool: Pool,
    free: Vec<Free>,
    /// What is never given by itself: excluded, reserved, in use by the cluster;
    /// in order and apart.
    barred: Vec<AddressRange>,
    /// What of the cluster has some of it.
    pub(crate) obstacles: Vec<Obstacle>,
    /// Addresses that were given back, the oldest first.
    queue: BTreeSet<(SystemTime, IpAddr)>,
    resting: HashMap<IpAddr, SystemTime>,
    assigned: [u128; 2],
    available: [u128; 2],
    /// Services with addresses of it, and with how many.
    pub(crate) tenants: BTreeMap<(ServiceKey, String), u32>,
    /// Draining: nothing is moved before.
    pub(crate) next_move: Option<SystemTime>,
    /// Draining: Services that have nowhere to go, by uid.
    pub(crate) stuck: HashSet<String>,
}

impl Stocked {
    pub(crate) fn new(pool: Pool, obstacles: &[Obstacle]) -> Self {
        let obstacles = Self::obstacles_of(&pool, obstacles);
        let barred = barred(&pool, &obstacles);
        let mut free: Vec<Free> = pool.ranges.iter().copied().map(Free::all).collect();
        for range in &barred {
            for free in &mut free {
                free.take_all(range);
            }
        }
        let mut available = [0u128; 2];
        for range in &pool.ranges {
            let lost = barred
                .iter()
                .filter_map(|barred| intersection(barred, range))
                .map(|lost| pool.usable_size(&lost))
                .fold(0u128, u128::saturating_add);
            let sum = &mut available[index(&range.first())];
            *sum = sum.saturating_add(pool.usable_size(range).saturating_sub(lost));
        }
        Self {
            pool,
            free,
            barred,
            obstacles,
            queue: BTreeSet::new(),
            resting: HashMap::new(),
            assigned: [0, 0],
            available,
            tenants: BTreeMap::new(),
            next_move: None,
            stuck: HashSet::new(),
        }
    }

    /// Those that concern a pool.
    pub(crate) fn obstacles_of(pool: &Pool, obstacles: &[Obstacle]) -> Vec<Obstacle> {
        obstacles
            .iter()
            .filter(|obstacle| pool.ranges.iter().any(|r| r.overlaps(&obstacle.range)))
            .cloned()
            .collect()
    }

    /// Whether an address may be given to whoever asks for none in particular.
    fn open(&self, address: &IpAddr) -> bool {
        self.pool.usable(address) && !self.is_barred(address)
    }

    fn is_barred(&self, address: &IpAddr) -> bool {
        let after = self
            .barred
            .partition_point(|range| range.first() <= *address);
        after > 0 && self.barred[after - 1].contains(address)
    }

    /// Somebody has it now.
    pub(crate) fn take(&mut self, address: &IpAddr) {
        self.wake(address);
        self.assigned[index(address)] += 1;
        // One that is not to be given is held all the same, if it is from
        // before the pool said so.
        if self.open(address) {
            self.available[index(address)] -= 1;
        }
        self.free.iter_mut().for_each(|free| free.take(address));
    }

    /// Nobody has it any more.
    pub(crate) fn give(&mut self, address: &IpAddr, now: SystemTime) {
        self.assigned[index(address)] -= 1;
        if self.open(address) {
            self.available[index(address)] += 1;
        }
        self.rest(address, now);
    }

    /// A free address may not be given again for a while.
    pub(crate) fn rest(&mut self, address: &IpAddr, since: SystemTime) {
        // What a source gives, and when again, is its own business.
        if self.pool.external || self.is_barred(address) {
            return;
        }
        self.wake(address);
        self.free.iter_mut().for_each(|free| free.take(address));
        self.resting.insert(*address, since);
        self.queue.insert((since, *address));
    }

    fn wake(&mut self, address: &IpAddr) {
        if let Some(since) = self.resting.remove(address) {
            self.queue.remove(&(since, *address));
        }
    }

    /// Those that have rested enough may be given again.
    pub(crate) fn settle(&mut self, now: SystemTime) {
        if self.pool.selection == Selection::LeastRecentlyUsed {
            // The order in which they were used is what it goes by.
            return;
        }
        while let Some((since, address)) = self.queue.first().copied() {
            if now.duration_since(since).unwrap_or_default() < self.pool.reuse_after {
                return;
            }
            self.wake(&address);
            self.free.iter_mut().for_each(|free| free.give(&address));
        }
    }

    /// Free addresses that rest, the newest first.
    pub(crate) fn resting(&self) -> impl Iterator<Item = (IpAddr, SystemTime)> + '_ {
        self.queue
            .iter()
            .rev()
            .map(|(since, address)| (*address, *since))
    }

    /// The address that somebody with this uid should get; where all the others
    /// are used, the one that rests for longest.
    pub(crate) fn pick(&self, family: IpFamily, uid: &str) -> Option<IpAddr> {
        let fresh = match self.pool.selection {
            Selection::FirstFit | Selection::LeastRecentlyUsed => self.first(family),
            Selection::Random => self.random(family, uid),
        };
        fresh.or_else(|| {
            let mut oldest = self.queue.iter().map(|(_, address)| address);
            oldest
                .find(|address| IpFamily::of(address) == family && self.pool.usable(address))
                .copied()
        })
    }

    fn of(&self, family: IpFamily) -> impl Iterator<Item = &Free> {
        self.free
            .iter()
            .filter(move |free| free.range().family() == family)
    }

    fn first(&self, family: IpFamily) -> Option<IpAddr> {
        self.of(family)
            .find_map(|free| free.first(|address| self.pool.usable(address)))
    }

    /// The free address at or above a random one.
    fn random(&self, family: IpFamily, uid: &str) -> Option<IpAddr> {
        let size = |free: &Free| free.range().size();
        let total = self.of(family).map(size).fold(0, u128::saturating_add);
        let mut offset = hash(uid).checked_rem(total)?;
        let mut above = None;
        for free in self.of(family) {
            if offset < size(free) {
                above =
                    above.or_else(|| free.at_or_after(offset, |address| self.pool.usable(address)));
                offset = 0;
            } else {
                offset -= size(free);
            }
        }
        above.or_else(|| self.first(family))
    }

    pub(crate) fn lodge(&mut self, key: &ServiceKey, uid: &str) {
        let tenant = (key.clone(), uid.to_owned());
        *self.tenants.entry(tenant).or_default() += 1;
    }

    pub(crate) fn unlodge(&mut self, key: &ServiceKey, uid: &str) {
        let tenant = (key.clone(), uid.to_owned());
        if let Some(count) = self.tenants.get_mut(&tenant) {
            *count -= 1;
            if *count == 0 {
                self.tenants.remove(&tenant);
            }
        }
    }

    /// Services of a namespace with addresses of it, by uid.
    pub(crate) fn tenants_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a String> {
        let first = (ServiceKey::new(namespace, ""), String::new());
        self.tenants
            .range(first..)
            .map(|((key, uid), _)| (key, uid))
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, uid)| uid)
    }

    pub(crate) const fn draining(&self) -> bool {
        matches!(self.pool.state, PoolState::Draining { .. })
    }

    pub(crate) fn usage(&self) -> Usage {
        let [assigned_v4, assigned_v6] = self.assigned;
        let [available_v4, available_v6] = self.available;
        Usage {
            assigned_v4,
            assigned_v6,
            available_v4,
            available_v6,
        }
    }

    /// What of the cluster has an address.
    pub(crate) fn obstacle(&self, address: &IpAddr) -> Option<&Obstacle> {
        self.obstacles
            .iter()
            .find(|obstacle| obstacle.range.contains(address))
    }
}

/// What a pool does not give by itself, in order, and made one where it overlaps.
fn barred(pool: &Pool, obstacles: &[Obstacle]) -> Vec<AddressRange> {
    let reserved = pool
        .reservations
        .iter()
        .filter_map(|reservation| AddressRange::new(reservation.address, reservation.address));
    let mut all: Vec<AddressRange> = pool
        .excluded
        .iter()
        .copied()
        .chain(obstacles.iter().map(|obstacle| obstacle.range))
        .chain(reserved)
        .collect();
    all.sort();
    let mut apart: Vec<AddressRange> = Vec::new();
    for range in all {
        match apart.last_mut() {
            Some(last) if last.overlaps(&range) => {
                if let Some(joined) = AddressRange::new(last.first(), last.last().max(range.last()))
                {
                    *last = joined;
                }
            }
            _ => apart.push(range),
        }
    }
    apart
}

fn intersection(a: &AddressRange, b: &AddressRange) -> Option<AddressRange> {
    if !a.overlaps(b) {
        return None;
    }
    AddressRange::new(a.first().max(b.first()), a.last().min(b.last()))
}

/// FNV-1a of 128 bits: the same on every machine and in every version, which
/// the standard library does not promise of its own.
pub(crate) fn hash(text: &str) -> u128 {
    text.bytes()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
}

const fn index(address: &IpAddr) -> usize {
    if address.is_ipv4() { 0 } else { 1 }
}
