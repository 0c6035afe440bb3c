//! Herald's BGP engine on a host of the lab, without a cluster: what the matrix
//! and the benches put in front of the routers. `pkg/bgp` does the talking; here
//! are only its sockets.
//!
//! It is told what to do by lines of JSON on its standard input ([`Order`]), says
//! what happens on its standard output ([`Report`]), and ends with its input.

pub mod bfd;
mod handle;
pub mod hostile;
mod run;
pub mod sink;
mod wire;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use handle::Announcer;
pub use run::run;

/// Name of the hidden subcommand that calls [`run`].
pub const SUBCOMMAND: &str = "__announce";

/// What it is set up with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Our AS.
    pub asn: u32,
    /// Our BGP identifier.
    pub id: Ipv4Addr,
    /// The peers.
    pub peers: Vec<Peer>,
    /// Routes to have before the first session.
    pub routes: Routes,
}

/// One peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of a session of its own"
)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Our address in the session.
    pub source: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// Wait for it, and never dial.
    pub passive: bool,
    /// Speak IPv4.
    pub v4: bool,
    /// Speak IPv6.
    pub v6: bool,
    /// The hold time that is offered, in seconds; 0 for none.
    pub hold: u16,
    /// After so many seconds in which it reads nothing the session ends
    /// (RFC 9687); none: as `pkg/bgp` has it.
    pub send_hold: Option<u16>,
    /// TCP MD5 (RFC 2385).
    pub password: Option<String>,
    /// How many hops away it may be.
    pub hops: u8,
    /// Accept only what comes from no further than `hops` (RFC 5082).
    pub ttl_security: bool,
    /// How long it should keep our routes when we restart, in seconds.
    pub graceful_restart: Option<u16>,
    /// How much longer it should keep them as its last choice (RFC 9494), in seconds.
    pub long_lived: Option<u32>,
}

impl Peer {
    /// A peer one hop away: the family of its address only, 9 s of hold time, nothing
    /// else.
    pub const fn new(address: IpAddr, source: IpAddr, asn: u32) -> Self {
        Self {
            address,
            source,
            asn,
            passive: false,
            v4: address.is_ipv4(),
            v6: address.is_ipv6(),
            hold: 9,
            send_hold: None,
            password: None,
            hops: 1,
            ttl_security: false,
            graceful_restart: None,
            long_lived: None,
        }
    }
}

/// Routes: single ones, and many host routes from 11.0.0.0 on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// These.
    pub prefixes: Vec<IpNet>,
    /// So many of 11.0.0.0, 11.0.0.1, ...
    pub hosts_v4: u32,
}

impl Routes {
    /// These and no others.
    pub fn of(prefixes: &[IpNet]) -> Self {
        Self {
            prefixes: prefixes.to_vec(),
            hosts_v4: 0,
        }
    }

    /// That many hosts.
    pub const fn hosts(hosts_v4: u32) -> Self {
        Self {
            prefixes: Vec::new(),
            hosts_v4,
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        let hosts = (0..self.hosts_v4).map(|i| IpNet::from(IpAddr::from(host(i))));
        self.prefixes.iter().copied().chain(hosts)
    }
}

/// Host `i` of the many.
pub fn host(i: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + i)
}

/// What it is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Announce these too.
    Announce(Routes),
    /// Withdraw these.
    Withdraw(Routes),
    /// Drain every peer: tell that the paths are going away, wait so many
    /// milliseconds, withdraw, close.
    Drain {
        /// Milliseconds.
        wait: u32,
    },
    /// Close every connection without a word and end, as for a restart.
    Restart,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It listens.
    Listening,
    /// A session is up.
    Up {
        /// With whom.
        peer: IpAddr,
    },
    /// A session, or an attempt at one, ended.
    Down {
        /// With whom.
        peer: IpAddr,
        /// Why, in words.
        why: String,
    },
    /// A peer asked for its routes again.
    Refresh {
        /// Who.
        peer: IpAddr,
    },
    /// A peer was drained.
    Stopped {
        /// Which.
        peer: IpAddr,
    },
}
