//! Traffic through the stand-in's load balancers, on loopback: instances live
//! at addresses of 127.0.0.0/8 that their tests alone use.

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use common::Api;
use herald_fakeaws::model::InstanceState;
use herald_fakeaws::{Config, DataPath, FakeAws, Fixtures, Pace, fixtures};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Long enough for anything that should happen.
const SOON: Duration = Duration::from_secs(10);

/// A server that says its name, over TCP once and then echoes, over UDP to
/// every datagram. Ends when dropped.
struct Target {
    port: u16,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Target {
    async fn start(address: &str, port: u16) -> Self {
        let tcp = TcpListener::bind((address, port)).await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind((address, port)).await.unwrap();
        let name = address.to_owned();
        let over_tcp = tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let name = name.clone();
                tokio::spawn(async move {
                    let _ = stream.write_all(format!("{name}\n").as_bytes()).await;
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        let name = address.to_owned();
        let over_udp = tokio::spawn(async move {
            let mut buffer = [0; 100];
            loop {
                let (_, from) = udp.recv_from(&mut buffer).await.unwrap();
                let _ = udp.send_to(name.as_bytes(), from).await;
            }
        });
        Self {
            port,
            tasks: vec![over_tcp, over_udp],
        }
    }
}

/// A fake that is 20 times as fast as AWS, with two nodes at `NET.1`, `NET.2`
/// and load balancers at `NET.128` and on.
async fn fake(net: &str) -> Api {
    let mut fixtures = Fixtures::cluster("demo").nodes(2);
    for (n, instance) in (1..).zip(&mut fixtures.instances) {
        instance.address = format!("{net}.{n}").parse().unwrap();
    }
    let config = Config {
        pace: Pace::Running(20.0),
        fixtures,
        data_path: Some(DataPath {
            pools: vec![format!("{net}.128/25").parse().unwrap()],
            interface: None,
            hosts_file: None,
        }),
        ..Config::quick()
    };
    Api(FakeAws::start(config).await.unwrap())
}

/// A load balancer of all zones that forwards port 8080 to both nodes, with
/// checks each 5 seconds (a quarter of one here); ARNs of it and its group.
async fn serve(api: &Api, protocol: &str, port: u16) -> (String, String) {
    let port = port.to_string();
    let group = api
        .target_group_with(
            "nodes",
            protocol,
            &[
                ("HealthCheckIntervalSeconds", "5"),
                ("HealthCheckTimeoutSeconds", "5"),
                ("HealthyThresholdCount", "2"),
            ],
        )
        .await;
    let zones = [
        ("Subnets.member.2", "subnet-public-b"),
        ("Subnets.member.3", "subnet-public-c"),
    ];
    let lb = api.load_balancer_with("web", &zones).await;
    api.listener(&lb, protocol, "8080", &group).await.ok();
    for n in 1..=2 {
        api.elb(
            "RegisterTargets",
            &[
                ("TargetGroupArn", &group),
                ("Targets.member.1.Id", &fixtures::node_id(n)),
                ("Targets.member.1.Port", &port),
            ],
        )
        .await
        .ok();
    }
    (lb, group)
}

async fn until_health(api: &Api, group: &str, wanted: &[&str]) {
    let begun = Instant::now();
    loop {
        let health = api.health(group).await;
        if health == wanted {
            return;
        }
        assert!(begun.elapsed() < SOON, "{health:?} is not {wanted:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The address that the load balancer's name stands for, by the admin API.
async fn front(api: &Api, lb: &str) -> SocketAddr {
    let name = api
        .0
        .inspect(|region| region.load_balancers[lb].dns_name.clone());
    let begun = Instant::now();
    loop {
        let request = http::Request::get("/_admin/hosts")
            .body(hyper::body::Bytes::new())
            .unwrap();
        let response = api.0.handle(request).await.unwrap();
        let hosts: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        if let Some(entry) = hosts
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["hostname"] == name)
        {
            let address = entry["addresses"][0].as_str().unwrap();
            return format!("{address}:8080").parse().unwrap();
        }
        assert!(begun.elapsed() < SOON, "{name} has no address");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Connects and reads who answers; none if nobody does.
async fn dial(front: SocketAddr) -> Option<(TcpStream, String)> {
    let mut stream = timeout(SOON, TcpStream::connect(front)).await.ok()?.ok()?;
    let mut name = Vec::new();
    while !name.ends_with(b"\n") {
        if timeout(SOON, stream.read_buf(&mut name)).await.ok()?.ok()? == 0 {
            return None;
        }
    }
    Some((stream, String::from_utf8(name).unwrap().trim().to_owned()))
}

async fn ask(front: SocketAddr) -> Option<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(front).await.unwrap();
    socket.send(b"?").await.unwrap();
    let mut buffer = [0; 100];
    let length = timeout(Duration::from_secs(1), socket.recv(&mut buffer))
        .await
        .ok()?
        .ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Whether bytes still come back on a connection.
async fn echoes(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1];
    stream.write_all(b"x").await.is_ok()
        && matches!(timeout(SOON, stream.read(&mut buffer)).await, Ok(Ok(1)))
}

#[tokio::test]
async fn tcp_and_udp_reach_every_healthy_target() {
    let api = fake("127.51.1").await;
    let first = Target::start("127.51.1.1", 0).await;
    let second = Target::start("127.51.1.2", first.port).await;
    let (lb, group) = serve(&api, "TCP_UDP", first.port).await;
    let front = front(&api, &lb).await;
    assert!(front.ip().to_string().starts_with("127.51.1.1"), "{front}");
    until_health(&api, &group, &["healthy", "healthy"]).await;
    let (mut over_tcp, mut over_udp) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..4 {
        over_tcp.insert(dial(front).await.unwrap().1);
        over_udp.insert(ask(front).await.unwrap());
    }
    assert_eq!(
        over_tcp,
        BTreeSet::from(["127.51.1.1".into(), "127.51.1.2".into()])
    );
    assert_eq!(over_udp, over_tcp);

    // One dies: its checks fail, and traffic goes to the other.
    drop(second);
    until_health(&api, &group, &["healthy", "unhealthy"]).await;
    for _ in 0..4 {
        assert_eq!(dial(front).await.unwrap().1, "127.51.1.1");
    }
    let _second = Target::start("127.51.1.2", first.port).await;
    until_health(&api, &group, &["healthy", "healthy"]).await;
    api.0.stop().await;
}

#[tokio::test]
async fn a_deregistered_target_drains_and_is_then_let_be_or_cut() {
    for (terminate, net) in [("false", "127.51.2"), ("true", "127.51.3")] {
        let api = fake(net).await;
        let first = Target::start(&format!("{net}.1"), 0).await;
        let _second = Target::start(&format!("{net}.2"), first.port).await;
        let (lb, group) = serve(&api, "TCP", first.port).await;
        for (key, value) in [
            ("deregistration_delay.timeout_seconds", "20"),
            (
                "deregistration_delay.connection_termination.enabled",
                terminate,
            ),
        ] {
            let attribute = [
                ("TargetGroupArn", group.as_str()),
                ("Attributes.member.1.Key", key),
                ("Attributes.member.1.Value", value),
            ];
            api.elb("ModifyTargetGroupAttributes", &attribute)
                .await
                .ok();
        }
        let front = front(&api, &lb).await;
        until_health(&api, &group, &["healthy", "healthy"]).await;
        let mut connection = loop {
            let (stream, name) = dial(front).await.unwrap();
            if name.ends_with(".1") {
                break stream;
            }
        };
        api.deregister(&group, &fixtures::node_id(1)).await.ok();
        assert_eq!(api.health(&group).await, ["draining", "healthy"]);
        // The data path hears of it at once, if not at the same instant.
        sleep(Duration::from_millis(100)).await;
        for _ in 0..3 {
            assert!(
                dial(front).await.unwrap().1.ends_with(".2"),
                "nothing new to it"
            );
        }
        assert!(echoes(&mut connection).await, "what is there goes on");
        until_health(&api, &group, &["healthy"]).await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(echoes(&mut connection).await, terminate == "false");
        api.0.stop().await;
    }
}

#[tokio::test]
async fn one_with_no_healthy_target_tries_them_all() {
    let api = fake("127.51.4").await;
    let first = Target::start("127.51.4.1", 0).await;
    let _second = Target::start("127.51.4.2", first.port).await;
    let (lb, group) = serve(&api, "TCP", first.port).await;
    let front = front(&api, &lb).await;
    until_health(&api, &group, &["healthy", "healthy"]).await;
    // Checks go where nobody listens.
    api.elb(
        "ModifyTargetGroup",
        &[("TargetGroupArn", &group), ("HealthCheckPort", "1")],
    )
    .await
    .ok();
    until_health(&api, &group, &["unhealthy", "unhealthy"]).await;
    assert!(dial(front).await.is_some());
    api.0.stop().await;
}

#[tokio::test]
async fn checks_over_http_read_the_status() {
    let api = fake("127.51.5").await;
    let first = Target::start("127.51.5.1", 0).await;
    let (_, group) = serve(&api, "TCP", first.port).await;
    let web = TcpListener::bind("127.51.5.1:0").await.unwrap();
    let port = web.local_addr().unwrap().port().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = web.accept().await.unwrap();
            let mut buffer = [0; 1000];
            let length = stream.read(&mut buffer).await.unwrap();
            let ok = buffer[..length].starts_with(b"GET /healthz ");
            let status = if ok {
                "204 No Content"
            } else {
                "404 Not Found"
            };
            let _ = stream
                .write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes())
                .await;
        }
    });
    let check = async |path: &str| {
        let parameters = [
            ("TargetGroupArn", group.as_str()),
            ("HealthCheckProtocol", "HTTP"),
            ("HealthCheckPort", port.as_str()),
            ("HealthCheckPath", path),
        ];
        api.elb("ModifyTargetGroup", &parameters).await.ok();
    };
    check("/healthz").await;
    // Node 2 has nothing there.
    until_health(&api, &group, &["healthy", "unhealthy"]).await;
    check("/nowhere").await;
    until_health(&api, &group, &["unhealthy", "unhealthy"]).await;
    api.0.stop().await;
}

#[tokio::test]
async fn a_load_balancer_listens_from_active_to_deleted() {
    let mut config = Config {
        pace: Pace::Stopped,
        data_path: Some(DataPath {
            pools: vec!["127.51.6.128/25".parse().unwrap()],
            interface: None,
            hosts_file: Some(
                std::env::temp_dir().join(format!("fakeaws-hosts-{}", std::process::id())),
            ),
        }),
        ..Config::default()
    };
    config.fixtures.instances[0].address = "127.51.6.1".parse().unwrap();
    let file = config.data_path.clone().unwrap().hosts_file.unwrap();
    let api = Api(FakeAws::start(config).await.unwrap());
    let target = Target::start("127.51.6.1", 0).await;
    let (lb, group) = serve(&api, "TCP", target.port).await;
    assert_eq!(api.health(&group).await[0], "initial");
    api.advance(120);
    let front = front(&api, &lb).await;
    until_health(&api, &group, &["healthy", "initial"]).await;
    assert!(dial(front).await.is_some());
    let hosts = std::fs::read_to_string(&file).unwrap();
    let name = api
        .0
        .inspect(|region| region.load_balancers[&lb].dns_name.clone());
    assert!(
        hosts.contains(&format!("{}\t{name}", front.ip())),
        "{hosts}"
    );
    api.0
        .edit(|region| region.set_instance_state(&fixtures::node_id(1), InstanceState::Stopped));
    assert_eq!(api.health(&group).await[0], "unused");
    api.elb("DeleteLoadBalancer", &[("LoadBalancerArn", &lb)])
        .await
        .ok();
    let begun = Instant::now();
    while TcpStream::connect(front).await.is_ok() {
        assert!(begun.elapsed() < SOON, "it still listens");
        sleep(Duration::from_millis(10)).await;
    }
    api.0.stop().await;
    let _ = std::fs::remove_file(file);
}
