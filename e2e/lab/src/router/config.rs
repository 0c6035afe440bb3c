//! What a router is told, in the same words whatever runs on it.

use std::net::{IpAddr, Ipv4Addr};

/// A router's part in BGP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// Its AS.
    pub asn: u32,
    /// Its BGP identifier.
    pub id: Ipv4Addr,
    /// Its neighbours.
    pub neighbors: Vec<Neighbor>,
    /// What it announces itself: networks to reach by it.
    pub announces: Announces,
}

/// Static routes that a router announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announces {
    /// How many IPv4 host routes, from 11.0.0.0 on; at most 2²⁴.
    pub hosts_v4: u32,
    /// Routes from 10.61.0.0 on, each with an attribute that nobody else would send,
    /// as `ExaBGP`, and no other, is told: type, flags and value, `0x99 0xc0 0x01`.
    pub odd: &'static [&'static str],
}

/// Where a neighbour is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At an address.
    Address(IpAddr),
    /// At the other end of an interface, by its link-local address, which is
    /// learnt from router advertisements ("unnumbered").
    Interface(String),
}

/// One neighbour. [`Neighbor::new`] gives what most cells of the matrix have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches that a router has, each by itself"
)]
pub struct Neighbor {
    /// Where it is.
    pub place: Place,
    /// The router's own address in the session.
    pub local: Option<IpAddr>,
    /// The neighbour's AS.
    pub asn: u32,
    /// Wait for it to connect, and never do so ourselves.
    pub passive: bool,
    /// Families to speak.
    pub v4: bool,
    /// Families to speak.
    pub v6: bool,
    /// Take IPv4 routes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// TCP MD5 (RFC 2385).
    pub password: Option<String>,
    /// Accept only what comes from one hop away (RFC 5082).
    pub ttl_security: bool,
    /// How many hops away the neighbour may be.
    pub multihop: Option<u8>,
    /// How long to keep routes of one that restarts, in seconds.
    pub graceful_restart: Option<u16>,
    /// How much longer to keep them as a last choice (RFC 9494), in seconds; only
    /// with graceful restart.
    pub long_lived: Option<u32>,
    /// Hold time, in seconds.
    pub hold: u16,
    /// Watch it by BFD.
    pub bfd: Option<Bfd>,
}

/// BFD's timers, the same both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// Milliseconds between packets.
    pub interval: u16,
    /// So many lost in a row are a failure.
    pub multiplier: u8,
}

impl Neighbor {
    /// A neighbour at an address: its family only, 9 s of hold time, nothing else.
    pub const fn new(address: IpAddr, asn: u32) -> Self {
        Self {
            place: Place::Address(address),
            local: None,
            asn,
            passive: false,
            v4: address.is_ipv4(),
            v6: address.is_ipv6(),
            extended_next_hop: false,
            password: None,
            ttl_security: false,
            multihop: None,
            graceful_restart: None,
            long_lived: None,
            hold: 9,
            bfd: None,
        }
    }
}
