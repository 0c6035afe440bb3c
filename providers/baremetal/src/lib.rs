//! Addresses from pools: the provider of bare metal. The speakers announce
//! what it assigns.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use herald_core::{Ingress, ServiceKey, ServiceRequest};
use herald_ipam::{
    AddressPools, AllocationError, Allocator, Claim, Clash, Decision, Due, Obstacle, Outside, Pool,
    PoolProblem, PoolReport,
};
use herald_provider::{Desired, Provider, ProviderError, Refusal, Status, Warning};

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
pub enum Observed {
    /// It should hold nothing, and holds this.
    Absent(Vec<IpAddr>),
    /// It should hold what is decided, or what it keeps where it was refused.
    Present {
        /// What it should have.
        decision: Decision,
        /// Why that is not what it asks for.
        refused: Option<AllocationError>,
        /// It has that already.
        settled: bool,
    },
}

/// One step.
#[derive(Debug)]
pub enum Action {
    /// Makes these the addresses of a Service.
    Assign {
        /// Which Service, and what it brings along.
        claim: Box<Claim>,
        /// The addresses and the pool of each.
        decision: Decision,
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
            Self::Assign { claim, decision } => {
                let what = describe(decision);
                let what = if what.is_empty() { "nothing" } else { &what };
                write!(f, "assign {what} to {}", claim.key)
            }
            Self::Release { key, addresses, .. } => {
                write!(f, "release {} of {key}", listed(addresses.iter()))
            }
        }
    }
}

fn listed<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    items.join(" and ")
}

fn describe(decision: &Decision) -> String {
    let each = |(address, pool): &(IpAddr, Option<String>)| match pool {
        Some(pool) => format!("{address} from pool {pool:?}"),
        None => format!("{address}, which is in no pool any more"),
    };
    let addresses = listed(decision.addresses.iter().map(each));
    if decision.leaving.is_empty() {
        return addresses;
    }
    let leaving = listed(decision.leaving.iter().map(|(ip, _)| ip));
    format!("{addresses}, and for a while {leaving} beside it")
}

fn ingress(decision: &Decision) -> Vec<Ingress> {
    let addresses = decision.addresses.iter().map(|(ip, _)| *ip);
    let leaving = decision.leaving.iter().map(|(ip, _)| *ip);
    addresses.chain(leaving).map(Ingress::vip).collect()
}

impl BareMetal {
    /// With this rule for addresses that no pool holds any more.
    pub fn new(outside: Outside) -> Self {
        Self {
            allocator: Mutex::new(Allocator::new(outside)),
        }
    }

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
        self.allocator().clear();
    }

    fn set_pools(&self, pools: Vec<Pool>) {
        self.allocator().set_pools(pools);
    }

    fn set_obstacles(&self, obstacles: Vec<Obstacle>) -> bool {
        self.allocator().set_obstacles(obstacles)
    }

    fn adopt(&self, service: &ServiceRequest, addresses: &[IpAddr]) -> Result<(), Clash> {
        self.allocator()
            .adopt(service, addresses, SystemTime::now())
    }

    fn restore(&self, resting: &[(IpAddr, SystemTime)]) {
        self.allocator().restore(resting);
    }

    fn refusal(&self, pool: &str) -> Option<PoolProblem> {
        self.allocator().refusal(pool).cloned()
    }

    fn reports(&self) -> Vec<PoolReport> {
        self.allocator().reports()
    }

    fn due(&self) -> Due {
        self.allocator().due(SystemTime::now())
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

    fn warnings(&self, service: &ServiceRequest) -> Vec<Warning> {
        let notices = self.allocator().notices(service);
        let warning = |notice: herald_ipam::Notice| Warning {
            reason: notice.reason,
            message: notice.message,
        };
        notices.into_iter().map(warning).collect()
    }

    async fn observe(&self, desired: &Desired) -> Result<Observed, ProviderError> {
        let mut allocator = self.allocator();
        let Desired::Present { service, .. } = desired else {
            return Ok(Observed::Absent(allocator.withdraw(desired.uid())));
        };
        let (decision, refused) = match allocator.decide(service, SystemTime::now()) {
            Ok(decision) => (decision, None),
            Err(error) => (allocator.tenable(service), Some(error)),
        };
        Ok(Observed::Present {
            settled: allocator.is_settled(&Claim::of(service), &decision),
            decision,
            refused,
        })
    }

    fn plan(&self, desired: &Desired, observed: &Observed) -> Result<Vec<Action>, Refusal> {
        match (desired, observed) {
            (_, Observed::Absent(held)) if held.is_empty() => Ok(Vec::new()),
            (_, Observed::Absent(held)) => Ok(vec![Action::Release {
                uid: desired.uid().to_owned(),
                key: desired.key().clone(),
                addresses: held.clone(),
            }]),
            (
                Desired::Present { service, .. },
                Observed::Present {
                    decision,
                    settled: false,
                    ..
                },
            ) => Ok(vec![Action::Assign {
                claim: Box::new(Claim::of(service)),
                decision: decision.clone(),
            }]),
            (
                _,
                Observed::Present {
                    decision,
                    refused: Some(error),
                    ..
                },
            ) => Err(Refusal {
                reason: error.reason(),
                message: error.to_string(),
                keep: ingress(decision),
            }),
            (_, Observed::Present { .. }) => Ok(Vec::new()),
        }
    }

    async fn apply(&self, action: &Action) -> Result<(), ProviderError> {
        match action {
            Action::Assign { claim, decision } => self
                .allocator()
                .assign((**claim).clone(), decision, SystemTime::now())
                .map_err(|clash| ProviderError::Conflict(clash.to_string())),
            Action::Release { uid, .. } => {
                self.allocator().release(uid, SystemTime::now());
                Ok(())
            }
        }
    }

    fn status(&self, _desired: &Desired, observed: &Observed) -> Status {
        let none = Decision::default();
        let decision = match observed {
            Observed::Present { decision, .. } => decision,
            Observed::Absent(_) => &none,
        };
        Status {
            ingress: ingress(decision),
            ready: !decision.addresses.is_empty(),
            reason: "AddressAssigned",
            message: describe(decision),
            recheck: None,
            pods: Vec::new(),
        }
    }
}
