//! A cloud on loopback, a client for its API, and targets that say who they
//! are.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use herald_fakecloud::route::Limits;
use herald_fakecloud::{Config, Server};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Long enough for everything on loopback, even on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A quick cloud with addresses out of `pool`.
pub fn config(pool: &str) -> Config {
    Config {
        pools: vec![pool.parse().unwrap()],
        provisioning_time: Duration::from_millis(30),
        deletion_time: Duration::from_millis(30),
        limits: Limits {
            drain_time: Duration::from_millis(300),
            flow_idle_time: Duration::from_millis(300),
            ..Config::default().limits
        },
        ..Config::default()
    }
}

/// Speaks to a cloud.
pub struct Api {
    http: Client<HttpConnector, Full<Bytes>>,
    endpoint: String,
}

impl Api {
    pub fn of(server: &Server) -> Self {
        Self {
            http: Client::builder(TokioExecutor::new()).build_http(),
            endpoint: server.endpoint(),
        }
    }

    /// Status and body of an answer.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .body(Full::from(if body.is_null() {
                String::new()
            } else {
                body.to_string()
            }))
            .unwrap();
        let response = self.http.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, Value::Null).await.1
    }

    /// Makes a load balancer that forwards `port` (TCP and UDP) to
    /// `target_port` of the targets, and waits until it is active and all
    /// targets are healthy.
    pub async fn make(&self, name: &str, port: u16, target_port: u16, targets: &[&str]) -> Value {
        let body = request(name, port, target_port, targets);
        let (status, made) = self.call(Method::POST, "/v1/load-balancers", body).await;
        assert_eq!(status, 201, "{made}");
        let id = made["id"].as_str().unwrap();
        self.until(id, |lb| {
            lb["state"] == "active"
                && lb["targets"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|t| t["health"] == "healthy")
        })
        .await
    }

    /// Waits until a load balancer is as wished.
    pub async fn until(&self, id: &str, wish: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/load-balancers/{id}");
        let look = async {
            loop {
                let is = self.get(&path).await;
                if wish(&is) {
                    return is;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let Ok(is) = timeout(SOON, look).await else {
            panic!("never so: {}", self.get(&path).await);
        };
        is
    }

    pub async fn set_targets(&self, id: &str, addresses: &[&str]) {
        let path = format!("/v1/load-balancers/{id}/targets");
        let (status, answer) = self
            .call(Method::PUT, &path, json!({"targets": targets(addresses)}))
            .await;
        assert_eq!(status, 200, "{answer}");
    }

    pub async fn delete(&self, id: &str) -> u16 {
        let path = format!("/v1/load-balancers/{id}");
        self.call(Method::DELETE, &path, Value::Null).await.0
    }
}

pub fn request(name: &str, port: u16, target_port: u16, addresses: &[&str]) -> Value {
    let family = if addresses.iter().any(|a| a.contains(':')) {
        "IPv6"
    } else {
        "IPv4"
    };
    json!({
        "name": name,
        "families": [family],
        "listeners": [
            {"port": port, "protocol": "TCP", "targetPort": target_port},
            {"port": port, "protocol": "UDP", "targetPort": target_port},
        ],
        "targets": targets(addresses),
        "healthCheck": {
            "protocol": "tcp", "port": target_port, "intervalMillis": 50,
        },
    })
}

fn targets(addresses: &[&str]) -> Value {
    addresses
        .iter()
        .map(|address| json!({"address": address}))
        .collect()
}

/// A target that tells its name over TCP and UDP, then echoes (TCP), or
/// answers every datagram with its name (UDP).
pub struct Target {
    stop: CancellationToken,
    pub address: SocketAddr,
}

impl Target {
    /// On `ip`, on any port if `port` is 0.
    pub async fn start(ip: &str, port: u16) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        let stop = CancellationToken::new();
        // Both protocols need the same port: try until they have it.
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind((ip, port)).await.unwrap();
            match UdpSocket::bind(tcp.local_addr().unwrap()).await {
                Ok(udp) => break (tcp, udp),
                Err(error) => assert_eq!(port, 0, "{error}"),
            }
        };
        let address = tcp.local_addr().unwrap();
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(serve_tcp(tcp, stop.clone())),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve_udp(udp)));
        Self { stop, address }
    }

    /// A machine that loses its power, except that its kernel still refuses.
    pub fn stop(self) {
        self.stop.cancel();
    }
}

async fn serve_tcp(listener: TcpListener, stop: CancellationToken) {
    let name = Arc::new(listener.local_addr().unwrap().ip().to_string());
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let name = Arc::clone(&name);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let greeted = client.write_all(format!("{name}\n").as_bytes()).await;
            let (mut read, mut write) = client.split();
            if greeted.is_ok() {
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
        }));
    }
}

async fn serve_udp(socket: UdpSocket) {
    let name = socket.local_addr().unwrap().ip().to_string();
    let mut datagram = [0; 2048];
    loop {
        let Ok((_, client)) = socket.recv_from(&mut datagram).await else {
            continue;
        };
        let _ = socket.send_to(name.as_bytes(), client).await;
    }
}

/// A connection through the cloud, and who answers at its end.
pub async fn dial(address: SocketAddr) -> std::io::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let mut name = Vec::new();
    loop {
        let byte = timeout(SOON, stream.read_u8())
            .await
            .expect("somebody answers")?;
        if byte == b'\n' {
            return Ok((stream, String::from_utf8(name).unwrap()));
        }
        name.push(byte);
    }
}

/// Who answers a datagram from `socket`; none if nobody does.
pub async fn ask(socket: &UdpSocket, address: SocketAddr) -> Option<String> {
    let mut datagram = [0; 2048];
    socket.send_to(b"who?", address).await.unwrap();
    let answer = timeout(Duration::from_millis(500), socket.recv_from(&mut datagram)).await;
    let (length, from) = answer.ok()?.unwrap();
    assert_eq!(from, address, "answers come from where the client asked");
    Some(String::from_utf8_lossy(&datagram[..length]).into_owned())
}

/// The first address of a load balancer, with `port`.
pub fn front(load_balancer: &Value, port: u16) -> SocketAddr {
    let address = load_balancer["addresses"][0].as_str().unwrap();
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Its id.
pub fn id(load_balancer: &Value) -> &str {
    load_balancer["id"].as_str().unwrap()
}
