//! herald-fakecloud: a pretend cloud with a real data path.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use herald_core::AddressRange;
use herald_fakecloud::route::Limits;
use herald_fakecloud::state::Quotas;
use herald_fakecloud::{Config, RateLimit, Server};
use herald_telemetry::{Health, LogFormat, Registry, init_logs, serve};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A pretend cloud: an HTTP API for network load balancers, and a data path
/// that really carries TCP and UDP from their addresses to the healthy ones
/// among their targets. For tests and demos; it keeps nothing on disk.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where the API listens; [::] takes IPv4 too.
    #[arg(long, default_value = "[::]:8090")]
    listen: SocketAddr,
    /// Where /metrics, /healthz and /readyz listen.
    #[arg(long, default_value = "[::]:7474")]
    metrics_bind_address: SocketAddr,
    /// Addresses for load balancers, as 10.20.3.0/24 or first-last; may be
    /// given several times, for IPv4 and IPv6.
    #[arg(long = "address-pool", required = true)]
    address_pools: Vec<AddressRange>,
    /// Interface on which addresses are plugged as /32 and /128 (which needs
    /// the right to administer the network). Without it they must be the host's already, as all of
    /// 127.0.0.0/8 are.
    #[arg(long)]
    interface: Option<String>,
    /// From create to active, in which a load balancer carries no traffic.
    #[arg(long, default_value = "2s", value_parser = duration)]
    provisioning_time: Duration,
    /// From delete to gone; the name stays taken meanwhile.
    #[arg(long, default_value = "1s", value_parser = duration)]
    deletion_time: Duration,
    /// How many load balancers there may be.
    #[arg(long, default_value_t = Quotas::default().load_balancers)]
    max_load_balancers: usize,
    /// How many listeners a load balancer may have.
    #[arg(long, default_value_t = Quotas::default().listeners)]
    max_listeners: usize,
    /// How many targets a load balancer may have.
    #[arg(long, default_value_t = Quotas::default().targets)]
    max_targets: usize,
    /// Calls a second that are answered; others get 429 with Retry-After.
    /// No limit by default.
    #[arg(long, value_parser = rate)]
    rate_limit: Option<f64>,
    /// Calls at once, with --rate-limit.
    #[arg(long, default_value_t = 10)]
    rate_burst: u32,
    /// Hostnames of load balancers are <name>.<domain>.
    #[arg(long, default_value = "fakecloud.herald.dev")]
    domain: String,
    /// A hosts(5) file to keep with the hostnames of active load balancers.
    #[arg(long)]
    hosts_file: Option<PathBuf>,
    /// How long TCP connections to a removed target or listener may go on.
    #[arg(long, default_value = "30s", value_parser = duration)]
    drain_time: Duration,
    /// A UDP flow ends after this long without a datagram.
    #[arg(long, default_value = "30s", value_parser = duration)]
    udp_idle_time: Duration,
    /// How many UDP flows a listener may have.
    #[arg(long, default_value_t = 16_384)]
    udp_max_flows: usize,
    /// How log lines look: json or text.
    #[arg(long, default_value = "json")]
    log_format: LogFormat,
}

impl Args {
    fn config(self) -> Config {
        Config {
            listen: self.listen,
            pools: self.address_pools,
            interface: self.interface,
            provisioning_time: self.provisioning_time,
            deletion_time: self.deletion_time,
            quotas: Quotas {
                load_balancers: self.max_load_balancers,
                listeners: self.max_listeners,
                targets: self.max_targets,
            },
            rate_limit: self.rate_limit.map(|rate| RateLimit {
                rate,
                burst: self.rate_burst,
            }),
            domain: self.domain,
            hosts_file: self.hosts_file,
            limits: Limits {
                connect_timeout: Duration::from_secs(1),
                drain_time: self.drain_time,
                flow_idle_time: self.udp_idle_time,
                flows: self.udp_max_flows,
            },
        }
    }
}

/// `500ms`, `2s`, `1m` or `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 500ms, 2s or 1m");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => number
            .checked_mul(60)
            .map(Duration::from_secs)
            .ok_or_else(wrong),
        "" if number == 0 => Ok(Duration::ZERO),
        _ => Err(wrong()),
    }
}

/// Calls a second, above 0.
fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| format!("{text:?} is not a number of calls a second above 0"))
}

/// Every UDP flow and every connection needs file descriptors: take as many as
/// the system grants without being asked.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    init_logs(args.log_format);
    raise_file_limit();
    // Before anything else, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;

    let metrics_address = args.metrics_bind_address;
    let server = Server::start(args.config()).await?;
    let mut registry = Registry::default();
    server.shared().metrics.register(&mut registry);
    let health = Health::new();
    health.set_ready(true);
    let cancel = CancellationToken::new();
    let telemetry = serve(metrics_address, Arc::new(registry), health, cancel.clone());
    tokio::pin!(telemetry);
    let result = tokio::select! {
        result = &mut telemetry => result.map_err(Into::into),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!("the cloud closes");
    cancel.cancel();
    server.stop().await;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("3m"), Ok(Duration::from_mins(3)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "2", "s", "-1s", "1h", "1.5s", "99999999999999999999m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_flags_hold_together() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        assert!(rate("0").is_err() && rate("NaN").is_err() && rate("2.5").is_ok());
    }
}
