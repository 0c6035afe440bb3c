//! Traffic through the cloud, on loopback.

mod common;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use common::{Api, SOON, Target, ask, config, dial, front, id, request};
use herald_fakecloud::{Config, Server};
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, timeout};

/// Three targets on one port.
async fn three(net: &str) -> ([Target; 3], u16, [String; 3]) {
    let names = [1, 2, 3].map(|host| format!("{net}.{host}"));
    let first = Target::start(&names[0], 0).await;
    let port = first.address.port();
    let second = Target::start(&names[1], port).await;
    let third = Target::start(&names[2], port).await;
    ([first, second, third], port, names)
}

#[tokio::test]
async fn tcp_and_udp_on_one_port_reach_every_target_in_turn() {
    let (_targets, port, names) = three("127.40.1").await;
    let server = Server::start(config("127.40.2.0/28")).await.unwrap();
    let api = Api::of(&server);
    let made = api
        .make("web", 8080, port, &names.each_ref().map(String::as_str))
        .await;
    let front = front(&made, 8080);

    let mut order = Vec::new();
    for _ in 0..6 {
        order.push(dial(front).await.unwrap().1);
    }
    assert_eq!(order[..3], order[3..], "round robin");
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 3);

    let mut answers = BTreeSet::new();
    for _ in 0..3 {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let first = ask(&client, front).await.unwrap();
        assert_eq!(
            ask(&client, front).await.as_ref(),
            Some(&first),
            "a flow stays"
        );
        answers.insert(first);
    }
    assert_eq!(answers.len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn ipv6_is_carried() {
    let target = Target::start("::1", 0).await;
    let server = Server::start(config("::1/128")).await.unwrap();
    let api = Api::of(&server);
    // Away from the port of the target, which has the same address.
    let port = if target.address.port() == 8086 {
        8087
    } else {
        8086
    };
    let made = api.make("web", port, target.address.port(), &["::1"]).await;
    assert_eq!(dial(front(&made, port)).await.unwrap().1, "::1");
    let client = UdpSocket::bind("[::1]:0").await.unwrap();
    assert_eq!(ask(&client, front(&made, port)).await.unwrap(), "::1");
    server.stop().await;
}

#[tokio::test]
async fn a_dead_target_is_passed_over_at_once_and_then_out_of_service() {
    let ([first, _second, _third], port, names) = three("127.41.1").await;
    let server = Server::start(config("127.41.2.0/28")).await.unwrap();
    let api = Api::of(&server);
    let made = api
        .make("web", 8080, port, &names.each_ref().map(String::as_str))
        .await;
    let front = front(&made, 8080);
    first.stop();
    for _ in 0..6 {
        let (_, name) = dial(front).await.unwrap();
        assert_ne!(
            name, names[0],
            "no connection is lost while the checks still decide"
        );
    }
    let is = api
        .until(id(&made), |lb| lb["targets"][0]["health"] == "unhealthy")
        .await;
    assert!(
        is["targets"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("refused"),
        "{is}"
    );
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..4 {
        assert_ne!(ask(&client, front).await.unwrap(), names[0]);
    }
    let _back = Target::start(&names[0], port).await;
    api.until(id(&made), |lb| lb["targets"][0]["health"] == "healthy")
        .await;
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        seen.insert(dial(front).await.unwrap().1);
    }
    assert_eq!(seen.len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn connections_to_a_removed_target_drain_and_are_then_reset() {
    let (_targets, port, names) = three("127.42.1").await;
    let server = Server::start(config("127.42.2.0/28")).await.unwrap();
    let api = Api::of(&server);
    let made = api.make("web", 8080, port, &[&names[0]]).await;
    let front = front(&made, 8080);
    let (mut old, name) = dial(front).await.unwrap();
    assert_eq!(name, names[0]);

    api.set_targets(id(&made), &[&names[1]]).await;
    api.until(id(&made), |lb| lb["targets"][0]["health"] == "healthy")
        .await;
    let removed = Instant::now();
    assert_eq!(
        dial(front).await.unwrap().1,
        names[1],
        "new ones go elsewhere"
    );
    old.write_all(b"still there?").await.unwrap();
    let mut echo = [0; 12];
    old.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"still there?");
    let end = timeout(SOON, old.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    assert!(removed.elapsed() < SOON);
    server.stop().await;
}

#[tokio::test]
async fn a_udp_flow_moves_when_its_target_is_removed() {
    let (_targets, port, names) = three("127.43.1").await;
    let server = Server::start(config("127.43.2.0/28")).await.unwrap();
    let api = Api::of(&server);
    let made = api.make("web", 8080, port, &[&names[0]]).await;
    let front = front(&made, 8080);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    assert_eq!(ask(&client, front).await.as_ref(), Some(&names[0]));
    api.set_targets(id(&made), &[&names[1]]).await;
    api.until(id(&made), |lb| lb["targets"][0]["health"] == "healthy")
        .await;
    // The API answers a moment before the data path has it.
    let moved = async { while ask(&client, front).await.as_ref() != Some(&names[1]) {} };
    timeout(SOON, moved).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn idle_udp_flows_end_and_their_number_is_limited() {
    let target = Target::start("127.44.1.1", 0).await;
    let mut few = config("127.44.2.0/28");
    few.limits.flows = 2;
    let server = Server::start(few).await.unwrap();
    let api = Api::of(&server);
    let made = api
        .make("web", 8080, target.address.port(), &["127.44.1.1"])
        .await;
    let front = front(&made, 8080);
    let metrics = &server.shared().metrics;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    }
    assert!(ask(&clients[0], front).await.is_some());
    assert!(ask(&clients[1], front).await.is_some());
    clients[2].send_to(b"who?", front).await.unwrap();
    let dropped = async {
        while metrics.datagrams_dropped.get() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        while metrics.flows_open.get() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, dropped)
        .await
        .expect("one is dropped, the others end when idle");
    assert!(
        ask(&clients[2], front).await.is_some(),
        "there is room again"
    );
    server.stop().await;
}

#[tokio::test]
async fn without_a_healthy_target_connections_are_reset() {
    let server = Server::start(config("127.45.2.0/28")).await.unwrap();
    let api = Api::of(&server);
    // Nobody listens at the discard port.
    let body = request("web", 8080, 9, &["127.45.1.1"]);
    let (_, made) = api.call(Method::POST, "/v1/load-balancers", body).await;
    let made = api.until(id(&made), |lb| lb["state"] == "active").await;
    let end = dial(front(&made, 8080)).await.unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    api.until(id(&made), |lb| lb["targets"][0]["health"] == "unhealthy")
        .await;
    server.stop().await;
}

#[tokio::test]
async fn half_closed_connections_still_carry_the_answer() {
    let target = Target::start("127.46.1.1", 0).await;
    let server = Server::start(config("127.46.2.0/28")).await.unwrap();
    let api = Api::of(&server);
    let made = api
        .make("web", 8080, target.address.port(), &["127.46.1.1"])
        .await;
    let (mut stream, _) = dial(front(&made, 8080)).await.unwrap();
    let sent = vec![7; 1 << 20];
    let (mut read, mut write) = stream.split();
    let mut back = Vec::new();
    let (written, received) = tokio::join!(
        async {
            write.write_all(&sent).await?;
            write.shutdown().await
        },
        read.read_to_end(&mut back)
    );
    written.unwrap();
    received.unwrap();
    assert_eq!(back, sent);
    server.stop().await;
}

#[tokio::test]
async fn provisioning_carries_nothing_and_deleting_cuts_everything() {
    let target = Target::start("127.47.1.1", 0).await;
    let slow = Config {
        provisioning_time: Duration::from_mins(1),
        ..config("127.47.2.0/28")
    };
    let server = Server::start(slow).await.unwrap();
    let api = Api::of(&server);
    let body = request("slow", 8080, target.address.port(), &["127.47.1.1"]);
    let (_, made) = api.call(Method::POST, "/v1/load-balancers", body).await;
    assert_eq!(made["state"], "provisioning");
    let refused = TcpStream::connect(front(&made, 8080)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    server.stop().await;

    let server = Server::start(config("127.47.3.0/28")).await.unwrap();
    let api = Api::of(&server);
    let made = api
        .make("web", 8080, target.address.port(), &["127.47.1.1"])
        .await;
    let (mut open, _) = dial(front(&made, 8080)).await.unwrap();
    assert_eq!(api.delete(id(&made)).await, 202);
    assert!(timeout(SOON, open.read_u8()).await.unwrap().is_err());
    api.until(id(&made), |lb| lb["error"]["code"] == "NotFound")
        .await;
    let refused = TcpStream::connect(front(&made, 8080)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(api.delete(id(&made)).await, 404);
    server.stop().await;
}

#[tokio::test]
async fn listeners_come_go_and_change_their_target_port() {
    let first = Target::start("127.48.1.1", 0).await;
    let second = Target::start("127.48.1.1", 0).await;
    let server = Server::start(config("127.48.2.0/28")).await.unwrap();
    let api = Api::of(&server);
    let made = api
        .make("web", 8080, first.address.port(), &["127.48.1.1"])
        .await;
    first.stop();
    let path = format!("/v1/load-balancers/{}/listeners", id(&made));
    let listeners = json!({"listeners": [
        {"port": 8080, "protocol": "TCP", "targetPort": second.address.port()},
        {"port": 8081, "protocol": "TCP", "targetPort": second.address.port()},
    ]});
    assert_eq!(api.call(Method::PUT, &path, listeners).await.0, 200);
    let served = async {
        for port in [8080, 8081] {
            while dial(front(&made, port)).await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        }
    };
    timeout(SOON, served).await.unwrap();
    assert_eq!(
        api.call(Method::PUT, &path, json!({"listeners": []}))
            .await
            .0,
        200
    );
    let gone = async {
        while TcpStream::connect(front(&made, 8081)).await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, gone).await.unwrap();
    server.stop().await;
}

/// Answers every request with a status that the test chooses.
async fn http_target(ip: &str, status: tokio::sync::watch::Receiver<u16>) -> u16 {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let status = *status.borrow();
            let mut request = [0; 1024];
            let length = client.read(&mut request).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&request[..length]);
            let status = if asked.starts_with("GET /healthz HTTP/1.1\r\n") {
                status
            } else {
                400
            };
            let _ = client
                .write_all(format!("HTTP/1.1 {status} x\r\n\r\n").as_bytes())
                .await;
        }
    });
    port
}

#[tokio::test]
async fn http_health_checks_follow_the_status() {
    let target = Target::start("127.49.1.1", 0).await;
    let (status, asked) = tokio::sync::watch::channel(200);
    let check_port = http_target("127.49.1.1", asked).await;
    let server = Server::start(config("127.49.2.0/28")).await.unwrap();
    let api = Api::of(&server);
    let made = api
        .make("web", 8080, target.address.port(), &["127.49.1.1"])
        .await;
    let health = |wish: &'static str| move |lb: &Value| lb["targets"][0]["health"] == wish;

    let path = format!("/v1/load-balancers/{}/health-check", id(&made));
    let check =
        json!({"healthCheck": {"protocol": "http", "port": check_port, "intervalMillis": 30}});
    assert_eq!(api.call(Method::PUT, &path, check).await.0, 200);
    status.send_replace(503);
    let is = api.until(id(&made), health("unhealthy")).await;
    let reason = is["targets"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.ends_with("/healthz answers 503"), "{reason}");
    status.send_replace(200);
    api.until(id(&made), health("healthy")).await;
    server.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_holds_up_provisioning_until_it_is_free() {
    let target = Target::start("127.50.1.1", 0).await;
    let server = Server::start(config("127.50.2.1-127.50.2.1"))
        .await
        .unwrap();
    let api = Api::of(&server);
    let squatter = TcpListener::bind("127.50.2.1:8080").await.unwrap();
    let body = request("web", 8080, target.address.port(), &["127.50.1.1"]);
    let (_, made) = api.call(Method::POST, "/v1/load-balancers", body).await;
    let is = api
        .until(id(&made), |lb| lb["stateReason"].is_string())
        .await;
    assert_eq!(is["state"], "provisioning");
    assert!(
        is["stateReason"]
            .as_str()
            .unwrap()
            .contains("TCP 127.50.2.1:8080"),
        "{is}"
    );
    drop(squatter);
    let is = api.until(id(&made), |lb| lb["state"] == "active").await;
    assert_eq!(is["stateReason"], Value::Null);
    server.stop().await;
}
