//! A pool: ranges of addresses and who may have them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use herald_core::{AddressRange, IpFamily, ServiceKey, ServiceRequest};
use thiserror::Error;

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

/// Which free address is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// The first, in the order of the ranges.
    #[default]
    FirstFit,
    /// Any, by a hash of the Service's uid: the same one on every replica.
    Random,
    /// One that nobody had yet, else the one that is free for longest.
    LeastRecentlyUsed,
}

/// Whether a pool gives addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolState {
    /// It does.
    #[default]
    Active,
    /// It gives no new ones; who has one keeps it.
    Disabled,
    /// It gives no new ones, and who has one is moved to another pool.
    Draining {
        /// Between two Services that are moved.
        interval: Duration,
        /// For so long a Service has its old address beside the new one.
        overlap: Duration,
    },
}

/// How much of a pool one namespace may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Addresses of both families together; one that Services share counts once.
    pub addresses: Option<u32>,
    /// Services.
    pub services: Option<u32>,
}

/// An address that only one Service gets, whether it exists yet or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The address.
    pub address: IpAddr,
    /// The Service.
    pub service: ServiceKey,
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
    /// What of them is never given.
    pub excluded: Vec<AddressRange>,
    /// Whether Services that name no pool may have addresses of it.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out.
    pub avoid_buggy_ips: bool,
    /// `serviceAllocation`: lower is tried first, 0 is last; none means that
    /// the pool is open to all and tried after those that are not.
    pub priority: Option<u32>,
    /// Which Services it admits.
    pub admission: Admission,
    /// Which free address is given.
    pub selection: Selection,
    /// For so long an address that was given back is not given again, while
    /// there are others.
    pub reuse_after: Duration,
    /// Whether it gives addresses.
    pub state: PoolState,
    /// How much of it one namespace may have.
    pub limits: Limits,
    /// Addresses that are kept for Services.
    pub reservations: Vec<Reservation>,
    /// Whether its addresses are asked of a source outside
    /// ([`AllocationError::Unasked`](crate::AllocationError::Unasked)).
    pub external: bool,
}

impl Pool {
    /// A pool of these ranges that is open to all, with the defaults of an
    /// `IPAddressPool`.
    pub fn new(name: impl Into<String>, ranges: Vec<AddressRange>) -> Self {
        Self {
            name: name.into(),
            created: String::new(),
            ranges,
            excluded: Vec::new(),
            auto_assign: true,
            avoid_buggy_ips: false,
            priority: None,
            admission: Admission::new(|_| true),
            selection: Selection::default(),
            reuse_after: Duration::from_mins(5),
            state: PoolState::default(),
            limits: Limits::default(),
            reservations: Vec::new(),
            external: false,
        }
    }

    /// Where it stands in the order of pools.
    pub(crate) fn rank(&self) -> (bool, u32, &str) {
        let priority = match self.priority {
            None | Some(0) => u32::MAX,
            Some(priority) => priority,
        };
        (self.priority.is_none(), priority, &self.name)
    }

    pub(crate) fn has(&self, family: IpFamily) -> bool {
        self.ranges.iter().any(|range| range.family() == family)
    }

    pub(crate) fn excludes(&self, address: &IpAddr) -> bool {
        self.excluded.iter().any(|range| range.contains(address))
    }

    /// For whom an address is kept, if it is.
    pub(crate) fn reserved_for(&self, address: &IpAddr) -> Option<&ServiceKey> {
        self.reservations
            .iter()
            .find(|reservation| reservation.address == *address)
            .map(|reservation| &reservation.service)
    }

    pub(crate) fn usable(&self, address: &IpAddr) -> bool {
        match address {
            IpAddr::V4(address) if self.avoid_buggy_ips => !matches!(address.octets()[3], 0 | 255),
            _ => true,
        }
    }

    /// How many addresses of a range may be given; saturates.
    pub(crate) fn usable_size(&self, range: &AddressRange) -> u128 {
        let buggy = match (range.first(), range.last()) {
            (IpAddr::V4(first), IpAddr::V4(last)) if self.avoid_buggy_ips => {
                buggy_below(u64::from(last.to_bits()) + 1) - buggy_below(first.to_bits().into())
            }
            _ => 0,
        };
        range.size() - u128::from(buggy)
    }

    /// What is wrong with it by itself.
    pub(crate) fn contradiction(&self) -> Option<PoolProblem> {
        for (i, first) in self.ranges.iter().enumerate() {
            let mut others = self.ranges[i + 1..].iter();
            if let Some(second) = others.find(|other| other.overlaps(first)) {
                return Some(PoolProblem::OverlapsItself {
                    first: *first,
                    second: *second,
                });
            }
        }
        let outside = |reservation: &&Reservation| {
            let mut ranges = self.ranges.iter();
            !ranges.any(|range| range.contains(&reservation.address))
                || self.excludes(&reservation.address)
        };
        let stray = self.reservations.iter().find(outside)?;
        Some(PoolProblem::ReservationOutside {
            address: stray.address,
            service: stray.service.clone(),
        })
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
    /// It reserves what it does not have.
    #[error(
        "{address} is reserved for Service {service} but is not among the pool's addresses, or is \
         excluded; add it to spec.addresses or take the reservation away"
    )]
    ReservationOutside {
        /// The address.
        address: IpAddr,
        /// Whom it is for.
        service: ServiceKey,
    },
}

impl PoolProblem {
    /// Reason of the pool's condition, `CamelCase`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Overlap { .. } | Self::OverlapsItself { .. } => "Overlap",
            Self::ReservationOutside { .. } => "InvalidReservation",
        }
    }
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

/// Addresses that something in the cluster has already, so that no Service should.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obstacle {
    /// The addresses.
    pub range: AddressRange,
    /// What has them, in words: `node "n1"`, `the pods of node "n1"`,
    /// `the cluster's Services`.
    pub owner: String,
}
