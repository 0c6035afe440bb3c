//! The interface that the operator calls.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use herald_core::IpFamily;
use serde::{Deserialize, Serialize};

use crate::store::{Lease, Scope, Store};

#[derive(Clone, Debug)]
pub(crate) struct Server {
    store: Arc<Mutex<Store>>,
    token: Option<PathBuf>,
}

/// What is asked for. The Service is told too, for those who look at the leases; it is
/// not needed here.
#[derive(Debug, Deserialize)]
struct Ask {
    #[serde(flatten)]
    scope: Scope,
    family: Family,
    address: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

#[derive(Debug, Serialize)]
struct Given {
    address: IpAddr,
}

#[derive(Debug, Serialize)]
struct Complaint {
    message: String,
}

#[derive(Debug, Serialize)]
struct Leases {
    leases: Vec<Lease>,
}

impl Server {
    pub(crate) fn new(store: Store, token: Option<PathBuf>) -> Self {
        let store = Arc::new(Mutex::new(store));
        Self { store, token }
    }

    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/v1/leases", get(list))
            .route("/v1/leases/{id}", put(give).delete(take_back))
            .layer(middleware::from_fn_with_state(self.clone(), known))
            .with_state(self)
    }
}

fn complain(status: StatusCode, message: String) -> Response {
    (status, Json(Complaint { message })).into_response()
}

/// Lets only those through who show the token.
async fn known(State(server): State<Server>, request: Request, next: Next) -> Response {
    if let Some(path) = &server.token {
        let token = tokio::fs::read_to_string(path).await.unwrap_or_default();
        let shown = request.headers().get(AUTHORIZATION);
        let right = format!("Bearer {}", token.trim());
        if token.trim().is_empty() || shown.is_none_or(|shown| shown.as_bytes() != right.as_bytes())
        {
            return complain(
                StatusCode::UNAUTHORIZED,
                "the token is not the right one".into(),
            );
        }
    }
    next.run(request).await
}

async fn give(
    State(server): State<Server>,
    Path(id): Path<String>,
    Json(ask): Json<Ask>,
) -> Response {
    let family = match ask.family {
        Family::V4 => IpFamily::V4,
        Family::V6 => IpFamily::V6,
    };
    let mut store = server.store.lock().expect("no holder panics");
    match store.give(ask.scope, &id, family, ask.address) {
        Ok(Ok(address)) => Json(Given { address }).into_response(),
        Ok(Err(why)) => complain(StatusCode::CONFLICT, why),
        Err(error) => complain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn take_back(
    State(server): State<Server>,
    Path(id): Path<String>,
    Query(scope): Query<Scope>,
) -> Response {
    let mut store = server.store.lock().expect("no holder panics");
    match store.take_back(&scope, &id) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => complain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn list(State(server): State<Server>, Query(scope): Query<Scope>) -> Json<Leases> {
    let store = server.store.lock().expect("no holder panics");
    Json(Leases {
        leases: store.list(&scope),
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn server(name: &str) -> (Router, PathBuf) {
        let file = std::env::temp_dir().join(format!("herald-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&file);
        (router(&file, None), file)
    }

    fn router(file: &std::path::Path, token: Option<PathBuf>) -> Router {
        let range = "192.0.2.1-192.0.2.2".parse().unwrap();
        let store = Store::open(vec![range], file.to_owned()).unwrap();
        Server::new(store, token).router()
    }

    async fn call(router: &Router, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .header(AUTHORIZATION, "Bearer open")
            .body(Body::from(body.to_owned()))
            .unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    const ASK: &str = r#"{"cluster":"c","pool":"p","family":"IPv4",
        "service":{"namespace":"n","name":"s","uid":"u"}}"#;

    #[tokio::test]
    async fn it_keeps_its_promises_over_a_restart() {
        let (router_, file) = server("promises");
        let first = (200, r#"{"address":"192.0.2.1"}"#.to_owned());
        assert_eq!(call(&router_, "PUT", "/v1/leases/a", ASK).await, first);
        assert_eq!(call(&router_, "PUT", "/v1/leases/a", ASK).await, first);
        let router_ = router(&file, None);
        assert_eq!(call(&router_, "PUT", "/v1/leases/a", ASK).await, first);
        assert_eq!(call(&router_, "PUT", "/v1/leases/b", ASK).await.0, 200);
        let full = call(&router_, "PUT", "/v1/leases/c", ASK).await;
        assert_eq!(
            full,
            (409, r#"{"message":"no IPv4 address is left"}"#.to_owned())
        );
        let scoped = "/v1/leases/b?cluster=c&pool=p";
        assert_eq!(call(&router_, "DELETE", scoped, "").await.0, 204);
        assert_eq!(call(&router_, "DELETE", scoped, "").await.0, 204);
        let listed = call(&router_, "GET", "/v1/leases?cluster=c&pool=p", "")
            .await
            .1;
        assert_eq!(listed, r#"{"leases":[{"id":"a","address":"192.0.2.1"}]}"#);
        let others = call(&router_, "GET", "/v1/leases?cluster=d&pool=p", "")
            .await
            .1;
        assert_eq!(others, r#"{"leases":[]}"#);
        std::fs::remove_file(file).unwrap();
    }

    #[tokio::test]
    async fn who_shows_no_token_is_sent_away() {
        let (_, file) = server("token");
        let token = file.with_extension("token");
        std::fs::write(&token, "secret\n").unwrap();
        let shut = router(&file, Some(token.clone()));
        assert_eq!(call(&shut, "PUT", "/v1/leases/a", ASK).await.0, 401);
        std::fs::write(&token, "open\n").unwrap();
        assert_eq!(call(&shut, "PUT", "/v1/leases/a", ASK).await.0, 200);
        std::fs::remove_file(token).unwrap();
        std::fs::remove_file(file).unwrap();
    }
}
