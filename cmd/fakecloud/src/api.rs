//! The HTTP API: routes, and what each call does to the account.
//!
//! Calls under `/v1/load-balancers` pass the [`gate`](crate::gate); those that
//! steer and watch the pretend cloud itself (`faults`, `calls`, `hosts`) don't,
//! so that no fault can lock its maker out.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::ApiError;
use crate::faults::{FaultSpec, Operation};
use crate::gate::{Reply, pass};
use crate::shared::Shared;
use crate::wire::{CreateLoadBalancer, SetFamilies, SetHealthCheck, SetListeners, SetTargets};

/// Items of a page when `pageSize` is not given, and the most it may ask for.
const PAGE_SIZE: usize = 100;

type Cloud = State<Arc<Shared>>;

/// All routes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/load-balancers", post(create).get(list))
        .route("/v1/load-balancers/{id}", get(show).delete(remove))
        .route("/v1/load-balancers/{id}/families", put(set_families))
        .route("/v1/load-balancers/{id}/listeners", put(set_listeners))
        .route("/v1/load-balancers/{id}/targets", put(set_targets))
        .route(
            "/v1/load-balancers/{id}/health-check",
            put(set_health_check),
        )
        .route("/v1/hosts", get(hosts))
        .route(
            "/v1/faults",
            post(add_fault).get(faults).delete(clear_faults),
        )
        .route("/v1/faults/release", post(release))
        .route("/v1/faults/{id}", delete(remove_fault))
        .route("/v1/calls", get(calls).delete(clear_calls))
        .fallback(|| async { ApiError::not_found("no such path; see docs/fakecloud.md") })
        .with_state(shared)
}

async fn create(State(shared): Cloud, body: Bytes) -> Response {
    let request = parse::<CreateLoadBalancer>(&body);
    let subject = request
        .as_ref()
        .map_or_else(|_| String::new(), |r| r.name.clone());
    pass(
        shared,
        Operation::CreateLoadBalancer,
        subject,
        |cloud, context| {
            let (made, new) = cloud.create(request?, context.fate, context.now)?;
            Reply::json(
                if new {
                    StatusCode::CREATED
                } else {
                    StatusCode::OK
                },
                &made,
            )
        },
    )
    .await
}

async fn list(State(shared): Cloud, Query(query): Query<Vec<(String, String)>>) -> Response {
    let filter = ListFilter::parse(query);
    let subject = filter
        .as_ref()
        .ok()
        .and_then(|filter| filter.name.clone())
        .unwrap_or_default();
    pass(
        shared,
        Operation::ListLoadBalancers,
        subject,
        |cloud, context| {
            let filter = filter?;
            let page = cloud.list(
                filter.name.as_deref(),
                &filter.tags,
                filter.after.as_deref(),
                filter.limit,
                context.now,
            );
            Reply::json(StatusCode::OK, &page)
        },
    )
    .await
}

async fn show(State(shared): Cloud, Path(id): Path<String>) -> Response {
    pass(
        shared,
        Operation::GetLoadBalancer,
        id.clone(),
        |cloud, context| Reply::json(StatusCode::OK, &cloud.get(&id, context.now)?),
    )
    .await
}

async fn set_families(State(shared): Cloud, Path(id): Path<String>, body: Bytes) -> Response {
    pass(
        shared,
        Operation::SetFamilies,
        id.clone(),
        |cloud, context| {
            let families = parse::<SetFamilies>(&body)?.families;
            Reply::json(
                StatusCode::OK,
                &cloud.set_families(&id, &families, context.now)?,
            )
        },
    )
    .await
}

async fn set_listeners(State(shared): Cloud, Path(id): Path<String>, body: Bytes) -> Response {
    pass(
        shared,
        Operation::SetListeners,
        id.clone(),
        |cloud, context| {
            let listeners = parse::<SetListeners>(&body)?.listeners;
            Reply::json(
                StatusCode::OK,
                &cloud.set_listeners(&id, &listeners, context.now)?,
            )
        },
    )
    .await
}

async fn set_targets(State(shared): Cloud, Path(id): Path<String>, body: Bytes) -> Response {
    pass(
        shared,
        Operation::SetTargets,
        id.clone(),
        |cloud, context| {
            let targets = parse::<SetTargets>(&body)?.targets;
            Reply::json(
                StatusCode::OK,
                &cloud.set_targets(&id, &targets, context.now)?,
            )
        },
    )
    .await
}

async fn set_health_check(State(shared): Cloud, Path(id): Path<String>, body: Bytes) -> Response {
    pass(
        shared,
        Operation::SetHealthCheck,
        id.clone(),
        |cloud, context| {
            let check = parse::<SetHealthCheck>(&body)?.health_check;
            Reply::json(
                StatusCode::OK,
                &cloud.set_health_check(&id, check, context.now)?,
            )
        },
    )
    .await
}

async fn remove(State(shared): Cloud, Path(id): Path<String>) -> Response {
    pass(
        shared,
        Operation::DeleteLoadBalancer,
        id.clone(),
        |cloud, context| {
            cloud.delete(&id, context.now)?;
            Ok(Reply::empty(StatusCode::ACCEPTED))
        },
    )
    .await
}

async fn hosts(State(shared): Cloud) -> Response {
    Json(json!({"items": shared.account().cloud.hosts()})).into_response()
}

async fn add_fault(State(shared): Cloud, body: Bytes) -> Result<Response, ApiError> {
    let fault = shared.account().faults.add(parse::<FaultSpec>(&body)?)?;
    Ok((StatusCode::CREATED, Json(fault)).into_response())
}

async fn faults(State(shared): Cloud) -> Response {
    Json(shared.account().faults.report(Instant::now())).into_response()
}

async fn clear_faults(State(shared): Cloud) -> StatusCode {
    shared.account().faults.clear();
    StatusCode::NO_CONTENT
}

async fn remove_fault(State(shared): Cloud, Path(id): Path<u64>) -> Result<StatusCode, ApiError> {
    if shared.account().faults.remove(id) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found(format!("there is no fault {id}")))
    }
}

async fn release(State(shared): Cloud) -> Response {
    Json(json!({"released": shared.account().faults.release()})).into_response()
}

async fn calls(State(shared): Cloud) -> Response {
    Json(shared.account().calls.report()).into_response()
}

async fn clear_calls(State(shared): Cloud) -> StatusCode {
    shared.account().calls.clear();
    StatusCode::NO_CONTENT
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::invalid(error.to_string()))
}

/// Query of `GET /v1/load-balancers`.
#[derive(Debug, PartialEq, Eq)]
struct ListFilter {
    name: Option<String>,
    tags: Vec<(String, String)>,
    after: Option<String>,
    limit: usize,
}

impl ListFilter {
    fn parse(query: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut filter = Self {
            name: None,
            tags: Vec::new(),
            after: None,
            limit: PAGE_SIZE,
        };
        for (key, value) in query {
            match key.as_str() {
                "name" => filter.name = Some(value),
                "pageToken" => filter.after = Some(value),
                "tag" => {
                    let (key, value) = value.split_once('=').ok_or_else(|| {
                        ApiError::invalid(format!("tag {value:?} is not key=value"))
                    })?;
                    filter.tags.push((key.to_owned(), value.to_owned()));
                }
                "pageSize" => {
                    filter.limit = value
                        .parse()
                        .ok()
                        .filter(|size| (1..=PAGE_SIZE).contains(size))
                        .ok_or_else(|| {
                            ApiError::invalid(format!("pageSize must be from 1 to {PAGE_SIZE}"))
                        })?;
                }
                other => {
                    return Err(ApiError::invalid(format!(
                        "unknown parameter {other:?}; there are name, tag, pageSize and pageToken"
                    )));
                }
            }
        }
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(pairs: &[(&str, &str)]) -> Result<ListFilter, ApiError> {
        ListFilter::parse(
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn a_filter_may_have_several_tags() {
        let parsed = filter(&[("tag", "a=b=c"), ("tag", "d="), ("pageSize", "2")]).unwrap();
        assert_eq!(
            parsed.tags,
            [
                ("a".to_owned(), "b=c".to_owned()),
                ("d".to_owned(), String::new())
            ]
        );
        assert_eq!(parsed.limit, 2);
    }

    #[test]
    fn a_mistyped_filter_is_refused_rather_than_ignored() {
        for wrong in [
            ("tags", "a=b"),
            ("tag", "a"),
            ("pageSize", "0"),
            ("pageSize", "101"),
        ] {
            assert_eq!(filter(&[wrong]).unwrap_err().code, "InvalidRequest");
        }
    }
}
