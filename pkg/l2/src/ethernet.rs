//! Ethernet II framing (RFC 894).
//!
//! ```text
//!  0                   6                   12        14
//! +-------------------+-------------------+---------+----------
//! |    destination    |      source       |  type   | payload
//! +-------------------+-------------------+---------+----------
//! ```

use std::fmt;

use thiserror::Error;

pub(crate) const HEADER: usize = 14;
pub(crate) const TYPE_ARP: u16 = 0x0806;
pub(crate) const TYPE_IPV6: u16 = 0x86dd;

/// A 48-bit hardware address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All ones.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// All zeros, "unknown" in ARP.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether it stands for one interface.
    pub const fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

/// A frame that is not what its type says; it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It ends too early.
    #[error("the frame is too short")]
    Short,
    /// Of another protocol or kind.
    #[error("the frame is of another kind")]
    Kind,
    /// A field has a value that the protocol forbids.
    #[error("{0}")]
    Field(&'static str),
}

/// The type of a frame, if it is long enough to have one.
pub(crate) fn kind(frame: &[u8]) -> Option<u16> {
    array(frame, 12).map(u16::from_be_bytes).ok()
}

/// Destination, source, type and payload.
pub(crate) fn split(frame: &[u8]) -> Result<(Mac, Mac, u16, &[u8]), Malformed> {
    let (header, payload) = frame.split_at_checked(HEADER).ok_or(Malformed::Short)?;
    let mac = |at: usize| array::<6>(header, at).map(Mac);
    Ok((
        mac(0)?,
        mac(6)?,
        u16::from_be_bytes(array(header, 12)?),
        payload,
    ))
}

/// `N` bytes from offset `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    bytes
        .get(at..at.saturating_add(N))
        .and_then(|slice| slice.try_into().ok())
        .ok_or(Malformed::Short)
}
