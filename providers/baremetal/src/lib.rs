//! Addresses from pools: the provider of bare metal. The speakers announce
//! what it assigns.

mod source;
mod tend;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use herald_core::{Ingress, ServiceKey, ServiceRequest};
use herald_ipam::{
    AddressPools, AllocationError, Allocator, Claim, Clash, Decision, Due, LeaseRequest, Obstacle,
    Outside, Pool, PoolProblem, PoolReport, Sourced,
};
use herald_provider::{Desired, Provider, ProviderError, Refusal, Status, Warning};
use tokio::sync::Notify;

pub use crate::source::{InvalidSource, SourceSettings, SourceUrl};
use crate::source::{Source, SourceError};

const NAME: &str = "baremetal";
/// What is being given back to a source can't be asked of it: it is looked at again
/// after this long.
const RETURNING: Duration = Duration::from_millis(100);
/// Where a source has others to serve first.
const BUSY: Duration = Duration::from_millis(500);

/// The provider of loadBalancerClass `herald.dev/bare-metal`.
///
/// The allocator is behind a mutex that is held for one decision at a time and
/// never across an await.
#[derive(Debug, Default)]
pub struct BareMetal {
    allocator: Mutex<Allocator>,
    /// By name.
    sources: HashMap<String, Arc<Source>>,
    /// Pools that take their addresses from a source, by name.
    sourced: Mutex<BTreeMap<String, Sourced>>,
    /// Pools of which their source had nothing when it was asked last.
    emptied: Mutex<BTreeSet<String>>,
    /// Something is to be told to a source.
    news: Notify,
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
    /// Before more can be said a source is to be asked.
    Unasked(Box<LeaseRequest>),
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
    /// Asks the source of a pool for an address.
    Ask(Box<LeaseRequest>),
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
            Self::Ask(request) => {
                let what = match request.address {
                    Some(address) => address.to_string(),
                    None => format!("an {} address", request.family),
                };
                let (pool, service) = (&request.pool, &request.service);
                write!(
                    f,
                    "ask the source of pool {pool:?} for {what} for {service}"
                )
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
            ..Self::default()
        }
    }

    /// With sources that pools may take their addresses from. `cluster` tells this
    /// cluster's leases from those of others.
    #[must_use]
    pub fn with_sources(mut self, sources: Vec<SourceSettings>, cluster: &str) -> Self {
        let source = |settings: SourceSettings| {
            let name = settings.name.clone();
            (name, Arc::new(Source::new(settings, cluster.to_owned())))
        };
        self.sources = sources.into_iter().map(source).collect();
        self
    }

    fn allocator(&self) -> MutexGuard<'_, Allocator> {
        self.allocator
            .lock()
            .expect("no holder of the allocator panics")
    }

    fn sourced(&self) -> MutexGuard<'_, BTreeMap<String, Sourced>> {
        self.sourced.lock().expect("no holder of the list panics")
    }

    fn set_emptied(&self, pool: &str, emptied: bool) {
        let mut all = self.emptied.lock().expect("no holder of the list panics");
        if emptied {
            all.insert(pool.to_owned());
        } else {
            all.remove(pool);
        }
    }

    /// Has the sources be told, if there is something to tell.
    fn tell_sources(&self) {
        let pools = self.sourced();
        let allocator = self.allocator();
        if pools.keys().any(|pool| allocator.has_departing(pool)) {
            self.news.notify_one();
        }
    }

    /// Asks a source for an address, and takes down what it says.
    async fn ask(&self, request: &LeaseRequest) -> Result<(), ProviderError> {
        let sourced = self.sourced().get(&request.pool).cloned();
        let source = sourced.and_then(|sourced| self.sources.get(&sourced.source));
        let Some(source) = source.cloned() else {
            return Err(ProviderError::Conflict("the pool has changed".into()));
        };
        let later = |error: &SourceError, recheck| ProviderError::Waiting {
            reason: "SourceUnavailable",
            message: format!(
                "pool {:?} has no address for this Service yet: {error}; it is asked again",
                request.pool
            ),
            recheck,
        };
        let turn = source.turn().await.map_err(|error| later(&error, BUSY))?;
        // A pool that is on its way out gets nothing any more, and is not done with
        // before the turns are over.
        let open = self
            .sourced()
            .get(&request.pool)
            .is_some_and(|sourced| !sourced.closing);
        if !open {
            return Err(ProviderError::Conflict("the pool has changed".into()));
        }
        let said = match source.put(request).await {
            Ok(address) => Ok(address),
            Err(SourceError::Refused(message)) => Err(message),
            Err(error) => return Err(later(&error, source.pause())),
        };
        self.allocator().answer(request, said, SystemTime::now());
        drop(turn);
        self.tell_sources();
        Ok(())
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

    fn has_source(&self, name: &str) -> bool {
        self.sources.contains_key(name)
    }

    fn set_sourced(&self, pools: BTreeMap<String, Sourced>) {
        let mut sourced = self.sourced();
        if *sourced == pools {
            return;
        }
        // What was seen before a pool was closed does not count.
        let mut emptied = self.emptied.lock().expect("no holder of the list panics");
        emptied.retain(|pool| pools.get(pool) == sourced.get(pool));
        *sourced = pools;
        self.news.notify_one();
    }

    fn is_emptied(&self, pool: &str) -> bool {
        let emptied = self.emptied.lock().expect("no holder of the list panics");
        emptied.contains(pool)
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

    async fn tend(
        &self,
        fence: &(dyn Fn() -> Result<(), ProviderError> + Sync),
        stirred: &(dyn Fn() + Sync),
    ) {
        self.tend_sources(fence, stirred).await;
    }

    async fn observe(&self, desired: &Desired) -> Result<Observed, ProviderError> {
        let Desired::Present { service, .. } = desired else {
            let held = self.allocator().withdraw(desired.uid());
            self.tell_sources();
            return Ok(Observed::Absent(held));
        };
        let mut allocator = self.allocator();
        let (decision, refused) = match allocator.decide(service, SystemTime::now()) {
            Ok(decision) => (decision, None),
            Err(AllocationError::Unasked(request)) if allocator.is_returning(&request) => {
                return Err(ProviderError::Waiting {
                    reason: "SourceUnavailable",
                    message: format!(
                        "what the Service had of pool {:?} is being given back to its source first",
                        request.pool
                    ),
                    recheck: RETURNING,
                });
            }
            Err(AllocationError::Unasked(request)) => return Ok(Observed::Unasked(request)),
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
            (_, Observed::Unasked(request)) => Ok(vec![Action::Ask(request.clone())]),
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
            Action::Ask(request) => self.ask(request).await,
            Action::Assign { claim, decision } => {
                let claim = (**claim).clone();
                let assigned = self.allocator().assign(claim, decision, SystemTime::now());
                self.tell_sources();
                assigned.map_err(|clash| ProviderError::Conflict(clash.to_string()))
            }
            Action::Release { uid, .. } => {
                self.allocator().release(uid, SystemTime::now());
                self.tell_sources();
                Ok(())
            }
        }
    }

    fn status(&self, _desired: &Desired, observed: &Observed) -> Status {
        let none = Decision::default();
        let decision = match observed {
            Observed::Present { decision, .. } => decision,
            Observed::Absent(_) | Observed::Unasked(_) => &none,
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
