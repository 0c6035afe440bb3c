//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};
use herald_api::{L2Policy, L2Profile, L2Rebalance};
use herald_speaker::{Announcing, BgpConfig, Config, L2Defaults, Rate};
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
    /// How soon a silent node is taken for dead, where the `L2Advertisement` does not say: default (280 ms), fast (75 ms) or safe (1 s)
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    l2_profile: Profile,
    /// What is worse when a segment is in parts, where the `L2Advertisement` does not say: available (no owner is) or strict (two are)
    #[arg(long, value_enum, default_value_t = Policy::Available)]
    l2_policy: Policy,
    /// When addresses go back to a node that is back, where the `L2Advertisement` does not say: manual (when asked for) or on-join
    #[arg(long, value_enum, default_value_t = Rebalance::Manual)]
    l2_rebalance: Rebalance,
    /// How heartbeats reach the other speakers: multicast, or unicast to each where the network blocks that
    #[arg(long, value_enum, default_value_t = Heartbeats::Multicast)]
    heartbeats: Heartbeats,
    /// How long addresses are still answered for after SIGTERM while no successor is heard (500ms, 5s)
    #[arg(long, default_value = "5s", value_parser = duration)]
    drain_timeout: Duration,
    /// How fast an interface announces: default (500 frames a second, 1000 at once), polite (10 a second,
    /// for switches with dynamic ARP inspection), or frames a second and at once (100:200)
    #[arg(long, default_value = "default", value_parser = announce_rate)]
    announce_rate: Announcing,
    /// Average time between two announcements of an address that stays where it is
    #[arg(long, default_value = "90s", value_parser = duration)]
    announce_refresh: Duration,
    /// Whether IPv4 addresses are announced by gratuitous ARP replies too, for devices that heed no requests
    #[arg(long, default_value_t = false, action = ArgAction::Set)]
    announce_replies: bool,
    /// Whether to ask on the segment, every ten seconds or less often, for addresses that other nodes announce
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    check_others: bool,
    /// Port that BGP peers are listened for on; 0: they are only dialled
    #[arg(long, default_value_t = 179)]
    bgp_listen_port: u16,
    /// How long BGP peers have to find other paths before this node's are withdrawn
    #[arg(long, default_value = "3s", value_parser = duration)]
    bgp_drain_wait: Duration,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, default_value = "0.0.0.0:7473")]
    pub(crate) metrics_bind_address: SocketAddr,
    /// json or text; what is logged is set by the environment variable `HERALD_LOG`
    #[arg(long, default_value = "json")]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Profile {
    Default,
    Fast,
    Safe,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Policy {
    Available,
    Strict,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rebalance {
    Manual,
    OnJoin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Heartbeats {
    Multicast,
    Unicast,
}

impl Flags {
    /// The speaker's part of them.
    pub(crate) fn config(self) -> Config {
        Config {
            node: self.node_name,
            namespace: self.namespace,
            handle_unclassed: self.handle_unclassed,
            exclude_interfaces: self.exclude_interfaces,
            l2: L2Defaults {
                profile: match self.l2_profile {
                    Profile::Default => L2Profile::Default,
                    Profile::Fast => L2Profile::Fast,
                    Profile::Safe => L2Profile::Safe,
                },
                policy: match self.l2_policy {
                    Policy::Available => L2Policy::Available,
                    Policy::Strict => L2Policy::Strict,
                },
                rebalance: match self.l2_rebalance {
                    Rebalance::Manual => L2Rebalance::Manual,
                    Rebalance::OnJoin => L2Rebalance::OnJoin,
                },
            },
            unicast: self.heartbeats == Heartbeats::Unicast,
            drain_timeout: self.drain_timeout,
            announcing: Announcing {
                // A refresh without a pause would be a flood.
                refresh: self.announce_refresh.max(Duration::from_secs(1)),
                replies: self.announce_replies,
                ..self.announce_rate
            },
            check: self.check_others,
            bgp: BgpConfig {
                listen_port: self.bgp_listen_port,
                drain_wait: self.bgp_drain_wait,
            },
        }
    }
}

/// A profile by its name, or the usual one with another rate.
fn announce_rate(text: &str) -> Result<Announcing, String> {
    match text {
        "default" => return Ok(Announcing::DEFAULT),
        "polite" => return Ok(Announcing::POLITE),
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
    Ok(Announcing {
        rate,
        ..Announcing::DEFAULT
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
    fn what_advertisements_leave_open_is_set_by_flags() {
        assert_eq!(parse(&[]).unwrap().config().l2, L2Defaults::default());
        let flags = [
            "--l2-profile=fast",
            "--l2-policy=strict",
            "--l2-rebalance=on-join",
        ];
        let config = parse(&flags).unwrap().config();
        assert_eq!(config.l2.profile, L2Profile::Fast);
        assert_eq!(config.l2.policy, L2Policy::Strict);
        assert_eq!(config.l2.rebalance, L2Rebalance::OnJoin);
        assert!(!config.unicast);
        assert!(parse(&["--heartbeats=unicast"]).unwrap().config().unicast);
        assert!(parse(&["--l2-profile=slow"]).is_err());
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
        assert_eq!(announcing(&[]), Announcing::DEFAULT);
        assert_eq!(announcing(&["--announce-rate=polite"]), Announcing::POLITE);
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
