//! The provider against sources that are there, away, slow, sealed, or wrong.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use herald_core::ServiceKey;
use herald_provider::{DynProvider, Outcome};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// A source that gives 192.0.2.0 and on, and can be told to fail.
#[derive(Clone, Default)]
struct Outside {
    given: Arc<Mutex<BTreeMap<String, String>>>,
    calls: Arc<AtomicU32>,
    broken: Arc<Mutex<Option<StatusCode>>>,
    token: Option<&'static str>,
}

impl Outside {
    fn router(&self) -> Router {
        Router::new()
            .route("/v1/leases", get(list))
            .route("/v1/leases/{id}", put(give).delete(take_back))
            .with_state(self.clone())
    }

    fn given(&self) -> Vec<String> {
        self.given.lock().unwrap().keys().cloned().collect()
    }

    fn break_with(&self, status: Option<StatusCode>) {
        *self.broken.lock().unwrap() = status;
    }

    fn fails(&self, headers: &HeaderMap) -> Option<Response> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let shown = headers
            .get("authorization")
            .map(|shown| shown.to_str().unwrap());
        if self.token.is_some() && shown != self.token {
            return Some(StatusCode::UNAUTHORIZED.into_response());
        }
        let status = (*self.broken.lock().unwrap())?;
        Some((status, Json(json!({"message": "out of order"}))).into_response())
    }

    /// On a port of its own, until what is returned is dropped.
    async fn listen(&self) -> (String, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (url, self.serve(listener))
    }

    fn serve<L: axum::serve::Listener>(&self, listener: L) -> AbortOnDropHandle<()>
    where
        L::Addr: fmt::Debug,
    {
        let router = self.router();
        AbortOnDropHandle::new(tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        }))
    }
}

async fn give(
    State(outside): State<Outside>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(ask): Json<Value>,
) -> Response {
    if let Some(failure) = outside.fails(&headers) {
        return failure;
    }
    assert_eq!(ask["cluster"], "cluster-1");
    assert_eq!(ask["pool"], "outside");
    assert_eq!(ask["family"], "IPv4");
    assert_eq!(ask["service"]["namespace"], "default");
    let mut given = outside.given.lock().unwrap();
    let next = format!("192.0.2.{}", given.len());
    let address = given.entry(id).or_insert(next).clone();
    Json(json!({"address": address})).into_response()
}

async fn take_back(
    State(outside): State<Outside>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Query(scope): Query<BTreeMap<String, String>>,
) -> Response {
    assert_eq!(scope["cluster"], "cluster-1");
    if let Some(failure) = outside.fails(&headers) {
        return failure;
    }
    outside.given.lock().unwrap().remove(&id);
    StatusCode::NO_CONTENT.into_response()
}

async fn list(
    State(outside): State<Outside>,
    headers: HeaderMap,
    Query(scope): Query<BTreeMap<String, String>>,
) -> Response {
    assert_eq!(scope["pool"], "outside");
    if let Some(failure) = outside.fails(&headers) {
        return failure;
    }
    let given = outside.given.lock().unwrap();
    let lease = |(id, address): (&String, &String)| json!({"id": id, "address": address});
    let leases: Vec<Value> = given.iter().map(lease).collect();
    Json(json!({"leases": leases})).into_response()
}

fn provider(source: &str) -> Arc<BareMetal> {
    let source = format!("name=campus,{source}").parse().unwrap();
    let provider = BareMetal::new(herald_ipam::Outside::Keep);
    let provider = provider.with_sources(vec![source], "cluster-1");
    let outside = Pool {
        external: true,
        ..Pool::new("outside", vec!["192.0.2.0/24".parse().unwrap()])
    };
    let inside = Pool::new("then", vec!["198.51.100.0/24".parse().unwrap()]);
    provider.set_pools(vec![outside, inside]);
    provider.set_sourced(sourced(false));
    Arc::new(provider)
}

fn sourced(closing: bool) -> BTreeMap<String, Sourced> {
    let source = "campus".to_owned();
    BTreeMap::from([("outside".to_owned(), Sourced { source, closing })])
}

fn request(name: &str, pool: &str) -> ServiceRequest {
    ServiceRequest {
        requested_pools: vec![pool.to_owned()],
        ..ServiceRequest::new(ServiceKey::new("default", name), format!("uid-{name}"))
    }
}

async fn serve(provider: &BareMetal, name: &str, pool: &str) -> Outcome {
    let desired = Desired::Present {
        service: request(name, pool),
        nodes: Vec::new(),
        endpoints: Vec::new(),
        references: Vec::new(),
    };
    provider.reconcile(&desired, false, &|| Ok(())).await
}

async fn leave(provider: &BareMetal, name: &str) {
    let desired = Desired::Absent {
        key: ServiceKey::new("default", name),
        uid: format!("uid-{name}"),
    };
    let outcome = provider.reconcile(&desired, false, &|| Ok(())).await;
    assert!(matches!(outcome, Outcome::Settled(_)), "{outcome:?}");
}

fn address(outcome: &Outcome) -> String {
    let Outcome::Settled(status) = outcome else {
        panic!("{outcome:?}");
    };
    status.ingress[0].address().unwrap().to_string()
}

/// Why there is no address yet.
fn waits(outcome: &Outcome) -> String {
    let Outcome::Failed(ProviderError::Waiting { message, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    message.clone()
}

fn tend(provider: &Arc<BareMetal>) -> AbortOnDropHandle<()> {
    let provider = provider.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        DynProvider::tend(provider.as_ref(), &|| Ok(()), &|| ()).await;
    }))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let holds = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, holds)
        .await
        .unwrap_or_else(|_| panic!("waited for {what}"));
}

#[tokio::test]
async fn an_address_is_asked_for_and_given_back() {
    let outside = Outside::default();
    let (url, _server) = outside.listen().await;
    let provider = provider(&format!("url={url}"));
    let _tended = tend(&provider);
    assert_eq!(
        address(&serve(&provider, "web", "outside").await),
        "192.0.2.0"
    );
    assert_eq!(outside.given(), ["uid-web.ipv4"]);
    let calls = outside.calls.load(Ordering::Relaxed);
    assert_eq!(
        address(&serve(&provider, "web", "outside").await),
        "192.0.2.0"
    );
    assert_eq!(outside.calls.load(Ordering::Relaxed), calls, "it has it");
    // Away while the Service goes: it is told later.
    outside.break_with(Some(StatusCode::SERVICE_UNAVAILABLE));
    leave(&provider, "web").await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(outside.given().len(), 1);
    outside.break_with(None);
    until("the address to be given back", || {
        outside.given().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_dry_run_asks_nothing() {
    let outside = Outside::default();
    let (url, _server) = outside.listen().await;
    let provider = provider(&format!("url={url}"));
    let desired = Desired::Present {
        service: request("web", "outside"),
        nodes: Vec::new(),
        endpoints: Vec::new(),
        references: Vec::new(),
    };
    let outcome = provider.reconcile(&desired, true, &|| Ok(())).await;
    let Outcome::Planned(steps) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        steps,
        ["ask the source of pool \"outside\" for an IPv4 address for default/web"]
    );
    assert_eq!(outside.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_source_that_is_away_is_told_of_and_asked_again() {
    let provider = provider("url=http://127.0.0.1:1");
    let told = waits(&serve(&provider, "web", "outside").await);
    assert!(
        told.starts_with(
            "pool \"outside\" has no address for this Service yet: source \"campus\" at \
             http://127.0.0.1:1 cannot be reached: "
        ),
        "{told}"
    );
    // The others are told the same, at once.
    assert_eq!(waits(&serve(&provider, "other", "outside").await), told);
    assert_eq!(
        address(&serve(&provider, "plain", "then").await),
        "198.51.100.0"
    );
}

#[tokio::test]
async fn one_that_never_answers_holds_up_nobody_else() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = silent.local_addr().unwrap();
    let provider = provider(&format!("url=http://{url},timeout=2s"));
    let begin = Instant::now();
    let asking: Vec<_> = (0..40)
        .map(|n| {
            let provider = provider.clone();
            tokio::spawn(async move { serve(&provider, &format!("web-{n}"), "outside").await })
        })
        .collect();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(
        address(&serve(&provider, "plain", "then").await),
        "198.51.100.0"
    );
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    let mut told = BTreeSet::new();
    for asked in asking {
        told.insert(waits(&asked.await.unwrap()));
    }
    // Eight waited for the time that it has, all at once; no others did.
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    assert!(
        told.iter()
            .any(|told| told.contains("does not answer within 2 s")),
        "{told:?}"
    );
    assert!(
        told.iter().any(|told| told.contains("others wait for it")),
        "{told:?}"
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_told() {
    let outside = Outside::default();
    let (url, _server) = outside.listen().await;
    let provider = provider(&format!("url={url}"));
    outside.break_with(Some(StatusCode::UNAUTHORIZED));
    let told = waits(&serve(&provider, "web", "outside").await);
    assert!(
        told.contains("source \"campus\" answers with status 401: out of order"),
        "{told}"
    );
}

#[tokio::test]
async fn a_no_is_final_for_a_while_and_the_next_pool_is_tried() {
    let outside = Outside::default();
    let (url, _server) = outside.listen().await;
    let provider = provider(&format!("url={url}"));
    outside.break_with(Some(StatusCode::CONFLICT));
    let outcome = serve(&provider, "web", "outside").await;
    let Outcome::Refused(refusal) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(refusal.reason, "SourceRefused");
    assert!(
        refusal
            .message
            .ends_with("its source gives none: out of order"),
        "{refusal}"
    );
    let desired = Desired::Present {
        service: ServiceRequest {
            requested_pools: Vec::new(),
            ..request("any", "")
        },
        nodes: Vec::new(),
        endpoints: Vec::new(),
        references: Vec::new(),
    };
    let outcome = provider.reconcile(&desired, false, &|| Ok(())).await;
    assert_eq!(address(&outcome), "198.51.100.0");
}

#[tokio::test]
async fn a_pool_that_is_deleted_is_done_with_when_all_is_given_back() {
    let outside = Outside::default();
    let (url, _server) = outside.listen().await;
    let provider = provider(&format!("url={url}"));
    let _tended = tend(&provider);
    assert_eq!(
        address(&serve(&provider, "web", "outside").await),
        "192.0.2.0"
    );
    // What a former operator asked for and did not come to write.
    let lost = ("uid-lost.ipv4".to_owned(), "192.0.2.77".to_owned());
    outside.given.lock().unwrap().extend([lost]);
    provider.set_pools(Vec::new());
    provider.set_sourced(sourced(true));
    until("what is lost to be given back", || {
        outside.given() == ["uid-web.ipv4"]
    })
    .await;
    assert!(!provider.is_emptied("outside"));
    leave(&provider, "web").await;
    until("the pool to be empty", || provider.is_emptied("outside")).await;
    assert!(outside.given().is_empty());
}

#[tokio::test]
async fn a_socket_of_the_machine_will_do() {
    let path = std::env::temp_dir().join(format!("herald-source-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let outside = Outside::default();
    let _server = outside.serve(UnixListener::bind(&path).unwrap());
    let provider = provider(&format!("url=unix://{}", path.display()));
    assert_eq!(
        address(&serve(&provider, "web", "outside").await),
        "192.0.2.0"
    );
    std::fs::remove_file(path).unwrap();
}

fn file(name: &str, content: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("herald-{name}-{}", std::process::id()));
    std::fs::write(&path, content).unwrap();
    path
}

#[tokio::test]
async fn a_sealed_source_is_known_by_its_certificate_and_shown_the_token() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(
        certified.signing_key.serialize_der(),
    )
    .unwrap();
    let crypto = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let outside = Outside {
        token: Some("Bearer secret"),
        ..Outside::default()
    };
    let router = outside.router();
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let stream = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(stream, service),
            );
        }
    }));
    let token = file("token", "secret\n");
    let right = file("ca", &certified.cert.pem());
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let wrong = file("other-ca", &other.cert.pem());
    let url = format!("url=https://localhost:{port},token={}", token.display());
    let known = provider(&format!("{url},ca={}", right.display()));
    assert_eq!(address(&serve(&known, "web", "outside").await), "192.0.2.0");
    let unknown = provider(&format!("{url},ca={}", wrong.display()));
    let told = waits(&serve(&unknown, "web", "outside").await);
    assert!(told.contains("invalid peer certificate"), "{told}");
    std::fs::write(&token, "guess").unwrap();
    let told = waits(&serve(&known, "other", "outside").await);
    assert!(told.contains("answers with status 401"), "{told}");
    for path in [token, right, wrong] {
        std::fs::remove_file(path).unwrap();
    }
}
