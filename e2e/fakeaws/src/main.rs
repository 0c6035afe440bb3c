//! herald-fakeaws: a strict stand-in for AWS's load balancers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use herald_core::AddressRange;
use herald_fakeaws::{Config, DataPath, FakeAws, Fixtures, Pace, Quotas, Throttling, Timing};
use herald_telemetry::{LogFormat, init_logs};
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for AWS's network load balancers: ELB and the part of EC2 that
/// a load-balancer controller uses, over HTTP as SDKs speak it. Point
/// `AWS_ENDPOINT_URL` at it. For tests; it keeps nothing on disk.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where the API listens; [::] takes IPv4 too.
    #[arg(long, default_value = "[::]:8092")]
    listen: SocketAddr,
    /// What is there from the start, as JSON; a cluster in us-east-1 by default.
    #[arg(long)]
    fixtures: Option<PathBuf>,
    /// Name of the cluster that is there by default.
    #[arg(long, default_value = "demo", conflicts_with = "fixtures")]
    cluster: String,
    /// How many nodes that cluster has.
    #[arg(long, default_value_t = 3, conflicts_with = "fixtures", value_parser = clap::value_parser!(u16).range(0..=4000))]
    nodes: u16,
    /// Seconds of the stand-in's time in each second; 0 for a clock that only
    /// moves when told to (POST /_admin/clock).
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    clock_speed: f64,
    /// A load balancer, from create to active.
    #[arg(long, default_value = "2m", value_parser = duration)]
    provisioning_time: Duration,
    /// A target, from registered to its first verdict; with a data path the
    /// health checks decide.
    #[arg(long, default_value = "1m", value_parser = duration)]
    target_initial_time: Duration,
    /// How long a deleted load balancer's interfaces hold on to its security
    /// groups.
    #[arg(long, default_value = "45s", value_parser = duration)]
    interface_release_time: Duration,
    /// How long a target group counts as in use when it no longer is.
    #[arg(long, default_value = "2s", value_parser = duration)]
    target_group_release_time: Duration,
    /// How long a capacity reservation is pending.
    #[arg(long, default_value = "5m", value_parser = duration)]
    capacity_time: Duration,
    /// How far ELB's describes lag behind its writes.
    #[arg(long, default_value = "0", value_parser = duration)]
    elbv2_lag: Duration,
    /// How far EC2's describes lag behind its writes.
    #[arg(long, default_value = "0", value_parser = duration)]
    ec2_lag: Duration,
    /// Token buckets of AWS's sizes.
    #[arg(long)]
    throttle: bool,
    /// How many network load balancers there may be.
    #[arg(long, default_value_t = Quotas::default().load_balancers)]
    max_load_balancers: usize,
    /// Really carry traffic to the targets; needs --address-pool.
    #[arg(long, requires = "address_pools")]
    data_path: bool,
    /// Addresses for load balancers, as 10.20.4.0/24 or first-last; may be
    /// given several times, for IPv4 and IPv6.
    #[arg(long = "address-pool", id = "address_pools")]
    address_pools: Vec<AddressRange>,
    /// Interface on which addresses are plugged as /32 and /128. Without it
    /// they must be the host's already, as all of 127.0.0.0/8 are.
    #[arg(long)]
    interface: Option<String>,
    /// A hosts(5) file to keep with the names of active load balancers.
    #[arg(long, requires = "data_path")]
    hosts_file: Option<PathBuf>,
    /// How log lines look: json or text.
    #[arg(long, default_value = "json")]
    log_format: LogFormat,
}

impl Args {
    fn config(self) -> anyhow::Result<Config> {
        let fixtures = match &self.fixtures {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                Fixtures::from_json(&text)
                    .with_context(|| format!("{} is not what fixtures look like", path.display()))?
            }
            None => Fixtures::cluster(&self.cluster).nodes(self.nodes),
        };
        Ok(Config {
            listen: self.listen,
            pace: if self.clock_speed > 0.0 {
                Pace::Running(self.clock_speed)
            } else {
                Pace::Stopped
            },
            timing: Timing {
                provisioning: self.provisioning_time,
                target_initial: self.target_initial_time,
                interface_release: self.interface_release_time,
                target_group_release: self.target_group_release_time,
                capacity: self.capacity_time,
                elbv2_lag: self.elbv2_lag,
                ec2_lag: self.ec2_lag,
            },
            quotas: Quotas {
                load_balancers: self.max_load_balancers,
                ..Quotas::default()
            },
            throttling: self.throttle.then(Throttling::default),
            fixtures,
            data_path: self.data_path.then_some(DataPath {
                pools: self.address_pools,
                interface: self.interface,
                hosts_file: self.hosts_file,
            }),
        })
    }
}

/// `500ms`, `2s`, `1m` or `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 500ms, 2s or 1m");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_mins(number.into())),
        "" if number == 0 => Ok(Duration::ZERO),
        _ => Err(wrong()),
    }
}

/// A factor from 0 on.
fn speed(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|speed: &f64| speed.is_finite() && (0.0..=1e6).contains(speed))
        .ok_or_else(|| format!("{text:?} is not a number from 0 to 1000000"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    init_logs(args.log_format);
    // Before anything else, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let fake = FakeAws::start(args.config()?).await?;
    tracing::info!(endpoint = fake.endpoint(), "the stand-in is open");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("the stand-in closes");
    fake.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_hold_together() {
        Args::command().debug_assert();
        let parse = |flags: &[&str]| Args::try_parse_from([&["herald-fakeaws"], flags].concat());
        assert!(parse(&["--data-path"]).is_err());
        assert!(parse(&["--hosts-file", "x"]).is_err());
        let args = parse(&[
            "--data-path",
            "--address-pool",
            "127.0.7.0/24",
            "--clock-speed",
            "0",
        ]);
        let config = args.unwrap().config().unwrap();
        assert_eq!(config.pace, Pace::Stopped);
        assert!(config.data_path.is_some());
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("3m"), Ok(Duration::from_mins(3)));
        for wrong in ["", "2", "s", "-1s", "1h", "99999999999m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(speed("-1").is_err() && speed("NaN").is_err() && speed("60").is_ok());
    }
}
