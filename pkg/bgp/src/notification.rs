//! NOTIFICATION (RFC 4271 §4.5): why a session ends, in codes and in words.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |  Error code   | Error subcode |        Data (variable)        |
//! +---------------+---------------+-------------------------------+
//! ```

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

use crate::message::{MessageType, begin, end};
use crate::read::Reader;

/// The longest shutdown communication, in bytes of UTF-8 (RFC 9003 §2).
pub const LONGEST_COMMUNICATION: usize = 255;

/// An error code and its subcode. Those without a name here are legal too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    /// Error code.
    pub code: u8,
    /// Error subcode; 0: unspecific.
    pub subcode: u8,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $subcode:literal, $words:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, subcode: $subcode };)*

            /// What the two numbers mean; none for those without a name.
            pub const fn words(self) -> Option<&'static str> {
                match (self.code, self.subcode) {
                    $(($code, $subcode) => Some($words),)*
                    _ => None,
                }
            }

            /// Every pair that has a name.
            pub const NAMED: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

codes! {
    /// RFC 4271 §6.1.
    MARKER = 1, 1, "connection not synchronized: the marker is not all ones";
    /// RFC 4271 §6.1.
    BAD_LENGTH = 1, 2, "bad message length";
    /// RFC 4271 §6.1.
    BAD_TYPE = 1, 3, "bad message type";
    /// RFC 4271 §6.2.
    OPEN_UNSPECIFIC = 2, 0, "malformed OPEN";
    /// RFC 4271 §6.2.
    UNSUPPORTED_VERSION = 2, 1, "unsupported BGP version";
    /// RFC 4271 §6.2.
    BAD_PEER_AS = 2, 2, "bad peer AS";
    /// RFC 4271 §6.2, RFC 6286 §2.2.
    BAD_IDENTIFIER = 2, 3, "bad BGP identifier";
    /// RFC 4271 §6.2.
    UNSUPPORTED_PARAMETER = 2, 4, "unsupported optional parameter";
    /// RFC 4271 §6.2, deprecated.
    AUTHENTICATION = 2, 5, "authentication failure";
    /// RFC 4271 §6.2.
    BAD_HOLD_TIME = 2, 6, "unacceptable hold time";
    /// RFC 5492 §5.
    UNSUPPORTED_CAPABILITY = 2, 7, "unsupported capability";
    /// RFC 9234 §6.
    ROLE_MISMATCH = 2, 11, "role mismatch";
    /// RFC 4271 §6.3.
    UPDATE_UNSPECIFIC = 3, 0, "malformed UPDATE";
    /// RFC 4271 §6.3.
    ATTRIBUTE_LIST = 3, 1, "malformed attribute list";
    /// RFC 4271 §6.3.
    UNRECOGNIZED_ATTRIBUTE = 3, 2, "unrecognized well-known attribute";
    /// RFC 4271 §6.3.
    MISSING_ATTRIBUTE = 3, 3, "missing well-known attribute";
    /// RFC 4271 §6.3.
    ATTRIBUTE_FLAGS = 3, 4, "attribute flags error";
    /// RFC 4271 §6.3.
    ATTRIBUTE_LENGTH = 3, 5, "attribute length error";
    /// RFC 4271 §6.3.
    BAD_ORIGIN = 3, 6, "invalid ORIGIN attribute";
    /// RFC 1771 §6.3, deprecated.
    ROUTING_LOOP = 3, 7, "AS routing loop";
    /// RFC 4271 §6.3.
    BAD_NEXT_HOP = 3, 8, "invalid NEXT_HOP attribute";
    /// RFC 4271 §6.3.
    OPTIONAL_ATTRIBUTE = 3, 9, "optional attribute error";
    /// RFC 4271 §6.3.
    BAD_NETWORK = 3, 10, "invalid network field";
    /// RFC 4271 §6.3.
    BAD_AS_PATH = 3, 11, "malformed AS_PATH";
    /// RFC 4271 §6.5.
    HOLD_TIMER = 4, 0, "hold timer expired";
    /// RFC 4271 §6.6.
    FSM_UNSPECIFIC = 5, 0, "finite state machine error";
    /// RFC 6608 §3.
    UNEXPECTED_IN_OPEN_SENT = 5, 1, "unexpected message in OpenSent";
    /// RFC 6608 §3.
    UNEXPECTED_IN_OPEN_CONFIRM = 5, 2, "unexpected message in OpenConfirm";
    /// RFC 6608 §3.
    UNEXPECTED_IN_ESTABLISHED = 5, 3, "unexpected message in Established";
    /// RFC 4271 §6.7.
    CEASE = 6, 0, "cease";
    /// RFC 4486 §4.
    MAXIMUM_PREFIXES = 6, 1, "maximum number of prefixes reached";
    /// RFC 4486 §4, RFC 9003.
    ADMINISTRATIVE_SHUTDOWN = 6, 2, "administrative shutdown";
    /// RFC 4486 §4.
    PEER_DECONFIGURED = 6, 3, "peer de-configured";
    /// RFC 4486 §4, RFC 9003.
    ADMINISTRATIVE_RESET = 6, 4, "administrative reset";
    /// RFC 4486 §4.
    CONNECTION_REJECTED = 6, 5, "connection rejected";
    /// RFC 4486 §4.
    CONFIGURATION_CHANGE = 6, 6, "other configuration change";
    /// RFC 4486 §4.
    COLLISION = 6, 7, "connection collision resolution";
    /// RFC 4486 §4.
    OUT_OF_RESOURCES = 6, 8, "out of resources";
    /// RFC 8538 §3.1.
    HARD_RESET = 6, 9, "hard reset";
    /// RFC 9384 §2.
    BFD_DOWN = 6, 10, "BFD down";
    /// RFC 7313 §5.
    REFRESH_LENGTH = 7, 1, "invalid ROUTE-REFRESH message length";
    /// RFC 9687 §3.
    SEND_HOLD_TIMER = 8, 0, "send hold timer expired";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, subcode } = *self;
        match (self.words(), code) {
            (Some(words), _) => write!(f, "{words} ({code}/{subcode})"),
            (None, 1) => write!(f, "message header error ({code}/{subcode})"),
            (None, 2) => write!(f, "OPEN error ({code}/{subcode})"),
            (None, 3) => write!(f, "UPDATE error ({code}/{subcode})"),
            (None, 4) => write!(f, "hold timer expired ({code}/{subcode})"),
            (None, 5) => write!(f, "finite state machine error ({code}/{subcode})"),
            (None, 6) => write!(f, "cease ({code}/{subcode})"),
            (None, 7) => write!(f, "ROUTE-REFRESH error ({code}/{subcode})"),
            (None, 8) => write!(f, "send hold timer expired ({code}/{subcode})"),
            _ => write!(f, "error {code}/{subcode}"),
        }
    }
}

/// A NOTIFICATION, whatever its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What it is about.
    pub code: Code,
    /// What goes with it; its form depends on the code.
    pub data: Vec<u8>,
}

impl From<Code> for Notification {
    fn from(code: Code) -> Self {
        Self::new(code, [])
    }
}

impl Notification {
    /// With `data`, at most what a message holds.
    pub fn new(code: Code, data: impl Into<Vec<u8>>) -> Self {
        let mut data = data.into();
        data.truncate(4096 - 21);
        Self { code, data }
    }

    /// One of `code` with a shutdown communication (RFC 9003 §2), cut to
    /// [`LONGEST_COMMUNICATION`] at a character's end. For administrative
    /// shutdown and reset.
    pub fn with_communication(code: Code, text: &str) -> Self {
        let text = &text[..text.floor_char_boundary(LONGEST_COMMUNICATION)];
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        let mut data = vec![length];
        data.extend_from_slice(text.as_bytes());
        Self::new(code, data)
    }

    /// Asks a peer that retains routes over NOTIFICATIONs not to retain them
    /// over this one (RFC 8538 §3.1).
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let mut data = vec![self.code.code, self.code.subcode];
        data.extend_from_slice(&self.data);
        Self::new(Code::HARD_RESET, data)
    }

    /// What stands inside a hard reset.
    pub fn inner(&self) -> Option<Self> {
        match (self.code, self.data.as_slice()) {
            (Code::HARD_RESET, [code, subcode, data @ ..]) => {
                let code = Code {
                    code: *code,
                    subcode: *subcode,
                };
                Some(Self::new(code, data))
            }
            _ => None,
        }
    }

    /// The shutdown communication (RFC 9003 §2), fit for a log: what is not
    /// UTF-8 or not printable is replaced. None if there is none or its length
    /// is wrong.
    pub fn communication(&self) -> Option<String> {
        if !matches!(
            self.code,
            Code::ADMINISTRATIVE_SHUTDOWN | Code::ADMINISTRATIVE_RESET
        ) {
            return None;
        }
        let mut data = Reader(&self.data);
        let length = data.u8()?;
        let text = data.take(length.into())?;
        let text = String::from_utf8_lossy(text);
        let shown = text.chars().map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        });
        (length > 0).then(|| shown.collect())
    }

    /// Reads the body of a NOTIFICATION; none if it has not even two bytes.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut body = Reader(body);
        let code = Code {
            code: body.u8()?,
            subcode: body.u8()?,
        };
        Some(Self {
            code,
            data: body.0.to_vec(),
        })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin(out, MessageType::Notification);
        out.extend_from_slice(&[self.code.code, self.code.subcode]);
        out.extend_from_slice(&self.data);
        end(out, start);
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(inner) = self.inner() {
            // One level: an inner hard reset is told by its numbers.
            write!(f, "hard reset: {}", inner.code)?;
            if let Some(text) = inner.communication() {
                write!(f, ": {text:?}")?;
            }
            return Ok(());
        }
        write!(f, "{}", self.code)?;
        if let Some(text) = self.communication() {
            write!(f, ": {text:?}")?;
        }
        Ok(())
    }
}

/// Something that a peer sent for which the session must end.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{detail}")]
pub struct Fault {
    /// What to send.
    pub notification: Notification,
    /// What was wrong, in words.
    pub detail: Cow<'static, str>,
}

impl Fault {
    pub(crate) fn new(
        code: Code,
        data: impl Into<Vec<u8>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            notification: Notification::new(code, data),
            detail: detail.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{HEADER, MAX_MESSAGE};

    #[test]
    fn a_communication_is_told_and_cut_at_a_character() {
        let told =
            Notification::with_communication(Code::ADMINISTRATIVE_SHUTDOWN, "node drain: worker-1");
        assert_eq!(told.communication().unwrap(), "node drain: worker-1");
        assert_eq!(
            told.to_string(),
            "administrative shutdown (6/2): \"node drain: worker-1\""
        );
        let long = "ä".repeat(200);
        let told = Notification::with_communication(Code::ADMINISTRATIVE_RESET, &long);
        assert_eq!(told.data[0], 254);
        assert_eq!(told.communication().unwrap().chars().count(), 127);
    }

    /// RFC 9003 §4: hostile text does not reach a log as it is.
    #[test]
    fn a_communication_of_a_peer_is_made_printable() {
        let told = Notification::new(Code::ADMINISTRATIVE_SHUTDOWN, *b"\x06a\x1b\nb\xff");
        assert_eq!(told.communication(), None);
        let told = Notification::new(Code::ADMINISTRATIVE_SHUTDOWN, *b"\x05a\x1b\nb\xff");
        assert_eq!(told.communication().unwrap(), "a\u{fffd}\u{fffd}b\u{fffd}");
        let silent = Notification::new(Code::ADMINISTRATIVE_SHUTDOWN, [0]);
        assert_eq!(silent.communication(), None);
    }

    /// RFC 8538 §3.1.
    #[test]
    fn a_hard_reset_carries_another() {
        let inner = Notification::with_communication(Code::ADMINISTRATIVE_SHUTDOWN, "bye");
        let outer = inner.clone().into_hard_reset();
        assert_eq!(outer.code, Code::HARD_RESET);
        assert_eq!(outer.data[..2], [6, 2]);
        assert_eq!(outer.inner(), Some(inner));
        assert_eq!(
            outer.to_string(),
            "hard reset: administrative shutdown (6/2): \"bye\""
        );
        assert_eq!(Notification::from(Code::HARD_RESET).inner(), None);
    }

    #[test]
    fn every_name_is_told_with_its_numbers() {
        for code in Code::NAMED {
            let told = code.to_string();
            assert!(told.ends_with(&format!("({}/{})", code.code, code.subcode)));
        }
        let unnamed = Code {
            code: 6,
            subcode: 77,
        };
        assert_eq!(unnamed.to_string(), "cease (6/77)");
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_back(body in proptest::collection::vec(any::<u8>(), 2..300)) {
            let read = Notification::parse(&body).unwrap();
            let _ = (read.to_string(), read.communication());
            let mut out = Vec::new();
            read.encode(&mut out);
            prop_assert!(out.len() <= MAX_MESSAGE);
            prop_assert_eq!(&out[HEADER..], &body[..]);
        }
    }
}
