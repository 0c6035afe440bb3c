//! Who holds which address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use herald_core::{IpFamily, ServiceKey, ServiceRequest};

use crate::claim::{Claim, Clash};
use crate::lease::Leases;
use crate::pool::{Obstacle, Pool, PoolProblem, PoolState};
use crate::stock::Stocked;

/// How long a Service that was found with more addresses than it needs keeps them:
/// it was being moved, and nobody knows since when.
const OVERLAP_FOUND: Duration = Duration::from_mins(1);

/// What becomes of a Service whose address no pool holds any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outside {
    /// It keeps it, and is told.
    #[default]
    Keep,
    /// It gets another one, and keeps it until there is one.
    Move,
    /// It loses it at once, and gets another one if there is one.
    Release,
}

/// The addresses that a Service should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// In the order of `spec.ipFamilies`, with the pool each is from; none for
    /// an address that it had before and that no pool holds any more.
    pub addresses: Vec<(IpAddr, Option<String>)>,
    /// Addresses that it has beside these, and until when.
    pub leaving: Vec<(IpAddr, SystemTime)>,
    /// The pool that it is moved out of by this decision.
    pub moved_from: Option<String>,
}

/// Whose turn it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Services to be looked at now.
    pub services: Vec<ServiceKey>,
    /// When to ask again at the latest, if nothing happens.
    pub next: Option<SystemTime>,
}

/// What a Service has.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    pub(crate) claim: Claim,
    pub(crate) wanted: Vec<IpAddr>,
    pub(crate) leaving: Vec<(IpAddr, SystemTime)>,
}

impl Holding {
    pub(crate) fn all(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.wanted
            .iter()
            .copied()
            .chain(self.leaving.iter().map(|(ip, _)| *ip))
    }
}

/// A Service that was refused.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) key: ServiceKey,
    /// Pools that would serve it if they had room.
    pub(crate) pools: Vec<String>,
}

/// All pools and all holders.
#[derive(Debug, Default)]
pub struct Allocator {
    pub(crate) outside: Outside,
    pub(crate) pools: BTreeMap<String, Stocked>,
    pub(crate) refused: BTreeMap<String, PoolProblem>,
    /// By the first address of each range in force: its last one, and its pool.
    /// They are apart from each other.
    ranges: BTreeMap<IpAddr, (IpAddr, String)>,
    obstacles: Vec<Obstacle>,
    /// Who has an address, by uid.
    pub(crate) holders: BTreeMap<IpAddr, Vec<String>>,
    pub(crate) holdings: HashMap<String, Holding>,
    /// Addresses by the sharing key of who has them.
    pub(crate) shared: HashMap<String, BTreeSet<IpAddr>>,
    pub(crate) waiting: HashMap<String, Waiting>,
    /// When an address leaves a Service, by uid.
    departures: BTreeSet<(SystemTime, String)>,
    /// Something changed that those who wait may wait for.
    pub(crate) stirred: bool,
    /// What the sources of pools have given.
    pub(crate) leases: Leases,
    /// Services to be looked at.
    pub(crate) nudged: BTreeSet<ServiceKey>,
}

impl Allocator {
    /// With this rule for addresses that no pool holds any more.
    pub fn new(outside: Outside) -> Self {
        Self {
            outside,
            ..Self::default()
        }
    }

    /// Forgets everything but its rules.
    pub fn clear(&mut self) {
        *self = Self::new(self.outside);
    }

    /// Puts these pools in the place of all others. Who holds an address keeps
    /// it, in a pool or not.
    pub fn set_pools(&mut self, mut pools: Vec<Pool>) {
        pools.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
        let old = std::mem::take(&mut self.pools);
        self.refused.clear();
        self.ranges.clear();
        self.leases.ask_anew();
        for pool in pools {
            let problem = pool.contradiction().or_else(|| self.overlap(&pool));
            if let Some(problem) = problem {
                self.refused.insert(pool.name, problem);
                continue;
            }
            for range in &pool.ranges {
                let entry = (range.last(), pool.name.clone());
                self.ranges.insert(range.first(), entry);
            }
            let mut stocked = Stocked::new(pool, &self.obstacles);
            if let Some(old) = old.get(&stocked.pool.name) {
                stocked.next_move = old.next_move;
            }
            self.pools.insert(stocked.pool.name.clone(), stocked);
        }
        self.fill();
        let resting: Vec<_> = old.values().flat_map(Stocked::resting).collect();
        self.restore(&resting);
    }

    /// Puts these in the place of all other addresses that the cluster itself
    /// uses. They are never given unless asked for. Says whether a pool is
    /// concerned.
    pub fn set_obstacles(&mut self, mut obstacles: Vec<Obstacle>) -> bool {
        obstacles.sort();
        obstacles.dedup();
        if obstacles == self.obstacles {
            return false;
        }
        self.obstacles = obstacles;
        let same = |stocked: &Stocked| {
            stocked.obstacles == Stocked::obstacles_of(&stocked.pool, &self.obstacles)
        };
        if self.pools.values().all(same) {
            return false;
        }
        let old = std::mem::take(&mut self.pools);
        for (name, old) in &old {
            let mut stocked = Stocked::new(old.pool.clone(), &self.obstacles);
            stocked.next_move = old.next_move;
            self.pools.insert(name.clone(), stocked);
        }
        self.fill();
        let resting: Vec<_> = old.values().flat_map(Stocked::resting).collect();
        self.restore(&resting);
        true
    }

    /// Tells the pools what is held of them.
    fn fill(&mut self) {
        for (address, uids) in &self.holders {
            let Some(name) = pool_of(&self.ranges, address) else {
                continue;
            };
            let Some(stocked) = self.pools.get_mut(name) else {
                continue;
            };
            stocked.take(address);
            for uid in uids {
                if let Some(holding) = self.holdings.get(uid) {
                    stocked.lodge(&holding.claim.key, uid);
                }
            }
        }
    }

    fn overlap(&self, pool: &Pool) -> Option<PoolProblem> {
        pool.ranges.iter().find_map(|range| {
            // Those in force are apart, so only the last that begins below its end
            // can reach into it.
            let (first, (last, other)) = self.ranges.range(..=range.last()).next_back()?;
            let other_range = herald_core::AddressRange::new(*first, *last)?;
            other_range.overlaps(range).then(|| PoolProblem::Overlap {
                range: *range,
                other: other.clone(),
                other_range,
            })
        })
    }

    /// Why a pool is left out, if it is.
    pub fn refusal(&self, pool: &str) -> Option<&PoolProblem> {
        self.refused.get(pool)
    }

    /// The pool in force that holds an address.
    pub fn pool_of(&self, address: &IpAddr) -> Option<&str> {
        pool_of(&self.ranges, address).map(String::as_str)
    }

    /// The addresses that a Service holds, those that leave it last.
    pub fn held(&self, uid: &str) -> Vec<IpAddr> {
        self.holdings
            .get(uid)
            .map_or_else(Vec::new, |holding| holding.all().collect())
    }

    /// Takes over the addresses that a Service has in its status. Those that
    /// another has, and does not share, it loses; the first of them is told.
    pub fn adopt(
        &mut self,
        service: &ServiceRequest,
        addresses: &[IpAddr],
        now: SystemTime,
    ) -> Result<(), Clash> {
        let claim = Claim::of(service);
        let mut clash = None;
        let mut decision = Decision::default();
        let mut seen = BTreeSet::new();
        for address in addresses.iter().filter(|address| seen.insert(**address)) {
            if let Some(found) = self.clash(&claim, address) {
                clash.get_or_insert(found);
                continue;
            }
            let family = IpFamily::of(address);
            let same = |(ip, _): &&(IpAddr, Option<String>)| IpFamily::of(ip) == family;
            if decision.addresses.iter().filter(same).count() < needed(service, family) {
                decision.addresses.push((*address, None));
            } else {
                decision.leaving.push((*address, now + OVERLAP_FOUND));
            }
        }
        self.assign(claim, &decision, now)?;
        clash.map_or(Ok(()), Err)
    }

    /// Makes these the addresses of a Service; what it held before is free.
    /// Changes nothing if another holds one of them and does not share it.
    pub fn assign(
        &mut self,
        claim: Claim,
        decision: &Decision,
        now: SystemTime,
    ) -> Result<(), Clash> {
        let wanted: Vec<IpAddr> = decision.addresses.iter().map(|(ip, _)| *ip).collect();
        let holding = Holding {
            claim,
            wanted,
            leaving: decision.leaving.clone(),
        };
        if let Some(clash) = holding.all().find_map(|ip| self.clash(&holding.claim, &ip)) {
            return Err(clash);
        }
        let uid = holding.claim.uid.clone();
        let other_claim =
            |old: &Holding| old.claim != holding.claim || old.wanted != holding.wanted;
        self.stirred |= self.holdings.get(&uid).is_some_and(other_claim);
        let before = self.forget(&uid);
        let kept: BTreeSet<IpAddr> = holding.all().collect();
        self.hold(holding, &before);
        for address in before.iter().filter(|address| !kept.contains(address)) {
            self.vacate(address, now);
        }
        self.keep_leases(&uid);
        if let Some(stocked) = decision
            .moved_from
            .as_ref()
            .and_then(|name| self.pools.get_mut(name))
            && let PoolState::Draining { interval, .. } = stocked.pool.state
        {
            stocked.next_move = Some(now + interval);
        }
        Ok(())
    }

    /// A Service asks for nothing any more; the addresses that it still holds.
    pub fn withdraw(&mut self, uid: &str) -> Vec<IpAddr> {
        self.waiting.remove(uid);
        self.keep_leases(uid);
        self.held(uid)
    }

    /// What a Service asked of a source and nobody has is given back.
    fn keep_leases(&mut self, uid: &str) {
        let holders = &self.holders;
        self.leases
            .keep(uid, |address| holders.contains_key(address));
    }

    /// Frees all addresses of a Service.
    pub fn release(&mut self, uid: &str, now: SystemTime) {
        self.waiting.remove(uid);
        for address in self.forget(uid) {
            self.stirred = true;
            self.vacate(&address, now);
        }
    }

    /// Takes over when addresses were given back; those that somebody has, or
    /// that no pool holds, are passed over.
    pub fn restore(&mut self, resting: &[(IpAddr, SystemTime)]) {
        for (address, since) in resting {
            if self.holders.contains_key(address) {
                continue;
            }
            if let Some(stocked) = self.stocked_mut(address) {
                stocked.rest(address, *since);
            }
        }
    }

    /// `before` is what the Service had and nobody has vacated yet.
    fn hold(&mut self, holding: Holding, before: &[IpAddr]) {
        let (uid, key) = (&holding.claim.uid, &holding.claim.key);
        for address in holding.all() {
            let uids = self.holders.entry(address).or_default();
            let new = uids.is_empty() && !before.contains(&address);
            uids.push(uid.clone());
            if let Some(sharing) = holding.claim.sharing_key() {
                let addresses = self.shared.entry(sharing.to_owned()).or_default();
                addresses.insert(address);
            }
            let pool = pool_of(&self.ranges, &address);
            if let Some(stocked) = pool.and_then(|name| self.pools.get_mut(name)) {
                if new {
                    stocked.take(&address);
                }
                stocked.lodge(key, uid);
            }
        }
        for (_, until) in &holding.leaving {
            self.departures.insert((*until, uid.clone()));
        }
        if !holding.wanted.is_empty() || !holding.leaving.is_empty() {
            self.holdings.insert(uid.clone(), holding);
        }
    }

    /// Takes a Service off all addresses, which stay taken until they are vacated.
    fn forget(&mut self, uid: &str) -> Vec<IpAddr> {
        let Some(holding) = self.holdings.remove(uid) else {
            return Vec::new();
        };
        let addresses: Vec<IpAddr> = holding.all().collect();
        for address in &addresses {
            if let Some(uids) = self.holders.get_mut(address) {
                uids.retain(|other| other != uid);
                if uids.is_empty() {
                    self.holders.remove(address);
                }
            }
            self.unshare(&holding.claim, address);
            let key = &holding.claim.key;
            if let Some(stocked) = self.stocked_mut(address) {
                stocked.unlodge(key, uid);
            }
        }
        for (_, until) in &holding.leaving {
            self.departures.remove(&(*until, uid.to_owned()));
        }
        addresses
    }

    fn unshare(&mut self, claim: &Claim, address: &IpAddr) {
        let Some(sharing) = claim.sharing_key() else {
            return;
        };
        let others = self.holders.get(address).into_iter().flatten();
        let same = |uid: &String| {
            let holding = self.holdings.get(uid);
            holding.is_some_and(|holding| holding.claim.sharing_key() == Some(sharing))
        };
        if others.into_iter().any(same) {
            return;
        }
        if let Some(addresses) = self.shared.get_mut(sharing) {
            addresses.remove(address);
            if addresses.is_empty() {
                self.shared.remove(sharing);
            }
        }
    }

    /// Frees an address that a Service has lost, unless another has it too.
    fn vacate(&mut self, address: &IpAddr, now: SystemTime) {
        if self.holders.contains_key(address) {
            return;
        }
        self.stirred = true;
        self.leases.vacated(address);
        if let Some(stocked) = self.stocked_mut(address) {
            stocked.give(address, now);
        }
        // There is room again for those that are to be moved.
        self.pools
            .values_mut()
            .for_each(|stocked| stocked.stuck.clear());
    }

    pub(crate) fn stocked(&self, address: &IpAddr) -> Option<&Stocked> {
        self.pools.get(self.pool_of(address)?)
    }

    fn stocked_mut(&mut self, address: &IpAddr) -> Option<&mut Stocked> {
        self.pools.get_mut(pool_of(&self.ranges, address)?)
    }

    /// Who has an address, and can't share it with this one; of several, the first
    /// by name.
    pub(crate) fn clash(&self, claim: &Claim, address: &IpAddr) -> Option<Clash> {
        let uids = self.holders.get(address)?;
        uids.iter()
            .filter(|uid| **uid != claim.uid)
            .filter_map(|uid| self.holdings.get(uid))
            .filter_map(|holding| {
                Some(Clash {
                    address: *address,
                    holder: holding.claim.key.clone(),
                    reason: claim.clash(&holding.claim)?,
                })
            })
            .min_by(|a, b| a.holder.cmp(&b.holder))
    }

    /// Which Services should be looked at now: addresses leave them, it is their
    /// turn to be moved out of a pool that is draining, or they wait and something
    /// changed since this was asked last.
    pub fn due(&mut self, now: SystemTime) -> Due {
        let (services, next) = self.leases.due(now);
        let mut due = Due { services, next };
        due.services.extend(std::mem::take(&mut self.nudged));
        if std::mem::take(&mut self.stirred) {
            due.services
                .extend(self.waiting.values().map(|waiting| waiting.key.clone()));
            due.services.sort();
            due.services.dedup();
        }
        for (until, uid) in &self.departures {
            if *until > now {
                due.next = Some(due.next.map_or(*until, |other| other.min(*until)));
                break;
            }
            let holding = self.holdings.get(uid);
            due.services
                .extend(holding.map(|holding| holding.claim.key.clone()));
        }
        for stocked in self.pools.values().filter(|stocked| stocked.draining()) {
            let Some(key) = self.next_to_move(stocked) else {
                continue;
            };
            match stocked.next_move {
                Some(next) if next > now => {
                    due.next = Some(due.next.map_or(next, |other| other.min(next)));
                }
                _ => due.services.push(key.clone()),
            }
        }
        due
    }

    /// The first Service of a pool that can still be moved out of it.
    fn next_to_move<'a>(&self, stocked: &'a Stocked) -> Option<&'a ServiceKey> {
        let stays = |uid: &String| {
            let name = Some(stocked.pool.name.as_str());
            let holding = self.holdings.get(uid);
            holding.is_some_and(|h| h.wanted.iter().any(|ip| self.pool_of(ip) == name))
        };
        stocked
            .tenants
            .keys()
            .find(|(_, uid)| !stocked.stuck.contains(uid) && stays(uid))
            .map(|(key, _)| key)
    }
}

fn pool_of<'a>(
    ranges: &'a BTreeMap<IpAddr, (IpAddr, String)>,
    address: &IpAddr,
) -> Option<&'a String> {
    let (first, (last, name)) = ranges.range(..=address).next_back()?;
    (first.is_ipv4() == address.is_ipv4() && address <= last).then_some(name)
}

/// How many addresses of a family a Service should have.
pub(crate) fn needed(service: &ServiceRequest, family: IpFamily) -> usize {
    let of_family = |ip: &&IpAddr| IpFamily::of(ip) == family;
    if !service.ip_families.contains(&family) {
        return 0;
    }
    let requested = service.requested_addresses.iter();
    requested.filter(of_family).count().max(1)
}

#[cfg(test)]
mod tests;
