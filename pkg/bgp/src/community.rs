//! Communities: standard (RFC 1997), large (RFC 8092) and extended (RFC 4360).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::open::AS_TRANS;

/// A standard community, as its four octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// 65535:0: this path is going away, prefer another (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// 65535:666: discard the traffic (RFC 7999).
    pub const BLACKHOLE: Self = Self(0xffff_029a);
    /// 65535:65281 (RFC 1997).
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// 65535:65282 (RFC 1997).
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// 65535:65283 (RFC 1997).
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
    /// 65535:65284 (RFC 3765).
    pub const NO_PEER: Self = Self(0xffff_ff04);
}

/// A large community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// Global Administrator, an AS number.
    pub global: u32,
    /// Local Data Part 1.
    pub local1: u32,
    /// Local Data Part 2.
    pub local2: u32,
}

/// An extended community, as its eight octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl ExtendedCommunity {
    const NON_TRANSITIVE: u8 = 0x40;
    const LINK_BANDWIDTH: u8 = 4;

    /// The bandwidth behind this path, by which a router weighs the paths that
    /// it shares traffic among (draft-ietf-idr-link-bandwidth), in bytes per
    /// second. `autonomous_system` is ours; one that does not fit two octets
    /// is told as 23456. The non-transitive form is what routers look for; a
    /// strict one takes only the transitive one from another AS.
    pub fn link_bandwidth(autonomous_system: u32, bytes_per_second: f32, transitive: bool) -> Self {
        let short = u16::try_from(autonomous_system).unwrap_or(AS_TRANS);
        let kind = if transitive { 0 } else { Self::NON_TRANSITIVE };
        let mut octets = [kind, Self::LINK_BANDWIDTH, 0, 0, 0, 0, 0, 0];
        octets[2..4].copy_from_slice(&short.to_be_bytes());
        octets[4..].copy_from_slice(&bytes_per_second.to_be_bytes());
        Self(octets)
    }

    /// A route target of a two-octet AS (RFC 4360 §4).
    pub fn route_target(autonomous_system: u16, value: u32) -> Self {
        let mut octets = [0, 2, 0, 0, 0, 0, 0, 0];
        octets[2..4].copy_from_slice(&autonomous_system.to_be_bytes());
        octets[4..].copy_from_slice(&value.to_be_bytes());
        Self(octets)
    }

    /// The bytes per second, if it is a link bandwidth.
    pub const fn bandwidth(self) -> Option<f32> {
        match self.0 {
            [
                0 | Self::NON_TRANSITIVE,
                Self::LINK_BANDWIDTH,
                _,
                _,
                c,
                d,
                e,
                f,
            ] => Some(f32::from_be_bytes([c, d, e, f])),
            _ => None,
        }
    }
}

impl FromStr for ExtendedCommunity {
    type Err = CommunityError;

    /// `rt:64512:1` and `soo:64512:1` (RFC 4360 §4, §5; RFC 5668 where the AS has
    /// four octets, and the other part then two), or 16 digits after `ext:0x`.
    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let read = match text.split_once(':') {
            Some(("ext", digits)) => raw(digits),
            Some(("rt", parts)) => of_as(2, parts),
            Some(("soo", parts)) => of_as(3, parts),
            _ => None,
        };
        read.ok_or_else(|| CommunityError {
            text: text.into(),
            form: "rt:64512:1, soo:64512:1 or ext:0x and 16 digits",
        })
    }
}

fn raw(digits: &str) -> Option<ExtendedCommunity> {
    let digits = digits.strip_prefix("0x")?;
    let good = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let value = u64::from_str_radix(digits, 16).ok()?;
    good.then_some(ExtendedCommunity(value.to_be_bytes()))
}

fn of_as(subtype: u8, parts: &str) -> Option<ExtendedCommunity> {
    let [number, value] = numbers::<u32, 2>(parts)?;
    let mut octets = [0, subtype, 0, 0, 0, 0, 0, 0];
    if let Ok(short) = u16::try_from(number) {
        octets[2..4].copy_from_slice(&short.to_be_bytes());
        octets[4..].copy_from_slice(&value.to_be_bytes());
    } else {
        octets[0] = 2;
        octets[2..6].copy_from_slice(&number.to_be_bytes());
        octets[6..].copy_from_slice(&u16::try_from(value).ok()?.to_be_bytes());
    }
    Some(ExtendedCommunity(octets))
}

/// A community of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyCommunity {
    /// RFC 1997.
    Standard(Community),
    /// RFC 8092.
    Large(LargeCommunity),
    /// RFC 4360.
    Extended(ExtendedCommunity),
}

impl FromStr for AnyCommunity {
    type Err = CommunityError;

    /// A well-known name such as `no-export`, or as the kinds are written; a large
    /// one with `large:` before it.
    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let known = match text {
            "no-export" => Some(Community::NO_EXPORT),
            "no-advertise" => Some(Community::NO_ADVERTISE),
            "no-export-subconfed" => Some(Community::NO_EXPORT_SUBCONFED),
            "no-peer" => Some(Community::NO_PEER),
            "graceful-shutdown" => Some(Community::GRACEFUL_SHUTDOWN),
            "blackhole" => Some(Community::BLACKHOLE),
            _ => None,
        };
        if let Some(known) = known {
            return Ok(Self::Standard(known));
        }
        match text.split_once(':') {
            Some(("large", _)) => text.parse().map(Self::Large),
            Some(("rt" | "soo" | "ext", _)) => text.parse().map(Self::Extended),
            _ => text.parse().map(Self::Standard),
        }
    }
}

/// Text that is not a community.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{text:?} is not a community: write it as {form}")]
pub struct CommunityError {
    text: String,
    form: &'static str,
}

fn numbers<T: FromStr, const N: usize>(text: &str) -> Option<[T; N]> {
    let parts: Vec<T> = text
        .split(':')
        // Not "+1", which the standard library reads too.
        .map(|part| {
            part.bytes()
                .all(|b| b.is_ascii_digit())
                .then_some(part)?
                .parse()
                .ok()
        })
        .collect::<Option<_>>()?;
    parts.try_into().ok()
}

impl FromStr for Community {
    type Err = CommunityError;

    /// `64512:100`, both parts 0 to 65535.
    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let parts = numbers::<u16, 2>(text);
        parts
            .map(|[high, low]| Self(u32::from(high) << 16 | u32::from(low)))
            .ok_or_else(|| CommunityError {
                text: text.into(),
                form: "two numbers of 0 to 65535, such as 64512:100",
            })
    }
}

impl FromStr for LargeCommunity {
    type Err = CommunityError;

    /// `64512:1:2`, each part 32 bits; `large:` may stand before it.
    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let parts = numbers::<u32, 3>(text.strip_prefix("large:").unwrap_or(text));
        parts
            .map(|[global, local1, local2]| Self {
                global,
                local1,
                local2,
            })
            .ok_or_else(|| CommunityError {
                text: text.into(),
                form: "three numbers of 0 to 4294967295, such as large:64512:1:2",
            })
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

impl fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(bandwidth) = self.bandwidth() {
            let number = u16::from_be_bytes([self.0[2], self.0[3]]);
            return write!(f, "link bandwidth {bandwidth:.0} bytes/s of AS {number}");
        }
        write!(f, "0x{:016x}", u64::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_as_it_is_written() {
        let community: Community = "64512:100".parse().unwrap();
        assert_eq!(
            (community.0, community.to_string()),
            (0xfc00_0064, "64512:100".into())
        );
        assert_eq!("65535:0".parse(), Ok(Community::GRACEFUL_SHUTDOWN));
        let large: LargeCommunity = "large:4200000000:1:2".parse().unwrap();
        assert_eq!(large.to_string(), "4200000000:1:2");
        assert_eq!("4200000000:1:2".parse(), Ok(large));
        for wrong in [
            "", "1", "1:2:3", "65536:1", "-1:1", "+1:1", "1:x", "1: 2", ":",
        ] {
            assert!(wrong.parse::<Community>().is_err(), "{wrong}");
        }
        for wrong in ["1:2", "1:2:3:4", "large:", "1:2:4294967296"] {
            let error = wrong.parse::<LargeCommunity>().unwrap_err();
            assert!(error.to_string().contains("large:64512:1:2"));
        }
    }

    #[test]
    fn every_kind_is_told_by_its_text() {
        let extended = |text: &str| match text.parse() {
            Ok(AnyCommunity::Extended(community)) => community.0,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(extended("rt:64512:1"), [0, 2, 0xfc, 0, 0, 0, 0, 1]);
        assert_eq!(extended("soo:65536:1"), [2, 3, 0, 1, 0, 0, 0, 1]);
        assert_eq!(
            extended("ext:0x0002fc0000000001"),
            [0, 2, 0xfc, 0, 0, 0, 0, 1]
        );
        assert_eq!(
            "no-export".parse(),
            Ok(AnyCommunity::Standard(Community::NO_EXPORT))
        );
        assert!(matches!("large:1:2:3".parse(), Ok(AnyCommunity::Large(_))));
        for wrong in [
            "rt:65536:65536",
            "rt:1",
            "ext:0x12",
            "ext:0x+002fc0000000001",
            "1:2:3",
            "no-such-name",
        ] {
            assert!(wrong.parse::<AnyCommunity>().is_err(), "{wrong}");
        }
    }

    /// draft-ietf-idr-link-bandwidth §2.
    #[test]
    fn a_bandwidth_is_a_float_of_bytes() {
        let told = ExtendedCommunity::link_bandwidth(64512, 125_000_000.0, false);
        assert_eq!(told.0, [0x40, 4, 0xfc, 0, 0x4c, 0xee, 0x6b, 0x28]);
        assert_eq!(told.bandwidth(), Some(125_000_000.0));
        let long = ExtendedCommunity::link_bandwidth(4_200_000_000, 1.0, true);
        assert_eq!(long.0[..4], [0, 4, 0x5b, 0xa0]);
        assert_eq!(ExtendedCommunity::route_target(1, 2).bandwidth(), None);
    }
}
