//! Address families, unicast only.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// SAFI 1, unicast: the only one that is spoken here.
pub(crate) const UNICAST: u8 = 1;

/// An address family with SAFI 1, unicast (RFC 4760).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1.
    Ipv4,
    /// AFI 2.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The AFI on the wire.
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// The family of an AFI and a SAFI; none for those that are not spoken.
    pub const fn from_wire(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, UNICAST) => Some(Self::Ipv4),
            (2, UNICAST) => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The family of a prefix.
    pub const fn of_prefix(prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Ipv4 => 0,
            Self::Ipv6 => 1,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4 unicast",
            Self::Ipv6 => "IPv6 unicast",
        })
    }
}

/// A set of families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Families([bool; 2]);

impl Families {
    /// None.
    pub const NONE: Self = Self([false; 2]);
    /// IPv4 and IPv6.
    pub const BOTH: Self = Self([true; 2]);

    /// Whether `family` is among them.
    pub const fn has(self, family: Family) -> bool {
        self.0[family.index()]
    }

    /// With `family` too.
    #[must_use]
    pub const fn with(mut self, family: Family) -> Self {
        self.0[family.index()] = true;
        self
    }

    /// Those in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self([self.0[0] && other.0[0], self.0[1] && other.0[1]])
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        !self.0[0] && !self.0[1]
    }

    /// The families, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL
            .into_iter()
            .filter(move |family| self.has(*family))
    }
}

impl From<Family> for Families {
    fn from(family: Family) -> Self {
        Self::NONE.with(family)
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        families.into_iter().fold(Self::NONE, Self::with)
    }
}
