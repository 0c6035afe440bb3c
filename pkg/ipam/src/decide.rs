//! What a Service should have.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use herald_core::{IpFamily, IpFamilyPolicy, ServiceRequest};

use crate::allocator::{Allocator, Decision, Holding, Outside, Waiting, needed};
use crate::claim::Claim;
use crate::error::{AllocationError, WhyNot};
use crate::lease::{LeaseRequest, Said};
use crate::pool::{Pool, PoolState};
use crate::stock::Stocked;

/// A Service that asks, and what it may keep of what it has.
struct Asking<'a> {
    service: &'a ServiceRequest,
    claim: Claim,
    /// What it has and may keep, in the order of its status.
    kept: Vec<IpAddr>,
    now: SystemTime,
    /// What a source must be asked before the answer counts: the first such thing that
    /// was in the way.
    unasked: RefCell<Option<LeaseRequest>>,
}

impl Asking<'_> {
    /// Families may be from different pools only where the Service names several.
    fn splits(&self) -> bool {
        self.service.requested_pools.len() > 1
    }

    fn kept_of(&self, family: IpFamily) -> Option<IpAddr> {
        let mut kept = self.kept.iter();
        kept.find(|ip| IpFamily::of(ip) == family).copied()
    }

    fn prefers(&self) -> bool {
        self.service.ip_family_policy == IpFamilyPolicy::PreferDualStack
    }
}

impl Allocator {
    /// What a Service should have. What it holds is kept as long as it fits
    /// the request, in a pool or not; see [`Outside`].
    pub fn decide(
        &mut self,
        service: &ServiceRequest,
        now: SystemTime,
    ) -> Result<Decision, AllocationError> {
        for stocked in self.pools.values_mut() {
            stocked.settle(now);
        }
        let claim = Claim::of(service);
        let asking = Asking {
            kept: self.keepable(service, &claim),
            service,
            claim,
            now,
            unasked: RefCell::default(),
        };
        let decided = check_request(service)
            .and_then(|()| self.wanted(&asking))
            .map(|wanted| self.relocated(&asking, wanted));
        if let Some(request) = asking.unasked.take() {
            return Err(AllocationError::Unasked(Box::new(request)));
        }
        match decided {
            Ok(mut decision) => {
                self.waiting.remove(&service.uid);
                for (address, _) in &decision.addresses {
                    self.leases.wanted_again(address);
                }
                self.add_leaving(&asking, &mut decision);
                Ok(decision)
            }
            Err(error) => {
                let waiting = Waiting {
                    key: service.key.clone(),
                    pools: error.awaited().cloned().collect(),
                };
                self.waiting.insert(service.uid.clone(), waiting);
                Err(error)
            }
        }
    }

    /// What a Service that was refused keeps meanwhile.
    pub fn tenable(&self, service: &ServiceRequest) -> Decision {
        let claim = Claim::of(service);
        let Some(holding) = self.holdings.get(&service.uid) else {
            return Decision::default();
        };
        let stays = |ip: &IpAddr| self.holds_its_place(&claim, ip);
        let wanted = holding.wanted.iter().copied().filter(stays);
        Decision {
            addresses: wanted.map(|ip| self.with_pool(ip)).collect(),
            leaving: holding
                .leaving
                .iter()
                .filter(|(ip, _)| stays(ip))
                .copied()
                .collect(),
            moved_from: None,
        }
    }

    /// Whether a Service may keep an address even if it gets nothing else.
    fn holds_its_place(&self, claim: &Claim, address: &IpAddr) -> bool {
        let outside = self.pool_of(address).is_none();
        self.clash(claim, address).is_none() && !(outside && self.outside == Outside::Release)
    }

    /// What a Service has and may keep, given what it asks for now.
    fn keepable(&self, service: &ServiceRequest, claim: &Claim) -> Vec<IpAddr> {
        let Some(holding) = self.holdings.get(&service.uid) else {
            return Vec::new();
        };
        let pools = &service.requested_pools;
        let fits = |ip: &&IpAddr| {
            let pool = self.pool_of(ip);
            let within = match pool {
                Some(pool) => pools.is_empty() || pools.iter().any(|wanted| wanted == pool),
                None => pools.is_empty() && self.outside == Outside::Keep,
            };
            within
                && service.ip_families.contains(&IpFamily::of(ip))
                && self.clash(claim, ip).is_none()
        };
        holding.wanted.iter().filter(fits).copied().collect()
    }

    /// Whether a Service has had an address of one of its families that it may not keep.
    fn loses(&self, asking: &Asking<'_>) -> bool {
        let families = &asking.service.ip_families;
        let holding = self.holdings.get(&asking.service.uid);
        let mut had = holding.into_iter().flat_map(|holding| &holding.wanted);
        had.any(|ip| families.contains(&IpFamily::of(ip)) && !asking.kept.contains(ip))
    }

    /// An address of each family from the first pool that has them all.
    fn all_of_one_pool(&self, asking: &Asking<'_>) -> Option<Vec<IpAddr>> {
        let candidates = self.candidates(asking).ok()?;
        let mut all = candidates.iter();
        all.find_map(|stocked| self.draw_all(asking, &[*stocked]).ok())
    }

    /// The addresses that a Service should have, in the order of its families.
    fn wanted(&self, asking: &Asking<'_>) -> Result<Vec<IpAddr>, AllocationError> {
        if !asking.service.requested_addresses.is_empty() {
            return self.as_requested(asking);
        }
        let families = &asking.service.ip_families;
        let kept: Vec<IpAddr> = families
            .iter()
            .filter_map(|family| asking.kept_of(*family))
            .collect();
        if kept.len() == families.len() {
            return Ok(kept);
        }
        if let Some(first) = kept.first() {
            let home: Vec<&Stocked> = self.stocked(first).into_iter().collect();
            let homes = if asking.splits() {
                self.candidates(asking)?
            } else {
                home
            };
            if let Ok(all) = self.draw_all(asking, &homes) {
                return Ok(all);
            }
            // It never jumps to another pool for a second family that it has not had.
            if asking.prefers() {
                let both = self.loses(asking).then(|| self.all_of_one_pool(asking));
                return Ok(both.flatten().unwrap_or(kept));
            }
        }
        let candidates = self.candidates(asking)?;
        let mut reasons = Vec::new();
        if asking.splits() {
            match self.draw_all(asking, &candidates) {
                Ok(all) => return Ok(all),
                Err(why) => reasons = why,
            }
        } else {
            // A pool with every family comes before one with some.
            for stocked in &candidates {
                match self.draw_all(asking, &[*stocked]) {
                    Ok(all) => return Ok(all),
                    Err(why) => reasons.extend(why),
                }
            }
        }
        if asking.prefers() {
            for family in families {
                for stocked in &candidates {
                    match self.draw(asking, stocked, *family, &[]) {
                        Ok(address) => return Ok(vec![address]),
                        Err(why) => reasons.push((stocked.pool.name.clone(), why)),
                    }
                }
            }
            // What a pool has not matters less than what it has no more.
            let mut seen = BTreeSet::new();
            reasons.sort_by_key(|(_, why)| matches!(why, WhyNot::NoFamily(_)));
            reasons.retain(|(name, _)| seen.insert(name.clone()));
        }
        Err(refusal(families, reasons))
    }

    /// An address of each family, each from the first of these pools that has it.
    fn draw_all(
        &self,
        asking: &Asking<'_>,
        pools: &[&Stocked],
    ) -> Result<Vec<IpAddr>, Vec<(String, WhyNot)>> {
        let mut drawn = Vec::new();
        for family in &asking.service.ip_families {
            let mut reasons = Vec::new();
            let found = pools.iter().find_map(|stocked| {
                self.draw(asking, stocked, *family, &drawn)
                    .map_err(|why| reasons.push((stocked.pool.name.clone(), why)))
                    .ok()
            });
            drawn.push(found.ok_or(reasons)?);
        }
        Ok(drawn)
    }

    /// The address of a family that a Service gets from a pool; `beside` is what it
    /// gets already.
    fn draw(
        &self,
        asking: &Asking<'_>,
        stocked: &Stocked,
        family: IpFamily,
        beside: &[IpAddr],
    ) -> Result<IpAddr, WhyNot> {
        let pool = &stocked.pool;
        let own = |ip: &IpAddr| self.pool_of(ip) == Some(pool.name.as_str());
        if let Some(kept) = asking.kept_of(family).filter(own) {
            return Ok(kept);
        }
        if !pool.has(family) {
            return Err(WhyNot::NoFamily(family));
        }
        closed(pool)?;
        let reserved = self.reserved(asking, pool, family);
        let shared = || self.shareable(asking, stocked, family);
        if pool.external {
            if let Some(shared) = shared().filter(|_| reserved.is_none()) {
                self.within_limits(asking, stocked, Some(&shared), beside)?;
                return Ok(shared);
            }
            return self.lease(asking, stocked, family, reserved, beside);
        }
        let address = reserved
            .or_else(shared)
            .or_else(|| stocked.pick(family, &asking.service.uid))
            .ok_or(WhyNot::Full(family))?;
        self.within_limits(asking, stocked, Some(&address), beside)?;
        Ok(address)
    }

    /// What the source of a pool gives a Service; it is to be asked where it was not yet.
    fn lease(
        &self,
        asking: &Asking<'_>,
        stocked: &Stocked,
        family: IpFamily,
        address: Option<IpAddr>,
        beside: &[IpAddr],
    ) -> Result<IpAddr, WhyNot> {
        let mut request = LeaseRequest::new(&stocked.pool.name, asking.service, family, address);
        if address.is_none() {
            request = self.free_request(&asking.claim, &request);
        }
        let said = self.leases.said(&request, asking.now);
        match said {
            // What the source gave long ago another may have since then: that is for the
            // source to say.
            Some(Said::Yes(given)) if self.clash(&asking.claim, &given).is_none() => {
                self.within_limits(asking, stocked, Some(&given), beside)?;
                Ok(given)
            }
            Some(Said::No(message)) => Err(WhyNot::Source(message)),
            Some(Said::Yes(_)) | None => {
                self.within_limits(asking, stocked, address.as_ref(), beside)?;
                asking.unasked.borrow_mut().get_or_insert(request);
                Err(WhyNot::Unasked)
            }
        }
    }

    /// The address that a pool keeps for this Service.
    fn reserved(&self, asking: &Asking<'_>, pool: &Pool, family: IpFamily) -> Option<IpAddr> {
        pool.reservations
            .iter()
            .filter(|reservation| reservation.service == asking.service.key)
            .map(|reservation| reservation.address)
            .find(|ip| IpFamily::of(ip) == family && self.clash(&asking.claim, ip).is_none())
    }

    /// The lowest address of a pool that others with its sharing key have.
    fn shareable(
        &self,
        asking: &Asking<'_>,
        stocked: &Stocked,
        family: IpFamily,
    ) -> Option<IpAddr> {
        let addresses = self.shared.get(asking.claim.sharing_key()?)?;
        let name = Some(stocked.pool.name.as_str());
        let fits = |ip: &&IpAddr| {
            IpFamily::of(ip) == family
                && self.pool_of(ip) == name
                && stocked.pool.usable(ip)
                && stocked.pool.reserved_for(ip).is_none()
                && self.clash(&asking.claim, ip).is_none()
        };
        addresses.iter().find(fits).copied()
    }

    /// Whether the namespace may have another address of a pool; none is one that
    /// nobody has yet.
    fn within_limits(
        &self,
        asking: &Asking<'_>,
        stocked: &Stocked,
        address: Option<&IpAddr>,
        beside: &[IpAddr],
    ) -> Result<(), WhyNot> {
        let limits = stocked.pool.limits;
        if limits.addresses.is_none() && limits.services.is_none() {
            return Ok(());
        }
        let namespace = &asking.service.key.namespace;
        let name = Some(stocked.pool.name.as_str());
        let uid = &asking.service.uid;
        let others: BTreeSet<&String> = stocked
            .tenants_of(namespace)
            .filter(|tenant| *tenant != uid)
            .collect();
        if let Some(limit) = limits.services
            && others.len() >= limit as usize
        {
            let namespace = namespace.clone();
            return Err(WhyNot::ServiceLimit { namespace, limit });
        }
        if let Some(limit) = limits.addresses {
            let holdings = others.iter().filter_map(|uid| self.holdings.get(*uid));
            let addresses: BTreeSet<IpAddr> = holdings
                .flat_map(Holding::all)
                .chain(asking.kept.iter().copied())
                .chain(beside.iter().copied())
                .chain(address.copied())
                .filter(|ip| self.pool_of(ip) == name)
                .collect();
            if addresses.len() + usize::from(address.is_none()) > limit as usize {
                let namespace = namespace.clone();
                return Err(WhyNot::AddressLimit { namespace, limit });
            }
        }
        Ok(())
    }

    /// What is asked for by address, and the other families beside it.
    fn as_requested(&self, asking: &Asking<'_>) -> Result<Vec<IpAddr>, AllocationError> {
        let service = asking.service;
        let requested = &service.requested_addresses;
        let mut taken: Vec<IpAddr> = Vec::new();
        for address in requested {
            if !asking.kept.contains(address) {
                self.obtainable(asking, address, &taken)?;
            }
            taken.push(*address);
        }
        let home: Vec<&Stocked> = if asking.splits() {
            self.candidates(asking)?
        } else {
            self.stocked(&requested[0]).into_iter().collect()
        };
        let mut wanted = Vec::new();
        for family in &service.ip_families {
            let of_family = |ip: &&IpAddr| IpFamily::of(ip) == *family;
            let asked: Vec<IpAddr> = requested.iter().filter(of_family).copied().collect();
            if !asked.is_empty() {
                wanted.extend(asked);
                continue;
            }
            // The families that were not asked for come from the same pool.
            let mut reasons = Vec::new();
            let found = home.iter().find_map(|stocked| {
                self.draw(asking, stocked, *family, &taken)
                    .map_err(|why| reasons.push((stocked.pool.name.clone(), why)))
                    .ok()
            });
            // What no pool holds stands alone.
            let found = found.or_else(|| asking.kept_of(*family).filter(|_| home.is_empty()));
            match found {
                Some(address) => wanted.push(address),
                None if asking.prefers() => {}
                None => return Err(refusal(&[*family], reasons)),
            }
        }
        Ok(wanted)
    }

    /// Whether a Service may have an address that it asks for; `beside` is what it
    /// gets already.
    fn obtainable(
        &self,
        asking: &Asking<'_>,
        address: &IpAddr,
        beside: &[IpAddr],
    ) -> Result<(), AllocationError> {
        let service = asking.service;
        let address = *address;
        let stocked = self.stocked(&address);
        let name = stocked.map(|stocked| stocked.pool.name.as_str());
        let pools = &service.requested_pools;
        if let Some(wanted) = pools.first()
            && !pools.iter().any(|pool| Some(pool.as_str()) == name)
        {
            self.named(wanted, service)?;
            let pool = wanted.clone();
            return Err(AllocationError::NotInPool { address, pool });
        }
        let stocked = stocked
            .filter(|stocked| stocked.pool.admission.admits(service))
            .ok_or(AllocationError::OutsidePools { address })?;
        let pool = &stocked.pool;
        if let Some(first) = beside.first().filter(|_| !asking.splits())
            && let Some(home) = self.pool_of(first)
            && home != pool.name
        {
            let pool = home.to_owned();
            return Err(AllocationError::NotInPool { address, pool });
        }
        if pool.excludes(&address) {
            let pool = pool.name.clone();
            return Err(AllocationError::Excluded { address, pool });
        }
        if let Some(holder) = pool.reserved_for(&address)
            && *holder != service.key
        {
            return Err(AllocationError::Reserved {
                address,
                pool: pool.name.clone(),
                holder: holder.clone(),
            });
        }
        if let Some(clash) = self.clash(&asking.claim, &address) {
            return Err(clash.into());
        }
        let family = IpFamily::of(&address);
        closed(pool)
            .and_then(|()| self.within_limits(asking, stocked, Some(&address), beside))
            .and_then(|()| {
                // What others have, and share, was asked for already.
                if !pool.external || self.holders.contains_key(&address) {
                    return Ok(());
                }
                self.lease(asking, stocked, family, Some(address), beside)
                    .map(drop)
            })
            .map_err(|why| refusal(&[family], vec![(pool.name.clone(), why)]))
    }

    /// The pools that a Service may have addresses of, in order.
    fn candidates(&self, asking: &Asking<'_>) -> Result<Vec<&Stocked>, AllocationError> {
        let service = asking.service;
        if !service.requested_pools.is_empty() {
            let names = service.requested_pools.iter();
            return names.map(|name| self.named(name, service)).collect();
        }
        let mut pools: Vec<&Stocked> = self
            .pools
            .values()
            .filter(|stocked| {
                let pool = &stocked.pool;
                pool.auto_assign
                    && service.ip_families.iter().any(|family| pool.has(*family))
                    && pool.admission.admits(service)
            })
            .collect();
        // One that keeps an address for it comes before all others.
        let rank = |stocked: &Stocked| {
            let mut kept = stocked.pool.reservations.iter();
            !kept.any(|reservation| reservation.service == service.key)
        };
        pools.sort_by(|a, b| (rank(a), a.pool.rank()).cmp(&(rank(b), b.pool.rank())));
        if pools.is_empty() {
            return Err(AllocationError::NoPool {
                families: families(&service.ip_families),
            });
        }
        Ok(pools)
    }

    fn named(&self, name: &str, service: &ServiceRequest) -> Result<&Stocked, AllocationError> {
        let pool = || name.to_owned();
        let stocked = self
            .pools
            .get(name)
            .ok_or_else(|| AllocationError::UnknownPool {
                pool: pool(),
                refused: self.refused.contains_key(name),
            })?;
        if !stocked.pool.admission.admits(service) {
            return Err(AllocationError::NotAdmitted { pool: pool() });
        }
        Ok(stocked)
    }

    /// The decision for these addresses, or for others where it is the turn of this
    /// Service to leave a pool that is draining.
    fn relocated(&mut self, asking: &Asking<'_>, wanted: Vec<IpAddr>) -> Decision {
        let mut decision = Decision {
            addresses: wanted.into_iter().map(|ip| self.with_pool(ip)).collect(),
            ..Decision::default()
        };
        let Some((name, overlap)) = self.turn_to_leave(asking, &decision) else {
            return decision;
        };
        let fresh = Asking {
            service: asking.service,
            claim: asking.claim.clone(),
            kept: Vec::new(),
            now: asking.now,
            unasked: RefCell::default(),
        };
        let elsewhere = self.wanted(&fresh);
        if let Some(request) = fresh.unasked.take() {
            asking.unasked.borrow_mut().get_or_insert(request);
            return decision;
        }
        match elsewhere {
            // One that prefers two families does not lose one by moving.
            Ok(new) if new.len() >= decision.addresses.len() => {
                decision.leaving = decision
                    .addresses
                    .iter()
                    .filter(|(ip, _)| !new.contains(ip))
                    .map(|(ip, _)| (*ip, asking.now + overlap))
                    .collect();
                decision.addresses = new.into_iter().map(|ip| self.with_pool(ip)).collect();
                decision.moved_from = Some(name);
            }
            _ => {
                if let Some(stocked) = self.pools.get_mut(&name) {
                    stocked.stuck.insert(asking.service.uid.clone());
                }
            }
        }
        decision
    }

    /// The pool that a Service is to leave now, and for how long it keeps what it
    /// has of it.
    fn turn_to_leave(
        &self,
        asking: &Asking<'_>,
        decision: &Decision,
    ) -> Option<(String, std::time::Duration)> {
        decision.addresses.iter().find_map(|(ip, pool)| {
            let stocked = self.pools.get(pool.as_ref()?)?;
            let PoolState::Draining { overlap, .. } = stocked.pool.state else {
                return None;
            };
            let due = stocked.next_move.is_none_or(|next| next <= asking.now);
            let stays = self.holders.contains_key(ip);
            (due && stays).then(|| (stocked.pool.name.clone(), overlap))
        })
    }

    /// What leaves the Service by and by stays until its time has come.
    fn add_leaving(&self, asking: &Asking<'_>, decision: &mut Decision) {
        let holding = self.holdings.get(&asking.service.uid);
        let leaving = holding.into_iter().flat_map(|holding| &holding.leaving);
        for (address, until) in leaving {
            let wanted = decision.addresses.iter().any(|(ip, _)| ip == address);
            let of_family = asking.service.ip_families.contains(&IpFamily::of(address));
            let stays = self.holds_its_place(&asking.claim, address);
            if *until > asking.now && !wanted && of_family && stays {
                decision.leaving.push((*address, *until));
            }
        }
        decision.leaving.sort_by_key(|(address, _)| *address);
    }

    fn with_pool(&self, address: IpAddr) -> (IpAddr, Option<String>) {
        (address, self.pool_of(&address).map(str::to_owned))
    }

    /// Whether what is kept of a Service is all that it holds, by this claim.
    pub fn is_settled(&self, claim: &Claim, decision: &Decision) -> bool {
        let Some(holding) = self.holdings.get(&claim.uid) else {
            return decision.addresses.is_empty() && decision.leaving.is_empty();
        };
        holding.claim == *claim
            && holding.leaving == decision.leaving
            && holding
                .wanted
                .iter()
                .eq(decision.addresses.iter().map(|(ip, _)| ip))
    }
}

/// Whether a pool gives new addresses.
const fn closed(pool: &Pool) -> Result<(), WhyNot> {
    match pool.state {
        PoolState::Active => Ok(()),
        PoolState::Disabled => Err(WhyNot::Disabled),
        PoolState::Draining { .. } => Err(WhyNot::Draining),
    }
}

fn check_request(service: &ServiceRequest) -> Result<(), AllocationError> {
    let requested = &service.requested_addresses;
    let mut seen = BTreeSet::new();
    for address in requested {
        let family = IpFamily::of(address);
        if !service.ip_families.contains(&family) {
            let address = *address;
            return Err(AllocationError::WrongFamily { address, family });
        }
        if !seen.insert(address) {
            let address = *address;
            return Err(AllocationError::Twice { address });
        }
        let count = needed(service, family);
        if count > crate::MOST_ADDRESSES {
            return Err(AllocationError::TooMany { family, count });
        }
    }
    Ok(())
}

/// No pool has what is missing, or some could if they would.
fn refusal(wanted: &[IpFamily], pools: Vec<(String, WhyNot)>) -> AllocationError {
    let families = families(wanted);
    let lacks = |(_, why): &(String, WhyNot)| matches!(why, WhyNot::NoFamily(_));
    if pools.iter().all(lacks) {
        return AllocationError::NoPool { families };
    }
    AllocationError::Unavailable { families, pools }
}

fn families(families: &[IpFamily]) -> String {
    families
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" and ")
}
