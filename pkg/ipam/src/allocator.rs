//! Who holds which address, and who may have which.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use herald_core::{IpFamily, IpFamilyPolicy, ServiceKey, ServiceRequest};
use thiserror::Error;

use crate::pool::{Pool, PoolProblem, Stocked, Usage};

/// The addresses that a Service should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// In the order of `spec.ipFamilies`, with the pool each is from; none for
    /// an address that it had before and that no pool holds any more.
    pub addresses: Vec<(IpAddr, Option<String>)>,
}

/// Why a Service can't have what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllocationError {
    /// Two addresses of one family were asked for.
    #[error("{first} and {second} are both {family}; ask for at most one address of each family")]
    TwoOfOneFamily {
        /// One address.
        first: IpAddr,
        /// The other.
        second: IpAddr,
        /// Their family.
        family: IpFamily,
    },
    /// An address was asked for that is not of the Service's families.
    #[error("{address} is {family}, which is not among spec.ipFamilies of the Service")]
    WrongFamily {
        /// The address.
        address: IpAddr,
        /// Its family.
        family: IpFamily,
    },
    /// An address was asked for that no pool holds.
    #[error(
        "{address} is in no IPAddressPool that this Service may use; add it to one, or ask for another"
    )]
    OutsidePools {
        /// The address.
        address: IpAddr,
    },
    /// Addresses were asked for that are not in one pool.
    #[error("{address} is not in pool {pool:?}; all addresses of a Service come from one pool")]
    NotInPool {
        /// The address.
        address: IpAddr,
        /// The pool asked for, or that of the other address.
        pool: String,
    },
    /// An address was asked for that somebody has.
    #[error("{address} is taken by Service {holder}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: ServiceKey,
    },
    /// A pool was asked for that is not there or not in force.
    #[error("IPAddressPool {pool:?} {}", if *.refused { "is not in force; see its condition Valid" } else { "does not exist" })]
    UnknownPool {
        /// The pool.
        pool: String,
        /// It exists, but is left out.
        refused: bool,
    },
    /// The pool that was asked for does not admit this Service.
    #[error("IPAddressPool {pool:?} does not admit this Service; see its spec.serviceAllocation")]
    NotAdmitted {
        /// The pool.
        pool: String,
    },
    /// There is no pool for it.
    #[error(
        "no IPAddressPool with {families} addresses admits this Service; add one, or ask for one by name"
    )]
    NoPool {
        /// `IPv4`, `IPv6` or `IPv4 and IPv6`.
        families: String,
    },
    /// All its pools are used up.
    #[error("no {families} address is left in {pools}; add addresses or free some")]
    Exhausted {
        /// `IPv4`, `IPv6` or `IPv4 and IPv6`.
        families: String,
        /// `pool "a"` or `pools "a", "b"`.
        pools: String,
    },
}

impl AllocationError {
    /// Reason of the condition, `CamelCase`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TwoOfOneFamily { .. } | Self::WrongFamily { .. } => "InvalidRequest",
            Self::OutsidePools { .. } | Self::NotInPool { .. } => "AddressOutsidePools",
            Self::Taken { .. } => "AddressTaken",
            Self::UnknownPool { .. } => "UnknownPool",
            Self::NotAdmitted { .. } | Self::NoPool { .. } => "NoPool",
            Self::Exhausted { .. } => "PoolExhausted",
        }
    }
}

/// An address that could not be given because another has it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{address} is taken by Service {holder}")]
pub struct Taken {
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub holder: ServiceKey,
}

#[derive(Clone, Debug)]
struct Holder {
    uid: String,
    key: ServiceKey,
}

/// All pools and all holders.
#[derive(Debug, Default)]
pub struct Allocator {
    pools: BTreeMap<String, Stocked>,
    refused: BTreeMap<String, PoolProblem>,
    holders: BTreeMap<IpAddr, Holder>,
    held: HashMap<String, Vec<IpAddr>>,
}

impl Allocator {
    /// Puts these pools in the place of all others. Who holds an address keeps
    /// it, in a pool or not.
    pub fn set_pools(&mut self, mut pools: Vec<Pool>) {
        pools.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
        self.pools.clear();
        self.refused.clear();
        for pool in pools {
            match self.problem(&pool) {
                Some(problem) => {
                    self.refused.insert(pool.name, problem);
                }
                None => {
                    self.pools.insert(pool.name.clone(), Stocked::new(pool));
                }
            }
        }
        for address in self.holders.keys() {
            for stocked in self.pools.values_mut() {
                stocked.take(address);
            }
        }
    }

    fn problem(&self, pool: &Pool) -> Option<PoolProblem> {
        for (i, first) in pool.ranges.iter().enumerate() {
            if let Some(second) = pool.ranges[i + 1..]
                .iter()
                .find(|other| other.overlaps(first))
            {
                return Some(PoolProblem::OverlapsItself {
                    first: *first,
                    second: *second,
                });
            }
        }
        self.pools.values().find_map(|other| {
            pool.ranges.iter().find_map(|range| {
                let other_range = other
                    .pool
                    .ranges
                    .iter()
                    .find(|other_range| other_range.overlaps(range))?;
                Some(PoolProblem::Overlap {
                    range: *range,
                    other: other.pool.name.clone(),
                    other_range: *other_range,
                })
            })
        })
    }

    /// Why a pool is left out, if it is.
    pub fn refusal(&self, pool: &str) -> Option<&PoolProblem> {
        self.refused.get(pool)
    }

    /// How much of each pool in force is in use.
    pub fn usage(&self) -> impl Iterator<Item = (&str, Usage)> {
        self.pools
            .iter()
            .map(|(name, stocked)| (name.as_str(), stocked.usage()))
    }

    /// The addresses that a Service holds.
    pub fn held(&self, uid: &str) -> &[IpAddr] {
        self.held.get(uid).map_or(&[], Vec::as_slice)
    }

    /// Makes these the addresses of a Service; what it held before is free.
    /// Changes nothing if another holds one of them.
    pub fn assign(
        &mut self,
        uid: &str,
        key: &ServiceKey,
        addresses: &[IpAddr],
    ) -> Result<(), Taken> {
        for address in addresses {
            if let Some(holder) = self.holders.get(address).filter(|holder| holder.uid != uid) {
                return Err(Taken {
                    address: *address,
                    holder: holder.key.clone(),
                });
            }
        }
        self.release(uid);
        for address in addresses {
            let holder = Holder {
                uid: uid.to_owned(),
                key: key.clone(),
            };
            self.holders.insert(*address, holder);
            self.pools
                .values_mut()
                .for_each(|stocked| stocked.take(address));
        }
        if !addresses.is_empty() {
            self.held.insert(uid.to_owned(), addresses.to_vec());
        }
        Ok(())
    }

    /// Frees all addresses of a Service.
    pub fn release(&mut self, uid: &str) {
        for address in self.held.remove(uid).unwrap_or_default() {
            self.holders.remove(&address);
            self.pools
                .values_mut()
                .for_each(|stocked| stocked.give(&address));
        }
    }

    /// What a Service should have. What it holds is kept as long as it fits
    /// the request, even where no pool holds it any more.
    pub fn decide(&self, service: &ServiceRequest) -> Result<Decision, AllocationError> {
        check_request(service)?;
        let held = self.held(&service.uid);
        if let Some(kept) = self.keep(service, held) {
            return Ok(kept);
        }
        if !service.requested_addresses.is_empty() {
            return self.decide_requested(service);
        }
        let candidates = self.candidates(service)?;
        let families = &service.ip_families;
        // A pool with every family comes before one with some.
        for name in &candidates {
            if let Some(decision) = self.draw(name, service, families) {
                return Ok(decision);
            }
        }
        if service.ip_family_policy == IpFamilyPolicy::PreferDualStack {
            for family in families {
                for name in &candidates {
                    if let Some(decision) = self.draw(name, service, &[*family]) {
                        return Ok(decision);
                    }
                }
            }
        }
        Err(self.nothing_left(service, &candidates))
    }

    /// What a Service holds, if that is still what it asks for.
    fn keep(&self, service: &ServiceRequest, held: &[IpAddr]) -> Option<Decision> {
        let requested = &service.requested_addresses;
        let family_held = |family: IpFamily| held.iter().any(|ip| IpFamily::of(ip) == family);
        let complete = service
            .ip_families
            .iter()
            .all(|family| family_held(*family));
        let pools: Vec<Option<String>> = held.iter().map(|ip| self.pool_of(ip)).collect();
        // One that prefers two families keeps one only while its pool has no
        // more to give.
        let enough = complete
            || service.ip_family_policy == IpFamilyPolicy::PreferDualStack
                && !self.could_gain(service, &pools, family_held);
        let fits = !held.is_empty()
            && enough
            && held
                .iter()
                .all(|ip| service.ip_families.contains(&IpFamily::of(ip)))
            && requested.iter().all(|ip| held.contains(ip))
            && service
                .requested_pool
                .as_ref()
                .is_none_or(|wanted| pools.iter().all(|pool| pool.as_ref() == Some(wanted)));
        fits.then(|| ordered(service, held.iter().copied().zip(pools)))
    }

    fn could_gain(
        &self,
        service: &ServiceRequest,
        pools: &[Option<String>],
        family_held: impl Fn(IpFamily) -> bool,
    ) -> bool {
        let Some(Some(name)) = pools.first() else {
            return false;
        };
        service
            .ip_families
            .iter()
            .filter(|family| !family_held(**family))
            .any(|family| {
                self.pools
                    .get(name)
                    .is_some_and(|pool| pool.first(*family).is_some())
            })
    }

    fn decide_requested(&self, service: &ServiceRequest) -> Result<Decision, AllocationError> {
        let requested = &service.requested_addresses;
        let first = requested[0];
        let pool = self.pool_of(&first);
        if let Some(wanted) = &service.requested_pool
            && pool.as_ref() != Some(wanted)
        {
            self.named(wanted, service)?;
            return Err(AllocationError::NotInPool {
                address: first,
                pool: wanted.clone(),
            });
        }
        let outside = || AllocationError::OutsidePools { address: first };
        let name = pool.ok_or_else(outside)?;
        let stocked = self.named(&name, service).map_err(|_| outside())?;
        for address in requested {
            if !stocked.pool.contains(address) {
                let pool = name.clone();
                return Err(if self.pool_of(address).is_some() {
                    AllocationError::NotInPool {
                        address: *address,
                        pool,
                    }
                } else {
                    AllocationError::OutsidePools { address: *address }
                });
            }
            if let Some(holder) = self.foreign(address, &service.uid) {
                return Err(AllocationError::Taken {
                    address: *address,
                    holder: holder.key.clone(),
                });
            }
        }
        // The families that were not asked for come from the same pool.
        let families: Vec<IpFamily> = service.ip_families.clone();
        self.draw(&name, service, &families)
            .or_else(|| {
                let asked: Vec<IpFamily> = requested.iter().map(IpFamily::of).collect();
                (service.ip_family_policy == IpFamilyPolicy::PreferDualStack)
                    .then(|| self.draw(&name, service, &asked))
                    .flatten()
            })
            .ok_or_else(|| self.nothing_left(service, &[name]))
    }

    /// The pools that a Service may have addresses of, in order.
    fn candidates(&self, service: &ServiceRequest) -> Result<Vec<String>, AllocationError> {
        if let Some(name) = &service.requested_pool {
            self.named(name, service)?;
            return Ok(vec![name.clone()]);
        }
        let mut pools: Vec<&Pool> = self
            .pools
            .values()
            .filter(|stocked| {
                service
                    .ip_families
                    .iter()
                    .any(|family| stocked.has(*family))
            })
            .map(|stocked| &stocked.pool)
            .filter(|pool| pool.auto_assign && pool.admission.admits(service))
            .collect();
        pools.sort_by(|a, b| a.rank().cmp(&b.rank()));
        if pools.is_empty() {
            return Err(AllocationError::NoPool {
                families: families(&service.ip_families),
            });
        }
        Ok(pools.into_iter().map(|pool| pool.name.clone()).collect())
    }

    fn named(&self, name: &str, service: &ServiceRequest) -> Result<&Stocked, AllocationError> {
        let stocked = self
            .pools
            .get(name)
            .ok_or_else(|| AllocationError::UnknownPool {
                pool: name.to_owned(),
                refused: self.refused.contains_key(name),
            })?;
        if !stocked.pool.admission.admits(service) {
            return Err(AllocationError::NotAdmitted {
                pool: name.to_owned(),
            });
        }
        Ok(stocked)
    }

    /// One address of each of these families from one pool.
    fn draw(
        &self,
        name: &str,
        service: &ServiceRequest,
        families: &[IpFamily],
    ) -> Option<Decision> {
        let stocked = self.pools.get(name)?;
        let held = self.held(&service.uid);
        let of = |list: &[IpAddr], family: IpFamily| {
            list.iter()
                .find(|ip| IpFamily::of(ip) == family && stocked.pool.contains(ip))
                .copied()
        };
        let addresses: Option<Vec<IpAddr>> = families
            .iter()
            .map(|family| {
                of(&service.requested_addresses, *family)
                    .or_else(|| of(held, *family))
                    .or_else(|| stocked.first(*family))
            })
            .collect();
        let pool = Some(name.to_owned());
        Some(ordered(
            service,
            addresses?.into_iter().map(|ip| (ip, pool.clone())),
        ))
    }

    fn nothing_left(&self, service: &ServiceRequest, candidates: &[String]) -> AllocationError {
        let wanted = &service.ip_families;
        let all = |family: &IpFamily| {
            candidates
                .iter()
                .any(|name| self.pools.get(name).is_some_and(|p| p.has(*family)))
        };
        if !wanted.iter().all(all) {
            return AllocationError::NoPool {
                families: families(wanted),
            };
        }
        let names: Vec<String> = candidates.iter().map(|name| format!("{name:?}")).collect();
        AllocationError::Exhausted {
            families: families(wanted),
            pools: match names.as_slice() {
                [name] => format!("pool {name}"),
                names => format!("pools {}", names.join(", ")),
            },
        }
    }

    fn pool_of(&self, address: &IpAddr) -> Option<String> {
        self.pools
            .iter()
            .find(|(_, stocked)| stocked.pool.contains(address))
            .map(|(name, _)| name.clone())
    }

    fn foreign(&self, address: &IpAddr, uid: &str) -> Option<&Holder> {
        self.holders.get(address).filter(|holder| holder.uid != uid)
    }
}

fn check_request(service: &ServiceRequest) -> Result<(), AllocationError> {
    let requested = &service.requested_addresses;
    for (i, first) in requested.iter().enumerate() {
        let family = IpFamily::of(first);
        if !service.ip_families.contains(&family) {
            return Err(AllocationError::WrongFamily {
                address: *first,
                family,
            });
        }
        if let Some(second) = requested[i + 1..]
            .iter()
            .find(|ip| IpFamily::of(ip) == family)
        {
            return Err(AllocationError::TwoOfOneFamily {
                first: *first,
                second: *second,
                family,
            });
        }
    }
    Ok(())
}

/// In the order of `spec.ipFamilies`.
fn ordered(
    service: &ServiceRequest,
    addresses: impl Iterator<Item = (IpAddr, Option<String>)>,
) -> Decision {
    let mut addresses: Vec<_> = addresses.collect();
    let place = |ip: &IpAddr| {
        service
            .ip_families
            .iter()
            .position(|f| *f == IpFamily::of(ip))
    };
    addresses.sort_by_key(|(ip, _)| place(ip));
    Decision { addresses }
}

fn families(families: &[IpFamily]) -> String {
    families
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" and ")
}

#[cfg(test)]
mod tests;
