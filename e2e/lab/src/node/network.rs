//! Pod networks: a namespace for each pod, joined to the node by a veth pair,
//! with an on-link gateway, the same on every pod's wire.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;

use super::spec::NodeSpec;
use crate::isolate;
use crate::network::{batch, feed};

/// The pod networks of a node and the addresses in use.
#[derive(Clone)]
pub(super) struct PodNetworks {
    cidrs: Arc<Vec<IpNet>>,
    indices: Arc<Mutex<Indices>>,
}

/// Which host numbers are taken. The search goes on where it left off, so that
/// an address rests before it is used again.
#[derive(Debug, Default)]
struct Indices {
    used: HashSet<u8>,
    last: u8,
}

impl Indices {
    const RANGE: std::ops::RangeInclusive<u8> = 2..=250;

    fn take(&mut self) -> Option<u8> {
        let count = Self::RANGE.len();
        let found = Self::RANGE
            .cycle()
            .skip_while(|index| *index <= self.last && self.last < *Self::RANGE.end())
            .take(count)
            .find(|index| !self.used.contains(index))?;
        self.used.insert(found);
        self.last = found;
        Some(found)
    }
}

/// The network of one pod.
pub(super) struct PodNetwork {
    /// Name of its network namespace.
    namespace: String,
    /// The node's end of its wire.
    port: String,
    /// Its addresses, one a family.
    pub(super) addresses: Vec<IpAddr>,
    index: u8,
    indices: Arc<Mutex<Indices>>,
}

impl PodNetworks {
    pub(super) fn new(spec: &NodeSpec) -> Result<Self> {
        let cidrs = spec
            .pod_cidrs
            .iter()
            .map(|cidr| {
                cidr.parse()
                    .with_context(|| format!("parse pod network {cidr:?}"))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            cidrs: Arc::new(cidrs),
            indices: Arc::default(),
        })
    }

    /// Makes the namespace, the wires and the routes of a pod.
    pub(super) fn attach(&self, uid: &str) -> Result<PodNetwork> {
        let short: String = uid
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(10)
            .collect();
        let Some(index) = self.indices.lock().expect("no holder panics").take() else {
            bail!("the node's pod network has no address left");
        };
        let network = PodNetwork {
            namespace: format!("pod-{short}"),
            port: format!("veth{short}"),
            addresses: self
                .cidrs
                .iter()
                .filter_map(|cidr| nth(cidr, index))
                .collect(),
            index,
            indices: self.indices.clone(),
        };
        match network.connect() {
            Ok(()) => Ok(network),
            Err(error) => {
                network.detach();
                Err(error)
            }
        }
    }
}

impl PodNetwork {
    /// File of the network namespace.
    pub(super) fn file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    fn connect(&self) -> Result<()> {
        let Self {
            namespace, port, ..
        } = self;
        batch(None, &format!("netns add {namespace}\n"))?;
        // Addresses are usable at once; and any user may bind to port 80, as
        // container runtimes have it.
        feed(
            Command::new("nsenter")
                .arg(format!("--net=/run/netns/{namespace}"))
                .arg("sh"),
            "set -e\n\
             echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad\n\
             echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad\n\
             echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra\n\
             echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start\n",
        )?;
        // A crashed node's wires take a moment to go, and their routes with
        // them, which an address made anew must not wait for.
        let mut node = format!("link add {port} type veth peer name eth0 netns {namespace}\n");
        writeln!(node, "link set {port} up")?;
        let mut pod = String::from("link set lo up\nlink set eth0 up\n");
        for address in &self.addresses {
            match address {
                IpAddr::V4(address) => {
                    writeln!(node, "addr add 169.254.1.1/32 dev {port} scope link")?;
                    writeln!(node, "route replace {address}/32 dev {port}")?;
                    writeln!(pod, "addr add {address}/32 dev eth0")?;
                    writeln!(pod, "route add 169.254.1.1 dev eth0 scope link")?;
                    writeln!(pod, "route add default via 169.254.1.1 dev eth0")?;
                }
                IpAddr::V6(address) => {
                    writeln!(node, "addr add fe80::1/64 dev {port} nodad")?;
                    writeln!(node, "route replace {address}/128 dev {port}")?;
                    writeln!(pod, "addr add {address}/128 dev eth0 nodad")?;
                    writeln!(pod, "route add default via fe80::1 dev eth0")?;
                }
            }
        }
        batch(None, &node)?;
        batch(Some(namespace), &pod)
    }

    /// Removes it; the addresses may be used again, though not soon.
    pub(super) fn detach(self) {
        // The wire first: a namespace takes its interfaces with it only after
        // a while, and so long would the routes stay.
        let link = isolate::run(Command::new("ip").args(["link", "delete", &self.port]));
        let namespace = isolate::run(Command::new("ip").args(["netns", "delete", &self.namespace]));
        if let Err(error) = link.and(namespace) {
            eprintln!("remove a pod's network: {error:#}");
        }
        let mut indices = self.indices.lock().expect("no holder panics");
        indices.used.remove(&self.index);
    }
}

fn nth(cidr: &IpNet, index: u8) -> Option<IpAddr> {
    match cidr {
        IpNet::V4(net) => net.hosts().nth(usize::from(index) - 1).map(IpAddr::V4),
        IpNet::V6(net) => Some(IpAddr::V6(
            (net.network().to_bits() + u128::from(index)).into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_rests_before_it_is_used_again() {
        let mut indices = Indices::default();
        let first = indices.take().unwrap();
        indices.used.remove(&first);
        assert_ne!(indices.take(), Some(first));
    }

    #[test]
    fn every_address_is_given_once_and_then_none() {
        let mut indices = Indices::default();
        let given: HashSet<u8> = std::iter::from_fn(|| indices.take()).collect();
        assert_eq!(given.len(), Indices::RANGE.len());
    }

    #[test]
    fn pods_of_a_node_lie_in_its_network() {
        let v4: IpNet = "10.244.1.0/24".parse().unwrap();
        let v6: IpNet = "fd44:0:0:1::/64".parse().unwrap();
        assert_eq!(nth(&v4, 2), Some("10.244.1.2".parse().unwrap()));
        assert_eq!(nth(&v6, 2), Some("fd44:0:0:1::2".parse().unwrap()));
    }
}
