//! Path attributes as they are received (RFC 4271 §4.3), and what each error in
//! one means (RFC 7606).
//!
//! ```text
//! +---------------+---------------+---------------+---------------+
//! |O|T|P|E|   0   |     Type      |  Length, two octets with E    |
//! +---------------+---------------+---------------+---------------+
//! |                       Value (variable)                        |
//! +---------------------------------------------------------------+
//! ```

use std::net::Ipv4Addr;

use crate::family::Family;
use crate::nlri::Prefixes;
use crate::notification::Code;
use crate::read::Reader;

pub(crate) const OPTIONAL: u8 = 0x80;
pub(crate) const TRANSITIVE: u8 = 0x40;
const PARTIAL: u8 = 0x20;
pub(crate) const EXTENDED_LENGTH: u8 = 0x10;

/// Type codes.
pub(crate) mod kind {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MED: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH: u8 = 14;
    pub const MP_UNREACH: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const LARGE_COMMUNITIES: u8 = 32;
}

/// What an error is answered with (RFC 7606 §2), the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The attribute is dropped, the routes stay.
    Discard,
    /// The routes of the message are taken for withdrawn.
    Withdraw,
    /// The session ends.
    Reset,
}

/// An error in an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeError {
    /// What it is answered with.
    pub severity: Severity,
    /// What a NOTIFICATION about it would say.
    pub code: Code,
    /// The type code of the attribute; 0 if it is about all of them.
    pub attribute: u8,
    /// What is wrong.
    pub detail: &'static str,
}

impl AttributeError {
    pub(crate) const fn new(
        severity: Severity,
        code: Code,
        attribute: u8,
        detail: &'static str,
    ) -> Self {
        Self {
            severity,
            code,
            attribute,
            detail,
        }
    }
}

/// An attribute whose value has not been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawAttribute<'a> {
    /// Its flags; the lower four bits mean nothing.
    pub flags: u8,
    /// Its type code.
    pub kind: u8,
    /// Its value.
    pub value: &'a [u8],
}

/// The attributes of an UPDATE, in their order. The last may be an error: it
/// does not end where the attributes do.
#[derive(Clone, Debug)]
pub struct RawAttributes<'a>(pub(crate) Reader<'a>);

impl<'a> RawAttributes<'a> {
    fn parse(&mut self) -> Option<RawAttribute<'a>> {
        let flags = self.0.u8()?;
        let kind = self.0.u8()?;
        let length = if flags & EXTENDED_LENGTH == 0 {
            self.0.u8()?.into()
        } else {
            self.0.u16()?
        };
        let value = self.0.take(length.into())?;
        Some(RawAttribute { flags, kind, value })
    }
}

impl<'a> Iterator for RawAttributes<'a> {
    type Item = Result<RawAttribute<'a>, AttributeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let raw = self.parse();
        if raw.is_none() {
            self.0 = Reader(&[]);
        }
        // RFC 7606 §4.
        let overrun = || {
            AttributeError::new(
                Severity::Withdraw,
                Code::ATTRIBUTE_LIST,
                0,
                "an attribute is longer than what is left of the attributes",
            )
        };
        Some(raw.ok_or_else(overrun))
    }
}

/// An AS path as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsPath<'a> {
    bytes: &'a [u8],
    four_octets: bool,
}

impl<'a> AsPath<'a> {
    /// The segments: whether it is a set, and the AS numbers. None for the
    /// whole path if it is malformed (RFC 7606 §7.2).
    pub fn segments(self) -> Option<Vec<(bool, Vec<u32>)>> {
        let width = if self.four_octets { 4 } else { 2 };
        let mut reader = Reader(self.bytes);
        let mut segments = Vec::new();
        while !reader.is_empty() {
            // Segments of confederations (RFC 5065) come from none of ours.
            let is_set = match reader.u8()? {
                1 => true,
                2 => false,
                _ => return None,
            };
            let count = usize::from(reader.u8()?);
            let numbers = reader.take(count * width)?;
            if count == 0 {
                return None;
            }
            let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
            segments.push((is_set, numbers.chunks(width).map(number).collect()));
        }
        Some(segments)
    }

    const fn new(bytes: &'a [u8], four_octets: bool) -> Self {
        Self { bytes, four_octets }
    }
}

/// An attribute that is well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute<'a> {
    /// 0 IGP, 1 EGP, 2 incomplete.
    Origin(u8),
    /// `AS_PATH`.
    AsPath(AsPath<'a>),
    /// `NEXT_HOP`.
    NextHop(Ipv4Addr),
    /// `MULTI_EXIT_DISC`.
    Med(u32),
    /// `LOCAL_PREF`.
    LocalPref(u32),
    /// `ATOMIC_AGGREGATE`.
    AtomicAggregate,
    /// AGGREGATOR.
    Aggregator(u32, Ipv4Addr),
    /// COMMUNITIES, four octets each (RFC 1997).
    Communities(&'a [u8]),
    /// `ORIGINATOR_ID` (RFC 4456).
    OriginatorId(Ipv4Addr),
    /// `CLUSTER_LIST`, four octets each (RFC 4456).
    ClusterList(&'a [u8]),
    /// `MP_REACH_NLRI` (RFC 4760 §3).
    MpReach {
        /// The family; none for one that is not spoken, of which the rest was
        /// not looked at.
        family: Option<Family>,
        /// The next hop.
        next_hop: &'a [u8],
        /// The prefixes.
        nlri: &'a [u8],
    },
    /// `MP_UNREACH_NLRI` (RFC 4760 §4).
    MpUnreach {
        /// The family, as above.
        family: Option<Family>,
        /// The prefixes.
        withdrawn: &'a [u8],
    },
    /// EXTENDED COMMUNITIES, eight octets each (RFC 4360).
    ExtendedCommunities(&'a [u8]),
    /// `AS4_PATH` (RFC 6793 §3).
    As4Path(AsPath<'a>),
    /// `AS4_AGGREGATOR` (RFC 6793 §3).
    As4Aggregator(u32, Ipv4Addr),
    /// `LARGE_COMMUNITIES`, twelve octets each (RFC 8092).
    LargeCommunities(&'a [u8]),
    /// Anything else that is optional.
    Unknown(RawAttribute<'a>),
}

/// What the reading of attributes depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Whether AS numbers have four octets in this session (RFC 6793 §4.1).
    pub four_octet_as: bool,
    /// Whether the peer is in our AS.
    pub internal: bool,
}

impl<'a> Attribute<'a> {
    /// Reads one value. The error is the first there is, with the severity
    /// that RFC 7606 §7 gives it.
    pub fn parse(raw: RawAttribute<'a>, context: Context) -> Result<Self, AttributeError> {
        check_flags(raw)?;
        let RawAttribute { kind, value, .. } = raw;
        let wrong = |severity, code, detail| AttributeError::new(severity, code, kind, detail);
        let length =
            |severity| move || wrong(severity, Code::ATTRIBUTE_LENGTH, "it has a wrong length");
        // RFC 7606 §7.5, §7.9, §7.10.
        if !context.internal
            && matches!(
                kind,
                kind::LOCAL_PREF | kind::ORIGINATOR_ID | kind::CLUSTER_LIST
            )
        {
            let detail = "it comes from another AS, where it has no meaning";
            return Err(wrong(Severity::Discard, Code::ATTRIBUTE_LIST, detail));
        }
        let withdraw = length(Severity::Withdraw);
        let list = |of: usize| {
            // An empty list is an error too (RFC 7606 §7.8, §7.14, RFC 8092 §5).
            let good = !value.is_empty() && value.len().is_multiple_of(of);
            good.then_some(value).ok_or_else(withdraw)
        };
        let word = || {
            value
                .try_into()
                .map(u32::from_be_bytes)
                .map_err(|_| withdraw())
        };
        Ok(match kind {
            kind::ORIGIN => match *value {
                [origin @ 0..=2] => Self::Origin(origin),
                [_] => {
                    let detail = "the origin is none of the three there are";
                    return Err(wrong(Severity::Withdraw, Code::BAD_ORIGIN, detail));
                }
                _ => return Err(withdraw()),
            },
            kind::AS_PATH => {
                let path = AsPath::new(value, context.four_octet_as);
                let malformed = || {
                    wrong(
                        Severity::Withdraw,
                        Code::BAD_AS_PATH,
                        "the path is malformed",
                    )
                };
                path.segments().ok_or_else(malformed)?;
                Self::AsPath(path)
            }
            kind::NEXT_HOP => Self::NextHop(word()?.into()),
            kind::MED => Self::Med(word()?),
            kind::LOCAL_PREF => Self::LocalPref(word()?),
            kind::ATOMIC_AGGREGATE if value.is_empty() => Self::AtomicAggregate,
            kind::ATOMIC_AGGREGATE => return Err(length(Severity::Discard)()),
            kind::AGGREGATOR => aggregator(value, context.four_octet_as)
                .map(|(number, address)| Self::Aggregator(number, address))
                .ok_or_else(length(Severity::Discard))?,
            kind::COMMUNITIES => Self::Communities(list(4)?),
            kind::ORIGINATOR_ID => Self::OriginatorId(word()?.into()),
            kind::CLUSTER_LIST => Self::ClusterList(list(4)?),
            kind::EXTENDED_COMMUNITIES => Self::ExtendedCommunities(list(8)?),
            kind::LARGE_COMMUNITIES => Self::LargeCommunities(list(12)?),
            // RFC 6793 §6: what is wrong in these two is dropped, and so is
            // either of them where nobody needs it.
            kind::AS4_PATH | kind::AS4_AGGREGATOR if context.four_octet_as => {
                let detail = "it comes from a peer that has four-octet AS numbers anyway";
                return Err(wrong(Severity::Discard, Code::ATTRIBUTE_LIST, detail));
            }
            kind::AS4_PATH => {
                let path = AsPath::new(value, true);
                let malformed = || {
                    wrong(
                        Severity::Discard,
                        Code::BAD_AS_PATH,
                        "the path is malformed",
                    )
                };
                path.segments().ok_or_else(malformed)?;
                Self::As4Path(path)
            }
            kind::AS4_AGGREGATOR => aggregator(value, true)
                .map(|(number, address)| Self::As4Aggregator(number, address))
                .ok_or_else(length(Severity::Discard))?,
            kind::MP_REACH => parse_reach(value)?,
            kind::MP_UNREACH => parse_unreach(value)?,
            _ => Self::Unknown(raw),
        })
    }
}

/// RFC 7606 §3 (c): Optional and Transitive must be what the type has. The
/// other two flags are not looked at.
fn check_flags(raw: RawAttribute<'_>) -> Result<(), AttributeError> {
    let expected = match raw.kind {
        kind::ORIGIN
        | kind::AS_PATH
        | kind::NEXT_HOP
        | kind::LOCAL_PREF
        | kind::ATOMIC_AGGREGATE => TRANSITIVE,
        kind::MED
        | kind::ORIGINATOR_ID
        | kind::CLUSTER_LIST
        | kind::MP_REACH
        | kind::MP_UNREACH => OPTIONAL,
        kind::AGGREGATOR
        | kind::COMMUNITIES
        | kind::EXTENDED_COMMUNITIES
        | kind::AS4_PATH
        | kind::AS4_AGGREGATOR
        | kind::LARGE_COMMUNITIES => OPTIONAL | TRANSITIVE,
        // RFC 4271 §6.3: who does not know a well-known one can't go on.
        _ if raw.flags & OPTIONAL == 0 => {
            return Err(AttributeError::new(
                Severity::Reset,
                Code::UNRECOGNIZED_ATTRIBUTE,
                raw.kind,
                "it says that it is well known, and is not",
            ));
        }
        _ => return Ok(()),
    };
    if raw.flags & (OPTIONAL | TRANSITIVE) == expected {
        return Ok(());
    }
    Err(AttributeError::new(
        Severity::Withdraw,
        Code::ATTRIBUTE_FLAGS,
        raw.kind,
        "its flags are not those of its type",
    ))
}

fn aggregator(value: &[u8], four_octets: bool) -> Option<(u32, Ipv4Addr)> {
    let mut reader = Reader(value);
    let number = if four_octets {
        reader.u32()?
    } else {
        reader.u16()?.into()
    };
    let address = reader.array::<4>()?;
    reader.is_empty().then(|| (number, address.into()))
}

/// RFC 7606 §3 (i), §5.3, §7.11: where prefixes can't be told apart from each
/// other, nothing can be withdrawn either.
fn broken(kind: u8, detail: &'static str) -> AttributeError {
    AttributeError::new(Severity::Reset, Code::OPTIONAL_ATTRIBUTE, kind, detail)
}

fn parse_reach(value: &[u8]) -> Result<Attribute<'_>, AttributeError> {
    let broken = |detail| broken(kind::MP_REACH, detail);
    let mut reader = Reader(value);
    let mut head = || {
        let afi = reader.u16()?;
        let [safi, length] = reader.array()?;
        let next_hop = reader.take(length.into())?;
        reader.u8()?;
        Some((Family::from_wire(afi, safi), next_hop))
    };
    let (family, next_hop) = head().ok_or_else(|| broken("it ends too early"))?;
    let nlri = reader.0;
    if let Some(family) = family {
        let good = match family {
            // RFC 8950 §3: 16 and 32 as for IPv6.
            Family::Ipv4 => matches!(next_hop.len(), 4 | 16 | 32),
            Family::Ipv6 => matches!(next_hop.len(), 16 | 32),
        };
        if !good {
            return Err(broken("its next hop has a wrong length"));
        }
        Prefixes::new(family, nlri)
            .count_valid()
            .map_err(|_| broken("a prefix in it is malformed"))?;
    }
    Ok(Attribute::MpReach {
        family,
        next_hop,
        nlri,
    })
}

fn parse_unreach(value: &[u8]) -> Result<Attribute<'_>, AttributeError> {
    let broken = |detail| broken(kind::MP_UNREACH, detail);
    let mut reader = Reader(value);
    let mut head = || Some(Family::from_wire(reader.u16()?, reader.u8()?));
    let family = head().ok_or_else(|| broken("it ends too early"))?;
    let withdrawn = reader.0;
    if let Some(family) = family {
        Prefixes::new(family, withdrawn)
            .count_valid()
            .map_err(|_| broken("a prefix in it is malformed"))?;
    }
    Ok(Attribute::MpUnreach { family, withdrawn })
}

/// Appends an attribute; `flags` without the extended length.
pub(crate) fn put(flags: u8, kind: u8, value: &[u8], out: &mut Vec<u8>) {
    if let Ok(length) = u8::try_from(value.len()) {
        out.extend_from_slice(&[flags, kind, length]);
    } else {
        let length = u16::try_from(value.len()).expect("it fits a message");
        out.extend_from_slice(&[flags | EXTENDED_LENGTH, kind]);
        out.extend_from_slice(&length.to_be_bytes());
    }
    out.extend_from_slice(value);
}

impl RawAttribute<'_> {
    /// Appends it as it was, with the shortest form of its length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = self.flags & (OPTIONAL | TRANSITIVE | PARTIAL);
        put(flags, self.kind, self.value, out);
    }
}
