//! Prefixes on the wire (RFC 4271 §4.3): a length in bits, and as many octets
//! as hold them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::family::Family;
use crate::read::Reader;

/// The prefixes in some bytes. The first that is malformed (RFC 7606 §5.3) is
/// the last that is given, as an error.
#[derive(Clone, Debug)]
pub struct Prefixes<'a> {
    family: Family,
    rest: Reader<'a>,
}

/// A prefix that is longer than its family allows, or than what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPrefix;

impl<'a> Prefixes<'a> {
    /// Reads `bytes` as prefixes of `family`.
    pub const fn new(family: Family, bytes: &'a [u8]) -> Self {
        Self {
            family,
            rest: Reader(bytes),
        }
    }

    /// How many there are.
    pub fn count_valid(self) -> Result<usize, BadPrefix> {
        let mut count = 0;
        for prefix in self {
            prefix?;
            count += 1;
        }
        Ok(count)
    }

    fn parse(&mut self) -> Option<IpNet> {
        let length = self.rest.u8()?;
        let octets = self.rest.take(usize::from(length).div_ceil(8))?;
        // RFC 4271 §4.3: the bits behind the prefix mean nothing.
        match self.family {
            Family::Ipv4 => {
                let mut address = [0; 4];
                address.get_mut(..octets.len())?.copy_from_slice(octets);
                let net = Ipv4Net::new(Ipv4Addr::from(address), length).ok()?;
                Some(net.trunc().into())
            }
            Family::Ipv6 => {
                let mut address = [0; 16];
                address.get_mut(..octets.len())?.copy_from_slice(octets);
                let net = Ipv6Net::new(Ipv6Addr::from(address), length).ok()?;
                Some(net.trunc().into())
            }
        }
    }
}

impl Iterator for Prefixes<'_> {
    type Item = Result<IpNet, BadPrefix>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let prefix = self.parse().ok_or(BadPrefix);
        if prefix.is_err() {
            self.rest = Reader(&[]);
        }
        Some(prefix)
    }
}

/// A prefix that can be kept in a table and written.
pub(crate) trait Prefix: Copy + Eq + std::hash::Hash {
    const FAMILY: Family;

    /// Octets on the wire.
    fn size(&self) -> usize;

    fn encode(&self, out: &mut Vec<u8>);

    fn to_net(self) -> IpNet;
}

/// A prefix without host bits, in as few octets as it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bits<const OCTETS: usize> {
    length: u8,
    octets: [u8; OCTETS],
}

impl<const OCTETS: usize> Bits<OCTETS> {
    fn size(&self) -> usize {
        1 + usize::from(self.length).div_ceil(8)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.length);
        out.extend_from_slice(&self.octets[..self.size() - 1]);
    }
}

impl From<Ipv4Net> for Bits<4> {
    fn from(net: Ipv4Net) -> Self {
        Self {
            length: net.prefix_len(),
            octets: net.network().octets(),
        }
    }
}

impl From<Ipv6Net> for Bits<16> {
    fn from(net: Ipv6Net) -> Self {
        Self {
            length: net.prefix_len(),
            octets: net.network().octets(),
        }
    }
}

impl Prefix for Bits<4> {
    const FAMILY: Family = Family::Ipv4;

    fn size(&self) -> usize {
        self.size()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }

    fn to_net(self) -> IpNet {
        IpNet::new_assert(Ipv4Addr::from(self.octets).into(), self.length)
    }
}

impl Prefix for Bits<16> {
    const FAMILY: Family = Family::Ipv6;

    fn size(&self) -> usize {
        self.size()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }

    fn to_net(self) -> IpNet {
        IpNet::new_assert(Ipv6Addr::from(self.octets).into(), self.length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_has_the_octets_that_it_needs() {
        for (text, expected) in [
            ("0.0.0.0/0", &[0][..]),
            ("10.0.0.0/8", &[8, 10]),
            ("10.1.128.0/17", &[17, 10, 1, 128]),
            ("192.0.2.1/32", &[32, 192, 0, 2, 1]),
        ] {
            let net: Ipv4Net = text.parse().unwrap();
            let mut out = Vec::new();
            Bits::from(net).encode(&mut out);
            assert_eq!(out, expected);
            let read: Vec<_> = Prefixes::new(Family::Ipv4, expected).collect();
            assert_eq!(read, [Ok(net.into())]);
            assert_eq!(Bits::from(net).to_net(), net.into());
        }
    }

    /// RFC 7606 §5.3.
    #[test]
    fn a_malformed_prefix_is_told_and_ends_the_reading() {
        let bytes = [8, 10, 33, 1, 2, 3, 4, 5, 8, 11];
        let read: Vec<_> = Prefixes::new(Family::Ipv4, &bytes).collect();
        assert_eq!(read, [Ok("10.0.0.0/8".parse().unwrap()), Err(BadPrefix)]);
        assert_eq!(
            Prefixes::new(Family::Ipv6, &[129; 20]).count_valid(),
            Err(BadPrefix)
        );
        assert_eq!(
            Prefixes::new(Family::Ipv4, &[24, 1, 2]).count_valid(),
            Err(BadPrefix)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for family in Family::ALL {
                let read: Vec<_> = Prefixes::new(family, &bytes).collect();
                prop_assert!(read.iter().rev().skip(1).all(Result::is_ok));
            }
        }

        #[test]
        fn what_is_written_is_read_back(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), length in 0..=32_u8) {
            let net = Ipv4Net::new(v4.into(), length).unwrap().trunc();
            let mut out = Vec::new();
            Bits::from(net).encode(&mut out);
            let read: Vec<_> = Prefixes::new(Family::Ipv4, &out).collect();
            prop_assert_eq!(read, [Ok(net.into())]);
            let net = Ipv6Net::new(v6.into(), length * 4).unwrap().trunc();
            let mut out = Vec::new();
            Bits::from(net).encode(&mut out);
            let read: Vec<_> = Prefixes::new(Family::Ipv6, &out).collect();
            prop_assert_eq!(read, [Ok(net.into())]);
            prop_assert_eq!(Bits::from(net).to_net(), net.into());
        }
    }
}
