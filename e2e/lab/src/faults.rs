//! Faults as verbs: what can go wrong in a cluster, done to the lab.
//!
//! Frames are dropped on the bridges by one nftables table, written anew from
//! the list of faults at each change; processes are found by the names in
//! their environment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::network::{Network, batch, feed, networks};
use crate::plan::Host;
use crate::process::{self, NODE, POD, PROCESS};

/// Which way frames are lost, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Nothing comes in or goes out.
    Both,
    /// The host hears nothing, but is heard.
    In,
    /// The host is not heard, but hears.
    Out,
}

/// What is done to one host's link to one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LinkFault {
    direction: Direction,
    /// 1 to 100; 100 is a cut.
    percent: u8,
}

/// All that is broken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct LinkFaults {
    /// By bridge port.
    links: BTreeMap<String, LinkFault>,
    /// Bridge ports that hear each other, and none of the others on their bridge.
    apart: Vec<String>,
    /// By bridge port: addresses that what comes from it may not claim.
    mute: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// Drops every frame between a host and a network, silently: both ends still
/// have a carrier.
pub fn cut(host: &str, network: Network, direction: Direction) -> Result<()> {
    lose(host, network, direction, 100)
}

/// Drops frames at random: `percent` of them, 1 to 100.
pub fn lose(host: &str, network: Network, direction: Direction, percent: u8) -> Result<()> {
    if !(1..=100).contains(&percent) {
        bail!("{percent} % of frames can't be lost; write 1 to 100");
    }
    change(|faults| {
        let fault = LinkFault { direction, percent };
        faults.links.insert(network.port(host), fault);
    })
}

/// Splits a network in two: these hosts hear each other, and so do all the
/// others, but nothing passes between. All have a carrier still. With no hosts it
/// is whole again.
pub fn split(hosts: &[&str], network: Network) -> Result<()> {
    change(|faults| {
        faults.apart = hosts.iter().map(|host| network.port(host)).collect();
    })
}

/// Drops a host's ARP messages and Neighbor Advertisements about these addresses,
/// answers and announcements, as a switch does that inspects them; all else passes.
pub fn mute(host: &str, network: Network, addresses: &[IpAddr]) -> Result<()> {
    change(|faults| {
        let addresses = addresses.iter().copied().collect();
        faults.mute.insert(network.port(host), addresses);
    })
}

/// Ends [`cut`], [`lose`] and [`mute`] on that link, and plugs it in.
pub fn heal(host: &str, network: Network) -> Result<()> {
    change(|faults| {
        let port = network.port(host);
        faults.links.remove(&port);
        faults.mute.remove(&port);
    })?;
    plug(host, network, true)
}

/// Pulls the cable (both ends lose their carrier) or plugs it in.
pub fn plug(host: &str, network: Network, plugged: bool) -> Result<()> {
    let state = if plugged { "up" } else { "down" };
    batch(None, &format!("link set {} {state}\n", network.port(host)))
}

/// Ends all of a node's processes and pulls its cables, at once.
pub fn crash_node(lab: &Lab, node: &str) -> Result<()> {
    let host = node_host(lab, node)?;
    let mut lines = String::new();
    for network in networks(&lab.spec, host) {
        writeln!(lines, "link set {} down", network.port(node))?;
    }
    batch(None, &lines)?;
    // The process tree's root takes the node's whole pid namespace with it.
    let tree = process::find(NODE, node);
    if tree.is_empty() {
        bail!("node {node} runs nothing; it has crashed already");
    }
    for found in tree {
        found.signal(Signal::SIGKILL);
    }
    Ok(())
}

/// Boots a node that [`crash_node`] ended.
pub fn boot_node(lab: &Lab, node: &str) -> Result<()> {
    let host = node_host(lab, node)?;
    // What a reboot would clear: pod networks and kube-proxy's rules. Its interface in
    // ipvs mode has all VIPs, and the kernel answers for them.
    let script = "for l in $(ip -o link | grep -o 'veth[^@: ]*'); do ip link del $l; done; \
                  ip link del kube-ipvs0 2>/dev/null; ipvsadm -C 2>/dev/null; \
                  nft flush ruleset; conntrack -F 2>/dev/null; true";
    let status = process::in_host(Some(node), Path::new("sh"))
        .args(["-c", script])
        .status()
        .context("clear a node's network")?;
    if !status.success() {
        bail!("clearing the network of {node} failed: {status}");
    }
    for network in networks(&lab.spec, host) {
        plug(node, network, true)?;
    }
    lab.start_node(node)
}

/// Ends the API server without a word, as a crash would.
pub fn stop_api_server() -> Result<()> {
    signal(PROCESS, "kube-apiserver", Signal::SIGKILL)
}

/// Sends a signal to the processes of a container (`namespace/pod/container`).
pub fn signal_container(container: &str, number: Signal) -> Result<()> {
    signal(POD, container, number)
}

/// Sends a signal to a process of the lab by its name (`fakecloud`,
/// `kube-apiserver`, `etcd`).
pub fn signal_process(name: &str, number: Signal) -> Result<()> {
    signal(PROCESS, name, number)
}

fn signal(variable: &str, name: &str, number: Signal) -> Result<()> {
    let found = process::find(variable, name);
    if found.is_empty() {
        bail!("no process is named {name:?}");
    }
    for found in found {
        found.signal(number);
    }
    Ok(())
}

fn node_host(lab: &Lab, node: &str) -> Result<Host> {
    (1..=lab.spec.nodes)
        .map(Host::Node)
        .find(|host| host.name() == node)
        .with_context(|| {
            format!(
                "there is no node {node:?}; the lab has n1 to n{}",
                lab.spec.nodes
            )
        })
}

fn change(edit: impl FnOnce(&mut LinkFaults)) -> Result<()> {
    let file = Path::new("/run/herald-lab/faults.json");
    let mut faults: LinkFaults = match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => LinkFaults::default(),
    };
    edit(&mut faults);
    feed(Command::new("nft").args(["-f", "-"]), &ruleset(&faults)?)?;
    fs::write(file, serde_json::to_vec(&faults)?)?;
    Ok(())
}

/// The whole table, replaced in one transaction.
fn ruleset(faults: &LinkFaults) -> Result<String> {
    let mut rules = String::new();
    for (port, fault) in &faults.links {
        let chance = if fault.percent == 100 {
            String::new()
        } else {
            format!("numgen random mod 100 < {} ", fault.percent)
        };
        if fault.direction != Direction::In {
            writeln!(rules, "    iifname \"{port}\" {chance}drop")?;
        }
        if fault.direction != Direction::Out {
            writeln!(rules, "    oifname \"{port}\" {chance}drop")?;
        }
    }
    for (port, addresses) in &faults.mute {
        for address in addresses {
            // The target is what an advertisement's header is followed by; nft has no
            // name for it (RFC 4861 §4.4).
            let claim = match address {
                IpAddr::V4(address) => format!("arp saddr ip {address}"),
                IpAddr::V6(address) => format!(
                    "icmpv6 type nd-neighbor-advert @th,64,128 {:#x}",
                    address.to_bits()
                ),
            };
            writeln!(rules, "    iifname \"{port}\" {claim} drop")?;
        }
    }
    let ports: Vec<String> = faults.apart.iter().map(|p| format!("\"{p}\"")).collect();
    let ports = ports.join(", ");
    // Only what is forwarded has ports on both sides.
    let apart = if ports.is_empty() {
        String::new()
    } else {
        format!(
            "    iifname {{ {ports} }} oifname != {{ {ports} }} drop\n    \
             iifname != {{ {ports} }} oifname {{ {ports} }} drop\n"
        )
    };
    let mut text = String::from(
        "table bridge herald_faults\ndelete table bridge herald_faults\ntable bridge herald_faults {\n",
    );
    for hook in ["forward", "input", "output"] {
        let apart = if hook == "forward" { &apart } else { "" };
        write!(
            text,
            "  chain {hook} {{\n    type filter hook {hook} priority 0;\n{rules}{apart}  }}\n"
        )?;
    }
    text.push_str("}\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(fault: LinkFault) -> LinkFaults {
        LinkFaults {
            links: BTreeMap::from([("n1-l0".to_owned(), fault)]),
            ..LinkFaults::default()
        }
    }

    #[test]
    fn a_split_drops_what_passes_between() {
        let faults = LinkFaults {
            apart: vec!["n1-l0".into(), "c1-l0".into()],
            ..LinkFaults::default()
        };
        let text = ruleset(&faults).unwrap();
        let side = r#"{ "n1-l0", "c1-l0" }"#;
        assert!(text.contains(&format!("iifname {side} oifname != {side} drop")));
        assert!(text.contains(&format!("iifname != {side} oifname {side} drop")));
        assert_eq!(text.matches("drop").count(), 2, "what is forwarded only");
    }

    #[test]
    fn who_is_mute_claims_no_address() {
        let addresses = ["10.20.100.0", "fd20::1:0"].map(|a| a.parse().unwrap());
        let faults = LinkFaults {
            mute: BTreeMap::from([("n1-l0".to_owned(), BTreeSet::from(addresses))]),
            ..LinkFaults::default()
        };
        let text = ruleset(&faults).unwrap();
        assert!(text.contains("iifname \"n1-l0\" arp saddr ip 10.20.100.0 drop"));
        let target = "@th,64,128 0xfd200000000000000000000000010000 drop";
        assert!(text.contains(target), "{text}");
    }

    #[test]
    fn a_one_way_cut_drops_one_way() {
        let faults = broken(LinkFault {
            direction: Direction::Out,
            percent: 100,
        });
        let text = ruleset(&faults).unwrap();
        assert!(text.contains("iifname \"n1-l0\" drop"));
        assert!(!text.contains("oifname"));
    }

    #[test]
    fn loss_is_a_chance() {
        let faults = broken(LinkFault {
            direction: Direction::Both,
            percent: 5,
        });
        assert!(
            ruleset(&faults)
                .unwrap()
                .contains("oifname \"n1-l0\" numgen random mod 100 < 5 drop")
        );
    }
}
