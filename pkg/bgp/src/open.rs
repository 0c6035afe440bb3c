//! OPEN (RFC 4271 §4.2), with its optional parameters in either length
//! (RFC 9072).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+-------------------------------+---------------
//! |    Version    |     My Autonomous System      |   Hold Time
//! +---------------+-------------------------------+---------------
//!                 |         BGP Identifier
//! +---------------+---------------+-------------------------------+
//!                 | Opt Parm Len  |   Optional Parameters
//! +---------------+---------------+-------------------------------+
//!
//! A parameter: type, length (one octet, or two if extended), value.
//! ```
//!
//! [`Open::parse`] reads what is there; [`Open::validate`] applies the rules
//! that need nothing but the message. Those about us are in `negotiate`.

use std::net::Ipv4Addr;

use crate::capability::Capability;
use crate::message::{MessageType, begin, end};
use crate::notification::{Code, Fault};
use crate::read::Reader;

const VERSION: u8 = 4;
const CAPABILITIES: u8 = 2;
/// Both as the length and as the type of a first parameter: lengths are
/// extended (RFC 9072 §2).
const EXTENDED: u8 = 255;

/// What stands for an AS number that does not fit two octets (RFC 6793 §9).
pub const AS_TRANS: u16 = 23456;

/// An OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// My Autonomous System, two octets: [`AS_TRANS`] if it does not fit.
    pub my_as: u16,
    /// Hold Time, seconds; 0, or 3 and more.
    pub hold_time: u16,
    /// BGP Identifier.
    pub identifier: Ipv4Addr,
    /// All capabilities, in their order.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// Reads the body of an OPEN.
    pub fn parse(body: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader(body);
        let ends = || Fault::new(Code::OPEN_UNSPECIFIC, [], "the OPEN ends too early");
        // Of another version the rest may look otherwise.
        let version = reader.u8().ok_or_else(ends)?;
        if version != VERSION {
            let detail = format!("the peer speaks BGP version {version}, not 4");
            return Err(Fault::new(Code::UNSUPPORTED_VERSION, [0, VERSION], detail));
        }
        let my_as = reader.u16().ok_or_else(ends)?;
        let hold_time = reader.u16().ok_or_else(ends)?;
        let identifier = reader.array::<4>().ok_or_else(ends)?.into();
        Ok(Self {
            my_as,
            hold_time,
            identifier,
            capabilities: parse_parameters(&mut reader)?,
        })
    }

    /// The AS of the peer: from the four-octet capability if there is one, the
    /// last of them (RFC 6793 §4.1).
    pub fn autonomous_system(&self) -> u32 {
        let long = self.capabilities.iter().rev().find_map(|c| match c {
            Capability::FourOctetAs(number) => Some(*number),
            _ => None,
        });
        long.unwrap_or_else(|| self.my_as.into())
    }

    /// Whether it has such a capability.
    pub fn has(&self, capability: &Capability) -> bool {
        self.capabilities.contains(capability)
    }

    /// The checks of RFC 4271 §6.2 that need nothing else.
    pub fn validate(&self) -> Result<(), Fault> {
        // RFC 7607 §2.
        if self.autonomous_system() == 0 {
            return Err(Fault::new(
                Code::BAD_PEER_AS,
                [],
                "the peer says that its AS is 0, which nobody may use",
            ));
        }
        // RFC 6286 §2.2: any but 0.
        if self.identifier.is_unspecified() {
            return Err(Fault::new(
                Code::BAD_IDENTIFIER,
                [],
                "the peer's BGP identifier is 0.0.0.0; set a router id there",
            ));
        }
        if matches!(self.hold_time, 1 | 2) {
            let detail = format!(
                "the peer offers a hold time of {} s; it must be 0, or 3 and more",
                self.hold_time
            );
            return Err(Fault::new(Code::BAD_HOLD_TIME, [], detail));
        }
        Ok(())
    }

    /// Appends the message. Capabilities that do not fit the longest OPEN are
    /// left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin(out, MessageType::Open);
        out.push(VERSION);
        out.extend_from_slice(&self.my_as.to_be_bytes());
        out.extend_from_slice(&self.hold_time.to_be_bytes());
        out.extend_from_slice(&self.identifier.octets());
        let mut value = Vec::new();
        for capability in &self.capabilities {
            let before = value.len();
            capability.encode(&mut value);
            if value.len() > 4000 {
                value.truncate(before);
            }
        }
        match u8::try_from(value.len()) {
            Ok(0) => out.push(0),
            Ok(length @ ..=252) => out.extend_from_slice(&[length + 2, CAPABILITIES, length]),
            _ => {
                let length = u16::try_from(value.len()).expect("it is cut above");
                out.extend_from_slice(&[EXTENDED, EXTENDED]);
                out.extend_from_slice(&(length + 3).to_be_bytes());
                out.push(CAPABILITIES);
                out.extend_from_slice(&length.to_be_bytes());
            }
        }
        out.extend_from_slice(&value);
        end(out, start);
    }
}

fn parse_parameters(reader: &mut Reader<'_>) -> Result<Vec<Capability>, Fault> {
    let malformed = || {
        let detail = "the lengths of the OPEN's optional parameters do not match";
        Fault::new(Code::OPEN_UNSPECIFIC, [], detail)
    };
    let length = reader.u8().ok_or_else(malformed)?;
    // RFC 9072 §2: the type tells; the length is then not looked at, but for 0.
    let extended = length != 0 && reader.0.first() == Some(&EXTENDED);
    let length = if extended {
        reader.u8();
        reader.u16().ok_or_else(malformed)?
    } else {
        length.into()
    };
    if usize::from(length) != reader.len() {
        return Err(malformed());
    }
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u8().ok_or_else(malformed)?;
        let length = if extended {
            reader.u16()
        } else {
            reader.u8().map(u16::from)
        };
        let length = length.ok_or_else(malformed)?;
        let value = reader.take(length.into()).ok_or_else(malformed)?;
        if kind != CAPABILITIES {
            let detail = format!("the OPEN has an optional parameter of type {kind}");
            return Err(Fault::new(Code::UNSUPPORTED_PARAMETER, [], detail));
        }
        Capability::parse_all(value, &mut capabilities).ok_or_else(malformed)?;
    }
    Ok(capabilities)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::capability::{GracefulRestart, LongLived, NextHopPair, Preserved};
    use crate::message::{HEADER, MAX_MESSAGE};

    fn open(capabilities: Vec<Capability>) -> Open {
        Open {
            my_as: 64512,
            hold_time: 90,
            identifier: [192, 0, 2, 1].into(),
            capabilities,
        }
    }

    fn refused(body: &[u8]) -> Code {
        Open::parse(body).unwrap_err().notification.code
    }

    #[test]
    fn every_field_stands_where_the_rfc_puts_it() {
        let mut out = Vec::new();
        open(vec![Capability::RouteRefresh]).encode(&mut out);
        #[rustfmt::skip]
        let body = [4, 0xfc, 0x00, 0, 90, 192, 0, 2, 1, 4, 2, 2, 2, 0];
        assert_eq!(out[HEADER..], body);
        assert_eq!(out[16..HEADER], [0, 33, 1]);
    }

    /// RFC 4271 §6.2.
    #[test]
    fn a_wrong_open_is_told() {
        let version = Open::parse(&[3, 0, 1, 0, 90, 1, 1, 1, 1, 0]).unwrap_err();
        assert_eq!(version.notification.code, Code::UNSUPPORTED_VERSION);
        assert_eq!(version.notification.data, [0, 4]);
        let with = |parameters: &[u8]| [&[4, 0, 1, 0, 90, 1, 1, 1, 1], parameters].concat();
        assert_eq!(refused(&with(&[3, 1, 1, 0])), Code::UNSUPPORTED_PARAMETER);
        for wrong in [&[1][..], &[3, 2, 2, 1], &[4, 2, 2, 1, 1], &[0, 2], &[2, 2]] {
            assert_eq!(refused(&with(wrong)), Code::OPEN_UNSPECIFIC);
        }
        let invalid = |change: fn(&mut Open)| {
            let mut open = open(vec![]);
            change(&mut open);
            open.validate().unwrap_err().notification.code
        };
        assert_eq!(open(vec![]).validate(), Ok(()));
        assert_eq!(invalid(|o| o.my_as = 0), Code::BAD_PEER_AS);
        let zero = Capability::FourOctetAs(0);
        assert_eq!(
            open(vec![zero]).validate().unwrap_err().notification.code,
            Code::BAD_PEER_AS
        );
        assert_eq!(
            invalid(|o| o.identifier = Ipv4Addr::UNSPECIFIED),
            Code::BAD_IDENTIFIER
        );
        assert_eq!(invalid(|o| o.hold_time = 1), Code::BAD_HOLD_TIME);
        assert_eq!(invalid(|o| o.hold_time = 2), Code::BAD_HOLD_TIME);
    }

    /// RFC 9072 §2, even where it was not needed.
    #[test]
    fn extended_parameters_are_read() {
        let start = [4, 0, 1, 0, 90, 1, 1, 1, 1];
        let rest = [255, 255, 0, 10, 2, 0, 2, 2, 0, 2, 0, 2, 70, 0];
        let read = Open::parse(&[&start[..], &rest].concat()).unwrap();
        let expected = [Capability::RouteRefresh, Capability::EnhancedRouteRefresh];
        assert_eq!(read.capabilities, expected);
        let mut short = rest;
        short[0] = 3;
        assert_eq!(Open::parse(&[&start[..], &short].concat()).unwrap(), read);
        let long = Capability::Unknown {
            code: 200,
            value: vec![7; 255],
        };
        let sent = open(vec![long; 3]);
        let mut out = Vec::new();
        sent.encode(&mut out);
        assert_eq!(Open::parse(&out[HEADER..]), Ok(sent));
    }

    pub fn any_capability() -> impl Strategy<Value = Capability> {
        let pair = any::<(u16, u16, u16)>().prop_map(|(afi, safi, next_hop_afi)| NextHopPair {
            afi,
            safi,
            next_hop_afi,
        });
        let preserved = any::<(u16, u8, bool)>().prop_map(|(afi, safi, forwarding)| Preserved {
            afi,
            safi,
            forwarding,
        });
        let long_lived = (any::<(u16, u8, bool)>(), 0..=LongLived::LONGEST).prop_map(
            |((afi, safi, forwarding), stale_time)| LongLived {
                afi,
                safi,
                forwarding,
                stale_time,
            },
        );
        let name = || vec(any::<u8>(), 0..100);
        prop_oneof![
            vec(long_lived, 0..5).prop_map(Capability::LongLivedGracefulRestart),
            any::<(u16, u8)>().prop_map(|(afi, safi)| Capability::Multiprotocol { afi, safi }),
            Just(Capability::RouteRefresh),
            vec(pair, 0..5).prop_map(Capability::ExtendedNextHop),
            Just(Capability::ExtendedMessage),
            (any::<(bool, bool)>(), 0..4096_u16, vec(preserved, 0..5)).prop_map(
                |((restarted, notifications), time, families)| {
                    Capability::GracefulRestart(GracefulRestart {
                        restarted,
                        notifications,
                        time,
                        families,
                    })
                }
            ),
            any::<u32>().prop_map(Capability::FourOctetAs),
            Just(Capability::EnhancedRouteRefresh),
            (name(), name()).prop_map(|(host, domain)| Capability::Fqdn { host, domain }),
            name().prop_map(Capability::SoftwareVersion),
            Just(Capability::LinkLocalNextHop),
            (128..200_u8, name()).prop_map(|(code, value)| Capability::Unknown { code, value }),
        ]
    }

    pub fn any_open() -> impl Strategy<Value = Open> {
        (any::<(u16, u16, [u8; 4])>(), vec(any_capability(), 0..12)).prop_map(
            |((my_as, hold_time, identifier), capabilities)| Open {
                my_as,
                hold_time,
                identifier: identifier.into(),
                capabilities,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(open in any_open()) {
            let mut out = Vec::new();
            open.encode(&mut out);
            prop_assert!(out.len() <= MAX_MESSAGE);
            prop_assert_eq!(Open::parse(&out[HEADER..]), Ok(open));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..100)) {
            if let Ok(open) = Open::parse(&bytes) {
                let _ = open.validate();
            }
        }

        /// What is read of any bytes is the same when it is written and read
        /// again.
        #[test]
        fn what_is_read_is_written_back(tail in vec(any::<u8>(), 0..60)) {
            let length = u8::try_from(tail.len()).unwrap();
            let body = [&[4, 0, 1, 0, 90, 1, 1, 1, 1, length + 2, 2, length], &tail[..]].concat();
            if let Ok(open) = Open::parse(&body) {
                let mut out = Vec::new();
                open.encode(&mut out);
                prop_assert_eq!(Open::parse(&out[HEADER..]), Ok(open));
            }
        }
    }
}
