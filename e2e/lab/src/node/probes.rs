//! Startup, liveness and readiness probes, as the kubelet makes them: from the
//! node's network namespace, or inside the container.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Until its first success a readiness probe comes this often, whatever its
/// period, so that a roll-out in the lab does not wait for a period to pass.
const EAGER: Duration = Duration::from_millis(100);

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Startup,
    Liveness,
    Readiness,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        })
    }
}

/// A probe has come to a new verdict.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) role: Role,
    /// What is wrong; nothing if all is well.
    pub(super) problem: Option<String>,
}

/// What a series of results amounts to: it changes only after as many equal
/// results in a row as the thresholds say.
#[derive(Debug)]
struct Verdict {
    /// Nothing until there is one.
    good: Option<bool>,
    streak: (bool, u32),
    success_threshold: u32,
    failure_threshold: u32,
}

impl Verdict {
    fn new(probe: &Probe) -> Self {
        let threshold = |value: Option<i32>, default| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        Self {
            good: None,
            streak: (true, 0),
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
        }
    }

    /// Takes a result in; says whether the verdict has changed.
    fn record(&mut self, result: bool) -> bool {
        self.streak = if self.streak.0 == result {
            (result, self.streak.1.saturating_add(1))
        } else {
            (result, 1)
        };
        let needed = if result {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        let changed = self.good != Some(result) && self.streak.1 >= needed;
        if changed {
            self.good = Some(result);
        }
        changed
    }
}

/// Where a container is probed.
#[derive(Clone)]
pub(super) struct Target {
    /// The pod's first address.
    pub(super) address: Option<IpAddr>,
    pub(super) environment: BTreeMap<String, String>,
    /// A command that runs another inside the container.
    pub(super) enter: Vec<String>,
}

/// Probes and tells of each new verdict, until nobody listens. A startup probe
/// ends with its first verdict.
pub(super) async fn run(
    role: Role,
    probe: Probe,
    container: Container,
    target: Target,
    findings: mpsc::UnboundedSender<Finding>,
) {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
    };
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut verdict = Verdict::new(&probe);
    loop {
        let begin = tokio::time::Instant::now();
        let result = tokio::time::timeout(limit, once(&probe, &container, &target))
            .await
            .unwrap_or_else(|_| bail!("no answer within {} s", limit.as_secs()));
        let problem = result.err().map(|error| format!("{error:#}"));
        if verdict.record(problem.is_none())
            && (findings.send(Finding { role, problem }).is_err() || role == Role::Startup)
        {
            return;
        }
        let pause = if role == Role::Readiness && verdict.good != Some(true) {
            EAGER.min(period)
        } else {
            period
        };
        tokio::time::sleep_until(begin + pause).await;
    }
}

async fn once(probe: &Probe, container: &Container, target: &Target) -> Result<()> {
    if let Some(get) = &probe.http_get {
        return http_get(get, container, target).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        return connect(tcp, container, target).await;
    }
    if let Some(exec) = &probe.exec {
        return run_inside(exec, target).await;
    }
    bail!("only httpGet, tcpSocket and exec probes are known here")
}

/// Performs a lifecycle hook.
pub(super) async fn hook(
    hook: &LifecycleHandler,
    container: &Container,
    target: &Target,
) -> Result<()> {
    if let Some(sleep) = &hook.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    if let Some(get) = &hook.http_get {
        return http_get(get, container, target).await;
    }
    if let Some(exec) = &hook.exec {
        return run_inside(exec, target).await;
    }
    bail!("only exec, httpGet and sleep hooks are known here")
}

async fn http_get(get: &HTTPGetAction, container: &Container, target: &Target) -> Result<()> {
    if get.scheme.as_deref() == Some("HTTPS") {
        bail!("httpGet over HTTPS is not known here");
    }
    let address = address(get.host.as_deref(), target)?;
    let address = SocketAddr::new(address, port(&get.port, container)?);
    let path = get.path.as_deref().unwrap_or("/");
    let mut request = http::Request::get(format!("http://{address}{path}"))
        .header(http::header::USER_AGENT, "kube-probe/herald-lab");
    for header in get.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build_http();
    let answer = client.request(request.body(Empty::new())?).await?;
    let status = answer.status();
    answer.into_body().collect().await?;
    if !(200..400).contains(&status.as_u16()) {
        bail!("HTTP status {status}");
    }
    Ok(())
}

async fn connect(tcp: &TCPSocketAction, container: &Container, target: &Target) -> Result<()> {
    let address = address(tcp.host.as_deref(), target)?;
    TcpStream::connect((address, port(&tcp.port, container)?)).await?;
    Ok(())
}

async fn run_inside(exec: &ExecAction, target: &Target) -> Result<()> {
    let [enter, arguments @ ..] = target.enter.as_slice() else {
        bail!("no way into the container");
    };
    let command = exec.command.as_deref().unwrap_or_default();
    if command.is_empty() {
        bail!("exec without a command");
    }
    let output = tokio::process::Command::new(enter)
        .args(arguments)
        .args(command)
        .env_clear()
        .envs(&target.environment)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, said.trim());
    }
    Ok(())
}

fn address(host: Option<&str>, target: &Target) -> Result<IpAddr> {
    match host.filter(|host| !host.is_empty()) {
        Some(host) => host
            .parse()
            .with_context(|| format!("host {host:?} is no address")),
        None => target.address.context("the pod has no address"),
    }
}

fn port(port: &IntOrString, container: &Container) -> Result<u16> {
    match port {
        IntOrString::Int(number) => {
            u16::try_from(*number).with_context(|| format!("{number} is no port"))
        }
        IntOrString::String(name) => {
            if let Ok(number) = name.parse() {
                return Ok(number);
            }
            let found = container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_ref() == Some(name))
                .with_context(|| format!("the container has no port {name:?}"))?;
            Ok(u16::try_from(found.container_port)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_its_threshold_in_a_row() {
        let probe = Probe {
            failure_threshold: Some(2),
            ..Probe::default()
        };
        let mut verdict = Verdict::new(&probe);
        assert!(!verdict.record(false));
        assert!(verdict.record(true), "one success is enough by default");
        assert!(!verdict.record(true), "no news");
        assert!(!verdict.record(false));
        assert!(!verdict.record(true));
        assert!(!verdict.record(false));
        assert!(verdict.record(false), "two in a row");
        assert_eq!(verdict.good, Some(false));
        assert!(verdict.record(true));
    }

    #[test]
    fn success_has_a_threshold_too() {
        let probe = Probe {
            success_threshold: Some(2),
            ..Probe::default()
        };
        let mut verdict = Verdict::new(&probe);
        assert!(!verdict.record(true));
        assert!(verdict.record(true));
    }

    #[test]
    fn three_failures_are_the_default() {
        let mut verdict = Verdict::new(&Probe::default());
        assert!(!verdict.record(false));
        assert!(!verdict.record(false));
        assert!(verdict.record(false));
    }

    #[test]
    fn a_port_may_be_named() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c", "ports": [{"name": "http", "containerPort": 8080}],
        }))
        .unwrap();
        let named = |name: &str| port(&IntOrString::String(name.into()), &container);
        assert_eq!(named("http").unwrap(), 8080);
        assert_eq!(named("81").unwrap(), 81);
        assert!(named("https").is_err());
        assert!(port(&IntOrString::Int(70_000), &container).is_err());
    }
}
