//! One Service, from what it asks for to what its status says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use herald_api::convert;
use herald_api::names::{
    ANNOTATION_DRY_RUN, CLASS_AWS_NLB, CLASS_BARE_METAL, CLASS_FAKE, FINALIZER,
};
use herald_core::{Backend, Labels, Node, ServiceKey, ServiceReference, ServiceRequest};
use herald_provider::{Desired, DynProvider, Outcome, PodHealth, ProviderError, Status, Warning};
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource as _, ResourceExt as _};

use crate::conditions::{self, Verdict};
use crate::metrics::{Metrics, ReasonLabel};
use crate::writer::{WriteError, Writer};
use crate::{endpoints, gates, request};

/// A Service that changed under two attempts in a row is looked at again after this
/// long.
const STALE_RETRY: Duration = Duration::from_millis(20);
/// No event tells that a pod's containers became ready while its readiness gate is
/// shut: it is asked for this often while there is such a pod.
const GATE_POLL: Duration = Duration::from_secs(5);
/// Services that another one refers to are not followed, unless they are load
/// balancers too: their ports are read this often.
const REFERENCE_POLL: Duration = Duration::from_mins(1);

/// Every class of Herald's.
const CLASSES: [&str; 3] = [CLASS_BARE_METAL, CLASS_AWS_NLB, CLASS_FAKE];

/// What every worker reads.
pub(crate) struct Context {
    pub(crate) services: Store<Service>,
    pub(crate) nodes: Store<core_v1::Node>,
    pub(crate) namespaces: Store<Namespace>,
    pub(crate) endpoints: Option<Store<EndpointSlice>>,
    pub(crate) providers: Vec<Arc<dyn DynProvider>>,
    pub(crate) default_provider: Option<String>,
    /// Whether other operators serve the classes that this one does not.
    pub(crate) other_operators: bool,
    pub(crate) dry_run: bool,
    pub(crate) writer: Writer,
    pub(crate) metrics: Arc<Metrics>,
}

/// A Service that a provider has been asked to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tracked {
    pub(crate) uid: String,
    /// Name of the provider.
    pub(crate) provider: String,
    /// Services of its namespace whose endpoints it depends on.
    pub(crate) depends: BTreeSet<String>,
}

/// What stands behind a Service.
#[derive(Default)]
struct Backing {
    endpoints: Vec<Backend>,
    references: Vec<ServiceReference>,
    /// Type of the condition that its pods may wait for.
    gate: Option<String>,
    /// Pods that may wait for it.
    pods: Vec<Pod>,
    /// When to look again, as no event will tell.
    recheck: Option<Duration>,
}

/// How work on a Service ended.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) key: ServiceKey,
    /// What is served for it from now on.
    pub(crate) tracked: Option<Tracked>,
    /// It waits for something to become free.
    pub(crate) waiting: bool,
    /// Something was given back that another may wait for.
    pub(crate) released: bool,
    pub(crate) next: Next,
}

impl Report {
    /// The work ended in a panic: what was known stays so, and it is tried again.
    pub(crate) fn panicked(key: ServiceKey, tracked: Option<Tracked>) -> Self {
        tracing::error!(service = %key, "working on this Service ended in a panic; please report it");
        Self {
            key,
            tracked,
            waiting: false,
            released: false,
            next: Next::Failed(None),
        }
    }
}

/// When to look again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// When something changes, or after this long.
    Done(Option<Duration>),
    /// After a back-off, or after this long.
    Failed(Option<Duration>),
    /// At once: the object changed by us.
    Again,
    /// At once, from the API: the object changed under us.
    Stale,
}

/// Whose a Service is.
enum Owner<'a> {
    Provider(&'a Arc<dyn DynProvider>),
    /// A class of ours that nobody serves.
    UnknownClass(String),
    /// Another operator of Herald's: what it says on the Service is not ours to
    /// take away.
    OtherOperator,
    /// Not a load balancer, on its way out, or another controller's.
    Nobody,
}

impl Context {
    /// Brings one Service to its desired state.
    pub(crate) async fn reconcile(&self, key: ServiceKey, tracked: Option<Tracked>) -> Report {
        let begin = Instant::now();
        let mut report = Report {
            key,
            tracked,
            waiting: false,
            released: false,
            next: Next::Done(None),
        };
        let mut ended = self.attempt(&mut report, false).await;
        if matches!(ended, Err(Next::Stale)) {
            // The store may not have heard of it yet.
            ended = self.attempt(&mut report, true).await;
        }
        match ended {
            Ok(()) => {}
            Err(Next::Stale) => report.next = Next::Done(Some(STALE_RETRY)),
            Err(next) => report.next = next,
        }
        self.metrics
            .reconcile_seconds
            .observe(begin.elapsed().as_secs_f64());
        report
    }

    /// `fresh`: not from the store, but from the API.
    async fn attempt(&self, report: &mut Report, fresh: bool) -> Result<(), Next> {
        let service = if fresh {
            self.read(&report.key).await?
        } else {
            self.find(&report.key).await?
        };
        let owner = service
            .as_ref()
            .map_or(Owner::Nobody, |service| self.owner(service));
        self.clear(report, service.as_ref(), &owner).await?;
        let Some(service) = service else {
            return Ok(());
        };
        match owner {
            Owner::OtherOperator => self.hand_over(&service).await,
            Owner::Nobody => self.forget(&service).await,
            Owner::UnknownClass(class) => {
                let known: Vec<&str> = self
                    .providers
                    .iter()
                    .map(|provider| provider.class())
                    .collect();
                let verdict = Verdict {
                    ingress: Vec::new(),
                    ready: false,
                    reason: "UnknownClass",
                    message: format!(
                        "loadBalancerClass {class:?} is served by nobody here; this operator serves {}",
                        known.join(", ")
                    ),
                    warnings: None,
                };
                self.say(&service, &verdict).await
            }
            Owner::Provider(provider) => self.serve(report, service, provider).await,
        }
    }

    /// The Service from the store, or from the API where it left the store: it
    /// may be gone, or of another type.
    async fn find(&self, key: &ServiceKey) -> Result<Option<Service>, Next> {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        if let Some(service) = self.services.get(&reference) {
            return Ok(Some((*service).clone()));
        }
        self.read(key).await
    }

    async fn read(&self, key: &ServiceKey) -> Result<Option<Service>, Next> {
        self.writer
            .get(&key.namespace, &key.name)
            .await
            .map_err(|error| {
                tracing::warn!(service = %key, %error, "reading a Service");
                Next::Failed(None)
            })
    }

    fn owner(&self, service: &Service) -> Owner<'_> {
        let Some(spec) = &service.spec else {
            return Owner::Nobody;
        };
        if spec.type_.as_deref() != Some("LoadBalancer")
            || service.metadata.deletion_timestamp.is_some()
        {
            return Owner::Nobody;
        }
        let find = |matches: &dyn Fn(&dyn DynProvider) -> bool| {
            self.providers
                .iter()
                .find(|provider| matches(provider.as_ref()))
        };
        let provider = match &spec.load_balancer_class {
            Some(class) => find(&|provider| provider.serves(class)),
            None => self
                .default_provider
                .as_ref()
                .and_then(|name| find(&|provider| provider.name() == name)),
        };
        match (provider, &spec.load_balancer_class) {
            (Some(provider), _) => Owner::Provider(provider),
            (None, Some(class)) if self.other_operators && CLASSES.contains(&class.as_str()) => {
                Owner::OtherOperator
            }
            (None, None) if self.other_operators => Owner::OtherOperator,
            (None, Some(class)) if class.starts_with("herald.dev/") => {
                Owner::UnknownClass(class.clone())
            }
            _ => Owner::Nobody,
        }
    }

    /// Name of the provider that a Service belongs to.
    pub(crate) fn provider_name(&self, service: &Service) -> Option<&'static str> {
        match self.owner(service) {
            Owner::Provider(provider) => Some(provider.name()),
            Owner::UnknownClass(_) | Owner::OtherOperator | Owner::Nobody => None,
        }
    }

    /// Takes away what providers hold for a Service that is not theirs (any
    /// more): it is gone, made anew, of another type or class.
    async fn clear(
        &self,
        report: &mut Report,
        service: Option<&Service>,
        owner: &Owner<'_>,
    ) -> Result<(), Next> {
        let uid = service.and_then(kube::ResourceExt::uid).unwrap_or_default();
        let stays = |name: &str, of: &str| {
            matches!(owner, Owner::Provider(provider) if provider.name() == name) && of == uid
        };
        let mut leaving: Vec<(Arc<dyn DynProvider>, String)> = Vec::new();
        if let Some(tracked) = &report.tracked
            && !stays(&tracked.provider, &tracked.uid)
        {
            leaving.extend(
                self.providers
                    .iter()
                    .filter(|provider| provider.name() == tracked.provider)
                    .map(|provider| (provider.clone(), tracked.uid.clone())),
            );
        }
        // The finalizer outlives our memory: something may be outside.
        if service.is_some_and(has_finalizer) {
            leaving.extend(
                self.providers
                    .iter()
                    .filter(|provider| provider.external() && !stays(provider.name(), &uid))
                    .map(|provider| (provider.clone(), uid.clone())),
            );
        }
        for (provider, uid) in leaving {
            let desired = Desired::Absent {
                key: report.key.clone(),
                uid,
            };
            // Addresses from pools are only our own book-keeping.
            let dry_run = self.dry_run && provider.external();
            match self.drive(provider.as_ref(), &desired, dry_run).await {
                Outcome::Settled(_) => report.released = true,
                Outcome::Failed(error) => return Err(self.failed(service, &error).await),
                Outcome::Refused(refusal) => {
                    tracing::warn!(service = %report.key, reason = refusal.reason, "{refusal}");
                    return Err(Next::Failed(None));
                }
                Outcome::Planned(steps) => return Err(self.planned(service, &steps).await),
            }
        }
        if report
            .tracked
            .as_ref()
            .is_some_and(|t| !stays(&t.provider, &t.uid))
        {
            report.tracked = None;
        }
        Ok(())
    }

    /// Says what a dry run would take away. The finalizer stays, for what is
    /// outside stays.
    async fn planned(&self, service: Option<&Service>, steps: &[String]) -> Next {
        let Some(service) = service else {
            return Next::Done(None);
        };
        let verdict = Verdict {
            ingress: request::current(service),
            ready: false,
            reason: "DryRun",
            message: format!("would {}", steps.join("; then ")),
            warnings: None,
        };
        match self.say(service, &verdict).await {
            Ok(()) => Next::Done(None),
            Err(next) => next,
        }
    }

    /// A Service that may have been ours, and is another operator's now. The finalizer
    /// stays for one that makes things outside too.
    async fn hand_over(&self, service: &Service) -> Result<(), Next> {
        let class = service
            .spec
            .as_ref()
            .and_then(|spec| spec.load_balancer_class.as_deref());
        if class != Some(CLASS_BARE_METAL) || !self.providers.iter().any(|p| p.external()) {
            return Ok(());
        }
        self.writer
            .unmark(service)
            .await
            .map_err(|error| written(service, error))
    }

    /// Takes our marks off a Service that is not ours.
    async fn forget(&self, service: &Service) -> Result<(), Next> {
        if service.metadata.deletion_timestamp.is_none()
            && let Some(change) = conditions::removal(service)
        {
            self.writer
                .service_status(service, &change)
                .await
                .map_err(|error| written(service, error))?;
            // The object has changed; the finalizer needs the new one.
            if has_finalizer(service) {
                return Err(Next::Again);
            }
        }
        // What it stands for is outside, and only who makes such things can tell
        // whether any is left.
        if self.other_operators && !self.providers.iter().any(|provider| provider.external()) {
            return Ok(());
        }
        self.writer
            .unmark(service)
            .await
            .map_err(|error| written(service, error))
    }

    async fn serve(
        &self,
        report: &mut Report,
        service: Service,
        provider: &Arc<dyn DynProvider>,
    ) -> Result<(), Next> {
        let request = match request::parse(&service, self.namespace_labels(&service)) {
            Ok(request) => request,
            Err(error) => {
                let verdict = Verdict {
                    ingress: request::current(&service),
                    ready: false,
                    reason: "InvalidRequest",
                    message: error.to_string(),
                    warnings: None,
                };
                return self.say(&service, &verdict).await;
            }
        };
        let dry_run = self.dry_run || wants_dry_run(&service);
        let mut service = service;
        if provider.external() && !dry_run && !has_finalizer(&service) {
            // Before anything is made outside.
            let marked = self
                .writer
                .mark(&service, provider.replaced_finalizers())
                .await;
            match marked.map_err(|error| written(&service, error))? {
                Some(marked) => service = marked,
                None => return Err(Next::Again),
            }
        }
        report.tracked = Some(Tracked {
            uid: request.uid.clone(),
            provider: provider.name().to_owned(),
            depends: depends(provider.as_ref(), &request),
        });
        let current = request.ingress.clone();
        let backing = self.backing(&service, &request, provider.as_ref()).await?;
        let (gate, pods) = (backing.gate, backing.pods);
        let desired = self.desired(
            provider.as_ref(),
            request,
            backing.endpoints,
            backing.references,
        );
        let outcome = self.drive(provider.as_ref(), &desired, dry_run).await;
        for news in provider.news(desired.uid()) {
            let about = service.object_ref(&());
            self.writer.event(&about, true, news.reason, &news.message);
        }
        let warnings = match &desired {
            Desired::Present { service, .. } => provider.warnings(service),
            Desired::Absent { .. } => Vec::new(),
        };
        let verdict = match outcome {
            Outcome::Settled(status) => {
                let recheck = match &gate {
                    Some(gate) => {
                        self.open(&service, gate, pods, &desired, &status.pods)
                            .await
                    }
                    None => None,
                };
                let rechecks = [status.recheck, backing.recheck, recheck];
                report.next = Next::Done(rechecks.into_iter().flatten().min());
                verdict_of(status, warnings)
            }
            Outcome::Planned(steps) => Verdict {
                ingress: current.clone(),
                ready: false,
                reason: "DryRun",
                message: format!("would {}", steps.join("; then ")),
                warnings: Some(warnings),
            },
            Outcome::Refused(refusal) => {
                report.waiting = true;
                let label = ReasonLabel {
                    reason: refusal.reason.to_owned(),
                };
                self.metrics.reconcile_errors.get_or_create(&label).inc();
                Verdict {
                    ingress: refusal.keep,
                    ready: false,
                    reason: refusal.reason,
                    message: refusal.message,
                    warnings: Some(warnings),
                }
            }
            Outcome::Failed(error) => return Err(self.failed(Some(&service), &error).await),
        };
        // What a change of the request gave back, another may wait for.
        report.released |= current
            .iter()
            .any(|ingress| !verdict.ingress.contains(ingress));
        let newly_ready = verdict.ready
            && conditions::ours(&service).is_none_or(|condition| condition.status != "True");
        self.say(&service, &verdict).await?;
        if newly_ready {
            self.metrics.allocations.inc();
        }
        Ok(())
    }

    /// Reads what stands behind a Service, as far as its provider needs it.
    async fn backing(
        &self,
        service: &Service,
        request: &ServiceRequest,
        provider: &dyn DynProvider,
    ) -> Result<Backing, Next> {
        let mut backing = Backing::default();
        if provider.needs_endpoints(request) {
            backing.endpoints = self.endpoints_of(&request.key);
        }
        for name in provider.references(request) {
            let key = ServiceKey::new(&request.key.namespace, name);
            backing.references.extend(self.reference(&key).await?);
            backing.recheck = Some(REFERENCE_POLL);
        }
        backing.gate = provider.readiness_gate(request);
        if let Some(gate) = backing.gate.clone() {
            self.mark_gated(service, &gate, &mut backing).await?;
        }
        Ok(backing)
    }

    fn endpoints_of(&self, key: &ServiceKey) -> Vec<Backend> {
        self.endpoints
            .as_ref()
            .map(|slices| endpoints::of(key, &slices.state()))
            .unwrap_or_default()
    }

    /// A Service that another one refers to, if it exists.
    async fn reference(&self, key: &ServiceKey) -> Result<Option<ServiceReference>, Next> {
        let spec = self.find(key).await?.and_then(|service| service.spec);
        Ok(spec.map(|spec| ServiceReference {
            name: key.name.clone(),
            ports: request::ports(&spec),
            traffic_policy: convert::traffic_policy(&spec),
            health_check_node_port: request::health_check_node_port(&spec),
            endpoints: self.endpoints_of(key),
        }))
    }

    /// Finds out which endpoints are not ready only because the load balancer has not
    /// opened their gate yet. In the steady state all are ready, and no pod is read.
    async fn mark_gated(
        &self,
        service: &Service,
        gate: &str,
        backing: &mut Backing,
    ) -> Result<(), Next> {
        let waiting = |b: &Backend| !b.endpoint.ready && !b.endpoint.terminating && b.pod.is_some();
        if !backing.endpoints.iter().any(waiting) {
            return Ok(());
        }
        backing.pods = self.pods(service).await?;
        for backend in backing.endpoints.iter_mut().filter(|b| waiting(b)) {
            let pod = backing
                .pods
                .iter()
                .find(|pod| Some(&pod.name_any()) == backend.pod.as_ref());
            backend.awaits_gate = pod.is_some_and(|pod| gates::awaits(pod, gate));
        }
        if backing.pods.iter().any(|pod| gates::has(pod, gate)) {
            backing.recheck = Some(
                backing
                    .recheck
                    .map_or(GATE_POLL, |other| other.min(GATE_POLL)),
            );
        }
        Ok(())
    }

    /// The pods of a Service; none where it has no selector.
    async fn pods(&self, service: &Service) -> Result<Vec<Pod>, Next> {
        let selector = service
            .spec
            .iter()
            .flat_map(|spec| spec.selector.iter().flatten());
        let selector: Vec<String> = selector
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        if selector.is_empty() {
            return Ok(Vec::new());
        }
        let namespace = service.namespace().unwrap_or_default();
        let pods = self.writer.pods(&namespace, &selector.join(",")).await;
        pods.map_err(|error| {
            tracing::warn!(service = %crate::stores::key_of(service), %error, "reading pods");
            Next::Failed(None)
        })
    }

    /// Tells pods how they stand as targets, and when to look again if that did not
    /// succeed. A pod that is ready and healthy has heard it already.
    async fn open(
        &self,
        service: &Service,
        gate: &str,
        mut pods: Vec<Pod>,
        desired: &Desired,
        health: &[PodHealth],
    ) -> Option<Duration> {
        let Desired::Present { endpoints, .. } = desired else {
            return None;
        };
        let ready = |pod: &str| {
            let own = |b: &&Backend| b.pod.as_deref() == Some(pod);
            endpoints.iter().find(own).is_some_and(|b| b.endpoint.ready)
        };
        let news: Vec<&PodHealth> = health
            .iter()
            .filter(|h| !(h.healthy && ready(&h.pod)))
            .collect();
        if news.is_empty() {
            return None;
        }
        if pods.is_empty() {
            match self.pods(service).await {
                Ok(found) => pods = found,
                Err(_) => return Some(GATE_POLL),
            }
        }
        let mut recheck = None;
        for health in news {
            let pod = pods.iter().find(|pod| pod.name_any() == health.pod);
            let patch = pod.and_then(|pod| Some((pod, gates::change(pod, gate, health)?)));
            let Some((pod, patch)) = patch else {
                continue;
            };
            if let Err(error) = self.writer.pod_conditions(pod, &patch).await {
                tracing::warn!(pod = health.pod, %error, "writing a pod's condition");
                recheck = Some(GATE_POLL);
            }
        }
        recheck
    }

    fn desired(
        &self,
        provider: &dyn DynProvider,
        service: ServiceRequest,
        endpoints: Vec<Backend>,
        references: Vec<ServiceReference>,
    ) -> Desired {
        let mut nodes: Vec<Node> = Vec::new();
        // Who serves from inside the cluster has no use for nodes, and they are many.
        if provider.external() {
            nodes.extend(self.nodes.state().iter().map(|node| convert::node(node)));
            nodes.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Desired::Present {
            service,
            nodes,
            endpoints,
            references,
        }
    }

    async fn drive(&self, provider: &dyn DynProvider, desired: &Desired, dry_run: bool) -> Outcome {
        provider
            .reconcile(desired, dry_run, &|| self.may_act())
            .await
    }

    /// Whether a provider may do something outside now.
    pub(crate) fn may_act(&self) -> Result<(), ProviderError> {
        self.writer.check().map_err(|error| ProviderError::Failed {
            reason: "NotLeader",
            message: error.to_string(),
        })
    }

    /// Says that a call failed, and when to try again.
    async fn failed(&self, service: Option<&Service>, error: &ProviderError) -> Next {
        let (reason, at_least) = match error {
            ProviderError::Conflict(_) => ("Conflict", None),
            ProviderError::Throttled { retry_after, .. } => ("Throttled", *retry_after),
            ProviderError::Waiting {
                reason, recheck, ..
            } => (*reason, Some(*recheck)),
            ProviderError::Failed { reason, .. } => (*reason, None),
        };
        let waiting = matches!(error, ProviderError::Waiting { .. });
        let label = ReasonLabel {
            reason: reason.to_owned(),
        };
        if !waiting {
            self.metrics.reconcile_errors.get_or_create(&label).inc();
        }
        if self.writer.check().is_err() {
            return Next::Failed(None);
        }
        if !waiting {
            tracing::warn!(
            service = service.map(|s| format!("{}/{}", s.namespace().unwrap_or_default(), s.name_any())),
            reason,
            %error,
            "a provider's call failed; it is tried again"
            );
        }
        if let Some(service) = service {
            let verdict = Verdict {
                ingress: request::current(service),
                ready: false,
                reason,
                message: error.to_string(),
                warnings: None,
            };
            // What matters is the retry, which tells of this write too.
            let _ = self.say(service, &verdict).await;
        }
        if waiting {
            return Next::Done(at_least);
        }
        Next::Failed(at_least)
    }

    /// Writes status and event if they are news.
    async fn say(&self, service: &Service, verdict: &Verdict) -> Result<(), Next> {
        let Some(change) = conditions::change(service, verdict) else {
            return Ok(());
        };
        self.writer
            .service_status(service, &change)
            .await
            .map_err(|error| written(service, error))?;
        let about = service.object_ref(&());
        for warning in &change.warnings {
            self.writer
                .event(&about, true, warning.reason, &warning.message);
        }
        if change.news {
            let warning = !verdict.ready && !matches!(verdict.reason, "Provisioning" | "DryRun");
            self.writer
                .event(&about, warning, verdict.reason, &verdict.message);
        }
        Ok(())
    }

    pub(crate) fn namespace_labels(&self, service: &Service) -> Labels {
        let reference = ObjectRef::new(&service.namespace().unwrap_or_default());
        self.namespaces
            .get(&reference)
            .map(|n| convert::labels(&*n))
            .unwrap_or_default()
    }
}

/// Services whose endpoints a Service's load balancer depends on, itself among them.
fn depends(provider: &dyn DynProvider, request: &ServiceRequest) -> BTreeSet<String> {
    let own = provider
        .needs_endpoints(request)
        .then(|| request.key.name.clone());
    own.into_iter()
        .chain(provider.references(request))
        .collect()
}

fn verdict_of(status: Status, warnings: Vec<Warning>) -> Verdict {
    Verdict {
        ingress: status.ingress,
        ready: status.ready,
        reason: status.reason,
        message: status.message,
        warnings: Some(warnings),
    }
}

/// What a failed write means for the next look.
fn written(service: &Service, error: WriteError) -> Next {
    match error {
        WriteError::Stale => Next::Stale,
        WriteError::Fenced => Next::Failed(None),
        WriteError::Api(error) => {
            tracing::warn!(
                service = format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any()),
                %error,
                "writing to a Service"
            );
            Next::Failed(None)
        }
    }
}

fn has_finalizer(service: &Service) -> bool {
    service
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

fn wants_dry_run(service: &Service) -> bool {
    service
        .annotations()
        .get(ANNOTATION_DRY_RUN)
        .is_some_and(|value| value == "true")
}
