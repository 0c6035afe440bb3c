//! How pools stand, and what is odd about what Services have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use herald_core::{ServiceKey, ServiceRequest};

use crate::allocator::{Allocator, Holding};
use crate::pool::{Obstacle, Usage};
use crate::stock::Stocked;

/// How a pool in force stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolReport {
    /// Its name.
    pub pool: String,
    /// How much of it is in use.
    pub usage: Usage,
    /// What of the cluster has addresses of it.
    pub conflicts: Vec<Obstacle>,
    /// Services that would have an address of it if it had room, in order.
    pub waiting: Vec<ServiceKey>,
    /// Namespaces that have as much of it as they may, in order.
    pub at_limit: Vec<String>,
    /// Addresses that were given back and rest, the newest first.
    pub resting: Vec<(IpAddr, SystemTime)>,
    /// Where it drains: Services that still have addresses of it.
    pub to_move: Option<usize>,
}

/// Something about the addresses of a Service that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// `CamelCase`.
    pub reason: &'static str,
    /// What is odd and what to do.
    pub message: String,
}

impl Allocator {
    /// How each pool in force stands, by name.
    pub fn reports(&self) -> Vec<PoolReport> {
        let mut waiting: BTreeMap<&str, BTreeSet<&ServiceKey>> = BTreeMap::new();
        for service in self.waiting.values() {
            for pool in &service.pools {
                waiting.entry(pool).or_default().insert(&service.key);
            }
        }
        self.pools
            .iter()
            .map(|(name, stocked)| PoolReport {
                pool: name.clone(),
                usage: stocked.usage(),
                conflicts: stocked.obstacles.clone(),
                waiting: waiting
                    .get(name.as_str())
                    .into_iter()
                    .flatten()
                    .map(|key| (*key).clone())
                    .collect(),
                at_limit: self.at_limit(stocked),
                resting: stocked.resting().collect(),
                to_move: stocked.draining().then_some(stocked.tenants.len()),
            })
            .collect()
    }

    fn at_limit(&self, stocked: &Stocked) -> Vec<String> {
        let limits = stocked.pool.limits;
        if limits.addresses.is_none() && limits.services.is_none() {
            return Vec::new();
        }
        let mut used: BTreeMap<&str, (u32, BTreeSet<IpAddr>)> = BTreeMap::new();
        let name = Some(stocked.pool.name.as_str());
        for (key, uid) in stocked.tenants.keys() {
            let (services, addresses) = used.entry(&key.namespace).or_default();
            *services += 1;
            let holding = self.holdings.get(uid).into_iter();
            let all = holding.flat_map(Holding::all);
            addresses.extend(all.filter(|ip| self.pool_of(ip) == name));
        }
        let full = |services: u32, addresses: usize| {
            limits.services.is_some_and(|limit| services >= limit)
                || limits
                    .addresses
                    .is_some_and(|limit| addresses >= limit as usize)
        };
        used.into_iter()
            .filter(|(_, (services, addresses))| full(*services, addresses.len()))
            .map(|(namespace, _)| namespace.to_owned())
            .collect()
    }

    /// What is odd about the addresses that a Service has.
    pub fn notices(&self, service: &ServiceRequest) -> Vec<Notice> {
        let Some(holding) = self.holdings.get(&service.uid) else {
            return Vec::new();
        };
        let wanted = holding.wanted.iter();
        wanted
            .filter_map(|address| self.notice(service, address))
            .collect()
    }

    fn notice(&self, service: &ServiceRequest, address: &IpAddr) -> Option<Notice> {
        let Some(stocked) = self.stocked(address) else {
            return Some(Notice {
                reason: "AddressOutsidePools",
                message: format!(
                    "{address} is in no IPAddressPool any more; the Service keeps it, but it is \
                     announced only while a pool holds it"
                ),
            });
        };
        let pool = &stocked.pool;
        if pool.excludes(address) {
            return Some(Notice {
                reason: "AddressExcluded",
                message: format!(
                    "{address} is among spec.excludedAddresses of pool {:?} now; the Service keeps \
                     it until it is deleted or asks for another",
                    pool.name
                ),
            });
        }
        if let Some(owner) = pool
            .reserved_for(address)
            .filter(|key| **key != service.key)
        {
            return Some(Notice {
                reason: "AddressReserved",
                message: format!(
                    "{address} is reserved for Service {owner} in pool {:?} now; this Service keeps \
                     it until it is deleted or asks for another",
                    pool.name
                ),
            });
        }
        if let Some(obstacle) = stocked.obstacle(address) {
            return Some(Notice {
                reason: "ClusterAddress",
                message: format!(
                    "{address} is among the addresses of {} too; ask for another address, or take \
                     it out of pool {:?}",
                    obstacle.owner, pool.name
                ),
            });
        }
        if let Some(said) = self.leases.disowned(&pool.name, address) {
            return Some(Notice {
                reason: "SourceDisagrees",
                message: format!(
                    "the Service keeps {address}, but the source of pool {:?} does not leave it to \
                     it: {said}",
                    pool.name
                ),
            });
        }
        if !pool.admission.admits(service) {
            return Some(Notice {
                reason: "NotAdmitted",
                message: format!(
                    "pool {:?} does not admit this Service any more; the Service keeps {address} \
                     until it is deleted or asks for another",
                    pool.name
                ),
            });
        }
        let pinned = !service.requested_addresses.is_empty();
        if stocked.draining() && (pinned || stocked.stuck.contains(&service.uid)) {
            let why = if pinned {
                "the Service asks for this address; take the request away"
            } else {
                "no other pool that the Service may use has room; add one"
            };
            return Some(Notice {
                reason: "CannotMove",
                message: format!(
                    "pool {:?} is draining, and {address} stays: {why}",
                    pool.name
                ),
            });
        }
        None
    }
}
