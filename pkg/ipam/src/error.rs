//! Why a Service has no address.

use std::fmt;
use std::net::IpAddr;

use herald_core::{IpFamily, ServiceKey};
use thiserror::Error;

use crate::claim::Clash;
use crate::lease::LeaseRequest;

/// Why a Service can't have what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllocationError {
    /// More addresses of one family were asked for than anybody needs.
    #[error(
        "{count} {family} addresses are asked for; at most {} are given",
        crate::MOST_ADDRESSES
    )]
    TooMany {
        /// Their family.
        family: IpFamily,
        /// How many.
        count: usize,
    },
    /// One address was asked for twice.
    #[error("{address} is asked for twice; write it once")]
    Twice {
        /// The address.
        address: IpAddr,
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
    /// An address was asked for that its pool leaves out.
    #[error("{address} is among spec.excludedAddresses of IPAddressPool {pool:?}; ask for another")]
    Excluded {
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: String,
    },
    /// An address was asked for that is kept for another Service.
    #[error("{address} is reserved for Service {holder} in IPAddressPool {pool:?}")]
    Reserved {
        /// The address.
        address: IpAddr,
        /// The pool that reserves it.
        pool: String,
        /// Whom it is for.
        holder: ServiceKey,
    },
    /// Addresses were asked for that are not in one pool.
    #[error(
        "{address} is not in pool {pool:?}; all addresses of a Service come from one pool, \
         unless annotation herald.dev/address-pool names several"
    )]
    NotInPool {
        /// The address.
        address: IpAddr,
        /// The pool asked for, or that of the other address.
        pool: String,
    },
    /// An address was asked for that somebody has.
    #[error(transparent)]
    Taken(#[from] Clash),
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
    /// The source of a pool is to be asked before more can be said.
    #[error("the source of IPAddressPool {:?} is to be asked first", .0.pool)]
    Unasked(Box<LeaseRequest>),
    /// None of its pools gives it one.
    #[error("{}", unavailable(families, pools))]
    Unavailable {
        /// `IPv4`, `IPv6` or `IPv4 and IPv6`.
        families: String,
        /// Each pool that it may use, in order, and why that gives it nothing.
        pools: Vec<(String, WhyNot)>,
    },
}

/// Why a pool gives a Service no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// It has no addresses of a family.
    NoFamily(IpFamily),
    /// All its addresses of a family are used.
    Full(IpFamily),
    /// `spec.state: disabled`.
    Disabled,
    /// `spec.state: draining`.
    Draining,
    /// Its source gives none, and says why.
    Source(String),
    /// Its source is to be asked.
    Unasked,
    /// The namespace has as many addresses as it may.
    AddressLimit {
        /// Whose.
        namespace: String,
        /// How many it may have.
        limit: u32,
    },
    /// As many Services of the namespace have addresses as may.
    ServiceLimit {
        /// Whose.
        namespace: String,
        /// How many may.
        limit: u32,
    },
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFamily(family) => write!(f, "it has no {family} addresses"),
            Self::Full(family) => write!(f, "no {family} address is left"),
            Self::Disabled => f.write_str("it is disabled"),
            Self::Draining => f.write_str("it is draining"),
            Self::Source(message) => write!(f, "its source gives none: {message}"),
            Self::Unasked => f.write_str("its source is to be asked"),
            Self::AddressLimit { namespace, limit } => write!(
                f,
                "namespace {namespace:?} may have {limit} addresses of it, and has no more left"
            ),
            Self::ServiceLimit { namespace, limit } => write!(
                f,
                "{limit} Services of namespace {namespace:?} may use it, and as many do"
            ),
        }
    }
}

fn unavailable(families: &str, pools: &[(String, WhyNot)]) -> String {
    let full = |(_, why): &(String, WhyNot)| matches!(why, WhyNot::Full(_));
    if pools.iter().all(full) {
        let names: Vec<String> = pools.iter().map(|(name, _)| format!("{name:?}")).collect();
        let pools = match names.as_slice() {
            [name] => format!("pool {name}"),
            names => format!("pools {}", names.join(", ")),
        };
        return format!("no {families} address is left in {pools}; add addresses or free some");
    }
    let each: Vec<String> = pools
        .iter()
        .map(|(name, why)| format!("pool {name:?}: {why}"))
        .collect();
    format!(
        "no pool gives this Service its {families} address; {}",
        each.join("; ")
    )
}

impl AllocationError {
    /// Reason of the condition, `CamelCase`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooMany { .. } | Self::Twice { .. } | Self::WrongFamily { .. } => {
                "InvalidRequest"
            }
            Self::OutsidePools { .. } | Self::NotInPool { .. } | Self::Excluded { .. } => {
                "AddressOutsidePools"
            }
            Self::Reserved { .. } => "AddressReserved",
            Self::Taken(_) => "AddressTaken",
            Self::UnknownPool { .. } => "UnknownPool",
            Self::NotAdmitted { .. } | Self::NoPool { .. } => "NoPool",
            Self::Unasked(_) => "SourceUnavailable",
            Self::Unavailable { pools, .. } => reason_of(pools),
        }
    }

    /// The pools that would serve it if they had room.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = &String> {
        let pools = match self {
            Self::Unavailable { pools, .. } => pools.as_slice(),
            _ => &[],
        };
        pools.iter().map(|(name, _)| name)
    }
}

/// What more room would mend comes first.
fn reason_of(pools: &[(String, WhyNot)]) -> &'static str {
    let any = |test: fn(&WhyNot) -> bool| pools.iter().any(|(_, why)| test(why));
    if any(|why| matches!(why, WhyNot::Full(_))) {
        "PoolExhausted"
    } else if any(|why| matches!(why, WhyNot::Source(_))) {
        "SourceRefused"
    } else if any(|why| {
        matches!(
            why,
            WhyNot::AddressLimit { .. } | WhyNot::ServiceLimit { .. }
        )
    }) {
        "LimitReached"
    } else if any(|why| matches!(why, WhyNot::Disabled | WhyNot::Draining)) {
        "PoolDisabled"
    } else {
        "NoPool"
    }
}
