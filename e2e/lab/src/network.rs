//! The lab's wires: two kinds of bridges, a network namespace per host.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::lab::LabSpec;
use crate::plan::{self, Host, MANAGEMENT_INTERFACE, lan_interface};

/// One of the lab's networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// API, node addresses and pod traffic.
    Management,
    /// Service LAN k.
    Lan(u8),
}

impl Network {
    /// Its bridge in the lab's first network namespace.
    pub fn bridge(self) -> String {
        match self {
            Self::Management => "br-mgmt".into(),
            Self::Lan(k) => format!("br-lan{k}"),
        }
    }

    /// The bridge's port towards a host.
    pub fn port(self, host: &str) -> String {
        match self {
            Self::Management => format!("{host}-m"),
            Self::Lan(k) => format!("{host}-l{k}"),
        }
    }

    /// The host's interface.
    pub fn interface(self) -> String {
        match self {
            Self::Management => MANAGEMENT_INTERFACE.into(),
            Self::Lan(k) => lan_interface(k),
        }
    }
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "management" {
            return Ok(Self::Management);
        }
        text.strip_prefix("lan")
            .and_then(|k| k.parse().ok())
            .map(Self::Lan)
            .ok_or_else(|| format!("{text:?} is no network; write management, lan0, lan1, ..."))
    }
}

/// Every host of the lab.
pub fn hosts(spec: &LabSpec) -> Vec<Host> {
    let mut hosts = vec![Host::ControlPlane, Host::Cloud];
    hosts.extend((1..=spec.nodes).map(Host::Node));
    hosts.extend((1..=spec.clients).map(Host::Client));
    for i in 1..=spec.router_count() {
        hosts.extend([Host::Router(i), Host::Far(i)]);
    }
    hosts
}

/// The networks that a host stands on.
pub fn networks(spec: &LabSpec, host: Host) -> Vec<Network> {
    let management = host.management().map(|_| Network::Management);
    let lans = (0..spec.lans)
        .filter(|k| host.lan(*k).is_some())
        .map(Network::Lan);
    management.into_iter().chain(lans).collect()
}

/// Builds bridges, hosts, addresses and the routes between pods.
pub fn build(spec: &LabSpec) -> Result<()> {
    let mut lab = String::new();
    for network in std::iter::once(Network::Management).chain((0..spec.lans).map(Network::Lan)) {
        let bridge = network.bridge();
        // No spanning tree, no learning delay; snooping as a switch would.
        writeln!(
            lab,
            "link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 1"
        )?;
        writeln!(lab, "link set {bridge} up")?;
    }
    // The lab's own process reaches the API server over management.
    writeln!(lab, "addr add 172.30.0.254/24 dev br-mgmt")?;
    writeln!(lab, "addr add fd30::fe/64 dev br-mgmt nodad")?;
    let hosts = hosts(spec);
    for host in &hosts {
        writeln!(lab, "netns add {}", host.name())?;
    }
    for host in &hosts {
        let name = host.name();
        for network in networks(spec, *host) {
            let port = network.port(&name);
            writeln!(
                lab,
                "link add {port} type veth peer name {} netns {name}",
                network.interface()
            )?;
            writeln!(lab, "link set {port} master {} up", network.bridge())?;
        }
    }
    batch(None, &lab)?;
    for host in hosts {
        configure(spec, host)?;
    }
    crate::router::wire(spec)
}

fn configure(spec: &LabSpec, host: Host) -> Result<()> {
    let name = host.name();
    // Before any interface comes up: addresses are usable at once.
    let mut sysctls = vec![
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ];
    if matches!(host, Host::Node(_) | Host::Router(_)) {
        sysctls.extend([
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/default/forwarding", "1"),
        ]);
    }
    if matches!(host, Host::Router(_)) {
        // Of several paths a flow has one, by its ports too, as on hardware.
        sysctls.extend([
            ("net/ipv4/fib_multipath_hash_policy", "1"),
            ("net/ipv6/fib_multipath_hash_policy", "1"),
        ]);
    }
    let mut script = String::from("set -e\n");
    for (key, value) in sysctls {
        writeln!(script, "echo {value} > /proc/sys/{key}")?;
    }
    enter(&name, "sh", &script)?;

    let mut lines = String::from("link set lo up\n");
    let mut address = |(v4, v6): (std::net::Ipv4Addr, std::net::Ipv6Addr),
                       prefix: u8,
                       interface: &str|
     -> Result<()> {
        writeln!(lines, "link set {interface} up")?;
        if spec.families.has_v4() {
            writeln!(lines, "addr add {v4}/{prefix} dev {interface}")?;
        }
        if spec.families.has_v6() {
            writeln!(lines, "addr add {v6}/64 dev {interface} nodad")?;
        }
        Ok(())
    };
    if let Some(addresses) = host.management() {
        address(addresses, 24, MANAGEMENT_INTERFACE)?;
    }
    for k in 0..spec.lans {
        if let Some(addresses) = host.lan(k) {
            address(addresses, 16, &lan_interface(k))?;
        }
    }
    // A node has a gateway, as real ones do: without a route to it a ClusterIP
    // is given up before kube-proxy sees the packet. It leads nowhere.
    if let (Host::Node(_), Some((v4, v6))) = (host, Host::ControlPlane.management()) {
        if spec.families.has_v4() {
            writeln!(lines, "route add default via {v4}")?;
        }
        if spec.families.has_v6() {
            writeln!(lines, "route add default via {v6}")?;
        }
    }
    // Every host on management routes pods to their nodes.
    if host.management().is_some() {
        for i in (1..=spec.nodes).filter(|i| host != Host::Node(*i)) {
            let Some((v4, v6)) = Host::Node(i).management() else {
                continue;
            };
            if spec.families.has_v4() {
                writeln!(lines, "route add {} via {v4}", plan::pod_cidr_v4(i))?;
            }
            if spec.families.has_v6() {
                writeln!(lines, "route add {} via {v6}", plan::pod_cidr_v6(i))?;
            }
        }
    }
    batch(Some(&name), &lines)
}

/// Lines for `ip -batch` in a host's namespace.
pub fn batch(host: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(host) = host {
        command.args(["-n", host]);
    }
    feed(command.args(["-batch", "-"]), lines)
}

fn enter(host: &str, program: &str, input: &str) -> Result<()> {
    feed(
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/{host}"))
            .arg(program),
        input,
    )
}

/// Runs a command with `input` on its standard input.
pub fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    child
        .stdin
        .take()
        .context("standard input is piped")?
        .write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
