//! `/_admin/…`: faults, calls, time and contents, for tests in other
//! processes. docs/fakeaws.md describes it.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Quotas;
use crate::faults::Fault;
use crate::fixtures::Fixtures;
use crate::gate::Shared;
use crate::model::{InstanceState, Verdict};
use crate::snapshot::Snapshot;
use crate::throttle::Throttling;

type Result = std::result::Result<Value, (StatusCode, String)>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Advance {
    advance_millis: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Lag {
    #[serde(default)]
    elbv2_millis: u64,
    #[serde(default)]
    ec2_millis: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TargetHealth {
    target: String,
    health: Option<Verdict>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct State {
    state: InstanceState,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LoadBalancerState {
    /// None for the one that it has by itself.
    state: Option<String>,
    #[serde(default)]
    reason: String,
}

/// Answers a request to the admin API.
pub(crate) fn answer(shared: &Arc<Shared>, request: &Request<Bytes>) -> Response<Bytes> {
    let path = request.uri().path().trim_start_matches("/_admin");
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (status, body) = match perform(shared, request.method(), &parts, request.body()) {
        Ok(body) => (StatusCode::OK, body),
        Err((status, message)) => (status, json!({ "error": message })),
    };
    let mut response = Response::new(Bytes::from(format!("{body}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn perform(shared: &Arc<Shared>, method: &Method, parts: &[&str], body: &[u8]) -> Result {
    let scope = (
        shared.config.fixtures.account.as_str(),
        shared.config.fixtures.region.as_str(),
    );
    let mut world = shared.world();
    match (method.as_str(), parts) {
        ("POST", ["reset"]) => {
            drop(world);
            shared.reset();
            Ok(json!({}))
        }
        ("GET", ["snapshot"]) => {
            let now = world.clock.now();
            let region = &mut world.place(scope.0, scope.1).region;
            region.settle(now);
            value(&Snapshot::of(region))
        }
        ("GET", ["hosts"]) => value(&world.hosts),
        ("GET", ["calls"]) => Ok(json!({
            "counts": world.calls.counts(),
            "calls": world.calls.all(),
        })),
        ("GET", ["counts"]) => value(world.calls.counts()),
        ("DELETE", ["calls"]) => {
            world.calls.clear();
            Ok(json!({}))
        }
        ("GET", ["faults"]) => Ok(json!({
            "armed": world.faults.armed(),
            "held": world.faults.held(),
            "crashed": world.faults.is_crashed(),
        })),
        ("POST", ["faults"]) => {
            let fault: Fault = read(body)?;
            let id = world
                .faults
                .add(fault)
                .map_err(|error| wrong(error.message))?;
            Ok(json!({ "id": id }))
        }
        ("DELETE", ["faults"]) => {
            world.faults.clear();
            Ok(json!({}))
        }
        ("DELETE", ["faults", id]) => match id.parse() {
            Ok(id) if world.faults.remove(id) => Ok(json!({})),
            _ => Err(unknown(format!("there is no fault {id:?}"))),
        },
        ("POST", ["release"]) => Ok(json!({ "released": world.faults.release() })),
        ("POST", ["revive"]) => {
            world.faults.revive();
            Ok(json!({}))
        }
        ("GET", ["clock"]) => Ok(json!({
            "millis": u64::try_from(world.clock.now().as_millis()).unwrap_or(u64::MAX),
        })),
        ("POST", ["clock"]) => {
            let advance: Advance = read(body)?;
            world
                .clock
                .advance(Duration::from_millis(advance.advance_millis));
            drop(world);
            shared.notify();
            Ok(json!({}))
        }
        ("PUT", ["lag"]) => {
            let lag: Lag = read(body)?;
            world.timing.elbv2_lag = Duration::from_millis(lag.elbv2_millis);
            world.timing.ec2_lag = Duration::from_millis(lag.ec2_millis);
            Ok(json!({}))
        }
        ("PUT", ["quotas"]) => {
            let quotas: Quotas = read(body)?;
            world.quotas = quotas;
            Ok(json!({}))
        }
        ("PUT", ["throttling"]) => {
            let sizes = if body.is_empty() {
                Throttling::default()
            } else {
                read(body)?
            };
            drop(world);
            shared.throttle(Some(sizes));
            Ok(json!({}))
        }
        ("DELETE", ["throttling"]) => {
            drop(world);
            shared.throttle(None);
            Ok(json!({}))
        }
        ("POST", ["fixtures"]) => {
            let fixtures: Fixtures = read(body)?;
            world
                .place(&fixtures.account, &fixtures.region)
                .region
                .add(&fixtures);
            drop(world);
            shared.notify();
            Ok(json!({}))
        }
        ("PUT", ["instances", id]) => {
            let state: State = read(body)?;
            let region = &mut world.place(scope.0, scope.1).region;
            if !region.instances.contains_key(*id) {
                return Err(unknown(format!("there is no instance {id:?}")));
            }
            region.set_instance_state(id, state.state);
            drop(world);
            shared.notify();
            Ok(json!({}))
        }
        ("POST", ["target-health"]) => {
            let health: TargetHealth = read(body)?;
            let region = &mut world.place(scope.0, scope.1).region;
            let met = region.set_target_health(&health.target, health.health);
            Ok(json!({ "targets": met }))
        }
        ("PUT", ["load-balancers", name]) => {
            let state: LoadBalancerState = read(body)?;
            let region = &mut world.place(scope.0, scope.1).region;
            let lb = region
                .load_balancers
                .values_mut()
                .find(|lb| lb.name == *name);
            let lb = lb.ok_or_else(|| unknown(format!("there is no load balancer {name:?}")))?;
            lb.steered = state.state.map(|word| (word, state.reason));
            drop(world);
            shared.notify();
            Ok(json!({}))
        }
        _ => Err(unknown(format!(
            "there is no {method} /_admin/{}; docs/fakeaws.md lists what there is",
            parts.join("/")
        ))),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> std::result::Result<T, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))
}

fn value(value: &impl Serialize) -> Result {
    serde_json::to_value(value)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

const fn wrong(message: String) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, message)
}

const fn unknown(message: String) -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, message)
}
