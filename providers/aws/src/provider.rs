//! The provider: what it knows, and how one Service is looked at.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use herald_core::ServiceRequest;
use herald_provider::{Desired, Provider, ProviderError, Refusal, Status, Warning};

use crate::account::{Account, Network};
use crate::action::Action;
use crate::budget::{Budget, Need};
use crate::client::{CallError, Caller, Client, ConnectError, Connection};
use crate::cloud::State;
use crate::identity::TAG_CLUSTER;
use crate::metrics::Metrics;
use crate::observed::Observed;
use crate::plan::plan;
use crate::record::TAG_RETIRES;
use crate::settings::Settings;
use crate::status::status;
use crate::tuning::Tuning;

/// The account is read for all Services, and so has a turn of its own.
pub(crate) const EVERYBODY: Caller<'static> = Caller {
    who: "(account)",
    need: Need::Now,
};

/// Names that Herald gives, and those of the AWS Load Balancer Controller: only target
/// groups of such names can have been left behind.
const PREFIXES: [&str; 2] = ["herald-", "k8s-"];

/// Network Load Balancers for Services of class `herald.dev/aws-nlb`.
#[derive(Clone, Debug)]
pub struct Aws {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) vpc_id: String,
    pub(crate) tuning: Tuning,
    pub(crate) metrics: Metrics,
    account: Mutex<Account>,
    memory: Mutex<Memory>,
    /// Held while the account is read.
    reading: tokio::sync::Mutex<()>,
    /// Held while states are asked for.
    polling: tokio::sync::Mutex<()>,
    /// Held while nodes and groups that nobody knows yet are looked up.
    pub(crate) looking: tokio::sync::Mutex<()>,
    /// Held while a Service is checked in the background: one at a time.
    pub(crate) checking: tokio::sync::Mutex<()>,
}

/// What is true of this process only, and may be lost.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// When the first Service was looked at: a predecessor's last writes may have been
    /// just before.
    pub(crate) began: Option<Instant>,
    /// Services whose targets change: since when, last when, to what.
    pub(crate) gathering: HashMap<String, Gathering>,
    /// What AWS still uses: when to try again, and how long to wait after that.
    pub(crate) held: HashMap<String, (Instant, Duration)>,
    /// Load balancers that AWS would not delete.
    pub(crate) protected: BTreeSet<String>,
    /// Services whose record is not to be trusted before all is read.
    pub(crate) distrusted: HashSet<String>,
    /// Listeners for which AWS takes no weights.
    pub(crate) unweighted: BTreeSet<String>,
    /// What has not borne a Service's tags since then, and may only not show them yet.
    pub(crate) untagged: HashMap<String, Instant>,
    /// What is to be told, by the Service's UID.
    pub(crate) news: HashMap<String, Vec<Warning>>,
    /// When any Service's targets were last changed.
    pub(crate) registered: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Gathering {
    pub(crate) first: Instant,
    pub(crate) last: Instant,
    pub(crate) to: Vec<BTreeSet<crate::spec::Target>>,
}

impl Aws {
    /// Reaches AWS by the SDK's default chain; region and VPC from the settings or
    /// the instance metadata. Nothing is read yet.
    pub async fn new(settings: Settings, metrics: Metrics) -> Result<Self, ConnectError> {
        let connection = Connection::from_chain(&settings).await?;
        let vpc_id = match &settings.vpc_id {
            Some(id) => id.clone(),
            None => connection.vpc_of_this_instance().await?,
        };
        let share = f64::from(settings.api_rate_percent) / 100.0;
        let budget = Budget::with_share(Instant::now(), share);
        Ok(Self::with(
            settings,
            vpc_id,
            &connection,
            budget,
            Tuning::default(),
            metrics,
        ))
    }

    /// The same with a connection, a budget and times of its own.
    pub fn with(
        settings: Settings,
        vpc_id: String,
        connection: &Connection,
        budget: Budget,
        tuning: Tuning,
        metrics: Metrics,
    ) -> Self {
        let client = Client::new(connection, budget, metrics.clone());
        Self {
            shared: Arc::new(Shared {
                client,
                settings,
                vpc_id,
                tuning,
                metrics,
                account: Mutex::default(),
                memory: Mutex::default(),
                reading: tokio::sync::Mutex::default(),
                polling: tokio::sync::Mutex::default(),
                looking: tokio::sync::Mutex::default(),
                checking: tokio::sync::Mutex::default(),
            }),
        }
    }
}

#[async_trait]
impl Provider for Aws {
    type Observed = Observed;
    type Action = Action;

    fn name(&self) -> &'static str {
        "aws"
    }

    fn class(&self) -> &'static str {
        "herald.dev/aws-nlb"
    }

    fn serves(&self, class: &str) -> bool {
        let more = &self.shared.settings.more_classes;
        class == Provider::class(self) || more.iter().any(|other| other == class)
    }

    fn replaced_finalizers(&self) -> &'static [&'static str] {
        &[crate::identity::LBC_FINALIZER]
    }

    fn external(&self) -> bool {
        true
    }

    fn follows_endpoints(&self) -> bool {
        true
    }

    fn needs_endpoints(&self, service: &ServiceRequest) -> bool {
        crate::want::needs_endpoints(&self.shared.settings, service)
    }

    fn references(&self, service: &ServiceRequest) -> Vec<String> {
        crate::want::references(service)
    }

    fn readiness_gate(&self, service: &ServiceRequest) -> Option<String> {
        crate::want::readiness_gate(&self.shared.settings, service)
    }

    fn warnings(&self, service: &ServiceRequest) -> Vec<Warning> {
        crate::want::warnings(service)
    }

    fn news(&self, uid: &str) -> Vec<Warning> {
        self.shared.memory().news.remove(uid).unwrap_or_default()
    }

    async fn observe(&self, desired: &Desired) -> Result<Observed, ProviderError> {
        let observed = self.shared.observe(desired).await?;
        Ok(observed)
    }

    fn plan(&self, _desired: &Desired, observed: &Observed) -> Result<Vec<Action>, Refusal> {
        plan(observed)
    }

    async fn apply(&self, action: &Action) -> Result<(), ProviderError> {
        self.shared.apply(action).await
    }

    fn status(&self, _desired: &Desired, observed: &Observed) -> Status {
        status(observed)
    }
}

impl Shared {
    pub(crate) fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the account if what is known is too old, or began before `after`.
    pub(crate) async fn read_account(&self, after: Option<Instant>) -> Result<(), CallError> {
        let fresh = |read: Option<Instant>| {
            read.is_some_and(|at| {
                at.elapsed() < self.tuning.reading_age && after.is_none_or(|after| at >= after)
            })
        };
        if fresh(self.account().read) {
            return Ok(());
        }
        let _alone = self.reading.lock().await;
        if fresh(self.account().read) {
            return Ok(());
        }
        let began = Instant::now();
        self.memory().began.get_or_insert(began);
        self.read_all(began).await
    }

    async fn read_all(&self, began: Instant) -> Result<(), CallError> {
        let client = &self.client;
        let mut load_balancers = client.load_balancers(EVERYBODY, &[], None).await?;
        let mut target_groups = client.target_groups(EVERYBODY, None, None).await?;
        let cluster = self.settings.cluster_id.clone();
        let filters = [
            (format!("tag:{TAG_CLUSTER}"), vec![cluster]),
            ("vpc-id".to_owned(), vec![self.vpc_id.clone()]),
        ];
        let filters: Vec<(&str, Vec<String>)> = filters
            .iter()
            .map(|(name, values)| (name.as_str(), values.clone()))
            .collect();
        let security_groups = client.security_groups(EVERYBODY, &filters).await?;
        let mut arns: Vec<String> = load_balancers
            .iter()
            .filter(|is| is.network)
            .map(|is| is.arn.clone())
            .collect();
        // One that a load balancer forwards to is found through it; that may be gone
        // already and still be named.
        let exist: BTreeSet<&str> = load_balancers.iter().map(|is| is.arn.as_str()).collect();
        let loose = target_groups.iter().filter(|group| {
            !group
                .load_balancers
                .iter()
                .any(|arn| exist.contains(arn.as_str()))
                && PREFIXES.iter().any(|prefix| group.name.starts_with(prefix))
        });
        arns.extend(loose.map(|group| group.arn.clone()));
        let mut tags = client.tags(EVERYBODY, &arns).await?;
        for is in &mut load_balancers {
            is.tags = tags.remove(&is.arn);
        }
        for group in &mut target_groups {
            group.tags = tags.remove(&group.arn);
        }
        let network = Network {
            vpc_cidrs: client.vpc_cidrs(EVERYBODY, &self.vpc_id).await?,
            subnets: client.subnets(EVERYBODY, &self.vpc_id).await?,
            route_tables: client.route_tables(EVERYBODY, &self.vpc_id).await?,
            zones: client.zones(EVERYBODY).await?,
        };
        let node_groups: Vec<String> = {
            let account = self.account();
            account
                .node_groups
                .values()
                .map(|group| group.id.clone())
                .collect()
        };
        let nodes = if node_groups.is_empty() {
            Vec::new()
        } else {
            client
                .security_groups(EVERYBODY, &[("group-id", node_groups)])
                .await?
        };
        let lag = self.tuning.lag;
        let mut account = self.account();
        account.replace(load_balancers, target_groups, security_groups, began, lag);
        let nodes = nodes.into_iter().map(|group| (group.id.clone(), group));
        account.node_groups.replace(nodes, began, lag, |_, _| ());
        account.instances.clear();
        account.vpc_groups = None;
        account.network = Some(network);
        account.polled = Some(began);
        self.count(&account);
        Ok(())
    }

    /// Sets the gauges of load balancers by state.
    pub(crate) fn count(&self, account: &Account) {
        let mut counts = [
            ("provisioning", 0),
            ("active", 0),
            ("failed", 0),
            ("replaced", 0),
        ];
        let cluster = &self.settings.cluster_id;
        for is in account.load_balancers.values() {
            let ours = is
                .tags
                .as_ref()
                .is_some_and(|tags| crate::account::owner(tags, cluster).is_some());
            if !ours {
                continue;
            }
            let index = match is.state {
                _ if is.tag(TAG_RETIRES).is_some() => 3,
                State::Provisioning => 0,
                State::Active | State::Impaired(_) => 1,
                State::Failed(_) => 2,
            };
            counts[index].1 += 1;
        }
        for (state, count) in counts {
            self.metrics.load_balancers(state, count);
        }
    }

    /// Asks for the states of load balancers that AWS makes, for all Services at once.
    pub(crate) async fn poll(&self) -> Result<(), CallError> {
        let due = || {
            let account = self.account();
            let arns = account.provisioning(&self.settings.cluster_id);
            let due = account
                .polled
                .is_none_or(|at| at.elapsed() >= self.tuning.poll);
            if due { arns } else { Vec::new() }
        };
        if due().is_empty() {
            return Ok(());
        }
        let _alone = self.polling.lock().await;
        let arns = due();
        for arns in arns.chunks(20) {
            let found = match self.client.load_balancers(EVERYBODY, arns, None).await {
                Ok(found) => found,
                // One of them is gone: the next reading tells which.
                Err(error) if error.not_found() => {
                    self.account().read = None;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut account = self.account();
            for is in found {
                account.load_balancers.learnt(&is.arn.clone(), |known| {
                    known.state = is.state;
                    known.dns_name = is.dns_name;
                    known.subnets = is.subnets;
                });
            }
            account.polled = Some(Instant::now());
            self.count(&account);
        }
        Ok(())
    }

    /// Whether the account was read late enough to say that something of a Service is
    /// not there, or not the Service's.
    pub(crate) fn is_sure(&self, uid: &str) -> bool {
        let after = self.sure_after(uid);
        self.account().read.is_some_and(|read| read >= after)
    }

    /// From when on a reading can say that something of a Service is not there.
    pub(crate) fn sure_after(&self, uid: &str) -> Instant {
        let began = self.memory().began.unwrap_or_else(Instant::now);
        let unsure = self.account().unsure.get(uid).copied();
        unsure.map_or(began, |at| at.max(began)) + self.tuning.lag
    }
}
