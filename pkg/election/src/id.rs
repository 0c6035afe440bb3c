//! Names of nodes and of address groups, short enough for the wire.

use std::fmt;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

/// A node: the first eight bytes of SHA-256 of its name (`metadata.name`). Two
/// nodes of a cluster of 5,000 share one with a chance of 1 in 10^12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The id of the node with this name.
    pub fn of(name: &str) -> Self {
        Self(digest(b"node", name.as_bytes()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Addresses that move together: those of one Service, and of all Services that
/// share one of these addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u64);

impl GroupId {
    /// The id of the group whose lowest address this is.
    pub fn of(lowest: &IpAddr) -> Self {
        Self(digest(b"group", lowest.to_string().as_bytes()))
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn digest(kind: &[u8], text: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(kind);
    // In none of the kinds, so that no two pairs run together.
    hash.update(b"#");
    hash.update(text);
    let whole = <[u8; 32]>::from(hash.finalize());
    whole[..8]
        .iter()
        .fold(0, |number, octet| number << 8 | u64::from(*octet))
}

/// Spreads the bits of a number (the finaliser of `SplitMix64`, Steele, Lea and
/// Flood 2014).
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
