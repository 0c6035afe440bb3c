//! Stores that follow the API, and a channel that says what has changed.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt as _;
use herald_api::names::LABEL_SERVICE_NAME;
use herald_api::{IPAddressPool, following};
use herald_core::ServiceKey;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

/// The whole object again, as `kubectl apply` leaves it there.
const ANNOTATION_LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Something that decisions rest on has changed.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A Service came, changed, or left the selection.
    Service(ServiceKey),
    /// A list of Services is complete: any of them may be new, any may be gone.
    Services,
    Pools,
    Nodes,
    Namespaces,
    /// Endpoints of a Service.
    Endpoints(ServiceKey),
    /// The ranges of cluster IPs.
    ServiceCidrs,
    /// It may be the turn of Services about which nothing changed.
    Turns,
}

/// What the operator knows of the cluster.
pub(crate) struct Stores {
    pub(crate) services: Store<Service>,
    pub(crate) pools: Store<IPAddressPool>,
    pub(crate) nodes: Store<Node>,
    pub(crate) namespaces: Store<Namespace>,
    /// Only where a provider needs them.
    pub(crate) endpoints: Option<Store<EndpointSlice>>,
    /// The ranges of cluster IPs, where pools are served and the cluster has such
    /// objects (since Kubernetes 1.33).
    pub(crate) service_cidrs: Option<Store<ServiceCIDR>>,
    pub(crate) changes: mpsc::UnboundedReceiver<Change>,
    sender: mpsc::UnboundedSender<Change>,
}

impl Stores {
    /// Starts following the API; endpoints only if they are needed.
    pub(crate) fn start(
        client: &Client,
        namespace: &str,
        node_selector: &str,
        endpoints: bool,
    ) -> Self {
        let (sender, changes) = mpsc::unbounded_channel();
        let all = watcher::Config::default;
        let services = follow_trimmed(
            Api::<Service>::all(client.clone()),
            all().fields("spec.type=LoadBalancer"),
            trim_service,
            &sender,
            |event| match event {
                Event::Apply(service) | Event::Delete(service) => {
                    Some(Change::Service(key_of(service)))
                }
                Event::InitDone => Some(Change::Services),
                Event::Init | Event::InitApply(_) => None,
            },
        );
        let pools = follow(
            Api::namespaced(client.clone(), namespace),
            all(),
            &sender,
            |event| settled(event).then_some(Change::Pools),
        );
        let selected = all().labels(node_selector);
        let nodes = follow(Api::all(client.clone()), selected, &sender, |event| {
            settled(event).then_some(Change::Nodes)
        });
        let namespaces = follow(Api::all(client.clone()), all(), &sender, |event| {
            settled(event).then_some(Change::Namespaces)
        });
        let endpoints = endpoints.then(|| {
            follow_trimmed(
                Api::all(client.clone()),
                // Slices of others, such as those of Endpoints that people made.
                all().labels(LABEL_SERVICE_NAME),
                trim_slice,
                &sender,
                |event| match event {
                    Event::Apply(slice) | Event::Delete(slice) => {
                        service_of(slice).map(Change::Endpoints)
                    }
                    // What changed while the watch was away is not known.
                    Event::InitDone => Some(Change::Services),
                    Event::Init | Event::InitApply(_) => None,
                },
            )
        });
        Self {
            services,
            pools,
            nodes,
            namespaces,
            endpoints,
            service_cidrs: None,
            changes,
            sender,
        }
    }

    /// A Service that was read, as the store has it where that is the same: it is not
    /// kept twice.
    pub(crate) fn same(&self, service: Service) -> Arc<Service> {
        let known = self.services.get(&ObjectRef::from_obj(&service));
        let same = |known: &Arc<Service>| {
            known.uid() == service.uid() && known.resource_version() == service.resource_version()
        };
        known.filter(same).unwrap_or_else(|| Arc::new(service))
    }

    /// Has the controller ask whose turn it is.
    pub(crate) fn stir(&self) -> impl Fn() + Send + Sync + use<> {
        let sender = self.sender.clone();
        move || drop(sender.send(Change::Turns))
    }

    /// Takes changes and forgets them, for ever: nobody else does while this replica
    /// does not lead, and they must not pile up.
    pub(crate) async fn forget_changes(&mut self) {
        while self.changes.recv().await.is_some() {}
        std::future::pending::<()>().await;
    }

    /// Starts following the ranges of cluster IPs, if the cluster tells them.
    pub(crate) async fn follow_service_cidrs(&mut self, client: &Client) {
        let api: Api<ServiceCIDR> = Api::all(client.clone());
        if let Err(kube::Error::Api(status)) = api.list(&ListParams::default().limit(1)).await
            && matches!(status.code, 403 | 404)
        {
            tracing::info!(
                message = status.message,
                "this cluster does not tell its ranges of ClusterIPs; name them with --service-cidr"
            );
            return;
        }
        let all = watcher::Config::default();
        self.service_cidrs = Some(follow(api, all, &self.sender, |event| {
            settled(event).then_some(Change::ServiceCidrs)
        }));
    }

    /// Returns when every list has been complete once.
    pub(crate) async fn ready(&self) {
        // A store fails only if its task is gone, which ends with the process.
        let _ = tokio::join!(
            self.services.wait_until_ready(),
            self.pools.wait_until_ready(),
            self.nodes.wait_until_ready(),
            self.namespaces.wait_until_ready(),
        );
        if let Some(endpoints) = &self.endpoints {
            let _ = endpoints.wait_until_ready().await;
        }
        if let Some(service_cidrs) = &self.service_cidrs {
            let _ = service_cidrs.wait_until_ready().await;
        }
    }
}

/// Namespace and name of a Service.
pub(crate) fn key_of(service: &Service) -> ServiceKey {
    ServiceKey::new(service.namespace().unwrap_or_default(), service.name_any())
}

/// The Service that a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.labels().get(LABEL_SERVICE_NAME)?;
    Some(ServiceKey::new(slice.namespace()?, name))
}

/// Takes from a Service what nobody here reads, and the room that its lists do not
/// need: there may be thousands.
fn trim_service(service: &mut Service) {
    service.annotations_mut().remove(ANNOTATION_LAST_APPLIED);
    if let Some(spec) = &mut service.spec {
        spec.ports.iter_mut().for_each(Vec::shrink_to_fit);
        spec.cluster_ips.iter_mut().for_each(Vec::shrink_to_fit);
        spec.ip_families.iter_mut().for_each(Vec::shrink_to_fit);
    }
    if let Some(status) = &mut service.status {
        status.conditions.iter_mut().for_each(Vec::shrink_to_fit);
        let balancer = status.load_balancer.iter_mut();
        let ingress = balancer.flat_map(|balancer| &mut balancer.ingress);
        ingress.for_each(Vec::shrink_to_fit);
    }
}

/// Takes from a slice what nobody here reads: there may be thousands.
fn trim_slice(slice: &mut EndpointSlice) {
    slice.annotations_mut().clear();
    slice
        .labels_mut()
        .retain(|key, _| key == LABEL_SERVICE_NAME);
    slice.metadata.owner_references = None;
    for endpoint in &mut slice.endpoints {
        endpoint.hints = None;
        endpoint.deprecated_topology = None;
        endpoint.hostname = None;
        if let Some(target) = &mut endpoint.target_ref {
            target.uid = None;
            target.namespace = None;
            target.resource_version = None;
        }
    }
}

/// Whether the store is whole after this event.
pub(crate) fn settled<K>(event: &Event<K>) -> bool {
    !matches!(event, Event::Init | Event::InitApply(_))
}

/// Follows the objects of a kind, until nobody takes the changes any more.
pub(crate) fn follow<K, C>(
    api: Api<K>,
    config: watcher::Config,
    changes: &mpsc::UnboundedSender<C>,
    change: impl Fn(&Event<K>) -> Option<C> + Send + 'static,
) -> Store<K>
where
    C: Send + 'static,
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Clone + Debug + Eq + Hash + Unpin,
{
    follow_trimmed(api, config, |_| {}, changes, change)
}

fn follow_trimmed<K, C>(
    api: Api<K>,
    config: watcher::Config,
    trim: impl Fn(&mut K) + Send + 'static,
    changes: &mpsc::UnboundedSender<C>,
    change: impl Fn(&Event<K>) -> Option<C> + Send + 'static,
) -> Store<K>
where
    C: Send + 'static,
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Clone + Debug + Eq + Hash + Unpin,
{
    let (store, writer) = reflector::store();
    let changes = changes.clone();
    tokio::spawn(async move {
        let events = watcher(api, config)
            // Never read, and often the largest part of an object.
            .modify(move |object| {
                object.managed_fields_mut().clear();
                trim(object);
            })
            .reflect(writer);
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        let events = following(kind, "nothing changes meanwhile", events);
        let mut events = std::pin::pin!(events);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = changes.closed() => return,
            };
            let Some(event) = event else { return };
            if let Some(change) = change(&event) {
                let _ = changes.send(change);
            }
        }
    });
    store
}
