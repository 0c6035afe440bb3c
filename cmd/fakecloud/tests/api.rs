//! The HTTP API: faults, the call log, limits, names.

mod common;

use std::time::{Duration, Instant};

use common::{Api, SOON, config, id, request};
use herald_fakecloud::{Config, RateLimit, Server};
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

async fn fault(api: &Api, spec: Value) {
    let (status, answer) = api.call(Method::POST, "/v1/faults", spec).await;
    assert_eq!(status, 201, "{answer}");
}

/// Waits until as many calls hang.
async fn holding(server: &Server, calls: usize) {
    let mut holding = server.shared().account().faults.holding();
    let waited = timeout(SOON, holding.wait_for(|now| *now == calls)).await;
    assert!(waited.is_ok(), "never {calls} calls held");
}

fn web() -> Value {
    request("web", 8080, 9, &[])
}

#[tokio::test]
async fn errors_and_throttling_come_as_asked_and_do_nothing() {
    let server = Server::start(config("127.51.0.0/28")).await.unwrap();
    let api = Api::of(&server);
    fault(
        &api,
        json!({
            "operation": "CreateLoadBalancer", "kind": "error", "status": 402,
            "code": "QuotaExceeded", "message": "no more",
        }),
    )
    .await;
    fault(
        &api,
        json!({"operation": "*", "kind": "throttle", "retryAfterSeconds": 7}),
    )
    .await;
    let (status, answer) = api.call(Method::POST, "/v1/load-balancers", web()).await;
    assert_eq!(status, 402);
    assert_eq!(
        answer,
        json!({"error": {"code": "QuotaExceeded", "message": "no more"}})
    );
    let (status, answer) = api.call(Method::POST, "/v1/load-balancers", web()).await;
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (429, Some("Throttling"))
    );
    assert_eq!(api.get("/v1/load-balancers").await["items"], json!([]));
    let report = api.get("/v1/calls").await;
    assert_eq!(
        report["counts"]["CreateLoadBalancer"]["402 QuotaExceeded"],
        1
    );
    assert_eq!(report["counts"]["CreateLoadBalancer"]["429 Throttling"], 1);
    assert_eq!(report["calls"][0]["subject"], "web");
    assert_eq!(
        api.call(Method::DELETE, "/v1/calls", Value::Null).await.0,
        204
    );
    assert_eq!(api.get("/v1/calls").await["total"], 0);
    server.stop().await;
}

#[tokio::test]
async fn a_held_call_goes_on_when_released() {
    let server = Server::start(config("127.52.0.0/28")).await.unwrap();
    let api = Api::of(&server);
    for (phase, exists) in [("before", 0), ("after", 1)] {
        fault(
            &api,
            json!({"operation": "CreateLoadBalancer", "kind": "hold", "phase": phase}),
        )
        .await;
        let call = api.call(Method::POST, "/v1/load-balancers", web());
        let steer = async {
            holding(&server, 1).await;
            let held = &api.get("/v1/faults").await["held"][0];
            assert_eq!(
                (&held["operation"], &held["phase"]),
                (&json!("CreateLoadBalancer"), &json!(phase))
            );
            let items = api.get("/v1/load-balancers").await["items"].clone();
            assert_eq!(items.as_array().unwrap().len(), exists);
            let (_, answer) = api
                .call(Method::POST, "/v1/faults/release", Value::Null)
                .await;
            assert_eq!(answer, json!({"released": 1}));
        };
        let ((status, made), ()) = tokio::join!(call, steer);
        assert_eq!(status, 201, "{made}");
        holding(&server, 0).await;
        api.delete(id(&made)).await;
        api.until(id(&made), |lb| lb["error"]["code"] == "NotFound")
            .await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_what_was_done_and_no_more() {
    let server = Server::start(config("127.53.0.0/28")).await.unwrap();
    let api = Api::of(&server);
    for (kind, exists) in [("timeoutBefore", false), ("timeoutAfter", true)] {
        fault(
            &api,
            json!({"operation": "CreateLoadBalancer", "kind": kind}),
        )
        .await;
        let impatient = Api::of(&server);
        let call = impatient.call(Method::POST, "/v1/load-balancers", web());
        tokio::select! {
            answer = call => panic!("answered: {answer:?}"),
            () = holding(&server, 1) => {}
        }
        drop(impatient);
        holding(&server, 0).await;
        let items = api.get("/v1/load-balancers?name=web").await["items"].clone();
        assert_eq!(items.as_array().unwrap().len() == 1, exists, "{kind}");
    }
    let report = api.get("/v1/calls").await;
    assert_eq!(report["counts"]["CreateLoadBalancer"]["abandoned"], 2);
    server.stop().await;
}

#[tokio::test]
async fn provisioning_fails_on_demand_and_faults_can_be_taken_back() {
    let server = Server::start(config("127.54.0.0/28")).await.unwrap();
    let api = Api::of(&server);
    fault(
        &api,
        json!({
            "operation": "CreateLoadBalancer", "kind": "failProvisioning", "message": "no capacity",
        }),
    )
    .await;
    let (status, made) = api.call(Method::POST, "/v1/load-balancers", web()).await;
    assert_eq!(status, 201);
    let failed = api.until(id(&made), |lb| lb["state"] == "failed").await;
    assert_eq!(failed["stateReason"], "no capacity");

    fault(&api, json!({"operation": "*", "kind": "error", "count": 0})).await;
    assert_eq!(
        api.call(Method::GET, "/v1/load-balancers", Value::Null)
            .await
            .0,
        500
    );
    let armed = api.get("/v1/faults").await["faults"][0].clone();
    assert_eq!(armed["hits"], 1);
    let path = format!("/v1/faults/{}", armed["id"]);
    assert_eq!(api.call(Method::DELETE, &path, Value::Null).await.0, 204);
    assert_eq!(api.call(Method::DELETE, &path, Value::Null).await.0, 404);
    assert_eq!(
        api.call(Method::GET, "/v1/load-balancers", Value::Null)
            .await
            .0,
        200
    );
    server.stop().await;
}

#[tokio::test]
async fn the_rate_limit_says_when_to_come_again() {
    let limited = Config {
        rate_limit: Some(RateLimit {
            rate: 0.01,
            burst: 2,
        }),
        ..config("127.55.0.0/28")
    };
    let server = Server::start(limited).await.unwrap();
    let api = Api::of(&server);
    for expected in [200, 200, 429] {
        assert_eq!(
            api.call(Method::GET, "/v1/load-balancers", Value::Null)
                .await
                .0,
            expected
        );
    }
    assert_eq!(
        api.call(Method::GET, "/v1/calls", Value::Null).await.0,
        200,
        "steering is free"
    );
    server.stop().await;
}

#[tokio::test]
async fn mistakes_are_told_apart() {
    let server = Server::start(config("127.56.0.0/28")).await.unwrap();
    let api = Api::of(&server);
    let mut mistyped = web();
    mistyped["listenerz"] = json!([]);
    let (status, answer) = api.call(Method::POST, "/v1/load-balancers", mistyped).await;
    assert_eq!(status, 400);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("listenerz"),
        "{answer}"
    );
    for (path, expected) in [
        ("/v1/load-balancers/lb-1", 404),
        ("/v1/loadbalancers", 404),
        ("/v1/load-balancers?tags=a", 400),
    ] {
        let (status, answer) = api.call(Method::GET, path, Value::Null).await;
        assert_eq!(status, expected, "{path}: {answer}");
        assert!(answer["error"]["code"].is_string(), "{path}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn hostnames_are_kept_in_a_hosts_file() {
    let file = std::env::temp_dir().join(format!("herald-hosts-{}", std::process::id()));
    let named = Config {
        hosts_file: Some(file.clone()),
        ..config("127.57.0.0/28")
    };
    let server = Server::start(named).await.unwrap();
    let api = Api::of(&server);
    let mut body = web();
    body["addressType"] = json!("hostname");
    let (_, made) = api.call(Method::POST, "/v1/load-balancers", body).await;
    assert_eq!(made["hostname"], "web.fakecloud.herald.dev");
    let line = format!(
        "{}\tweb.fakecloud.herald.dev\n",
        made["addresses"][0].as_str().unwrap()
    );
    let holds = |wanted: bool| {
        let start = Instant::now();
        let (file, line) = (file.clone(), line.clone());
        async move {
            while std::fs::read_to_string(&file)
                .unwrap_or_default()
                .contains(&line)
                != wanted
            {
                assert!(start.elapsed() < SOON, "never {wanted}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    holds(true).await;
    assert_eq!(
        api.get("/v1/hosts").await["items"][0]["hostname"],
        "web.fakecloud.herald.dev"
    );
    api.delete(id(&made)).await;
    holds(false).await;
    server.stop().await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn stopping_ends_calls_that_hang() {
    let server = Server::start(config("127.58.0.0/28")).await.unwrap();
    let api = Api::of(&server);
    fault(&api, json!({"operation": "*", "kind": "timeoutBefore"})).await;
    let call = api.call(Method::GET, "/v1/load-balancers", Value::Null);
    let stop = async {
        holding(&server, 1).await;
        timeout(SOON, server.stop()).await.expect("it stops");
    };
    let ((status, _), ()) = tokio::join!(call, stop);
    assert_eq!(status, 503);
}
