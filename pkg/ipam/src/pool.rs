//! A pool: ranges of addresses and who may have them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use herald_core::{AddressRange, IpFamily, ServiceRequest};
use thiserror::Error;

use crate::free::Free;

/// Which Services a pool admits.
#[derive(Clone)]
pub struct Admission(Arc<dyn Fn(&ServiceRequest) -> bool + Send + Sync>);

impl Admission {
    /// Those that `admits` accepts.
    pub fn new(admits: impl Fn(&ServiceRequest) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(admits))
    }

    /// Whether this one.
    pub fn admits(&self, service: &ServiceRequest) -> bool {
        (self.0)(service)
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission")
    }
}

/// A pool as its object says.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// When it was made; of two pools that overlap, the older one stands.
    /// Compared as text (RFC 3339, UTC).
    pub created: String,
    /// Its ranges, tried in this order.
    pub ranges: Vec<AddressRange>,
    /// Whether Services that name no pool may have addresses of it.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out.
    pub avoid_buggy_ips: bool,
    /// `serviceAllocation`: lower is tried first, 0 is last; none means that
    /// the pool is open to all and tried after those that are not.
    pub priority: Option<u32>,
    /// Which Services it admits.
    pub admission: Admission,
}

impl Pool {
    /// Where it stands in the order of pools.
    pub(crate) fn rank(&self) -> (bool, u32, &str) {
        let priority = match self.priority {
            None | Some(0) => u32::MAX,
            Some(priority) => priority,
        };
        (self.priority.is_none(), priority, &self.name)
    }

    pub(crate) fn contains(&self, address: &IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    pub(crate) fn usable(&self, address: &IpAddr) -> bool {
        match address {
            IpAddr::V4(address) if self.avoid_buggy_ips => !matches!(address.octets()[3], 0 | 255),
            _ => true,
        }
    }

    /// How many addresses of a range may be given; saturates.
    fn usable_size(&self, range: &AddressRange) -> u128 {
        let buggy = match (range.first(), range.last()) {
            (IpAddr::V4(first), IpAddr::V4(last)) if self.avoid_buggy_ips => {
                buggy_below(u64::from(last.to_bits()) + 1) - buggy_below(first.to_bits().into())
            }
            _ => 0,
        };
        range.size() - u128::from(buggy)
    }
}

/// How many IPv4 addresses below this one end in .0 or .255.
const fn buggy_below(address: u64) -> u64 {
    // 256 blocks have two each; one that has begun has its first.
    address / 256 * 2 + (!address.is_multiple_of(256)) as u64
}

/// Why a pool is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PoolProblem {
    /// It shares addresses with an older pool.
    #[error(
        "{range} overlaps {other_range} of pool {other:?}, which is older; the whole pool is left out until they are apart"
    )]
    Overlap {
        /// Its range.
        range: AddressRange,
        /// Name of the older pool.
        other: String,
        /// The other's range.
        other_range: AddressRange,
    },
    /// Two of its own ranges share addresses.
    #[error("{first} and {second} overlap; write each address once")]
    OverlapsItself {
        /// One range.
        first: AddressRange,
        /// The other.
        second: AddressRange,
    },
}

/// How much of a pool is in use, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// IPv4 addresses in use.
    pub assigned_v4: u128,
    /// IPv6 addresses in use.
    pub assigned_v6: u128,
    /// IPv4 addresses that may still be given.
    pub available_v4: u128,
    /// IPv6 addresses that may still be given; saturates.
    pub available_v6: u128,
}

/// A pool in force and what is free in it.
#[derive(Clone, Debug)]
pub(crate) struct Stocked {
    pub(crate) pool: Pool,
    free: Vec<Free>,
    assigned: [u128; 2],
    available: [u128; 2],
}

impl Stocked {
    pub(crate) fn new(pool: Pool) -> Self {
        let free = pool.ranges.iter().copied().map(Free::all).collect();
        let mut available = [0u128; 2];
        for range in &pool.ranges {
            let sum = &mut available[index(&range.first())];
            *sum = sum.saturating_add(pool.usable_size(range));
        }
        Self {
            pool,
            free,
            assigned: [0, 0],
            available,
        }
    }

    pub(crate) fn take(&mut self, address: &IpAddr) {
        if self.pool.contains(address) {
            self.assigned[index(address)] += 1;
            // One that is not to be given is held all the same, if it is from
            // before the pool said so.
            if self.pool.usable(address) {
                self.available[index(address)] -= 1;
            }
            self.free.iter_mut().for_each(|free| free.take(address));
        }
    }

    pub(crate) fn give(&mut self, address: &IpAddr) {
        if self.pool.contains(address) {
            self.assigned[index(address)] -= 1;
            if self.pool.usable(address) {
                self.available[index(address)] += 1;
            }
            self.free.iter_mut().for_each(|free| free.give(address));
        }
    }

    pub(crate) fn has(&self, family: IpFamily) -> bool {
        self.pool
            .ranges
            .iter()
            .any(|range| range.family() == family)
    }

    pub(crate) fn first(&self, family: IpFamily) -> Option<IpAddr> {
        self.free
            .iter()
            .filter(|free| free.range().family() == family)
            .find_map(|free| free.first(|address| self.pool.usable(address)))
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
}

const fn index(address: &IpAddr) -> usize {
    if address.is_ipv4() { 0 } else { 1 }
}
