//! Who may speak: heartbeats are sealed with a key that the speakers share.
//!
//! ```text
//!  +----------------------- ~ -----------------------+----------+---------+
//!  | heartbeat                                       | key id   | tag     |
//!  +----------------------- ~ -----------------------+----------+---------+
//!                                                      4 octets   16 octets
//! ```
//!
//! The tag is HMAC-SHA-256 over all that precedes it, cut to its first half
//! (RFC 2104, section 5). The key id is computed from the key, so that keys need
//! no numbers, and tells a receiver which of its keys to try.
//!
//! Keys change without an outage: first every speaker accepts the new one, then
//! they seal with it, then the old one goes. A speaker may be at any of these
//! steps while others are one step behind or ahead.

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Octets that sealing adds.
pub const TRAILER: usize = KEY_ID + TAG;

/// The shortest key, in octets: that of the tag, else the key is what is guessed.
pub const SHORTEST_KEY: usize = 16;

const KEY_ID: usize = 4;
const TAG: usize = 16;

/// Why a datagram is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    /// Not even long enough for a seal.
    #[error("a datagram without a seal; something else uses this port")]
    Short,
    /// Sealed with a key that we do not have.
    #[error(
        "sealed with another key; another cluster on this segment, or this speaker has not yet seen a new key"
    )]
    UnknownKey,
    /// Changed on the way, or forged.
    #[error("the seal is broken; the datagram was forged or changed on its way")]
    Forged,
}

/// Why keys are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// None was given.
    #[error("no key for heartbeats")]
    None,
    /// One is too short.
    #[error("a key for heartbeats has {0} octets; make one of {SHORTEST_KEY} or more")]
    Short(usize),
}

#[derive(Clone)]
struct Key {
    id: [u8; KEY_ID],
    hmac: Hmac<Sha256>,
}

impl Key {
    fn new(key: &[u8]) -> Result<Self, KeyError> {
        if key.len() < SHORTEST_KEY {
            return Err(KeyError::Short(key.len()));
        }
        let mut hash = Sha256::new();
        hash.update(b"herald heartbeat key id#");
        hash.update(key);
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
        Ok(Self {
            id: [a, b, c, d],
            hmac: Hmac::new_from_slice(key).map_err(|_| KeyError::Short(key.len()))?,
        })
    }
}

/// The keys of a speaker: it seals with the first, and accepts all.
#[derive(Clone)]
pub struct KeyRing {
    sealing: Key,
    others: Vec<Key>,
}

impl std::fmt::Debug for KeyRing {
    /// Never the keys themselves.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing")
            .field("sealing", &self.sealing.id)
            .finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Keys of [`SHORTEST_KEY`] octets or more, the one to seal with first.
    pub fn new<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>) -> Result<Self, KeyError> {
        let mut keys = keys.into_iter().map(|key| Key::new(key.as_ref()));
        Ok(Self {
            sealing: keys.next().ok_or(KeyError::None)??,
            others: keys.collect::<Result<_, _>>()?,
        })
    }

    /// Seals a message.
    pub fn seal(&self, mut message: Vec<u8>) -> Vec<u8> {
        message.extend_from_slice(&self.sealing.id);
        let mut hmac = self.sealing.hmac.clone();
        hmac.update(&message);
        message.extend_from_slice(&hmac.finalize().into_bytes()[..TAG]);
        message
    }

    /// The message in a sealed datagram.
    pub fn open<'a>(&self, datagram: &'a [u8]) -> Result<&'a [u8], AuthError> {
        let (message, trailer) = datagram
            .len()
            .checked_sub(TRAILER)
            .and_then(|length| datagram.split_at_checked(length))
            .ok_or(AuthError::Short)?;
        let (id, tag) = trailer.split_at(KEY_ID);
        let mut verdict = AuthError::UnknownKey;
        for key in std::iter::once(&self.sealing).chain(&self.others) {
            if key.id != id {
                continue;
            }
            let mut hmac = key.hmac.clone();
            hmac.update(message);
            hmac.update(id);
            if hmac.verify_truncated_left(tag).is_ok() {
                return Ok(message);
            }
            verdict = AuthError::Forged;
        }
        Err(verdict)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    #[test]
    fn keys_change_without_an_outage() {
        let steps = [vec![OLD], vec![OLD, NEW], vec![NEW, OLD], vec![NEW]];
        let rings = steps.map(|keys| KeyRing::new(keys).unwrap());
        for pair in rings.windows(2) {
            for (from, to) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
                assert_eq!(to.open(&from.seal(b"x".to_vec())), Ok(&b"x"[..]));
            }
        }
        let sealed = rings[0].seal(b"x".to_vec());
        assert_eq!(rings[3].open(&sealed), Err(AuthError::UnknownKey));
    }

    #[test]
    fn keys_that_can_be_guessed_are_refused() {
        assert_eq!(KeyRing::new([[0; 15]]).unwrap_err(), KeyError::Short(15));
        assert_eq!(KeyRing::new::<&[u8]>([]).unwrap_err(), KeyError::None);
    }

    #[test]
    fn keys_are_not_printed() {
        let ring = KeyRing::new([b"not to be seen by anybody"]).unwrap();
        assert!(!format!("{ring:?}").contains("not to be"));
    }

    proptest! {
        #[test]
        fn what_was_changed_is_not_taken_in(
            message in proptest::collection::vec(any::<u8>(), 0..200),
            at: proptest::sample::Index,
            flip in 1_u8..,
        ) {
            let ring = KeyRing::new([OLD, NEW]).unwrap();
            let mut sealed = ring.seal(message.clone());
            prop_assert_eq!(ring.open(&sealed), Ok(&message[..]));
            let at = at.index(sealed.len());
            sealed[at] ^= flip;
            prop_assert!(ring.open(&sealed).is_err());
        }

        #[test]
        fn hostile_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(KeyRing::new([OLD]).unwrap().open(&bytes).is_err());
        }
    }
}
