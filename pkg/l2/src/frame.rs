//! A frame to send, held in place: at high rates an allocation for each
//! answer would cost more than the answer.

use std::fmt;
use std::ops::Deref;

use crate::ethernet::Mac;

/// An Ethernet frame that we made; reads as its bytes.
#[derive(Clone, Copy)]
pub struct Frame {
    length: usize,
    bytes: [u8; Self::LONGEST],
}

impl Frame {
    /// Ethernet, IPv6 and a neighbour message with one option.
    pub const LONGEST: usize = 14 + 40 + 32;

    /// Only the Ethernet header so far.
    pub(crate) fn new(destination: Mac, source: Mac, kind: u16) -> Self {
        let mut frame = Self {
            length: 0,
            bytes: [0; Self::LONGEST],
        };
        frame.push(&destination.0);
        frame.push(&source.0);
        frame.push(&kind.to_be_bytes());
        frame
    }

    /// Adds bytes. Whoever makes frames keeps to [`Self::LONGEST`]; what is
    /// behind it would be cut.
    pub(crate) fn push(&mut self, more: &[u8]) {
        debug_assert!(self.length + more.len() <= Self::LONGEST);
        for (to, from) in self.bytes[self.length..].iter_mut().zip(more) {
            *to = *from;
        }
        self.length = (self.length + more.len()).min(Self::LONGEST);
    }

    /// Overwrites bytes that are there.
    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.bytes.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self[..] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
