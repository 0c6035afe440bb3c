//! The lab's address plan: who has which name, interface and address.
//!
//! ```text
//!   management 172.30.0.0/24, fd30::/64 (bridge br-mgmt)
//!     control plane .1/::1     node i .10+i     cloud .250
//!   LAN k (k = 0, 1, ...) 10.20+k.0.0/16, fd20+k::/64 (bridge br-lan<k>)
//!     node i 10.20.0.10+i      client j 10.20.1.j      cloud 10.20.2.1
//!     pools  10.20.100.0/22, fd20::1:0/112     router i 10.20.4.i
//!   behind router i 10.30.i.0/24, fd31:0:0:i::/64 (a cable)
//!     router .1/::1            far client i .2/::2
//!   routers' loopbacks 10.31.0.i, fd32::i, two hops from the nodes where there
//!   are two routers or more
//!   pools of BGP scenarios 10.60.0.0/16, fd60::/64: on no network
//!   pods of node i 10.244.i.0/24, fd44:0:0:i::/64, routed over management
//!   Services 10.96.0.0/16, fd96::/112
//! ```
//!
//! A host has `eth0` on the management network and `lan<k>` on LAN k. Clients
//! stand on LANs only; the control plane stands on management only.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Interface of a host on the management network.
pub const MANAGEMENT_INTERFACE: &str = "eth0";
/// `--service-cluster-ip-range`, IPv4 part.
pub const SERVICE_CIDR_V4: &str = "10.96.0.0/16";
/// `--service-cluster-ip-range`, IPv6 part.
pub const SERVICE_CIDR_V6: &str = "fd96::/112";
/// All pods, IPv4.
pub const CLUSTER_CIDR_V4: &str = "10.244.0.0/16";
/// All pods, IPv6.
pub const CLUSTER_CIDR_V6: &str = "fd44::/48";
/// What the scenarios put into pools on LAN 0, IPv4.
pub const POOL_V4: &str = "10.20.100.0/22";
/// What the scenarios put into pools on LAN 0, IPv6.
pub const POOL_V6: &str = "fd20::1:0/112";

/// What the scenarios put into pools that routers are told of, IPv4: its first
/// address. A /16 is free.
pub const ROUTED_POOL_V4: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 0);
/// What the scenarios put into pools that routers are told of, IPv6: its first
/// address. A /64 is free.
pub const ROUTED_POOL_V6: Ipv6Addr = Ipv6Addr::new(0xfd60, 0, 0, 0, 0, 0, 0, 0);

/// Which IP families the cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Both, IPv4 first.
    Dual,
}

impl Families {
    /// Whether IPv4 is there.
    pub const fn has_v4(self) -> bool {
        matches!(self, Self::Ipv4 | Self::Dual)
    }

    /// Whether IPv6 is there.
    pub const fn has_v6(self) -> bool {
        matches!(self, Self::Ipv6 | Self::Dual)
    }
}

/// A host of the lab and its place in the address plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// Where etcd, the API server, the controller manager and the scheduler run.
    ControlPlane,
    /// Node `n<i>`, i from 1.
    Node(u8),
    /// Client `c<j>`, j from 1, outside the cluster.
    Client(u8),
    /// Where `herald-fakecloud` runs, outside the cluster.
    Cloud,
    /// Router `r<i>`, i from 1, on LAN 0 and outside the cluster.
    Router(u8),
    /// Client `f<i>` behind router i: on no LAN.
    Far(u8),
}

impl Host {
    /// Name of the host and of its network namespace.
    pub fn name(self) -> String {
        match self {
            Self::ControlPlane => "cp".into(),
            Self::Node(i) => format!("n{i}"),
            Self::Client(j) => format!("c{j}"),
            Self::Cloud => "cloud".into(),
            Self::Router(i) => format!("r{i}"),
            Self::Far(i) => format!("f{i}"),
        }
    }

    /// Its address on the management network (prefix lengths 24 and 64).
    pub fn management(self) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let last = match self {
            Self::ControlPlane => 1,
            Self::Node(i) => 10 + i,
            Self::Cloud => 250,
            Self::Client(_) | Self::Router(_) | Self::Far(_) => return None,
        };
        Some((
            Ipv4Addr::new(172, 30, 0, last),
            Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, u16::from(last)),
        ))
    }

    /// Its address on LAN `k` (prefix lengths 16 and 64).
    pub fn lan(self, k: u8) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let (third, last) = match self {
            Self::Node(i) => (0, 10 + i),
            Self::Client(j) => (1, j),
            Self::Cloud => (2, 1),
            Self::Router(i) if k == 0 => (4, i),
            Self::ControlPlane | Self::Router(_) | Self::Far(_) => return None,
        };
        Some((
            Ipv4Addr::new(10, 20 + k, third, last),
            Ipv6Addr::new(
                0xfd20 + u16::from(k),
                0,
                0,
                0,
                0,
                0,
                0,
                u16::from(third) << 8 | u16::from(last),
            ),
        ))
    }
}

/// The router's address on the network behind router `i` (prefix lengths 24 and 64).
pub fn behind(i: u8) -> (Ipv4Addr, Ipv6Addr) {
    let net = u16::from(i);
    (
        Ipv4Addr::new(10, 30, i, 1),
        Ipv6Addr::new(0xfd31, 0, 0, net, 0, 0, 0, 1),
    )
}

/// The address of far client `i`, behind router `i` (prefix lengths 24 and 64).
pub fn far(i: u8) -> (Ipv4Addr, Ipv6Addr) {
    let net = u16::from(i);
    (
        Ipv4Addr::new(10, 30, i, 2),
        Ipv6Addr::new(0xfd31, 0, 0, net, 0, 0, 0, 2),
    )
}

/// The loopback address of router `i`.
pub fn loopback(i: u8) -> (Ipv4Addr, Ipv6Addr) {
    (
        Ipv4Addr::new(10, 31, 0, i),
        Ipv6Addr::new(0xfd32, 0, 0, 0, 0, 0, 0, u16::from(i)),
    )
}

/// Name of a host's interface on LAN `k`.
pub fn lan_interface(k: u8) -> String {
    format!("lan{k}")
}

/// Pods of node `i`.
pub fn pod_cidr_v4(i: u8) -> String {
    format!("10.244.{i}.0/24")
}

/// Pods of node `i`.
pub fn pod_cidr_v6(i: u8) -> String {
    format!("fd44:0:0:{i:x}::/64")
}
