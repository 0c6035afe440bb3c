//! Startup, liveness and readiness probes, as the kubelet makes them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

/// What a series of results amounts to: it changes only after as many equal
/// results in a row as the thresholds say.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) good: bool,
    streak: (bool, u32),
    success_threshold: u32,
    failure_threshold: u32,
}

impl Verdict {
    fn new(probe: &Probe, good: bool) -> Self {
        let threshold = |value: Option<i32>, default| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Self {
            good,
            streak: (good, 0),
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
        let needed = if result { self.success_threshold } else { self.failure_threshold };
        let changed = self.good != result && self.streak.1 >= needed;
        if changed {
            self.good = result;
        }
        changed
    }
}

/// Where a container is probed.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: IpAddr,
    pub(super) environment: BTreeMap<String, String>,
}

/// Probes until `changed` refuses: it hears of each new verdict, of the first
/// one too. `initially` is what counts before the first result.
pub(super) async fn run(
    probe: Probe,
    container: Container,
    target: Target,
    initially: bool,
    mut changed: impl FnMut(bool) -> bool,
) {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
    };
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut verdict = Verdict::new(&probe, initially);
    let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let mut ticks =
        tokio::time::interval(seconds(probe.period_seconds, 10).max(Duration::from_secs(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = tokio::time::timeout(limit, once(&probe, &container, &target)).await;
        let good = matches!(result, Ok(Ok(())));
        if verdict.record(good) && !changed(good) {
            return;
        }
    }
}

async fn once(probe: &Probe, container: &Container, target: &Target) -> Result<()> {
    if let Some(get) = &probe.http_get {
        let host = get.host.as_deref().map_or(Ok(target.address), str::parse)?;
        let authority = match host {
            IpAddr::V4(host) => format!("{host}:{}", port(&get.port, container)?),
            IpAddr::V6(host) => format!("[{host}]:{}", port(&get.port, container)?),
        };
        let path = get.path.as_deref().unwrap_or("/");
        let client: Client<HttpConnector, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        let answer = client.get(format!("http://{authority}{path}").parse()?).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        if !(200..400).contains(&status.as_u16()) {
            bail!("HTTP {status}");
        }
        return Ok(());
    }
    if let Some(tcp) = &probe.tcp_socket {
        TcpStream::connect((target.address, port(&tcp.port, container)?)).await?;
        return Ok(());
    }
    if let Some(exec) = &probe.exec {
        let [program, arguments @ ..] = exec.command.as_deref().unwrap_or_default() else {
            bail!("exec probe without a command");
        };
        let status = tokio::process::Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(&target.environment)
            .kill_on_drop(true)
            .output()
            .await?
            .status;
        if !status.success() {
            bail!("{status}");
        }
        return Ok(());
    }
    bail!("only httpGet, tcpSocket and exec probes are known here")
}

fn port(port: &IntOrString, container: &Container) -> Result<u16> {
    match port {
        IntOrString::Int(number) => Ok(u16::try_from(*number)?),
        IntOrString::String(name) => {
            if let Ok(number) = name.parse() {
                return Ok(number);
            }
            let found = container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_ref() == Some(name))
                .with_context(|| format!("container has no port {name:?}"))?;
            Ok(u16::try_from(found.container_port)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_its_threshold_in_a_row() {
        let probe = Probe { failure_threshold: Some(2), ..Probe::default() };
        let mut verdict = Verdict::new(&probe, true);
        assert!(!verdict.record(false));
        assert!(!verdict.record(true));
        assert!(!verdict.record(false));
        assert!(verdict.record(false), "two in a row");
        assert!(!verdict.good);
        assert!(verdict.record(true), "one success is enough by default");
    }
}
