//! herald-speaker: flags to wiring.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use herald_speaker::{Config, SpeakerMetrics};
use herald_telemetry::{Health, LogFormat, Registry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Announces the addresses of Services of type LoadBalancer from this node.
#[derive(Debug, Parser)]
#[command(name = "herald-speaker", version)]
struct Flags {
    /// Name of the node that this speaker runs on.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Namespace of the speakers' pods, pools and advertisements.
    #[arg(long, env = "POD_NAMESPACE", default_value = "herald-system")]
    namespace: String,
    /// Whether Services without a loadBalancerClass are announced.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    handle_unclassed: bool,
    /// Interfaces whose name begins with one of these are never announced on.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "docker,cbr,dummy,virbr,lxcbr,veth,cali,tunl,flannel,kube-ipvs,cni,nodelocaldns,lxc"
    )]
    exclude_interfaces: Vec<String>,
    /// Seconds to keep answering after SIGTERM while no successor is heard.
    #[arg(long, default_value_t = 5)]
    drain_timeout: u64,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, default_value = "[::]:7473")]
    metrics_bind_address: SocketAddr,
    /// json or text.
    #[arg(long, default_value = "json")]
    log_format: LogFormat,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    herald_telemetry::init_logs(flags.log_format);
    let mut registry = Registry::default();
    let metrics = SpeakerMetrics::register(&mut registry);
    let health = Health::new();
    let (stop, served) = (CancellationToken::new(), CancellationToken::new());
    let client = kube::Client::try_default().await.context("find the API server")?;
    let config = Config {
        node: flags.node_name,
        namespace: flags.namespace,
        handle_unclassed: flags.handle_unclassed,
        exclude_interfaces: flags.exclude_interfaces,
        drain_timeout: Duration::from_secs(flags.drain_timeout),
    };
    tokio::spawn(stop_on_signal(stop.clone())?);
    let endpoint = herald_telemetry::serve(
        flags.metrics_bind_address,
        Arc::new(registry),
        health.clone(),
        served.clone(),
    );
    tokio::select! {
        result = herald_speaker::run(client, config, metrics, health, stop) => result?,
        result = endpoint => result?,
    }
    Ok(())
}

fn stop_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    })
}
