//! The view from outside: what a client on the LAN can do and see.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::{Context, wait};
use crate::aws;
use crate::capture::{Capture, Mac, NEIGHBOURS};
use crate::lab::Lab;
use crate::network::Network;
use crate::prober::{Options, ProbeReport, Prober, Probing, Target};
use crate::vm;

/// Probes a second, where a scenario measures: 500, and 20 in a virtual machine,
/// which would do nothing else.
pub fn rate() -> NonZeroU16 {
    const FULL: NonZeroU16 = NonZeroU16::new(500).expect("it is not zero");
    const SMALL: NonZeroU16 = NonZeroU16::new(20).expect("it is not zero");
    if vm::inside() { SMALL } else { FULL }
}

/// A host outside the cluster.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    lab: &'a Lab,
    nodes: u8,
    name: &'a str,
}

/// What the echo says of itself and of its client.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Reply {
    /// The pod.
    pub pod: String,
    /// Its node; empty where the pod was not told.
    pub node: String,
    /// The client as the pod sees it.
    pub client: SocketAddr,
}

impl Context {
    /// Client `c1`.
    pub const fn client(&self) -> Client<'_> {
        self.client_named("c1")
    }

    /// Another client.
    pub const fn client_named<'a>(&'a self, name: &'a str) -> Client<'a> {
        Client::of(self.lab(), name)
    }

    /// Captures ARP and neighbour discovery on LAN 0, whoever sends it, into
    /// `NAME.pcap` in the scenario's folder.
    pub async fn capture_lan(&self, name: &str) -> Result<Capture> {
        let file = self.directory().join(format!("{name}.pcap"));
        Capture::start(None, &Network::Lan(0).bridge(), NEIGHBOURS, &file).await
    }

    /// The hardware address of a node on LAN 0.
    pub async fn mac(&self, node: &str) -> Result<Mac> {
        mac(self.lab(), node).await
    }
}

impl<'a> Client<'a> {
    /// A client of a lab, by its name.
    pub const fn of(lab: &'a Lab, name: &'a str) -> Self {
        Self {
            lab,
            nodes: lab.spec.nodes,
            name,
        }
    }

    /// Its address on LAN 0 of the family of `other`.
    pub fn address_like(&self, other: &IpAddr) -> Result<IpAddr> {
        let number = self.name.strip_prefix('c').and_then(|j| j.parse().ok());
        let number = number.with_context(|| format!("{} is no client", self.name))?;
        let (v4, v6) = crate::plan::Host::Client(number)
            .lan(0)
            .context("clients are on LAN 0")?;
        Ok(if other.is_ipv4() {
            v4.into()
        } else {
            v6.into()
        })
    }

    /// `curl http://ADDRESS/`, again until the echo answers.
    pub async fn curl(&self, address: IpAddr) -> Result<Reply> {
        self.curl_port(address, 80).await
    }

    /// [`Client::curl`] of another port.
    pub async fn curl_port(&self, address: IpAddr, port: u16) -> Result<Reply> {
        let server = SocketAddr::new(address, port);
        wait::until(&format!("http://{server}/ to answer {}", self.name), || {
            self.curl_once(server)
        })
        .await
    }

    /// `curl http://ADDRESS:PORT/`, one attempt of at most two seconds.
    pub async fn curl_once(&self, server: SocketAddr) -> Result<Reply> {
        let url = format!("http://{server}/");
        let output = self
            .run(
                "curl",
                &[
                    "--silent",
                    "--show-error",
                    "--fail",
                    "--max-time",
                    "2",
                    &url,
                ],
            )
            .await?;
        serde_json::from_str(&output).with_context(|| format!("{url} answered {output:?}"))
    }

    /// The IPv4 address that a name stands for here; again until it stands for one.
    pub async fn resolve(&self, hostname: &str) -> Result<IpAddr> {
        wait::until(&format!("{} to resolve {hostname}", self.name), || async {
            let lines = self.run("getent", &["ahostsv4", hostname]).await?;
            let address = lines.split_whitespace().next().context("nothing is said")?;
            Ok(address.parse()?)
        })
        .await
    }

    /// `curl http://HOSTNAME:PORT/`, again until the echo answers.
    pub async fn curl_name(&self, hostname: &str, port: u16) -> Result<Reply> {
        let url = format!("http://{hostname}:{port}/");
        let arguments = [
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "2",
            &url,
        ];
        wait::until(&format!("{url} to answer {}", self.name), || async {
            let output = self.run("curl", &arguments).await?;
            serde_json::from_str(&output).with_context(|| format!("{url} answered {output:?}"))
        })
        .await
    }

    /// Nobody answers at this address: no attempt within two seconds gets
    /// through.
    pub async fn silent(&self, server: SocketAddr) -> Result<()> {
        match self.curl_once(server).await {
            Ok(reply) => bail!("{server} still answers: {reply:?}"),
            Err(_) => Ok(()),
        }
    }

    /// Sends probes, not many, until one is answered.
    pub async fn reaches(&self, target: &Target) -> Result<ProbeReport> {
        const FEW: NonZeroU16 = NonZeroU16::new(50).expect("it is not zero");
        let mut probing = Prober::start(self.name, &Options::new(target.clone(), FEW))?;
        probing.wait_answered(1).await?;
        probing.stop().await
    }

    /// Probes until stopped, at [`rate`].
    pub fn probe(&self, target: Target) -> Result<Probing> {
        self.probe_at(target, rate())
    }

    /// Probes until stopped, so many a second.
    pub fn probe_at(&self, target: Target, rate: NonZeroU16) -> Result<Probing> {
        Prober::start(self.name, &Options::new(target, rate))
    }

    /// The node that answers on the LAN for an address, by ARP or NDP; again
    /// until one does.
    pub async fn owner(&self, address: IpAddr) -> Result<String> {
        wait::until(&format!("a node to answer for {address}"), || {
            self.owner_once(address)
        })
        .await
    }

    /// Waits until the node that answers on the LAN for an address is this
    /// one.
    pub async fn owned_by(&self, address: IpAddr, node: &str) -> Result<()> {
        wait::until(&format!("{node} to answer for {address}"), || async {
            let owner = self.owner_once(address).await?;
            ensure!(owner == node, "{owner} answers");
            Ok(())
        })
        .await
    }

    /// Waits until the node that answers on the LAN for an address is another
    /// than this one; returns it.
    pub async fn owned_by_other_than(&self, address: IpAddr, node: &str) -> Result<String> {
        wait::until(
            &format!("another than {node} to answer for {address}"),
            || async {
                let owner = self.owner_once(address).await?;
                ensure!(owner != node, "{owner} answers");
                Ok(owner)
            },
        )
        .await
    }

    /// Waits until nobody answers on the LAN for an address.
    pub async fn nobody_owns(&self, address: IpAddr) -> Result<()> {
        wait::until(&format!("nobody to answer for {address}"), || async {
            match self.macs_for(address).await?.first() {
                Some(mac) => bail!("{mac} answers"),
                None => Ok(()),
            }
        })
        .await
    }

    async fn owner_once(&self, address: IpAddr) -> Result<String> {
        let macs = self.macs_for(address).await?;
        let answering = match macs.as_slice() {
            [] => bail!("nobody answers"),
            [one] => *one,
            several => bail!("several answer: {several:?}"),
        };
        for i in 1..=self.nodes {
            let node = format!("n{i}");
            if mac(self.lab, &node).await.is_ok_and(|mac| mac == answering) {
                return Ok(node);
            }
        }
        bail!("{answering} answers, which is no node")
    }

    /// Asks who has an address, and returns who says so within half a second.
    async fn macs_for(&self, address: IpAddr) -> Result<Vec<Mac>> {
        let text = address.to_string();
        // Both tools say by their status that nobody answered: no error here.
        let output = match address {
            IpAddr::V4(_) => {
                self.say("arping", &["-c", "1", "-w", "1", "-I", "lan0", &text])
                    .await?
            }
            IpAddr::V6(_) => {
                self.say(
                    "ndisc6",
                    &["-q", "-m", "-r", "1", "-w", "500", &text, "lan0"],
                )
                .await?
            }
        };
        let mut macs: Vec<Mac> = output
            .split([' ', '[', ']', '\n'])
            .filter_map(parse_mac)
            .collect();
        macs.sort_unstable();
        macs.dedup();
        Ok(macs)
    }

    /// Runs a program on this client and returns what it prints.
    pub async fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.output(program, args).await?;
        ensure!(
            output.status.success(),
            "{} {program} {}: {}",
            self.name,
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// [`Client::run`], whatever the program's status.
    async fn say(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.output(program, args).await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn output(&self, program: &str, args: &[&str]) -> Result<std::process::Output> {
        tokio::process::Command::from(aws::with_names(Some(self.name), Path::new(program)))
            .args(args)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("run {program}"))
    }
}

async fn mac(lab: &Lab, host: &str) -> Result<Mac> {
    #[derive(Deserialize)]
    struct Link {
        address: String,
    }
    let output = lab
        .command(host, "ip")
        .args(["-json", "link", "show", &Network::Lan(0).interface()])
        .output()
        .await?;
    let links: Vec<Link> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("read the links of {host}"))?;
    links
        .first()
        .and_then(|link| parse_mac(&link.address))
        .with_context(|| format!("{host} has no hardware address on the LAN"))
}

/// Reads `02:00:00:00:00:01`, in either case, with or without leading zeros.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut octets = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 2 {
            return None;
        }
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_found_in_what_the_tools_print() {
        assert_eq!(
            parse_mac("02:0A:ff:0:1:2"),
            Some(Mac([2, 10, 255, 0, 1, 2]))
        );
        for other in ["10.20.100.1", "fd20::1:0", "0.123ms", "", "a:b:c:d:e:f:1"] {
            assert_eq!(parse_mac(other), None, "{other}");
        }
    }
}
