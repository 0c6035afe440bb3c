//! One Service against an API server that is slow to tell, or says no.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use herald_core::{Ingress, ServiceKey};
use herald_provider::{Desired, DynProvider, Provider, ProviderError, Refusal, Status};
use herald_telemetry::Registry;
use http_body_util::BodyExt as _;
use hyper::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::client::Body;
use kube::runtime::reflector::store::Writer as StoreWriter;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use crate::events::Desk;
use crate::lease::Fence;
use crate::metrics::OperatorMetrics;
use crate::reconcile::{Context, Next};
use crate::writer::Writer;

/// A provider that always has the same address.
struct One;

#[async_trait]
impl Provider for One {
    type Observed = ();
    type Action = String;

    fn name(&self) -> &'static str {
        "one"
    }

    fn class(&self) -> &'static str {
        "herald.dev/fake"
    }

    fn external(&self) -> bool {
        false
    }

    async fn observe(&self, _: &Desired) -> Result<(), ProviderError> {
        Ok(())
    }

    fn plan(&self, _: &Desired, (): &()) -> Result<Vec<String>, Refusal> {
        Ok(Vec::new())
    }

    async fn apply(&self, _: &String) -> Result<(), ProviderError> {
        Ok(())
    }

    fn status(&self, _: &Desired, (): &()) -> Status {
        Status {
            ingress: vec![Ingress::vip([192, 0, 2, 1].into())],
            ready: true,
            reason: "AddressAssigned",
            message: String::new(),
            recheck: None,
            pods: Vec::new(),
        }
    }
}

/// What the API server was asked: `METHOD resourceVersion`.
type Asked = Arc<Mutex<Vec<String>>>;

/// An API server whose Service is at version `version`, and which refuses patches of
/// any other.
fn api(version: &'static str) -> (Client, Asked) {
    let asked = Asked::default();
    let log = asked.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let log = log.clone();
        async move {
            let method = request.method().clone();
            let body = request.into_body().collect().await?.to_bytes();
            let patch: Value = serde_json::from_slice(&body).unwrap_or_default();
            let seen = patch["metadata"]["resourceVersion"].as_str().unwrap_or("-");
            log.lock().unwrap().push(format!("{method} {seen}"));
            let (status, answer) = if seen == "-" || seen == version {
                (StatusCode::OK, object(version, true))
            } else {
                let refusal = json!({"status": "Failure", "reason": "Conflict", "code": 409});
                (StatusCode::CONFLICT, refusal)
            };
            Response::builder()
                .status(status)
                .body(Body::from(serde_json::to_vec(&answer)?))
                .map_err(tower::BoxError::from)
        }
    });
    (Client::new(service, "default"), asked)
}

/// A Service; `others` have said something on it too.
fn object(version: &str, others: bool) -> Value {
    let condition = json!({
        "type": "example.com/Seen", "status": "True", "reason": "Seen", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let conditions = if others { vec![condition] } else { Vec::new() };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "uid": "u", "resourceVersion": version},
        "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"]},
        "status": {"conditions": conditions},
    })
}

/// A worker's context whose store has the Service at version 1.
fn context(client: &Client) -> Context {
    let fence = Fence::default();
    fence.set(Some(Instant::now() + Duration::from_mins(1)));
    let metrics = OperatorMetrics::register(&mut Registry::default()).0;
    let (desk, _) = Desk::open(client.clone(), "me".into());
    let mut services = StoreWriter::<Service>::default();
    let service: Service = serde_json::from_value(object("1", false)).unwrap();
    services.apply_watcher_event(&Event::Apply(service));
    Context {
        services: services.as_reader(),
        nodes: StoreWriter::default().as_reader(),
        namespaces: StoreWriter::default().as_reader(),
        endpoints: None,
        providers: vec![Arc::new(One) as Arc<dyn DynProvider>],
        default_provider: Some("one".into()),
        other_operators: false,
        dry_run: false,
        writer: Writer::new(client.clone(), client.clone(), fence, desk, metrics.clone()),
        metrics,
    }
}

#[tokio::test]
async fn a_conflict_costs_one_retry_of_that_service() {
    let (client, asked) = api("2");
    let key = ServiceKey::new("default", "web");
    let report = context(&client).reconcile(key, None).await;
    assert_eq!(report.next, Next::Done(None));
    assert_eq!(*asked.lock().unwrap(), ["PATCH 1", "GET -", "PATCH 2"]);
}

#[tokio::test]
async fn what_is_seen_first_time_is_one_write() {
    let (client, asked) = api("1");
    let key = ServiceKey::new("default", "web");
    let report = context(&client).reconcile(key, None).await;
    assert_eq!(report.next, Next::Done(None));
    assert_eq!(*asked.lock().unwrap(), ["PATCH 1"]);
}

#[tokio::test]
async fn without_the_lease_nothing_is_asked() {
    let (client, asked) = api("1");
    let context = context(&client);
    let fence = Fence::default();
    let (desk, _) = Desk::open(client.clone(), "me".into());
    let writer = Writer::new(client.clone(), client, fence, desk, context.metrics.clone());
    let context = Context { writer, ..context };
    let report = context
        .reconcile(ServiceKey::new("default", "web"), None)
        .await;
    assert_eq!(report.next, Next::Failed(None));
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn another_operators_service_is_left_as_it_is() {
    let (client, asked) = api("1");
    let context = Context {
        providers: Vec::new(),
        default_provider: None,
        other_operators: true,
        ..context(&client)
    };
    let report = context
        .reconcile(ServiceKey::new("default", "web"), None)
        .await;
    assert_eq!(report.next, Next::Done(None));
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_service_without_a_class_is_nobodys_by_default() {
    let (client, asked) = api("1");
    let context = Context {
        default_provider: None,
        ..context(&client)
    };
    let report = context
        .reconcile(ServiceKey::new("default", "web"), None)
        .await;
    assert_eq!(report.next, Next::Done(None));
    assert!(asked.lock().unwrap().is_empty());
}
