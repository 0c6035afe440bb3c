//! Stores that follow the API. A store changes as a whole when a list is
//! complete: a list under way takes nothing away.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use herald_api::names::{APP_SPEAKER, CLASS_BARE_METAL, LABEL_APP_NAME};
use herald_api::{IPAddressPool, L2Advertisement, convert};
use herald_core::ServiceKey;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::Config;
use crate::duties::{PoolView, ServiceView, View};

/// Label of an `EndpointSlice` that names its Service.
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Changes that come together are answered together.
const SETTLE: Duration = Duration::from_millis(5);

/// What the speaker knows of the cluster.
pub(crate) struct Stores {
    nodes: Store<Node>,
    pods: Store<Pod>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    pools: Store<IPAddressPool>,
    advertisements: Store<L2Advertisement>,
    changed: Arc<Notify>,
}

impl Stores {
    /// Starts following the API.
    pub(crate) fn start(client: &Client, namespace: &str) -> Self {
        let changed = Arc::new(Notify::new());
        let all = watcher::Config::default;
        let speakers = all().labels(&format!("{LABEL_APP_NAME}={APP_SPEAKER}"));
        Self {
            nodes: follow(Api::all(client.clone()), all(), &changed),
            pods: follow(Api::namespaced(client.clone(), namespace), speakers, &changed),
            services: follow(
                Api::all(client.clone()),
                all().fields("spec.type=LoadBalancer"),
                &changed,
            ),
            slices: follow(Api::all(client.clone()), all().labels(LABEL_SERVICE_NAME), &changed),
            pools: follow(Api::namespaced(client.clone(), namespace), all(), &changed),
            advertisements: follow(Api::namespaced(client.clone(), namespace), all(), &changed),
            changed,
        }
    }

    /// Returns when every list has been complete once.
    pub(crate) async fn ready(&self) {
        // A store fails only if its task is gone, which ends with the process.
        let _ = tokio::join!(
            self.nodes.wait_until_ready(),
            self.pods.wait_until_ready(),
            self.services.wait_until_ready(),
            self.slices.wait_until_ready(),
            self.pools.wait_until_ready(),
            self.advertisements.wait_until_ready(),
        );
    }

    /// Returns when something has changed since the last return.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
        tokio::time::sleep(SETTLE).await;
    }

    /// Everything as it stands now, in the domain's words.
    pub(crate) fn view(&self, config: &Config, draining: bool) -> View {
        let mut endpoints: HashMap<ServiceKey, Vec<_>> = HashMap::new();
        for slice in self.slices.state() {
            if let Some(name) = slice.labels().get(LABEL_SERVICE_NAME) {
                let key = ServiceKey::new(slice.namespace().unwrap_or_default(), name);
                endpoints.entry(key).or_default().extend(convert::endpoints(&slice));
            }
        }
        View {
            me: config.node.clone(),
            draining,
            nodes: self.nodes.state().iter().map(|node| convert::node(node)).collect(),
            speakers: self.pods.state().iter().filter_map(|pod| ready_on(pod)).collect(),
            services: self
                .services
                .state()
                .iter()
                .filter(|service| is_ours(service, config.handle_unclassed))
                .map(|service| {
                    let key = ServiceKey::new(
                        service.namespace().unwrap_or_default(),
                        service.name_any(),
                    );
                    ServiceView {
                        uid: service.uid().unwrap_or_default(),
                        labels: service.labels().clone(),
                        traffic_policy: service
                            .spec
                            .as_ref()
                            .map(convert::traffic_policy)
                            .unwrap_or_default(),
                        vips: convert::vips(service).collect(),
                        endpoints: endpoints.remove(&key).unwrap_or_default(),
                        key,
                    }
                })
                .collect(),
            pools: self
                .pools
                .state()
                .iter()
                .map(|pool| PoolView {
                    name: pool.name_any(),
                    labels: pool.labels().clone(),
                    // What is no range is told by the operator's condition.
                    ranges: pool.spec.addresses.iter().filter_map(|a| a.parse().ok()).collect(),
                })
                .collect(),
            advertisements: self
                .advertisements
                .state()
                .iter()
                .map(|advertisement| advertisement.spec.clone())
                .collect(),
        }
    }
}

fn is_ours(service: &Service, unclassed: bool) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    service.metadata.deletion_timestamp.is_none()
        && class.map_or(unclassed, |class| class == CLASS_BARE_METAL)
}

/// The node of a speaker's pod that is Ready and not about to end.
fn ready_on(pod: &Pod) -> Option<String> {
    let ready = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    (ready && pod.metadata.deletion_timestamp.is_none())
        .then(|| pod.spec.as_ref()?.node_name.clone())
        .flatten()
}

fn follow<K>(api: Api<K>, config: watcher::Config, changed: &Arc<Notify>) -> Store<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Clone + Debug + Eq + Hash + Unpin,
{
    let (store, writer) = reflector::store();
    let changed = changed.clone();
    tokio::spawn(async move {
        let events = watcher(api, config)
            .default_backoff()
            // Never read, and often the largest part of an object.
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer);
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(_) => changed.notify_one(),
                Err(error) => tracing::warn!(
                    kind = %K::kind(&K::DynamicType::default()),
                    %error,
                    "the API can't be followed just now; what was announced stays"
                ),
            }
        }
    });
    store
}
