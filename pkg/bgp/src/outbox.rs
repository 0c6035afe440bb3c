//! What waits for a connection to take it.

use std::collections::VecDeque;

use crate::message::HEADER;
use crate::rib::Messages;

/// Messages that went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub messages: u64,
    pub updates: u64,
}

impl Sent {
    fn count(&mut self, kind: u8) {
        self.messages += 1;
        self.updates += u64::from(kind == 2);
    }
}

/// Whole messages, cut into bytes only by the socket.
#[derive(Debug, Default)]
struct Part {
    /// Bytes that are out.
    at: usize,
    /// The end of the message that is half out; [`at`](Self::at) if none is.
    boundary: usize,
    /// The type of that message.
    kind: u8,
}

impl Part {
    /// `count` more of `bytes` are out.
    fn advance(&mut self, bytes: &[u8], count: usize, sent: &mut Sent) {
        self.at += count;
        if self.boundary > self.at - count && self.boundary <= self.at {
            sent.count(self.kind);
        }
        while self.boundary < self.at {
            let start = self.boundary;
            self.boundary += length(&bytes[start..]);
            self.kind = bytes[start + HEADER - 1];
            if self.boundary <= self.at {
                sent.count(self.kind);
            }
        }
    }
}

/// The length in a header.
fn length(message: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([message[16], message[17]]))
}

/// See the module. Control messages go before routes, but never into the
/// middle of a message.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    control: Vec<u8>,
    control_part: Part,
    keepalive: bool,
    routes: VecDeque<Messages>,
    routes_part: Part,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.routes.is_empty()
    }

    /// Appends a control message with `write`.
    pub fn control(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.control);
    }

    /// Appends a KEEPALIVE, if none waits already.
    pub fn keepalive(&mut self) {
        if !std::mem::replace(&mut self.keepalive, true) {
            crate::message::encode_keepalive(&mut self.control);
        }
    }

    /// Appends messages with routes.
    pub fn routes(&mut self, messages: impl IntoIterator<Item = Messages>) {
        self.routes.extend(messages);
    }

    fn control_goes(&self) -> bool {
        let amid = self.routes_part.at != self.routes_part.boundary;
        !self.control.is_empty() && !amid
    }

    /// The bytes to send next; empty if there are none.
    pub fn pending(&self) -> &[u8] {
        if self.control_goes() {
            return &self.control[self.control_part.at..];
        }
        let Some(front) = self.routes.front() else {
            return &[];
        };
        let Part { at, boundary, .. } = self.routes_part;
        if self.control.is_empty() {
            &front[at..]
        } else {
            &front[at..boundary]
        }
    }

    /// The first `count` bytes of what is pending are out.
    pub fn consume(&mut self, count: usize) -> Sent {
        let mut sent = Sent::default();
        let count = count.min(self.pending().len());
        if self.control_goes() {
            self.control_part.advance(&self.control, count, &mut sent);
            if self.control_part.at == self.control.len() {
                self.control.clear();
                self.control_part = Part::default();
                self.keepalive = false;
            }
        } else if let Some(front) = self.routes.front() {
            self.routes_part.advance(front, count, &mut sent);
            if self.routes_part.at == front.len() {
                self.routes.pop_front();
                self.routes_part = Part::default();
            }
        }
        sent
    }

    /// The rest of a message that is half out.
    pub fn unfinished(&self) -> &[u8] {
        let Part { at, boundary, .. } = self.routes_part;
        if at != boundary {
            return self
                .routes
                .front()
                .map_or(&[], |front| &front[at..boundary]);
        }
        let Part { at, boundary, .. } = self.control_part;
        &self.control[at..boundary]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::family::Family;
    use crate::message::{Frame, MAX_MESSAGE, MessageType, RefreshKind, RouteRefresh};

    fn routes(lengths: &[usize]) -> Messages {
        let mut out = Vec::new();
        for length in lengths {
            let start = crate::message::begin(&mut out, MessageType::Update);
            out.resize(start + 23 + length, 7);
            crate::message::end(&mut out, start);
        }
        Arc::new(out)
    }

    fn kinds(bytes: &[u8]) -> Vec<MessageType> {
        let mut rest = bytes;
        let mut kinds = Vec::new();
        while let Some(frame) = Frame::parse(rest, MAX_MESSAGE).unwrap() {
            rest = &rest[frame.length()..];
            kinds.push(frame.kind);
        }
        assert!(rest.is_empty());
        kinds
    }

    #[test]
    fn a_keepalive_waits_once_and_for_the_end_of_a_message() {
        let mut outbox = Outbox::default();
        outbox.routes([routes(&[10, 20])]);
        assert_eq!(outbox.pending().len(), 76);
        assert_eq!(outbox.consume(5), Sent::default());
        outbox.keepalive();
        outbox.keepalive();
        assert_eq!(outbox.pending().len(), 28);
        assert_eq!(outbox.unfinished().len(), 28);
        outbox.consume(28);
        assert_eq!(outbox.pending().len(), 19);
        assert_eq!(outbox.unfinished().len(), 0);
        outbox.consume(19);
        assert_eq!(outbox.pending().len(), 43);
        let sent = outbox.consume(43);
        assert_eq!((sent.messages, sent.updates), (1, 1));
        assert!(outbox.is_empty());
    }

    proptest! {
        /// Whatever a socket takes, what arrives is whole messages, all of
        /// them, and each is counted once.
        #[test]
        fn what_arrives_is_whole(
            batches in proptest::collection::vec(proptest::collection::vec(0..60_usize, 1..6), 0..6),
            takes in proptest::collection::vec((1..70_usize, 0..3_u8), 1..300),
        ) {
            let mut outbox = Outbox::default();
            let updates: usize = batches.iter().map(Vec::len).sum();
            outbox.routes(batches.iter().map(|lengths| routes(lengths)));
            let mut arrived = Vec::new();
            let mut sent = Sent::default();
            let drained = std::iter::repeat((65_535, 0));
            for (count, control) in takes.into_iter().chain(drained) {
                match control {
                    1 => outbox.keepalive(),
                    2 => outbox.control(|out| {
                        RouteRefresh { family: Family::Ipv4, kind: RefreshKind::Begin }.encode(out);
                    }),
                    _ => {}
                }
                let pending = outbox.pending();
                if pending.is_empty() {
                    if count == 65_535 {
                        break;
                    }
                    continue;
                }
                let count = count.min(pending.len());
                arrived.extend_from_slice(&pending[..count]);
                let more = outbox.consume(count);
                sent.messages += more.messages;
                sent.updates += more.updates;
                // With the rest of a message all would be whole.
                let rest = [&arrived, outbox.unfinished()].concat();
                prop_assert!(kinds(&rest).len() as u64 >= sent.messages);
            }
            let arrived = kinds(&arrived);
            prop_assert_eq!(arrived.len() as u64, sent.messages);
            prop_assert_eq!(sent.updates, updates as u64);
            prop_assert_eq!(arrived.iter().filter(|k| **k == MessageType::Update).count(), updates);
        }
    }
}
