//! The leader's term: what exists is adopted, then every change is answered.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt as _;
use herald_api::names::FINALIZER;
use herald_api::{Retry, convert};
use herald_core::{Node, ServiceKey};
use herald_ipam::{AddressPools, Obstacle};
use herald_provider::DynProvider;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::bgp_status;
use crate::conditions;
use crate::events;
use crate::heartbeat_keys;
use crate::lease::Fence;
use crate::metallb::mirror;
use crate::metrics::OperatorMetrics;
use crate::pools::PoolKeeper;
use crate::queue::Queue;
use crate::reconcile::{Context, Next, Report, Tracked};
use crate::stores::{Change, Stores, key_of};
use crate::writer::Writer;
use crate::{Config, obstacles, request};

/// Services of one answer to a list.
const PAGE: u32 = 500;
/// Services worked on at once.
const WORKERS: usize = 16;
/// Statuses of pools are written at most this often.
const POOL_STATUS_PERIOD: Duration = Duration::from_secs(1);
/// After work on a Service, before it is asked whose turn it is.
const TURN_SETTLE: Duration = Duration::from_millis(20);
/// Between two questions whose turn it is, while it is somebody's.
const TURN_PERIOD: Duration = Duration::from_secs(1);
/// Changes of nodes are gathered for this long.
const NODE_SETTLE: Duration = Duration::from_millis(100);
/// Changes of endpoints are gathered for this long.
const ENDPOINT_SETTLE: Duration = Duration::from_millis(100);
/// At the end of a term events that wait are written for so long.
const LAST_EVENTS: Duration = Duration::from_secs(2);

pub(crate) struct Controller {
    client: Client,
    namespace: String,
    adopt_metallb: Option<String>,
    stores: Stores,
    context: Arc<Context>,
    addresses: Option<Arc<dyn AddressPools>>,
    pools: PoolKeeper,
    queue: Queue,
    tracked: HashMap<ServiceKey, Tracked>,
    waiting: HashSet<ServiceKey>,
    workers: JoinSet<Report>,
    nodes: Vec<Node>,
    nodes_due: Option<Instant>,
    endpoints: HashSet<ServiceKey>,
    endpoints_due: Option<Instant>,
    pools_due: Option<Instant>,
    /// The statuses of pools that are being written; at most one task.
    pools_writing: JoinSet<bool>,
    events: AbortOnDropHandle<()>,
    /// Addresses that the cluster uses and that its objects do not tell.
    obstacles: Vec<Obstacle>,
    /// When to ask whose turn it is, though nothing about a Service changed.
    turn_due: Option<Instant>,
}

impl Controller {
    /// `client` reads; `writes` is for whatever must not happen after the term.
    pub(crate) fn new(
        client: &Client,
        writes: &Client,
        config: &Config,
        stores: Stores,
        fence: Fence,
        metrics: OperatorMetrics,
    ) -> Self {
        let instance = config.lease.identity.clone();
        let (desk, writing) = events::Desk::open(writes.clone(), instance);
        let writer = Writer::new(
            client.clone(),
            writes.clone(),
            fence,
            desk,
            metrics.0.clone(),
        );
        let context = Context {
            services: stores.services.clone(),
            nodes: stores.nodes.clone(),
            namespaces: stores.namespaces.clone(),
            endpoints: stores.endpoints.clone(),
            providers: config.providers.clone(),
            default_provider: config.default_provider.clone(),
            other_operators: config.other_operators,
            dry_run: config.dry_run,
            writer: writer.clone(),
            metrics: metrics.0.clone(),
        };
        Self {
            pools: PoolKeeper::new(writes.clone(), config.namespace.clone(), writer, metrics.0),
            client: client.clone(),
            namespace: config.namespace.clone(),
            adopt_metallb: config.adopt_metallb.clone(),
            stores,
            context: Arc::new(context),
            addresses: config.pools.clone(),
            queue: Queue::default(),
            tracked: HashMap::new(),
            waiting: HashSet::new(),
            workers: JoinSet::new(),
            nodes: Vec::new(),
            nodes_due: None,
            endpoints: HashSet::new(),
            endpoints_due: None,
            pools_due: None,
            pools_writing: JoinSet::new(),
            events: AbortOnDropHandle::new(tokio::spawn(writing)),
            obstacles: config.obstacles.clone(),
            turn_due: None,
        }
    }

    /// Works until `stop` is cancelled, and then finishes what was begun; or until
    /// the lease is `lost`, and then drops it.
    pub(crate) async fn run(
        mut self,
        stop: &CancellationToken,
        lost: &CancellationToken,
    ) -> Stores {
        let begun = tokio::select! {
            biased;
            () = lost.cancelled() => false,
            () = stop.cancelled() => false,
            () = self.adopt() => true,
        };
        if begun {
            let _keys = self.keep_heartbeat_keys();
            let _copies = self.keep_copies();
            let _judged = self.judge_bgp();
            let _tended = self.tend_providers();
            self.work(stop, lost).await;
        }
        self.end(lost).await
    }

    async fn work(&mut self, stop: &CancellationToken, lost: &CancellationToken) {
        loop {
            self.dispatch();
            let wake = [
                self.queue.next().filter(|_| self.workers.len() < WORKERS),
                self.nodes_due,
                self.endpoints_due,
                self.pools_due.filter(|_| self.pools_writing.is_empty()),
                self.turn_due,
            ]
            .into_iter()
            .flatten()
            .min();
            let timer = async {
                match wake {
                    Some(wake) => tokio::time::sleep_until(wake.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = lost.cancelled() => return,
                () = stop.cancelled() => return,
                Some(change) = self.stores.changes.recv() => self.changed(change),
                Some(Ok(report)) = self.workers.join_next() => self.finished(report),
                Some(written) = self.pools_writing.join_next() => {
                    if !written.unwrap_or(false) {
                        self.pools_soon();
                    }
                }
                () = timer => {}
            }
            self.nodes_if_due();
            self.endpoints_if_due();
            self.turns_if_due();
            self.pools_if_due();
        }
    }

    /// Ends the term: nothing of it goes on when this returns.
    async fn end(mut self, lost: &CancellationToken) -> Stores {
        // What was begun is finished: an action under way is not cut off, unless it
        // is not ours to do any more.
        let finish = async { while self.workers.join_next().await.is_some() {} };
        let _ = lost.run_until_cancelled(finish).await;
        self.workers.shutdown().await;
        self.pools_writing.shutdown().await;
        let Self {
            stores,
            context,
            pools,
            events,
            ..
        } = self;
        // They hold the desk open.
        drop((context, pools));
        if !lost.is_cancelled() {
            let _ = tokio::time::timeout(LAST_EVENTS, events).await;
        }
        stores
    }

    /// The speakers announce addresses from pools; who has none needs no key. It
    /// ends when what is returned is dropped.
    fn keep_heartbeat_keys(&self) -> Option<AbortOnDropHandle<()>> {
        self.addresses.as_ref()?;
        let secrets = Api::namespaced(self.context.writer.client(), &self.namespace);
        let keep = heartbeat_keys::keep(secrets, self.context.writer.clone());
        Some(AbortOnDropHandle::new(tokio::spawn(keep)))
    }

    /// Says of the objects that BGP is set up by whether they are in force. Who has no
    /// pools has none of them.
    fn judge_bgp(&self) -> Option<AbortOnDropHandle<()>> {
        self.addresses.as_ref().filter(|_| !self.context.dry_run)?;
        let writer = self.context.writer.clone();
        let keep = bgp_status::keep(self.client.clone(), self.namespace.clone(), writer);
        Some(AbortOnDropHandle::new(tokio::spawn(keep)))
    }

    /// Follows `MetalLB`'s objects, if asked for.
    fn keep_copies(&self) -> Option<AbortOnDropHandle<()>> {
        let keep = mirror::keep(
            self.client.clone(),
            self.context.writer.clone(),
            self.adopt_metallb.clone()?,
            self.namespace.clone(),
        );
        Some(AbortOnDropHandle::new(tokio::spawn(keep)))
    }

    /// Lets providers do what belongs to no Service, in a dry run nothing. It ends when
    /// what is returned is dropped.
    fn tend_providers(&self) -> Vec<AbortOnDropHandle<()>> {
        let context = &self.context;
        let providers = context.providers.iter().filter(|_| !context.dry_run);
        let tend = |provider: &Arc<dyn DynProvider>| {
            let (provider, context) = (provider.clone(), context.clone());
            let stir = self.stores.stir();
            AbortOnDropHandle::new(tokio::spawn(async move {
                provider.tend(&|| context.may_act(), &stir).await;
            }))
        };
        providers.map(tend).collect()
    }

    /// Takes over what exists before anything new is served. The list is fresh
    /// from the API server: what the last leader wrote in its last moments is
    /// in it, which may not be true of the stores.
    async fn adopt(&mut self) {
        let mut services = self.list_in_the_end().await;
        services.sort_by_key(|service| {
            (
                service
                    .metadata
                    .creation_timestamp
                    .as_ref()
                    .map(|time| time.0),
                service.uid(),
            )
        });
        if let Some(pools) = self.addresses.clone() {
            // What was given in a former term is known from the Services.
            pools.forget();
            let objects = self.stores.pools.state();
            self.pools.feed(&objects, pools.as_ref());
            self.feed_obstacles();
            for service in &services {
                self.adopt_addresses(service, pools.as_ref());
            }
            PoolKeeper::restore(&objects, pools.as_ref());
        }
        let now = Instant::now();
        for service in &services {
            self.queue.add(key_of(service), now);
        }
        self.pools_due = Some(now);
        self.nodes = self.relevant_nodes();
        tracing::info!(services = services.len(), "term begins");
    }

    /// Every Service that matters, however often it must be tried.
    async fn list_in_the_end(&self) -> Vec<Arc<Service>> {
        for pause in Retry::default() {
            match self.list().await {
                Ok(services) => return services,
                Err(error) => tracing::warn!(
                    %error,
                    "cannot read what exists before serving anything new; it is tried again"
                ),
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("delays never end")
    }

    /// Every Service that is ours or was, page by page.
    async fn list(&self) -> kube::Result<Vec<Arc<Service>>> {
        let api: Api<Service> = Api::all(self.client.clone());
        let mut page = ListParams::default().limit(PAGE);
        let mut services = Vec::new();
        loop {
            let list = api.list(&page).await?;
            let ours = list.items.into_iter().filter(concerns);
            services.extend(ours.map(|service| self.stores.same(service)));
            match list.metadata.continue_ {
                Some(token) if !token.is_empty() => page = page.continue_token(&token),
                _ => return Ok(services),
            }
        }
    }

    fn adopt_addresses(&mut self, service: &Service, pools: &dyn AddressPools) {
        let Some(provider) = self.context.provider_name(service) else {
            return;
        };
        let key = key_of(service);
        let uid = service.uid().unwrap_or_default();
        let addresses: Vec<IpAddr> = convert::vips(service).collect();
        if provider != pools.provider() || addresses.is_empty() {
            return;
        }
        let holder = request::holder(service, self.context.namespace_labels(service));
        if let Err(clash) = pools.adopt(&holder, &addresses) {
            tracing::warn!(service = %key, "{clash}; this Service gets another address");
        }
        let provider = provider.to_owned();
        let depends = BTreeSet::new();
        self.tracked.insert(
            key,
            Tracked {
                uid,
                provider,
                depends,
            },
        );
    }

    /// Tells the provider of pools which addresses the cluster itself uses, and says
    /// whether that concerns a pool.
    fn feed_obstacles(&self) -> bool {
        let Some(pools) = &self.addresses else {
            return false;
        };
        let mut all = self.obstacles.clone();
        for node in self.stores.nodes.state() {
            all.extend(obstacles::of_node(&node));
        }
        for object in self.stores.service_cidrs.iter().flat_map(Store::state) {
            all.extend(obstacles::of_service_cidr(&object));
        }
        pools.set_obstacles(all)
    }

    /// Looks at those who have an address that is in the cluster's way now, or no
    /// more.
    fn obstacles_changed(&mut self) {
        if self.feed_obstacles() {
            self.everything();
            self.pools_soon();
        }
    }

    fn dispatch(&mut self) {
        let now = Instant::now();
        while self.workers.len() < WORKERS
            && let Some(key) = self.queue.take(now)
        {
            let context = self.context.clone();
            let tracked = self.tracked.get(&key).cloned();
            self.workers.spawn(async move {
                let work = context.reconcile(key.clone(), tracked.clone());
                // A mistake of ours that one Service brings out is not the others'
                // loss; the panic's message is in the log.
                AssertUnwindSafe(work)
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|_| Report::panicked(key, tracked))
            });
        }
        self.context
            .metrics
            .queue
            .set(i64::try_from(self.queue.len()).unwrap_or(i64::MAX));
    }

    fn finished(&mut self, report: Report) {
        let now = Instant::now();
        let key = report.key;
        match report.tracked {
            Some(tracked) => self.tracked.insert(key.clone(), tracked),
            None => self.tracked.remove(&key),
        };
        if report.waiting {
            self.waiting.insert(key.clone());
        } else {
            self.waiting.remove(&key);
        }
        match report.next {
            Next::Done(recheck) => self.queue.done(&key, now, recheck),
            Next::Failed(at_least) => self.queue.failed(&key, now, at_least),
            Next::Again | Next::Stale => self.queue.done(&key, now, Some(Duration::ZERO)),
        }
        if report.released {
            for key in self.waiting.clone() {
                self.queue.add(key, now);
            }
        }
        self.turns_by(now + TURN_SETTLE);
        self.pools_soon();
    }

    fn changed(&mut self, change: Change) {
        let now = Instant::now();
        match change {
            Change::Service(key) => self.queue.add(key, now),
            Change::Services => self.everything(),
            Change::Pools => {
                let objects = self.stores.pools.state();
                let addresses = self.addresses.clone();
                if addresses.is_some_and(|pools| self.pools.feed(&objects, pools.as_ref())) {
                    self.everything();
                    self.turns_by(now);
                }
                self.pools_soon();
            }
            Change::ServiceCidrs => self.obstacles_changed(),
            Change::Turns => {
                self.turns_by(now);
                self.pools_soon();
            }
            Change::Namespaces => {
                for key in self.waiting.clone() {
                    self.queue.add(key, now);
                }
            }
            Change::Endpoints(key) => {
                self.endpoints.insert(key);
                if self.endpoints_due.is_none() {
                    self.endpoints_due = Some(now + ENDPOINT_SETTLE);
                }
            }
            Change::Nodes => {
                if self.nodes_due.is_none() {
                    self.nodes_due = Some(now + NODE_SETTLE);
                }
            }
        }
    }

    fn everything(&mut self) {
        let now = Instant::now();
        let services = self.stores.services.state();
        let keys = services
            .iter()
            .map(|service| key_of(service))
            .chain(self.tracked.keys().cloned());
        for key in keys.collect::<HashSet<_>>() {
            self.queue.add(key, now);
        }
    }

    /// Nodes as far as load balancers outside the cluster care.
    fn relevant_nodes(&self) -> Vec<Node> {
        let mut nodes: Vec<Node> = self
            .stores
            .nodes
            .state()
            .iter()
            .map(|node| convert::node(node))
            .collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    fn nodes_if_due(&mut self) {
        let now = Instant::now();
        if self.nodes_due.is_none_or(|due| due > now) {
            return;
        }
        self.nodes_due = None;
        self.obstacles_changed();
        let nodes = self.relevant_nodes();
        if nodes == self.nodes {
            return;
        }
        self.nodes = nodes;
        let external: HashSet<&str> = self
            .context
            .providers
            .iter()
            .filter(|provider| provider.external())
            .map(|provider| provider.name())
            .collect();
        for (key, tracked) in &self.tracked {
            if external.contains(tracked.provider.as_str()) {
                self.queue.add(key.clone(), now);
            }
        }
    }

    fn endpoints_if_due(&mut self) {
        let now = Instant::now();
        if self.endpoints_due.is_none_or(|due| due > now) {
            return;
        }
        self.endpoints_due = None;
        let changed = std::mem::take(&mut self.endpoints);
        for (key, tracked) in &self.tracked {
            let mut depends = tracked.depends.iter();
            if depends.any(|name| changed.contains(&ServiceKey::new(&key.namespace, name))) {
                self.queue.add(key.clone(), now);
            }
        }
    }

    fn turns_by(&mut self, when: Instant) {
        self.turn_due = Some(self.turn_due.map_or(when, |other| other.min(when)));
    }

    /// Looks at Services whose turn it is: an address leaves them, they leave a pool
    /// that is draining, or what they wait for may be there.
    fn turns_if_due(&mut self) {
        let now = Instant::now();
        if self.turn_due.is_none_or(|due| due > now) {
            return;
        }
        self.turn_due = None;
        let Some(addresses) = &self.addresses else {
            return;
        };
        let due = addresses.due();
        // What can't be done now (a Service that contradicts itself, a dry run) is
        // due again at once; it is asked for at leisure.
        let again = (!due.services.is_empty()).then_some(TURN_PERIOD);
        let next = due
            .next
            .map(|next| next.duration_since(SystemTime::now()).unwrap_or_default());
        for key in due.services {
            self.queue.add(key, now);
        }
        if let Some(wait) = again.into_iter().chain(next).min() {
            self.turns_by(now + wait);
        }
    }

    fn pools_soon(&mut self) {
        if self.pools_due.is_none() {
            self.pools_due = Some(Instant::now() + POOL_STATUS_PERIOD);
        }
    }

    /// Writes the statuses of pools, beside the work: the API may take its time.
    fn pools_if_due(&mut self) {
        let Some(addresses) = self.addresses.clone() else {
            return;
        };
        if self.pools_due.is_none_or(|due| due > Instant::now()) || !self.pools_writing.is_empty() {
            return;
        }
        self.pools_due = None;
        let (keeper, pools) = (self.pools.clone(), self.stores.pools.state());
        self.pools_writing
            .spawn(async move { keeper.write(&pools, addresses.as_ref()).await });
    }
}

/// Whether a Service is a load balancer, or bears a trace of having been one of ours.
fn concerns(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let mut finalizers = service.finalizers().iter();
    spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
        || finalizers.any(|finalizer| finalizer == FINALIZER)
        || conditions::ours(service).is_some()
}
