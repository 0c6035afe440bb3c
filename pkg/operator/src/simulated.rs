//! For tests: an API server and a cloud that live in a map, and operators that work on
//! them and may die after any write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use herald_api::convert;
use herald_baremetal::BareMetal;
use herald_core::{Ingress, IngressPoint, ServiceKey};
use herald_ipam::{AddressPools as _, Outside, Pool};
use herald_provider::{Desired, Provider, ProviderError, Refusal, Status};
use herald_telemetry::Registry;
use http_body_util::BodyExt as _;
use hyper::{Method, Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::client::Body;
use kube::runtime::reflector::store::Writer as StoreWriter;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::events::Desk;
use crate::lease::Fence;
use crate::metrics::OperatorMetrics;
use crate::reconcile::{Context, Next, Tracked};
use crate::request;
use crate::stores::key_of;
use crate::writer::Writer;

/// More rounds than any honest operator needs until nothing is left to do.
const ROUNDS: usize = 20;
pub(super) const CLOUD: &str = "herald.dev/fake";

/// What outlives an operator: the API server, and the cloud.
#[derive(Default)]
pub(super) struct World {
    pub(super) services: BTreeMap<ServiceKey, Value>,
    version: u64,
    /// UIDs that have a load balancer.
    pub(super) cloud: BTreeSet<String>,
    /// Writes and actions so far, and after which the operator dies.
    pub(super) writes: usize,
    pub(super) dies_after: Option<usize>,
    died: Arc<Notify>,
}

pub(super) type Shared = Arc<Mutex<World>>;

impl World {
    /// Something was written. Whether the operator lives to hear of it.
    fn wrote(&mut self) -> bool {
        self.writes += 1;
        if self.dies_after != Some(self.writes) {
            return true;
        }
        self.died.notify_one();
        false
    }

    pub(super) fn put(&mut self, key: &ServiceKey, change: &Value) {
        self.version += 1;
        let version = self.version.to_string();
        let object = self.services.entry(key.clone()).or_insert_with(|| {
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {
                    "name": key.name, "namespace": key.namespace, "uid": format!("uid-{version}"),
                },
                "spec": {"ipFamilies": ["IPv4"], "ports": [{"port": 80}]},
            })
        });
        merge(object, change);
        object["metadata"]["resourceVersion"] = json!(version);
        let metadata = &object["metadata"];
        let free = metadata["finalizers"].as_array().is_none_or(Vec::is_empty);
        if free && !metadata["deletionTimestamp"].is_null() {
            self.services.remove(key);
        }
    }

    pub(super) fn all(&self) -> Vec<Service> {
        let read = |object: &Value| serde_json::from_value(object.clone()).unwrap();
        self.services.values().map(read).collect()
    }
}

/// RFC 7396.
fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut object[name], value);
        }
    }
}

/// The API server: reads, and patches with their preconditions.
fn api(world: &Shared) -> Client {
    let world = world.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let world = world.clone();
        async move {
            let method = request.method().clone();
            let path: Vec<String> = request.uri().path().split('/').map(str::to_owned).collect();
            let body = request.into_body().collect().await?.to_bytes();
            let key = ServiceKey::new(&path[4], &path[6]);
            let (lives, status, answer) = {
                let mut world = world.lock().unwrap();
                answer(&mut world, &method, &key, &body)
            };
            if !lives {
                std::future::pending::<()>().await;
            }
            Response::builder()
                .status(status)
                .body(Body::from(serde_json::to_vec(&answer)?))
                .map_err(tower::BoxError::from)
        }
    });
    Client::new(service, "default")
}

fn answer(
    world: &mut World,
    method: &Method,
    key: &ServiceKey,
    body: &[u8],
) -> (bool, StatusCode, Value) {
    let refusal = |code: u16, reason: &str| {
        let answer = json!({"status": "Failure", "reason": reason, "code": code});
        (true, StatusCode::from_u16(code).unwrap(), answer)
    };
    let Some(object) = world.services.get(key).cloned() else {
        return refusal(404, "NotFound");
    };
    if method == Method::GET {
        return (true, StatusCode::OK, object);
    }
    let patch: Value = serde_json::from_slice(body).unwrap();
    for name in ["resourceVersion", "uid"] {
        assert!(
            patch["metadata"][name].is_string(),
            "a patch without {name}"
        );
        if patch["metadata"][name] != object["metadata"][name] {
            return refusal(409, "Conflict");
        }
    }
    world.put(key, &patch);
    let answer = world.services.get(key).cloned().unwrap_or(object);
    (world.wrote(), StatusCode::OK, answer)
}

/// A cloud with one action a step.
struct Cloud(Shared);

#[async_trait]
impl Provider for Cloud {
    type Observed = bool;
    type Action = String;

    fn name(&self) -> &'static str {
        "cloud"
    }

    fn class(&self) -> &'static str {
        CLOUD
    }

    fn external(&self) -> bool {
        true
    }

    async fn observe(&self, desired: &Desired) -> Result<bool, ProviderError> {
        Ok(self.0.lock().unwrap().cloud.contains(desired.uid()))
    }

    fn plan(&self, desired: &Desired, there: &bool) -> Result<Vec<String>, Refusal> {
        let wanted = matches!(desired, Desired::Present { .. });
        let change = (wanted != *there).then(|| desired.uid().to_owned());
        Ok(change.into_iter().collect())
    }

    async fn apply(&self, uid: &String) -> Result<(), ProviderError> {
        let lives = {
            let mut world = self.0.lock().unwrap();
            if !world.cloud.remove(uid) {
                world.cloud.insert(uid.clone());
            }
            world.wrote()
        };
        if !lives {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn status(&self, desired: &Desired, _: &bool) -> Status {
        Status {
            ingress: vec![Ingress {
                point: IngressPoint::Hostname(format!("{}.cloud", desired.key().name)),
                ip_mode: None,
                ports: Vec::new(),
            }],
            ready: true,
            reason: "Provisioned",
            message: String::new(),
            recheck: None,
            pods: Vec::new(),
        }
    }
}

/// One process.
pub(super) struct Operator {
    world: Shared,
    context: Context,
    store: StoreWriter<Service>,
    known: BTreeMap<ServiceKey, Tracked>,
    keys: BTreeSet<ServiceKey>,
}

impl Operator {
    /// It takes over what stands in the API, and knows no more than that.
    pub(super) fn start(world: &Shared) -> Self {
        let client = api(world);
        let pools = Arc::new(BareMetal::new(Outside::Keep));
        let range = "192.0.2.0/29".parse().unwrap();
        pools.set_pools(vec![Pool::new("lan", vec![range])]);
        let fence = Fence::default();
        fence.set(Some(Instant::now() + Duration::from_mins(5)));
        let metrics = OperatorMetrics::register(&mut Registry::default()).0;
        let (desk, _) = Desk::open(client.clone(), "me".into());
        let cloud = Arc::new(Cloud(world.clone()));
        let store = StoreWriter::<Service>::default();
        let context = Context {
            services: store.as_reader(),
            nodes: StoreWriter::default().as_reader(),
            namespaces: StoreWriter::default().as_reader(),
            endpoints: None,
            providers: vec![pools.clone(), cloud],
            default_provider: Some("baremetal".into()),
            other_operators: false,
            dry_run: false,
            writer: Writer::new(client.clone(), client, fence, desk, metrics.clone()),
            metrics,
        };
        let mut known = BTreeMap::new();
        for service in world.lock().unwrap().all() {
            let addresses: Vec<IpAddr> = convert::vips(&service).collect();
            if context.provider_name(&service) != Some("baremetal") || addresses.is_empty() {
                continue;
            }
            let holder = request::holder(&service, herald_core::Labels::new());
            pools.adopt(&holder, &addresses).unwrap();
            let tracked = Tracked {
                uid: holder.uid,
                provider: "baremetal".into(),
                depends: BTreeSet::new(),
            };
            known.insert(key_of(&service), tracked);
        }
        Self {
            world: world.clone(),
            context,
            store,
            known,
            keys: BTreeSet::new(),
        }
    }

    /// Works until nothing is left to do; false if it died.
    pub(super) async fn settle(&mut self) -> bool {
        let died = self.world.lock().unwrap().died.clone();
        tokio::select! {
            biased;
            () = died.notified() => false,
            () = self.work() => true,
        }
    }

    async fn work(&mut self) {
        for _ in 0..ROUNDS {
            let before = self.world.lock().unwrap().writes;
            self.store.apply_watcher_event(&Event::Init);
            for service in self.world.lock().unwrap().all() {
                self.keys.insert(key_of(&service));
                self.store.apply_watcher_event(&Event::InitApply(service));
            }
            self.store.apply_watcher_event(&Event::InitDone);
            let mut idle = true;
            for key in self.keys.clone() {
                let tracked = self.known.get(&key).cloned();
                let report = self.context.reconcile(key.clone(), tracked).await;
                match report.tracked {
                    Some(tracked) => self.known.insert(key, tracked),
                    None => self.known.remove(&key),
                };
                idle &= matches!(report.next, Next::Done(None));
            }
            if idle && self.world.lock().unwrap().writes == before {
                return;
            }
        }
        panic!("it never comes to rest");
    }
}
