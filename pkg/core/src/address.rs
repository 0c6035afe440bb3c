//! IP families and contiguous address ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An IP family, as in `spec.ipFamilies` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A contiguous, non-empty range of addresses of one family, both ends
/// included. Written as a CIDR without host bits (`192.0.2.0/24`) or as
/// `first-last` (`192.0.2.10-192.0.2.20`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is not an [`AddressRange`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidAddressRange {
    /// Neither `address/length` nor `first-last`.
    #[error("{0:?} is neither a CIDR (192.0.2.0/24) nor a range (192.0.2.10-192.0.2.20)")]
    Malformed(String),
    /// Bits are set behind the prefix length.
    #[error("{given:?} has host bits set; did you mean {meant}?")]
    HostBits {
        /// What was written.
        given: String,
        /// The network it lies in.
        meant: IpNet,
    },
    /// The two ends are of different families.
    #[error("{0:?} mixes IPv4 and IPv6")]
    MixedFamilies(String),
    /// The first address is above the last one.
    #[error("{given:?} is upside down; did you mean {last}-{first}?")]
    UpsideDown {
        /// What was written.
        given: String,
        /// The end written first.
        first: IpAddr,
        /// The end written last.
        last: IpAddr,
    },
}

impl AddressRange {
    /// The range from `first` to `last`; `None` if they differ in family or
    /// are upside down.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (IpFamily::of(&first) == IpFamily::of(&last) && first <= last)
            .then_some(Self { first, last })
    }

    /// The lowest address.
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// The family of all addresses in it.
    pub const fn family(&self) -> IpFamily {
        IpFamily::of(&self.first)
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: &IpAddr) -> bool {
        IpFamily::of(address) == self.family() && self.first <= *address && *address <= self.last
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family() == other.family() && self.first <= other.last && other.first <= self.last
    }

    /// How many addresses it holds; saturates at `u128::MAX` for `::/0`.
    pub fn size(&self) -> u128 {
        match (self.first, self.last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(b.to_bits() - a.to_bits()) + 1,
            (IpAddr::V6(a), IpAddr::V6(b)) => (b.to_bits() - a.to_bits()).saturating_add(1),
            // Unreachable by construction: both ends are of one family.
            _ => 0,
        }
    }

    /// The address `offset` places above the first; `None` past the last.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        if offset >= self.size() {
            return None;
        }
        Some(match self.first {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() + u32::try_from(offset).ok()?).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits().checked_add(offset)?).into(),
        })
    }
}

impl FromStr for AddressRange {
    type Err = InvalidAddressRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || InvalidAddressRange::Malformed(text.to_owned());
        let trimmed = text.trim();
        if let Some((first, last)) = trimmed.split_once('-') {
            let first: IpAddr = first.trim().parse().map_err(|_| malformed())?;
            let last: IpAddr = last.trim().parse().map_err(|_| malformed())?;
            if IpFamily::of(&first) != IpFamily::of(&last) {
                return Err(InvalidAddressRange::MixedFamilies(text.to_owned()));
            }
            return Self::new(first, last).ok_or(InvalidAddressRange::UpsideDown {
                given: text.to_owned(),
                first,
                last,
            });
        }
        let net: IpNet = trimmed.parse().map_err(|_| malformed())?;
        if net.trunc() != net {
            return Err(InvalidAddressRange::HostBits {
                given: text.to_owned(),
                meant: net.trunc(),
            });
        }
        Self::new(net.network(), last_of(&net)).ok_or_else(malformed)
    }
}

/// The highest address of a network, the broadcast address included: a VIP is
/// a host route, so every address of the network can serve.
fn last_of(net: &IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => net.broadcast().into(),
        IpNet::V6(net) => net.broadcast().into(),
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Result<AddressRange, InvalidAddressRange> {
        text.parse()
    }

    #[test]
    fn a_cidr_holds_every_address_of_its_network() {
        let range = range("192.0.2.0/30").unwrap();
        assert_eq!(range.size(), 4);
        assert_eq!(range.nth(3), Some("192.0.2.3".parse().unwrap()));
        assert_eq!(range.nth(4), None);
    }

    #[test]
    fn the_whole_of_ipv6_does_not_overflow() {
        let range = range("::/0").unwrap();
        assert_eq!(range.size(), u128::MAX);
        assert!(range.contains(&"ffff::1".parse().unwrap()));
    }

    #[test]
    fn mistakes_are_named_with_their_mend() {
        assert_eq!(
            range("192.0.2.1/24").unwrap_err().to_string(),
            "\"192.0.2.1/24\" has host bits set; did you mean 192.0.2.0/24?"
        );
        assert_eq!(
            range("192.0.2.9-192.0.2.1").unwrap_err().to_string(),
            "\"192.0.2.9-192.0.2.1\" is upside down; did you mean 192.0.2.1-192.0.2.9?"
        );
        assert!(matches!(
            range("192.0.2.1-fd00::1"),
            Err(InvalidAddressRange::MixedFamilies(_))
        ));
        assert!(matches!(
            range("web"),
            Err(InvalidAddressRange::Malformed(_))
        ));
    }

    #[test]
    fn ranges_overlap_only_within_a_family() {
        let a = range("192.0.2.0-192.0.2.10").unwrap();
        assert!(a.overlaps(&range("192.0.2.10-192.0.2.20").unwrap()));
        assert!(!a.overlaps(&range("192.0.2.11-192.0.2.20").unwrap()));
        assert!(!a.overlaps(&range("::/0").unwrap()));
    }
}
