//! `/metrics`, `/healthz` and `/readyz`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Health;

/// Why the endpoint could not be served.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The address is taken or not ours.
    #[error(
        "cannot listen on {address} for metrics and health; choose another --metrics-bind-address"
    )]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The server stopped by itself.
    #[error("the metrics and health endpoint stopped")]
    Serve(#[source] io::Error),
}

#[derive(Clone)]
struct Shared {
    registry: Arc<Registry>,
    health: Health,
}

/// Serves `/metrics` (`OpenMetrics` text), `/healthz` (200 while the process
/// answers) and `/readyz` (200 when ready, else 503) until cancelled. The
/// address `[::]` takes IPv4 too, and IPv4 alone on a host without IPv6.
pub async fn serve(
    address: SocketAddr,
    registry: Arc<Registry>,
    health: Health,
    cancel: CancellationToken,
) -> Result<(), TelemetryError> {
    let listener = listen(address)
        .await
        .map_err(|source| TelemetryError::Listen { address, source })?;
    serve_on(listener, Shared { registry, health }, cancel).await
}

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        result => result,
    }
}

async fn serve_on(
    listener: TcpListener,
    shared: Shared,
    cancel: CancellationToken,
) -> Result<(), TelemetryError> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(shared);
    axum::serve(listener, router)
        .with_graceful_shutdown(cancel.cancelled_owned())
        .await
        .map_err(TelemetryError::Serve)
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &shared.registry) {
        Ok(()) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(shared): State<Shared>) -> Response {
    if shared.health.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_health_and_metrics_are_served_until_cancelled() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("herald_test", "A counter", counter.clone());
        counter.inc();
        let (health, cancel) = (Health::new(), CancellationToken::new());
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            registry: Arc::new(registry),
            health: health.clone(),
        };
        let server = tokio::spawn(serve_on(listener, shared, cancel.clone()));

        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.set_ready(true);
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let metrics = fetch(address, "/metrics").await;
        assert!(metrics.contains("herald_test_total 1"), "{metrics}");
        assert!(metrics.trim_end().ends_with("# EOF"), "{metrics}");
        cancel.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let taken = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = serve(
            address,
            Arc::default(),
            Health::new(),
            CancellationToken::new(),
        )
        .await
        .unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
