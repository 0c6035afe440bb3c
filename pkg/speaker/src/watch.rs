//! Watches of the API, each a task that turns objects into [`Change`]s.

mod raw;
mod shown;

use std::sync::Arc;

use futures::StreamExt as _;
use herald_api::names::{
    ANNOTATION_LINK_BANDWIDTH, ANNOTATION_REBALANCE, APP_SPEAKER, CLASS_BARE_METAL, LABEL_APP_NAME,
    LABEL_SERVICE_NAME,
};
use herald_api::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement, L2Status,
    convert, following,
};
use herald_core::ServiceKey;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::ApiResource;
use kube::runtime::watcher as watch;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::Config;
use crate::bgp::PeerView;
use crate::index::{
    AdvertisementView, Change, News, NodeView, ObjectKey, PoolView, ServiceView, SliceView,
};
use crate::table::Step;
pub(crate) use raw::Raw;
use shown::{Shown, SpeakerPod};

/// Changes under way to the index; a watch waits when it is full.
const BACKLOG: usize = 256;

/// A watch is begun anew after this many seconds (it goes on where it was), so
/// that one whose connection died without a word is not waited on for long.
const LIFETIME: u32 = 60;

/// Objects that are listed at a time. A page is in memory as a whole, and what its
/// decoding took the process does not give back.
const PAGE: u32 = 50;

/// Starts following the API. The changes end when the receiver is dropped.
pub(crate) fn start(client: &Client, config: &Config) -> mpsc::Receiver<News> {
    let (changes, receiver) = mpsc::channel(BACKLOG);
    let own = config.namespace.as_str();
    let unclassed = config.handle_unclassed;
    follow(
        all_of::<Node>(client),
        all(),
        changes.clone(),
        Change::Node,
        |node: &Node| Some(node_view(node)),
    );
    follow(
        all_in::<Pod>(client, own),
        all().labels(&format!("{LABEL_APP_NAME}={APP_SPEAKER}")),
        changes.clone(),
        Change::Speaker,
        SpeakerPod::speaks_on,
    );
    follow(
        all_in::<L2Status>(client, own),
        all(),
        changes.clone(),
        Change::Interfaces,
        Shown::interfaces,
    );
    follow(
        all_of::<Service>(client),
        all().fields("spec.type=LoadBalancer"),
        changes.clone(),
        Change::Service,
        move |object: &Service| service(object, unclassed),
    );
    follow(
        all_of::<EndpointSlice>(client),
        all().labels(LABEL_SERVICE_NAME),
        changes.clone(),
        Change::Slice,
        slice,
    );
    follow(
        all_in::<IPAddressPool>(client, own),
        all(),
        changes.clone(),
        Change::Pool,
        |pool: &IPAddressPool| Some(pool_view(pool)),
    );
    follow(
        all_in::<L2Advertisement>(client, own),
        all(),
        changes.clone(),
        Change::Advertisement,
        |advertisement: &L2Advertisement| Some(advertisement_view(advertisement)),
    );
    follow_bgp(client, own, changes);
    receiver
}

fn follow_bgp(client: &Client, own: &str, changes: mpsc::Sender<News>) {
    follow(
        all_in::<BGPPeer>(client, own),
        all(),
        changes.clone(),
        Change::Peer,
        |peer: &BGPPeer| {
            Some(PeerView {
                spec: Arc::new(peer.spec.clone()),
                uid: peer.uid().unwrap_or_default(),
            })
        },
    );
    follow(
        all_in::<BGPAdvertisement>(client, own),
        all(),
        changes.clone(),
        Change::BgpAdvertisement,
        |object: &BGPAdvertisement| Some(Arc::new(object.spec.clone())),
    );
    follow(
        all_in::<BFDProfile>(client, own),
        all(),
        changes.clone(),
        Change::Profile,
        |profile: &BFDProfile| Some(profile.spec.clone()),
    );
    follow(
        all_in::<Community>(client, own),
        all(),
        changes,
        Change::Community,
        |object: &Community| {
            let aliases = object.spec.communities.iter();
            let aliases = aliases.map(|alias| (alias.name.clone(), alias.value.clone()));
            Some(aliases.collect())
        },
    );
}

/// The objects of a kind, and what the kind is called.
pub(crate) struct Source {
    pub(crate) api: Api<Raw>,
    pub(crate) kind: String,
}

fn all_of<K: Resource<DynamicType = ()>>(client: &Client) -> Source {
    let resource = ApiResource::erase::<K>(&());
    Source {
        api: Api::all_with(client.clone(), &resource),
        kind: resource.kind,
    }
}

/// Those in a namespace.
pub(crate) fn all_in<K>(client: &Client, namespace: &str) -> Source
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let resource = ApiResource::erase::<K>(&());
    Source {
        api: Api::namespaced_with(client.clone(), namespace, &resource),
        kind: resource.kind,
    }
}

/// All objects of a source.
fn all() -> watcher::Config {
    watcher::Config::default().timeout(LIFETIME).page_size(PAGE)
}

/// By what a table finds an object.
trait Key: 'static {
    fn of(object: &Raw) -> Self;
}

impl Key for String {
    fn of(object: &Raw) -> Self {
        object.name_any()
    }
}

impl Key for ObjectKey {
    fn of(object: &Raw) -> Self {
        (object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl Key for ServiceKey {
    fn of(object: &Raw) -> Self {
        let (namespace, name) = ObjectKey::of(object);
        Self::new(namespace, name)
    }
}

/// What an event changes.
type Turn = Box<dyn Fn(&Event<Raw>) -> serde_json::Result<Change> + Send + Sync>;

/// Follows one kind in a task of its own. What can't be read stays as it was known.
fn follow<T: DeserializeOwned, K: Key, V: 'static>(
    source: Source,
    config: watcher::Config,
    changes: mpsc::Sender<News>,
    wrap: fn(Step<K, V>) -> Change,
    view: impl Fn(&T) -> Option<V> + Send + Sync + 'static,
) {
    let read = move |object: &Raw| Ok((K::of(object), view(&object.decode()?)));
    let turn = move |event: &Event<Raw>| {
        Ok(wrap(match event {
            Event::Init => Step::Begin,
            Event::InitApply(object) => {
                let (key, value) = read(object)?;
                Step::Listed(key, value)
            }
            Event::InitDone => Step::Complete,
            Event::Apply(object) => {
                let (key, value) = read(object)?;
                Step::Put(key, value)
            }
            Event::Delete(object) => Step::Remove(K::of(object)),
        }))
    };
    tokio::spawn(pass_on(source, config, changes, Box::new(turn)));
}

async fn pass_on(
    Source { api, kind }: Source,
    config: watcher::Config,
    changes: mpsc::Sender<News>,
    turn: Turn,
) {
    let events = following(&kind, "what is announced stays", watch(api, config));
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let object = match &event {
            Event::InitApply(object) | Event::Apply(object) | Event::Delete(object) => Some(object),
            Event::Init | Event::InitDone => None,
        };
        match turn(&event) {
            Ok(change) => {
                let number = object.map_or(0, number_of);
                if changes.send(News { number, change }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let (namespace, name) = object.map(ObjectKey::of).unwrap_or_default();
                tracing::warn!(kind, namespace, name, %error, "can't be read, and is left out");
            }
        }
    }
}

/// The number of the API's state when it stored this object. It is a decimal
/// number that grows over all kinds, where etcd stores them (which is where
/// Kubernetes does); of another we learn nothing.
fn number_of(object: &Raw) -> u64 {
    object
        .resource_version()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

fn node_view(node: &Node) -> NodeView {
    NodeView {
        node: convert::node(node),
        uid: node.uid().unwrap_or_default(),
    }
}

fn advertisement_view(advertisement: &L2Advertisement) -> AdvertisementView {
    AdvertisementView {
        spec: advertisement.spec.clone(),
        rebalance: advertisement
            .annotations()
            .get(ANNOTATION_REBALANCE)
            .cloned(),
    }
}

/// A Service that is ours: of our class, or without a class where those are
/// ours. One that is being deleted still serves until it is gone.
fn service(service: &Service, unclassed: bool) -> Option<ServiceView> {
    let spec = service.spec.as_ref()?;
    let ours = match spec.load_balancer_class.as_deref() {
        Some(class) => class == CLASS_BARE_METAL,
        None => unclassed,
    };
    // The selector of the watch says so too, but not every server heeds it.
    if !ours || spec.type_.as_deref() != Some("LoadBalancer") {
        return None;
    }
    Some(ServiceView {
        uid: service.uid().unwrap_or_default(),
        labels: convert::labels(service),
        traffic_policy: convert::traffic_policy(spec),
        vips: convert::vips(service).collect(),
        link_bandwidth: link_bandwidth(service),
    })
}

fn link_bandwidth(service: &Service) -> Option<u32> {
    let text = service.annotations().get(ANNOTATION_LINK_BANDWIDTH)?;
    text.parse().ok().filter(|mbits| *mbits > 0)
}

fn slice(slice: &EndpointSlice) -> Option<SliceView> {
    let name = slice.labels().get(LABEL_SERVICE_NAME)?;
    let service = ServiceKey::new(slice.namespace().unwrap_or_default(), name);
    Some(SliceView::new(service, convert::endpoints(slice)))
}

fn pool_view(pool: &IPAddressPool) -> PoolView {
    PoolView {
        labels: convert::labels(pool),
        // What is no range is told by the operator, on the pool.
        ranges: pool
            .spec
            .addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::IpAddr;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    fn lb(class: Option<&str>) -> Service {
        let mut object = json!({
            "metadata": {"namespace": "default", "name": "web", "uid": "u"},
            "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
            "status": {"loadBalancer": {"ingress": [
                {"ip": "10.20.100.0", "ipMode": "VIP"},
                {"ip": "fd20::1:0"},
                {"ip": "10.20.3.1", "ipMode": "Proxy"},
                {"hostname": "lb.example.com"},
            ]}},
        });
        if let Some(class) = class {
            object["spec"]["loadBalancerClass"] = Value::from(class);
        }
        serde_json::from_value(object).unwrap()
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_read_stays_as_it_was_until_it_is_gone() {
        let object = |name: &str, number: &str, spec: Value| json!({"metadata": {"name": name, "resourceVersion": number}, "spec": spec});
        let good = json!({"addresses": ["10.20.100.0/24"]});
        let odd = object("second", "10", json!("text"));
        let list = json!({
            "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "9"},
            "items": [
                object("first", "7", json!("text")),
                object("second", "8", good),
            ],
        });
        let event = |kind: &str| format!("{{\"type\":\"{kind}\",\"object\":{odd}}}\n");
        let watched = event("MODIFIED") + &event("DELETED");
        let service = tower::service_fn(move |request: Request<Body>| {
            let watches = request.uri().query().unwrap_or_default().contains("watch=");
            let text = if watches {
                watched.clone()
            } else {
                list.to_string()
            };
            async move { Ok::<_, Infallible>(Response::new(Body::from(text.into_bytes()))) }
        });
        let client = Client::new(service, "default");
        let (changes, mut news) = mpsc::channel(BACKLOG);
        let view = |pool: &IPAddressPool| Some(pool_view(pool));
        let pools = all_in::<IPAddressPool>(&client, "default");
        follow(pools, all(), changes, Change::Pool, view);
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let News { number, change } = news.recv().await.unwrap();
            let Change::Pool(step) = change else {
                panic!("a change of another kind: {change:?}");
            };
            seen.push(match step {
                Step::Begin => ("begin", String::new(), number),
                Step::Listed(name, _) => ("listed", name, number),
                Step::Complete => ("complete", String::new(), number),
                Step::Put(name, _) => ("put", name, number),
                Step::Remove(name) => ("remove", name, number),
            });
        }
        let seen: Vec<_> = seen
            .iter()
            .map(|(step, name, n)| (*step, &**name, *n))
            .collect();
        assert_eq!(
            seen,
            [
                ("begin", "", 0),
                ("listed", "second", 8),
                ("complete", "", 0),
                ("remove", "second", 10)
            ]
        );
    }

    #[test]
    fn only_addresses_that_reach_nodes_unchanged_are_announced() {
        let view = service(&lb(None), true).unwrap();
        let vips: Vec<IpAddr> = ["10.20.100.0", "fd20::1:0"]
            .map(|a| a.parse().unwrap())
            .into();
        assert_eq!(view.vips, vips);
        assert_eq!(view.traffic_policy, herald_core::TrafficPolicy::Local);
    }

    #[test]
    fn a_service_of_another_class_is_not_ours() {
        assert!(service(&lb(Some(CLASS_BARE_METAL)), false).is_some());
        assert!(service(&lb(Some("example.com/other")), true).is_none());
        assert!(service(&lb(None), false).is_none());
    }

    #[test]
    fn numbers_are_those_of_the_api() {
        let object = |version: Option<&str>| -> Raw {
            serde_json::from_value(json!({"metadata": {"resourceVersion": version}})).unwrap()
        };
        assert_eq!(number_of(&object(Some("1234"))), 1234);
        assert_eq!(number_of(&object(Some("abc"))), 0);
        assert_eq!(number_of(&object(None)), 0);
    }
}
