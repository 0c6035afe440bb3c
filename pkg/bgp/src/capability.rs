//! Capabilities (RFC 5492): what a speaker can do, told in its OPEN.
//!
//! ```text
//! +---------------+---------------+-------------------------------+
//! |     Code      |    Length     |       Value (variable)        |
//! +---------------+---------------+-------------------------------+
//! ```

use std::time::Duration;

use crate::family::{Family, UNICAST};
use crate::read::Reader;

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const EXTENDED_MESSAGE: u8 = 6;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ENHANCED_ROUTE_REFRESH: u8 = 70;
const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;
const FQDN: u8 = 73;
const SOFTWARE_VERSION: u8 = 75;
const LINK_LOCAL_NEXT_HOP: u8 = 77;

const RESTARTED: u16 = 0x8000;
const NOTIFICATIONS: u16 = 0x4000;
const FORWARDING: u8 = 0x80;

/// A pair of families in [`Capability::ExtendedNextHop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHopPair {
    /// AFI of the routes.
    pub afi: u16,
    /// SAFI of the routes, two octets here.
    pub safi: u16,
    /// AFI of their next hop.
    pub next_hop_afi: u16,
}

impl NextHopPair {
    /// IPv4 unicast routes over IPv6 next hops.
    pub const IPV4_OVER_IPV6: Self = Self {
        afi: 1,
        safi: 1,
        next_hop_afi: 2,
    };
}

/// A family in [`GracefulRestart`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preserved {
    /// AFI.
    pub afi: u16,
    /// SAFI.
    pub safi: u8,
    /// F: whether forwarding went on while the speaker restarted.
    pub forwarding: bool,
}

impl Preserved {
    /// `family`, with F set.
    pub const fn kept(family: Family) -> Self {
        Self {
            afi: family.afi(),
            safi: UNICAST,
            forwarding: true,
        }
    }
}

/// The graceful restart capability (RFC 4724 §3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the speaker has restarted, so nobody need wait for its End-of-RIB.
    pub restarted: bool,
    /// N: routes are retained over a NOTIFICATION too (RFC 8538 §2).
    pub notifications: bool,
    /// How long the speaker may take to be back, in seconds, 0 to 4095.
    pub time: u16,
    /// The families whose forwarding state it can keep.
    pub families: Vec<Preserved>,
}

/// A family in [`Capability::LongLivedGracefulRestart`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLived {
    /// AFI.
    pub afi: u16,
    /// SAFI.
    pub safi: u8,
    /// F: whether forwarding went on while the speaker restarted.
    pub forwarding: bool,
    /// How long stale routes are to be kept after the restart time, in seconds, 0 to
    /// 2²⁴ - 1.
    pub stale_time: u32,
}

impl LongLived {
    /// `family`, with F set. A stale time that is too long is cut.
    pub fn kept(family: Family, stale_time: Duration) -> Self {
        let stale_time = u32::try_from(stale_time.as_secs()).unwrap_or(Self::LONGEST);
        Self {
            afi: family.afi(),
            safi: UNICAST,
            forwarding: true,
            stale_time: stale_time.min(Self::LONGEST),
        }
    }

    /// The longest stale time there is, in seconds.
    pub const LONGEST: u32 = 0x00ff_ffff;
}

/// One capability. What is not known here, or has another form than its RFC
/// gives it, is kept as [`Unknown`](Self::Unknown) and means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Routes of a family (RFC 4760 §8).
    Multiprotocol {
        /// AFI.
        afi: u16,
        /// SAFI.
        safi: u8,
    },
    /// Answers ROUTE-REFRESH (RFC 2918).
    RouteRefresh,
    /// Takes next hops of another family (RFC 8950 §4).
    ExtendedNextHop(Vec<NextHopPair>),
    /// Takes messages above 4096 bytes (RFC 8654).
    ExtendedMessage,
    /// Graceful restart (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// Its AS number in four octets (RFC 6793).
    FourOctetAs(u32),
    /// Marks where a refresh begins and ends (RFC 7313).
    EnhancedRouteRefresh,
    /// Long-lived graceful restart (RFC 9494 §3.1); means nothing without
    /// [`GracefulRestart`](Self::GracefulRestart).
    LongLivedGracefulRestart(Vec<LongLived>),
    /// Its name, for people (draft-walton-bgp-hostname-capability).
    Fqdn {
        /// Host name.
        host: Vec<u8>,
        /// Domain name; often empty.
        domain: Vec<u8>,
    },
    /// Its software, for people (draft-abraitis-bgp-version-capability).
    SoftwareVersion(Vec<u8>),
    /// Takes a link-local address as the only next hop
    /// (draft-ietf-idr-linklocal-capability).
    LinkLocalNextHop,
    /// Anything else.
    Unknown {
        /// Its code.
        code: u8,
        /// Its value.
        value: Vec<u8>,
    },
}

impl Capability {
    /// Routes of `family`.
    pub const fn multiprotocol(family: Family) -> Self {
        Self::Multiprotocol {
            afi: family.afi(),
            safi: UNICAST,
        }
    }

    fn parse_known(code: u8, value: &[u8]) -> Option<Self> {
        let mut reader = Reader(value);
        let read = match code {
            MULTIPROTOCOL => {
                let afi = reader.u16()?;
                // The octet between the two is reserved and means nothing.
                let [_, safi] = reader.array()?;
                Self::Multiprotocol { afi, safi }
            }
            ROUTE_REFRESH => Self::RouteRefresh,
            EXTENDED_NEXT_HOP => Self::ExtendedNextHop(pairs(&mut reader)?),
            EXTENDED_MESSAGE => Self::ExtendedMessage,
            GRACEFUL_RESTART => Self::GracefulRestart(graceful_restart(&mut reader)?),
            FOUR_OCTET_AS => Self::FourOctetAs(reader.u32()?),
            ENHANCED_ROUTE_REFRESH => Self::EnhancedRouteRefresh,
            LONG_LIVED_GRACEFUL_RESTART => Self::LongLivedGracefulRestart(long_lived(&mut reader)?),
            FQDN => {
                let length = reader.u8()?;
                let host = reader.take(length.into())?.to_vec();
                let length = reader.u8()?;
                let domain = reader.take(length.into())?.to_vec();
                Self::Fqdn { host, domain }
            }
            SOFTWARE_VERSION => {
                let length = reader.u8()?;
                Self::SoftwareVersion(reader.take(length.into())?.to_vec())
            }
            LINK_LOCAL_NEXT_HOP => Self::LinkLocalNextHop,
            _ => return None,
        };
        reader.is_empty().then_some(read)
    }

    /// Reads the value of an optional parameter "Capabilities": none if a
    /// capability does not end where the parameter does.
    pub(crate) fn parse_all(value: &[u8], into: &mut Vec<Self>) -> Option<()> {
        let mut reader = Reader(value);
        while !reader.is_empty() {
            let code = reader.u8()?;
            let length = reader.u8()?;
            let value = reader.take(length.into())?;
            let known = Self::parse_known(code, value);
            into.push(known.unwrap_or_else(|| Self::Unknown {
                code,
                value: value.to_vec(),
            }));
        }
        Some(())
    }

    /// Appends it. Lists and names that are too long for the one octet of the
    /// Length are cut.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[self.code(), 0]);
        match self {
            Self::Multiprotocol { afi, safi } => {
                out.extend_from_slice(&afi.to_be_bytes());
                out.extend_from_slice(&[0, *safi]);
            }
            Self::ExtendedNextHop(pairs) => {
                for pair in pairs.iter().take(42) {
                    out.extend_from_slice(&pair.afi.to_be_bytes());
                    out.extend_from_slice(&pair.safi.to_be_bytes());
                    out.extend_from_slice(&pair.next_hop_afi.to_be_bytes());
                }
            }
            Self::GracefulRestart(restart) => {
                let flag = |set: bool, bit: u16| if set { bit } else { 0 };
                let first = flag(restart.restarted, RESTARTED)
                    | flag(restart.notifications, NOTIFICATIONS)
                    | restart.time & 0x0fff;
                out.extend_from_slice(&first.to_be_bytes());
                for family in restart.families.iter().take(63) {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    let flags = if family.forwarding { FORWARDING } else { 0 };
                    out.extend_from_slice(&[family.safi, flags]);
                }
            }
            Self::LongLivedGracefulRestart(families) => {
                for family in families.iter().take(36) {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    let flags = if family.forwarding { FORWARDING } else { 0 };
                    let [_, time @ ..] = family.stale_time.min(LongLived::LONGEST).to_be_bytes();
                    out.extend_from_slice(&[family.safi, flags]);
                    out.extend_from_slice(&time);
                }
            }
            Self::FourOctetAs(number) => out.extend_from_slice(&number.to_be_bytes()),
            Self::Fqdn { host, domain } => {
                encode_name(host, 126, out);
                encode_name(domain, 126, out);
            }
            Self::SoftwareVersion(version) => encode_name(version, 254, out),
            Self::Unknown { value, .. } => {
                out.extend_from_slice(&value[..value.len().min(255)]);
            }
            Self::RouteRefresh
            | Self::ExtendedMessage
            | Self::EnhancedRouteRefresh
            | Self::LinkLocalNextHop => {}
        }
        out[start + 1] = u8::try_from(out.len() - start - 2).expect("every list is cut above");
    }

    const fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol { .. } => MULTIPROTOCOL,
            Self::RouteRefresh => ROUTE_REFRESH,
            Self::ExtendedNextHop(_) => EXTENDED_NEXT_HOP,
            Self::ExtendedMessage => EXTENDED_MESSAGE,
            Self::GracefulRestart(_) => GRACEFUL_RESTART,
            Self::FourOctetAs(_) => FOUR_OCTET_AS,
            Self::EnhancedRouteRefresh => ENHANCED_ROUTE_REFRESH,
            Self::LongLivedGracefulRestart(_) => LONG_LIVED_GRACEFUL_RESTART,
            Self::Fqdn { .. } => FQDN,
            Self::SoftwareVersion(_) => SOFTWARE_VERSION,
            Self::LinkLocalNextHop => LINK_LOCAL_NEXT_HOP,
            Self::Unknown { code, .. } => *code,
        }
    }
}

fn encode_name(name: &[u8], longest: usize, out: &mut Vec<u8>) {
    let name = &name[..name.len().min(longest)];
    out.push(u8::try_from(name.len()).expect("it is cut to less than 255"));
    out.extend_from_slice(name);
}

fn pairs(reader: &mut Reader<'_>) -> Option<Vec<NextHopPair>> {
    let mut pairs = Vec::new();
    while !reader.is_empty() {
        pairs.push(NextHopPair {
            afi: reader.u16()?,
            safi: reader.u16()?,
            next_hop_afi: reader.u16()?,
        });
    }
    Some(pairs)
}

fn graceful_restart(reader: &mut Reader<'_>) -> Option<GracefulRestart> {
    let first = reader.u16()?;
    let mut families = Vec::new();
    while !reader.is_empty() {
        let afi = reader.u16()?;
        let [safi, flags] = reader.array()?;
        families.push(Preserved {
            afi,
            safi,
            forwarding: flags & FORWARDING != 0,
        });
    }
    Some(GracefulRestart {
        restarted: first & RESTARTED != 0,
        notifications: first & NOTIFICATIONS != 0,
        time: first & 0x0fff,
        families,
    })
}

fn long_lived(reader: &mut Reader<'_>) -> Option<Vec<LongLived>> {
    let mut families = Vec::new();
    while !reader.is_empty() {
        let afi = reader.u16()?;
        let [safi, flags, time @ ..] = reader.array::<5>()?;
        let [high, middle, low] = time;
        families.push(LongLived {
            afi,
            safi,
            forwarding: flags & FORWARDING != 0,
            stale_time: u32::from_be_bytes([0, high, middle, low]),
        });
    }
    Some(families)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(capability: &Capability) -> Vec<u8> {
        let mut out = Vec::new();
        capability.encode(&mut out);
        out
    }

    /// Each against the figure of its document.
    #[test]
    fn every_field_stands_where_its_document_puts_it() {
        let restart = Capability::GracefulRestart(GracefulRestart {
            restarted: true,
            notifications: true,
            time: 60,
            families: vec![Preserved::kept(Family::Ipv6)],
        });
        let cases: &[(Capability, &[u8])] = &[
            (Capability::multiprotocol(Family::Ipv6), &[1, 4, 0, 2, 0, 1]),
            (Capability::RouteRefresh, &[2, 0]),
            (
                Capability::ExtendedNextHop(vec![NextHopPair::IPV4_OVER_IPV6]),
                &[5, 6, 0, 1, 0, 1, 0, 2],
            ),
            (Capability::ExtendedMessage, &[6, 0]),
            (restart, &[64, 6, 0xc0, 60, 0, 2, 1, 0x80]),
            (Capability::FourOctetAs(0x0102_0304), &[65, 4, 1, 2, 3, 4]),
            (Capability::EnhancedRouteRefresh, &[70, 0]),
            (
                Capability::Fqdn {
                    host: b"n1".to_vec(),
                    domain: vec![],
                },
                &[73, 4, 2, b'n', b'1', 0],
            ),
            (
                Capability::SoftwareVersion(b"x1".to_vec()),
                &[75, 3, 2, b'x', b'1'],
            ),
            (Capability::LinkLocalNextHop, &[77, 0]),
            (
                Capability::LongLivedGracefulRestart(vec![LongLived {
                    afi: 2,
                    safi: 1,
                    forwarding: true,
                    stale_time: 0x0001_0203,
                }]),
                &[71, 7, 0, 2, 1, 0x80, 1, 2, 3],
            ),
        ];
        for (capability, expected) in cases {
            assert_eq!(bytes(capability), *expected);
            let mut read = Vec::new();
            Capability::parse_all(expected, &mut read).unwrap();
            assert_eq!(read, std::slice::from_ref(capability));
        }
    }

    /// RFC 5492 §4: what is not understood is ignored.
    #[test]
    fn a_known_capability_of_a_wrong_form_means_nothing() {
        let mut read = Vec::new();
        Capability::parse_all(&[65, 3, 1, 2, 3, 6, 1, 0], &mut read).unwrap();
        let unknown = |code, value: &[u8]| Capability::Unknown {
            code,
            value: value.to_vec(),
        };
        assert_eq!(read, [unknown(65, &[1, 2, 3]), unknown(6, &[0])]);
        assert_eq!(Capability::parse_all(&[65, 4, 1], &mut read), None);
        assert_eq!(Capability::parse_all(&[65], &mut read), None);
    }
}
