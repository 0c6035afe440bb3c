//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgAction, Parser};
use herald_speaker::{Config, Profile, Rate};
use herald_telemetry::LogFormat;
use regex::Regex;

/// Interfaces that belong to container networks, as in `MetalLB`'s defaults.
const CONTAINER_INTERFACES: &str = "^docker,^cbr,^dummy,^virbr,^lxcbr,^veth,^lo$,^cali,^tunl,\
                                    ^flannel,^kube-ipvs,^cni,^nodelocaldns,^lxc";

/// Announces the addresses of load balancer Services from this node.
#[derive(Debug, Parser)]
#[command(name = "herald-speaker", version)]
pub(crate) struct Flags {
    /// Name of the node that this speaker runs on
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Namespace of the speakers' pods, the pools and the advertisements
    #[arg(long, env = "POD_NAMESPACE", default_value = "herald-system")]
    namespace: String,
    /// Whether Services without a loadBalancerClass are announced
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    handle_unclassed: bool,
    /// Regular expressions, separated by commas; interfaces whose name matches one are never announced on
    #[arg(long, value_delimiter = ',', default_value = CONTAINER_INTERFACES)]
    exclude_interfaces: Vec<Regex>,
    /// How long addresses are still answered for after SIGTERM while no successor is heard (500ms, 5s)
    #[arg(long, default_value = "5s", value_parser = duration)]
    drain_timeout: Duration,
    /// How fast an interface announces: default (500 frames a second, 1000 at once), polite (10 a second,
    /// for switches with dynamic ARP inspection), or frames a second and at once (100:200)
    #[arg(long, default_value = "default", value_parser = announce_rate)]
    announce_rate: Profile,
    /// Average time between two announcements of an address that stays where it is
    #[arg(long, default_value = "90s", value_parser = duration)]
    announce_refresh: Duration,
    /// Whether IPv4 addresses are announced by gratuitous ARP replies too, for devices that heed no requests
    #[arg(long, default_value_t = false, action = ArgAction::Set)]
    announce_replies: bool,
    /// Whether to ask on the segment, every ten seconds or less often, for addresses that other nodes announce
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    check_others: bool,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, default_value = "0.0.0.0:7473")]
    pub(crate) metrics_bind_address: SocketAddr,
    /// json or text; what is logged is set by the environment variable `HERALD_LOG`
    #[arg(long, default_value = "json")]
    pub(crate) log_format: LogFormat,
}

impl Flags {
    /// The speaker's part of them.
    pub(crate) fn config(self) -> Config {
        Config {
            node: self.node_name,
            namespace: self.namespace,
            handle_unclassed: self.handle_unclassed,
            exclude_interfaces: self.exclude_interfaces,
            drain_timeout: self.drain_timeout,
            announcing: Profile {
                // A refresh without a pause would be a flood.
                refresh: self.announce_refresh.max(Duration::from_secs(1)),
                replies: self.announce_replies,
                ..self.announce_rate
            },
            check: self.check_others,
        }
    }
}

/// A profile by its name, or the usual one with another rate.
fn announce_rate(text: &str) -> Result<Profile, String> {
    match text {
        "default" => return Ok(Profile::DEFAULT),
        "polite" => return Ok(Profile::POLITE),
        _ => {}
    }
    let number = |text: &str| text.parse().ok().filter(|number: &u32| *number > 0);
    let rate = text
        .split_once(':')
        .and_then(|(per_second, burst)| {
            Some(Rate {
                per_second: number(per_second)?,
                burst: number(burst)?,
            })
        })
        .ok_or("write default, polite, or frames a second and at once like 100:200")?;
    Ok(Profile {
        rate,
        ..Profile::DEFAULT
    })
}

/// A duration in milliseconds, seconds or minutes.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("write it like 500ms, 5s or 1m".to_owned()),
    };
    let number: u32 = number
        .parse()
        .map_err(|_| "write it like 500ms, 5s or 1m".to_owned())?;
    Ok(Duration::from_millis(u64::from(number) * factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, clap::Error> {
        Flags::try_parse_from(["herald-speaker", "--node-name=n1"].iter().chain(args))
    }

    #[test]
    fn interfaces_of_container_networks_are_excluded_by_default() {
        let flags = parse(&[]).unwrap();
        let excluded = |name: &str| flags.exclude_interfaces.iter().any(|r| r.is_match(name));
        for name in [
            "lo",
            "docker0",
            "veth12ab",
            "cali0",
            "cni0",
            "kube-ipvs0",
            "flannel.1",
        ] {
            assert!(excluded(name), "{name}");
        }
        for name in ["eth0", "lan0", "bond0", "br0", "lo0", "enp3s0"] {
            assert!(!excluded(name), "{name}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(
            parse(&["--drain-timeout=500ms"])
                .unwrap()
                .drain_timeout
                .as_millis(),
            500
        );
        assert_eq!(
            parse(&["--drain-timeout=1m"])
                .unwrap()
                .drain_timeout
                .as_secs(),
            60
        );
        for wrong in ["5", "s", "1.5s", "5h", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn announcing_is_set_by_a_name_or_by_numbers() {
        let announcing = |args: &[&str]| parse(args).unwrap().config().announcing;
        assert_eq!(announcing(&[]), Profile::DEFAULT);
        assert_eq!(announcing(&["--announce-rate=polite"]), Profile::POLITE);
        let own = announcing(&[
            "--announce-rate=100:200",
            "--announce-refresh=30s",
            "--announce-replies=true",
        ]);
        let (per_second, burst) = (100, 200);
        assert_eq!(own.rate, Rate { per_second, burst });
        assert_eq!((own.refresh.as_secs(), own.replies), (30, true));
        for wrong in ["fast", "100", "0:10", "10:0", "-1:10", "10:"] {
            assert!(announce_rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pattern_that_is_no_regular_expression_is_refused() {
        assert!(parse(&["--exclude-interfaces=^eth("]).is_err());
    }
}
