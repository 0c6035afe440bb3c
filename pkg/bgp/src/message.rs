//! The header that every message has (RFC 4271 §4.1), and ROUTE-REFRESH
//! (RFC 2918, RFC 7313), whose body is a line.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------------------------------------------------------+
//! |                     Marker, 16 octets of ones                 |
//! +-------------------------------+---------------+---------------+
//! |            Length             |     Type      |
//! +-------------------------------+---------------+
//!
//! ROUTE-REFRESH:
//! +-------------------------------+---------------+---------------+
//! |              AFI              |    Subtype    |     SAFI      |
//! +-------------------------------+---------------+---------------+
//! ```

use crate::family::{Family, UNICAST};
use crate::notification::{Code, Fault};
use crate::read::Reader;

/// Bytes of a header.
pub const HEADER: usize = 19;
/// The longest message, header included (RFC 4271 §4.1).
pub const MAX_MESSAGE: usize = 4096;
/// The longest one between peers that both can do more (RFC 8654 §2).
pub const MAX_EXTENDED_MESSAGE: usize = 65_535;

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// 1.
    Open,
    /// 2.
    Update,
    /// 3.
    Notification,
    /// 4.
    Keepalive,
    /// 5 (RFC 2918).
    RouteRefresh,
}

impl MessageType {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }

    /// The shortest and the longest such message (RFC 4271 §6.1). `max` is
    /// what was agreed on; OPEN and KEEPALIVE never get longer by it
    /// (RFC 8654 §2).
    const fn lengths(self, max: usize) -> (usize, usize) {
        match self {
            Self::Open => (29, MAX_MESSAGE),
            Self::Update | Self::RouteRefresh => (23, max),
            Self::Notification => (21, max),
            Self::Keepalive => (HEADER, HEADER),
        }
    }
}

/// A message that is there whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: MessageType,
    /// What stands behind the header.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Bytes of the message, header included.
    pub const fn length(&self) -> usize {
        HEADER + self.body.len()
    }

    /// The first message in `bytes`, none if it is not there whole yet. `max`
    /// is the longest that may come. Checks the header (RFC 4271 §6.1).
    pub fn parse(bytes: &'a [u8], max: usize) -> Result<Option<Self>, Fault> {
        // A wrong marker is told at its first wrong byte: what follows it
        // means nothing.
        if bytes.iter().take(16).any(|byte| *byte != 0xff) {
            let detail = "what came is not BGP, or bytes were lost: the marker is not all ones";
            return Err(Fault::new(Code::MARKER, [], detail));
        }
        let Some([high, low, number]) = bytes.get(16..HEADER) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let bad_length = || {
            let detail = format!("a message of type {number} says that it is {length} bytes long");
            Fault::new(Code::BAD_LENGTH, [*high, *low], detail)
        };
        if !(HEADER..=max).contains(&length) {
            return Err(bad_length());
        }
        let Some(kind) = MessageType::from_number(*number) else {
            let detail = format!("there is no message type {number}");
            return Err(Fault::new(Code::BAD_TYPE, [*number], detail));
        };
        let (least, most) = kind.lengths(max);
        if !(least..=most).contains(&length) {
            return Err(bad_length());
        }
        Ok(bytes.get(HEADER..length).map(|body| Self { kind, body }))
    }
}

/// Starts a message at the end of `out`; gives where.
pub(crate) fn begin(out: &mut Vec<u8>, kind: MessageType) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, kind.number()]);
    start
}

/// Ends the message that began at `start`. What is in it must fit.
pub(crate) fn end(out: &mut [u8], start: usize) {
    let length = u16::try_from(out.len() - start).expect("callers keep to the longest message");
    out[start + 16..start + 18].copy_from_slice(&length.to_be_bytes());
}

/// Appends a KEEPALIVE (RFC 4271 §4.4).
pub fn encode_keepalive(out: &mut Vec<u8>) {
    let start = begin(out, MessageType::Keepalive);
    end(out, start);
}

/// What a ROUTE-REFRESH means (RFC 7313 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    /// 0: send your routes again.
    Request,
    /// 1: here begins what was asked for.
    Begin,
    /// 2: here it ends.
    End,
}

/// A ROUTE-REFRESH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Of what.
    pub family: Family,
    /// Its subtype.
    pub kind: RefreshKind,
}

impl RouteRefresh {
    /// Reads the body. None is one to be ignored: of a family or a subtype
    /// that is not known (RFC 2918 §4, RFC 7313 §5). A prefix filter behind it
    /// (RFC 5291) is not read.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, Fault> {
        let mut reader = Reader(body);
        let (Some(afi), Some(subtype), Some(safi)) = (reader.u16(), reader.u8(), reader.u8())
        else {
            return Err(Self::bad_length(body));
        };
        let kind = match subtype {
            0 => RefreshKind::Request,
            // RFC 7313 §5: only of these is the length checked.
            1 | 2 if !reader.is_empty() => return Err(Self::bad_length(body)),
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            _ => return Ok(None),
        };
        Ok(Family::from_wire(afi, safi).map(|family| Self { family, kind }))
    }

    /// RFC 7313 §5: the data is the message that was wrong.
    fn bad_length(body: &[u8]) -> Fault {
        let mut message = Vec::new();
        let start = begin(&mut message, MessageType::RouteRefresh);
        message.extend_from_slice(&body[..body.len().min(MAX_MESSAGE - HEADER)]);
        end(&mut message, start);
        let detail = format!("a ROUTE-REFRESH has {} bytes, not 4", body.len());
        Fault::new(Code::REFRESH_LENGTH, message, detail)
    }

    /// Appends the message.
    pub fn encode(self, out: &mut Vec<u8>) {
        let start = begin(out, MessageType::RouteRefresh);
        out.extend_from_slice(&self.family.afi().to_be_bytes());
        let subtype = match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
        };
        out.extend_from_slice(&[subtype, UNICAST]);
        end(out, start);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(length: u16, number: u8) -> Vec<u8> {
        let mut bytes = vec![0xff; 16];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(number);
        bytes
    }

    /// RFC 4271 §6.1, with the data that each NOTIFICATION has to have.
    #[test]
    fn a_wrong_header_is_told() {
        let refused = |bytes: &[u8]| {
            let fault = Frame::parse(bytes, MAX_MESSAGE).unwrap_err();
            (fault.notification.code, fault.notification.data)
        };
        assert_eq!(refused(&[0xff, 0xfe]), (Code::MARKER, vec![]));
        assert_eq!(refused(b"GET / HTTP/1.1"), (Code::MARKER, vec![]));
        for (length, number) in [
            (18_u16, 4),
            (20, 4),
            (4097, 2),
            (28, 1),
            (22, 2),
            (20, 3),
            (22, 5),
        ] {
            let expected = (Code::BAD_LENGTH, length.to_be_bytes().to_vec());
            assert_eq!(refused(&header(length, number)), expected);
        }
        for number in [0, 6, 255] {
            assert_eq!(refused(&header(19, number)), (Code::BAD_TYPE, vec![number]));
        }
    }

    /// RFC 8654 §2 and §4.
    #[test]
    fn long_messages_are_for_those_who_agreed() {
        let bytes = header(4097, 2);
        assert_eq!(Frame::parse(&bytes, MAX_EXTENDED_MESSAGE), Ok(None));
        assert!(Frame::parse(&bytes, MAX_MESSAGE).is_err());
        assert!(Frame::parse(&header(4097, 1), MAX_EXTENDED_MESSAGE).is_err());
    }

    #[test]
    fn a_message_is_given_when_it_is_whole() {
        let mut bytes = Vec::new();
        encode_keepalive(&mut bytes);
        let refresh = RouteRefresh {
            family: Family::Ipv6,
            kind: RefreshKind::Begin,
        };
        refresh.encode(&mut bytes);
        for cut in 0..HEADER {
            assert_eq!(Frame::parse(&bytes[..cut], MAX_MESSAGE), Ok(None));
        }
        let first = Frame::parse(&bytes, MAX_MESSAGE).unwrap().unwrap();
        assert_eq!((first.kind, first.length()), (MessageType::Keepalive, 19));
        let second = Frame::parse(&bytes[19..], MAX_MESSAGE).unwrap().unwrap();
        assert_eq!(second.body, [0, 2, 1, 1]);
        assert_eq!(RouteRefresh::parse(second.body), Ok(Some(refresh)));
    }

    /// RFC 7313 §5.
    #[test]
    fn a_refresh_of_a_wrong_length_is_told_whole() {
        let fault = RouteRefresh::parse(&[0, 1, 1, 1, 9]).unwrap_err();
        assert_eq!(fault.notification.code, Code::REFRESH_LENGTH);
        assert_eq!(fault.notification.data[HEADER..], [0, 1, 1, 1, 9]);
        assert_eq!(RouteRefresh::parse(&[0, 1, 3, 1, 9]), Ok(None));
        assert_eq!(RouteRefresh::parse(&[0, 25, 0, 70]), Ok(None));
        let filtered = RouteRefresh::parse(&[0, 1, 0, 1, 1, 64, 0, 0]).unwrap();
        assert_eq!(filtered.unwrap().kind, RefreshKind::Request);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Frame::parse(&bytes, MAX_MESSAGE);
            let _ = RouteRefresh::parse(&bytes);
        }

        #[test]
        fn any_tail_is_read_or_refused(tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = vec![0xff; 16];
            bytes.extend_from_slice(&tail);
            if let Ok(Some(frame)) = Frame::parse(&bytes, MAX_MESSAGE) {
                prop_assert!(frame.length() <= bytes.len());
            }
        }
    }
}
