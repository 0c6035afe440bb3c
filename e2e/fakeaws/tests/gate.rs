//! Faults, crashes, the record, buckets, lag: what every call passes through.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Api, request};
use herald_fakeaws::fixtures::{NODE_GROUP, VPC, node_id};
use herald_fakeaws::{
    ACTIONS, Config, Cut, Effect, FakeAws, Fault, Kind, Matching, Outcome, Phase, ResourceKind,
    Service, Throttling, Timing,
};
use tokio::time::timeout;

/// Long enough for what should happen, short enough to wait for what should
/// not.
const SOON: Duration = Duration::from_millis(50);
/// Longer than anything takes that happens at all.
const LONG: Duration = Duration::from_secs(10);

async fn create(api: &Api) -> Result<common::Answer, Cut> {
    let parameters = [
        ("Name", "web"),
        ("Type", "network"),
        ("Subnets.member.1", "subnet-public-a"),
    ];
    api.try_call(Service::Elbv2, "CreateLoadBalancer", &parameters)
        .await
}

fn made(api: &Api) -> usize {
    api.0.snapshot().count(ResourceKind::LoadBalancer)
}

#[tokio::test]
async fn errors_come_before_or_after_the_work() {
    let api = Api::quick();
    api.0.inject(Fault::error(
        Matching::action("CreateLoadBalancer"),
        503,
        "ServiceUnavailable",
    ));
    let refused = create(&api).await.unwrap().refused("ServiceUnavailable");
    assert_eq!((refused.status, made(&api)), (503, 0));
    api.0
        .inject(Fault::error(Matching::writes(), 500, "InternalFailure").after());
    create(&api).await.unwrap().refused("InternalFailure");
    assert_eq!(made(&api), 1);
    create(&api).await.unwrap().ok();
    let record = api.0.calls();
    assert_eq!(
        record.iter().map(|call| call.done).collect::<Vec<_>>(),
        [false, true, true]
    );
}

#[tokio::test]
async fn throttling_speaks_each_services_words() {
    let api = Api::quick();
    api.0
        .inject(Fault::once(Matching::any(), Effect::Throttle).times(2));
    api.elb("DescribeLoadBalancers", &[])
        .await
        .refused("ThrottlingException");
    let ec2 = api
        .ec2("DescribeVpcs", &[])
        .await
        .refused("RequestLimitExceeded");
    assert_eq!(ec2.status, 503);
    api.ec2("DescribeVpcs", &[]).await.ok();
}

#[tokio::test]
async fn calls_are_cut_before_or_after_the_work() {
    let api = Api::quick();
    api.0.inject(Fault::once(Matching::writes(), Effect::Cut));
    assert_eq!(create(&api).await, Err(Cut));
    assert_eq!(made(&api), 0);
    api.0
        .inject(Fault::once(Matching::writes(), Effect::Cut).after());
    assert_eq!(create(&api).await, Err(Cut));
    assert_eq!(made(&api), 1);
    assert!(
        api.0
            .calls()
            .iter()
            .all(|call| call.outcome == Outcome::Cut)
    );
}

#[tokio::test]
async fn a_call_that_hangs_ends_with_its_caller() {
    for (fault, left) in [
        (Fault::once(Matching::writes(), Effect::Hang), 0),
        (Fault::once(Matching::writes(), Effect::Hang).after(), 1),
    ] {
        let api = Api::quick();
        api.0.inject(fault);
        assert!(timeout(SOON, create(&api)).await.is_err());
        assert_eq!(made(&api), left);
        assert_eq!(api.0.calls()[0].outcome, Outcome::Abandoned);
        assert!(api.0.held().is_empty());
    }
}

#[tokio::test]
async fn a_held_call_goes_on_when_released() {
    let api = Api::quick();
    api.0.inject(Fault::once(Matching::writes(), Effect::Hold));
    let calling = create(&api);
    let releasing = async {
        api.0.until_held(1).await;
        assert_eq!((api.0.held()[0].why, made(&api)), ("hold", 0));
        assert_eq!(api.0.release(), 1);
    };
    let (answer, ()) = tokio::join!(calling, releasing);
    answer.unwrap().ok();
    assert_eq!(made(&api), 1);
}

#[tokio::test]
async fn a_crash_stops_everything_at_that_call() {
    for (phase, left) in [(Phase::Before, 1), (Phase::After, 2)] {
        let api = Api::quick();
        let mut crash = api.0.crash_at(Matching::writes(), 1, phase);
        let program = async {
            for name in ["a", "b", "c"] {
                let parameters = [
                    ("Name", name),
                    ("Type", "network"),
                    ("Subnets.member.1", "subnet-public-a"),
                ];
                let _ = api
                    .try_call(Service::Elbv2, "CreateLoadBalancer", &parameters)
                    .await;
            }
        };
        let died = async {
            tokio::select! {
                () = program => panic!("it goes on after its death"),
                () = crash.reached() => {}
            }
        };
        timeout(LONG, died).await.unwrap();
        assert!(crash.was_reached());
        assert_eq!(made(&api), left);
        // What is still under way, of anybody, comes to nothing.
        assert!(timeout(SOON, create(&api)).await.is_err());
        assert_eq!(made(&api), left);
        api.0.revive();
        create(&api).await.unwrap().ok();
        assert_eq!(made(&api), left + 1);
    }
}

#[tokio::test]
async fn concurrent_calls_die_too_and_are_cut_on_revival() {
    let api = Api::quick();
    api.0
        .inject(Fault::once(Matching::action("DescribeVpcs"), Effect::Hold));
    api.0.inject(Fault::once(
        Matching::action("CreateLoadBalancer"),
        Effect::Hold,
    ));
    let mut crash = api
        .0
        .crash_at(Matching::action("DescribeSubnets"), 0, Phase::Before);
    let reader = api.try_call(Service::Ec2, "DescribeVpcs", &[]);
    let writer = create(&api);
    let dying = api.try_call(Service::Ec2, "DescribeSubnets", &[]);
    let script = async {
        api.0.until_held(2).await;
        crash.reached().await;
        // Held before the crash, released after it: dead all the same.
        api.0.release();
        tokio::time::sleep(SOON).await;
        assert_eq!(made(&api), 0);
        api.0.revive();
    };
    let (reader, writer, dying, ()) = tokio::join!(reader, writer, dying, script);
    assert_eq!((reader, writer, dying), (Err(Cut), Err(Cut), Err(Cut)));
}

#[tokio::test]
async fn a_crash_that_was_not_reached_is_gone_after_revival() {
    let api = Api::quick();
    let crash = api.0.crash_at(Matching::writes(), 5, Phase::Before);
    create(&api).await.unwrap().ok();
    assert!(!crash.was_reached());
    api.0.revive();
    for _ in 0..10 {
        create(&api).await.unwrap().ok();
    }
}

/// The example of a walk over every call, in both phases: what is left behind
/// depends only on which calls were done.
#[tokio::test]
async fn every_call_of_a_program_can_be_walked() {
    let mut seen = BTreeSet::new();
    let mut cases = 0;
    for phase in [Phase::Before, Phase::After] {
        for k in 0.. {
            let api = Api::quick();
            let before = api.0.snapshot();
            let mut crash = api.0.crash_at(Matching::any(), k, phase);
            let program = async {
                let group = api.target_group("tg", "TCP").await;
                let lb = api.load_balancer("web").await;
                api.listener(&lb, "TCP", "80", &group).await.ok();
                api.register(&group, &node_id(1)).await.ok();
            };
            let run = async {
                tokio::select! {
                    () = program => true,
                    () = crash.reached() => false,
                }
            };
            let finished = timeout(LONG, run).await.unwrap();
            let after = api.0.snapshot();
            seen.insert(after.since(&before).len());
            if finished {
                assert_eq!(k, 4);
                break;
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 8);
    // Nothing; the target group; the load balancer with its interface; the
    // listener; the target.
    assert_eq!(seen, BTreeSet::from([0, 1, 3, 4, 5]));
}

#[tokio::test]
async fn the_record_tells_reads_from_writes_and_says_what_came_of_them() {
    let api = Api::quick();
    api.elb("DescribeLoadBalancers", &[]).await.ok();
    create(&api).await.unwrap().ok();
    api.elb("DescribeLoadBalancers", &[("Names.member.1", "x")])
        .await
        .refused("LoadBalancerNotFound");
    let counts = api.0.counts();
    assert_eq!(
        (counts.reads, counts.writes, counts.failed, counts.total()),
        (2, 1, 1, 3)
    );
    assert_eq!(counts.of("DescribeLoadBalancers"), 2);
    let calls = api.0.calls();
    assert_eq!(calls[1].kind, Kind::Write);
    assert_eq!(calls[1].parameter("Name"), Some("web"));
    assert_eq!(
        calls[2].outcome,
        Outcome::Error("LoadBalancerNotFound".into())
    );
    api.0.clear_calls();
    assert_eq!((api.0.counts().total(), api.0.calls().len()), (0, 0));
}

#[tokio::test]
async fn buckets_are_of_families_and_fill_again() {
    let mut config = Config::stopped();
    config.throttling = Some(Throttling::default());
    config.quotas.load_balancers = 1000;
    let api = Api::new(config);
    let burst = async |action: &str, parameters: &[(&str, &str)]| {
        let mut passed = 0;
        while api.elb(action, parameters).await.code() != "ThrottlingException" {
            passed += 1;
        }
        passed
    };
    assert_eq!(burst("DescribeLoadBalancers", &[]).await, 40);
    api.elb("DescribeTags", &[])
        .await
        .refused("ThrottlingException");
    assert_eq!(burst("RegisterTargets", &[]).await, 20);
    assert_eq!(burst("CreateTargetGroup", &[]).await, 20);
    assert_eq!(burst("CreateLoadBalancer", &[]).await, 10);
    api.advance(1);
    assert_eq!(burst("DescribeTags", &[]).await, 10);
    assert_eq!(burst("DeregisterTargets", &[]).await, 4);
    assert_eq!(burst("AddTags", &[]).await, 3);
    assert_eq!(burst("SetSubnets", &[]).await, 0);
    api.advance(5);
    assert_eq!(burst("SetSubnets", &[]).await, 1);
    // EC2 has a bucket for each action.
    for action in ["DescribeVpcs", "DescribeSubnets"] {
        let mut passed = 0;
        while api.ec2(action, &[]).await.status == 200 {
            passed += 1;
        }
        assert_eq!(passed, 100, "{action}");
    }
    api.0.set_throttling(None);
    api.elb("DescribeTags", &[])
        .await
        .refused("ValidationError");
}

#[tokio::test]
async fn describes_lag_behind_and_writes_do_not() {
    let mut config = Config::stopped();
    config.timing = Timing {
        elbv2_lag: Duration::from_secs(2),
        ec2_lag: Duration::from_secs(3),
        ..Timing::NONE
    };
    let api = Api::new(config);
    api.advance(10);
    let lb = api.load_balancer("web").await;
    let by_arn = [("LoadBalancerArns.member.1", lb.as_str())];
    api.elb("DescribeLoadBalancers", &by_arn)
        .await
        .refused("LoadBalancerNotFound");
    let group = api.target_group("tg", "TCP").await;
    api.listener(&lb, "TCP", "80", &group).await.ok();
    let interfaces = async || {
        api.ec2("DescribeNetworkInterfaces", &[])
            .await
            .ok()
            .texts("networkInterfaceId")
            .len()
    };
    let before = interfaces().await;
    api.advance(2);
    api.elb("DescribeLoadBalancers", &by_arn).await.ok();
    assert_eq!(interfaces().await, before);
    api.advance(1);
    assert_eq!(interfaces().await, before + 1);
    api.elb("DeleteLoadBalancer", &[("LoadBalancerArn", &lb)])
        .await
        .ok();
    api.elb("DescribeLoadBalancers", &by_arn).await.ok();
    api.advance(2);
    api.elb("DescribeLoadBalancers", &by_arn)
        .await
        .refused("LoadBalancerNotFound");
}

#[tokio::test]
async fn a_reset_brings_back_the_beginning() {
    let api = Api::new(Config::stopped());
    let before = api.0.snapshot();
    let first = create(&api).await.unwrap().ok();
    api.0.inject(Fault::once(Matching::any(), Effect::Throttle));
    api.advance(10);
    api.0.reset();
    assert_eq!(api.0.snapshot(), before);
    assert_eq!((api.0.now(), api.0.counts().total()), (Duration::ZERO, 0));
    let second = create(&api).await.unwrap().ok();
    assert_eq!(
        second.text("LoadBalancerArn"),
        first.text("LoadBalancerArn")
    );
}

#[tokio::test]
async fn a_reset_cuts_what_waits_and_it_has_no_effect() {
    for effect in [Effect::Hold, Effect::Hang, Effect::Crash] {
        let api = Api::quick();
        api.0.inject(Fault::once(Matching::writes(), effect));
        let resetting = async {
            api.0.until_held(1).await;
            api.0.reset();
        };
        let (answer, ()) = tokio::join!(create(&api), resetting);
        assert_eq!((answer, made(&api)), (Err(Cut), 0));
        // It is not taken for a call of after the reset.
        create(&api).await.unwrap().ok();
        assert_eq!(api.0.calls().last().unwrap().outcome, Outcome::Ok);
    }
}

#[tokio::test]
async fn time_can_be_moved_from_event_to_event() {
    let api = Api::new(Config::stopped());
    let lb = api.load_balancer("web").await;
    assert_eq!(api.0.next_event(), Some(Duration::from_mins(2)));
    assert!(api.0.advance_to_next_event());
    assert_eq!(api.0.next_event(), None);
    api.elb("DeleteLoadBalancer", &[("LoadBalancerArn", &lb)])
        .await
        .ok();
    assert_eq!(api.0.next_event(), Some(Duration::from_secs(45)));
    assert!(api.0.advance_to_next_event() && !api.0.advance_to_next_event());
    api.ec2("DeleteSecurityGroup", &[("GroupId", NODE_GROUP)])
        .await
        .refused("DependencyViolation");
}

#[tokio::test]
async fn every_action_answers_and_none_takes_nonsense() {
    let api = Api::quick();
    for action in ACTIONS {
        let answer = api
            .try_call(action.service, action.name, &[("Nonsense.1", "x")])
            .await
            .unwrap();
        assert_eq!(answer.status, 400, "{}: {}", action.name, answer.xml);
        assert!(!answer.code().is_empty(), "{}", action.name);
    }
    let counts = api.0.counts();
    assert_eq!(counts.total(), ACTIONS.len() as u64);
    let wrong = api
        .try_call(Service::Elbv2, "DescribeVpcs", &[])
        .await
        .unwrap();
    wrong.refused("InvalidAction");
}

#[tokio::test]
async fn over_http_answers_come_and_connections_are_cut() {
    use http_body_util::{BodyExt, Full};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    let fake = FakeAws::start(Config::quick()).await.unwrap();
    let endpoint = fake.endpoint();
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<hyper::body::Bytes>>();
    let send = async |action: &str, parameters: &[(&str, &str)]| {
        let service = if action.ends_with("Vpcs") {
            Service::Ec2
        } else {
            Service::Elbv2
        };
        let mut request = request(service, action, parameters).map(Full::new);
        *request.uri_mut() = format!("{endpoint}/").parse().unwrap();
        let response = client.request(request).await?;
        let id = response.headers()["x-amzn-requestid"].clone();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(!id.is_empty());
        Ok::<_, hyper_util::client::legacy::Error>(String::from_utf8(body.to_vec()).unwrap())
    };
    let vpcs = send("DescribeVpcs", &[("VpcId.1", VPC)]).await.unwrap();
    assert!(vpcs.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeVpcsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>"), "{vpcs}");
    fake.inject(Fault::once(Matching::any(), Effect::Cut));
    assert!(send("DescribeVpcs", &[]).await.is_err());
    send("DescribeVpcs", &[]).await.unwrap();

    // A caller that goes away is noted.
    fake.inject(Fault::once(Matching::any(), Effect::Hang).after());
    let arn = ("Name", "web");
    let parameters = [
        arn,
        ("Type", "network"),
        ("Subnets.member.1", "subnet-public-a"),
    ];
    assert!(
        timeout(SOON, send("CreateLoadBalancer", &parameters))
            .await
            .is_err()
    );
    for _ in 0..100 {
        if fake.held().is_empty() {
            break;
        }
        tokio::time::sleep(SOON / 10).await;
    }
    assert_eq!(fake.calls().last().unwrap().outcome, Outcome::Abandoned);
    assert_eq!(fake.snapshot().count(ResourceKind::LoadBalancer), 1);
    fake.stop().await;
    assert!(send("DescribeVpcs", &[]).await.is_err());
}

#[tokio::test]
async fn the_admin_api_does_the_same_from_outside() {
    let api = Api::new(Config::stopped());
    let admin = async |method: &str, path: &str, body: &str| {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("/_admin/{path}"))
            .body(hyper::body::Bytes::from(body.to_owned()))
            .unwrap();
        let response = api.0.handle(request).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        (response.status().as_u16(), json)
    };
    let fault = r#"{"match": {"action": "CreateLoadBalancer"}, "effect": "cut", "phase": "after"}"#;
    assert_eq!(admin("POST", "faults", fault).await.1["id"], 1);
    assert_eq!(create(&api).await, Err(Cut));
    let (_, calls) = admin("GET", "calls", "").await;
    assert_eq!(calls["counts"]["writes"], 1);
    assert_eq!(calls["calls"][0]["outcome"], "cut");
    let (_, snapshot) = admin("GET", "snapshot", "").await;
    let kinds: Vec<&str> = snapshot
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["kind"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"loadBalancer"));
    admin("POST", "clock", r#"{"advanceMillis": 1500}"#).await;
    assert_eq!(admin("GET", "clock", "").await.1["millis"], 1500);
    assert_eq!(
        admin(
            "PUT",
            "load-balancers/web",
            r#"{"state": "failed", "reason": "r"}"#
        )
        .await
        .0,
        200
    );
    let seen = api.elb("DescribeLoadBalancers", &[]).await.ok();
    assert_eq!(seen.text("State"), "<Code>failed</Code><Reason>r</Reason>");
    let id = node_id(1);
    assert_eq!(
        admin("PUT", &format!("instances/{id}"), r#"{"state": "stopped"}"#)
            .await
            .0,
        200
    );
    assert_eq!(
        admin(
            "POST",
            "target-health",
            r#"{"target": "i-x", "health": "unhealthy"}"#
        )
        .await
        .1["targets"],
        0
    );
    assert_eq!(
        admin("POST", "fixtures", r#"{"certificates": ["arn:c"]}"#)
            .await
            .0,
        200
    );
    assert!(
        api.0
            .inspect(|region| region.certificates.contains("arn:c"))
    );
    admin(
        "PUT",
        "throttling",
        r#"{"describe": {"burst": 1, "rate": 1.0}}"#,
    )
    .await;
    api.elb("DescribeLoadBalancers", &[]).await.ok();
    api.elb("DescribeLoadBalancers", &[])
        .await
        .refused("ThrottlingException");
    admin("DELETE", "throttling", "").await;
    api.elb("DescribeLoadBalancers", &[]).await.ok();
    admin("POST", "faults", r#"{"effect": "crash", "count": 1}"#).await;
    assert!(
        timeout(SOON, api.elb("DescribeLoadBalancers", &[]))
            .await
            .is_err()
    );
    assert_eq!(admin("GET", "faults", "").await.1["crashed"], true);
    admin("POST", "revive", "").await;
    api.elb("DescribeLoadBalancers", &[]).await.ok();
    assert_eq!(admin("POST", "reset", "").await.0, 200);
    assert_eq!(made(&api), 0);
    for (method, path, body, status) in [
        ("GET", "nowhere", "", 404),
        ("POST", "faults", "{", 400),
        ("DELETE", "faults/7", "", 404),
        ("PUT", "instances/i-x", r#"{"state": "stopped"}"#, 404),
        ("PUT", "load-balancers/x", r#"{"state": null}"#, 404),
    ] {
        assert_eq!(admin(method, path, body).await.0, status, "{method} {path}");
    }
}
