//! Addresses from pools: the provider of bare metal. The speakers announce
//! what it assigns.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use herald_core::{Ingress, ServiceKey};
use herald_ipam::{
    AddressPools, AllocationError, Allocator, Decision, Pool, PoolProblem, Taken, Usage,
};
use herald_provider::{Desired, Provider, ProviderError, Refusal, Status};

const NAME: &str = "baremetal";

/// The provider of loadBalancerClass `herald.dev/bare-metal`.
///
/// The allocator is behind a mutex that is held for one decision at a time and
/// never across an await.
#[derive(Debug, Default)]
pub struct BareMetal {
    allocator: Mutex<Allocator>,
}

/// What a Service holds and what it should.
#[derive(Debug)]
pub struct Observed {
    held: Vec<IpAddr>,
    decision: Option<Result<Decision, AllocationError>>,
}

/// One step.
#[derive(Debug)]
pub enum Action {
    /// Makes these the addresses of a Service.
    Assign {
        /// `metadata.uid`.
        uid: String,
        /// Which Service.
        key: ServiceKey,
        /// The addresses and the pool of each.
        addresses: Vec<(IpAddr, Option<String>)>,
    },
    /// Frees the addresses of a Service.
    Release {
        /// `metadata.uid`.
        uid: String,
        /// Which Service.
        key: ServiceKey,
        /// What it held.
        addresses: Vec<IpAddr>,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assign { key, addresses, .. } => {
                write!(f, "assign {} to {key}", describe(addresses))
            }
            Self::Release { key, addresses, .. } => {
                let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "release {} of {key}", list.join(" and "))
            }
        }
    }
}

fn describe(addresses: &[(IpAddr, Option<String>)]) -> String {
    let each = |(address, pool): &(IpAddr, Option<String>)| match pool {
        Some(pool) => format!("{address} from pool {pool:?}"),
        None => format!("{address}, which is in no pool any more"),
    };
    addresses.iter().map(each).collect::<Vec<_>>().join(" and ")
}

impl BareMetal {
    fn allocator(&self) -> MutexGuard<'_, Allocator> {
        self.allocator
            .lock()
            .expect("no holder of the allocator panics")
    }
}

impl AddressPools for BareMetal {
    fn provider(&self) -> &'static str {
        NAME
    }

    fn forget(&self) {
        *self.allocator() = Allocator::default();
    }

    fn set_pools(&self, pools: Vec<Pool>) {
        self.allocator().set_pools(pools);
    }

    fn adopt(&self, uid: &str, key: &ServiceKey, addresses: &[IpAddr]) -> Result<(), Taken> {
        self.allocator().assign(uid, key, addresses)
    }

    fn refusal(&self, pool: &str) -> Option<PoolProblem> {
        self.allocator().refusal(pool).cloned()
    }

    fn usage(&self) -> Vec<(String, Usage)> {
        self.allocator()
            .usage()
            .map(|(name, usage)| (name.to_owned(), usage))
            .collect()
    }
}

#[async_trait]
impl Provider for BareMetal {
    type Observed = Observed;
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn class(&self) -> &'static str {
        "herald.dev/bare-metal"
    }

    fn external(&self) -> bool {
        false
    }

    async fn observe(&self, desired: &Desired) -> Result<Observed, ProviderError> {
        let allocator = self.allocator();
        Ok(Observed {
            held: allocator.held(desired.uid()).to_vec(),
            decision: match desired {
                Desired::Present { service, .. } => Some(allocator.decide(service)),
                Desired::Absent { .. } => None,
            },
        })
    }

    fn plan(&self, desired: &Desired, observed: &Observed) -> Result<Vec<Action>, Refusal> {
        let (uid, key) = (desired.uid().to_owned(), desired.key().clone());
        match &observed.decision {
            None if observed.held.is_empty() => Ok(Vec::new()),
            None => Ok(vec![Action::Release {
                uid,
                key,
                addresses: observed.held.clone(),
            }]),
            Some(Err(error)) => Err(Refusal {
                reason: error.reason(),
                message: error.to_string(),
                keep: observed.held.iter().copied().map(Ingress::vip).collect(),
            }),
            Some(Ok(decision)) => {
                let wanted = decision.addresses.iter().map(|(ip, _)| ip);
                if wanted.eq(&observed.held) {
                    return Ok(Vec::new());
                }
                Ok(vec![Action::Assign {
                    uid,
                    key,
                    addresses: decision.addresses.clone(),
                }])
            }
        }
    }

    async fn apply(&self, action: &Action) -> Result<(), ProviderError> {
        match action {
            Action::Assign {
                uid,
                key,
                addresses,
            } => {
                let addresses: Vec<IpAddr> = addresses.iter().map(|(ip, _)| *ip).collect();
                self.allocator()
                    .assign(uid, key, &addresses)
                    .map_err(|taken| ProviderError::Conflict(taken.to_string()))
            }
            Action::Release { uid, .. } => {
                self.allocator().release(uid);
                Ok(())
            }
        }
    }

    fn status(&self, _desired: &Desired, observed: &Observed) -> Status {
        let addresses = match &observed.decision {
            Some(Ok(decision)) => decision.addresses.as_slice(),
            _ => &[],
        };
        Status {
            ingress: addresses.iter().map(|(ip, _)| Ingress::vip(*ip)).collect(),
            ready: !addresses.is_empty(),
            reason: "AddressAssigned",
            message: describe(addresses),
            recheck: None,
            pods: Vec::new(),
        }
    }
}
