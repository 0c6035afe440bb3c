//! What a connection has to send, and that it gets out (RFC 9687).

use std::time::{Duration, Instant};

use crate::rib::Messages;
use crate::session::{ConnectionId, Output, Session};

impl Session {
    /// The bytes to send next on a connection; empty if there are none. How
    /// many went out is told by [`transmitted`](Self::transmitted).
    pub fn pending(&mut self, id: ConnectionId) -> &[u8] {
        let Some(connection) = self.get(id) else {
            return &[];
        };
        connection.transmitting = !connection.outbox.is_empty();
        connection.outbox.pending()
    }

    /// The socket took the first `count` bytes of what is pending.
    pub fn transmitted(&mut self, id: ConnectionId, count: usize, now: Instant) {
        let Some(at) = self.at(id) else {
            return;
        };
        let sent = self.connections[at].outbox.consume(count);
        self.counters.sent += sent.messages;
        self.counters.updates_sent += sent.updates;
        if sent.messages > 0 {
            self.sent_some(at, now);
        }
    }

    /// RFC 4271 §4.4 and RFC 9687 §3.2: a message is out, so that the next
    /// KEEPALIVE has time, and the peer reads.
    pub(super) fn sent_some(&mut self, at: usize, now: Instant) {
        let connection = &self.connections[at];
        let time = connection
            .terms()
            .map_or(Duration::ZERO, |terms| terms.keepalive_time);
        let next = now + self.pause(time);
        let send_hold = self.send_hold_time(at);
        let connection = &mut self.connections[at];
        connection.keepalive = connection.keepalive.map(|_| next);
        let waits = !connection.outbox.is_empty();
        connection.send_hold = send_hold.filter(|_| waits).map(|time| now + time);
    }

    /// RFC 9687 §3.2; none without a hold time.
    pub(super) fn send_hold_time(&self, at: usize) -> Option<Duration> {
        let terms = self.connections[at].terms()?;
        self.config.send_hold(terms.hold_time)
    }

    /// Bytes were put into an outbox.
    pub(super) fn touch(&mut self, id: ConnectionId, now: Instant) {
        let Some(at) = self.at(id) else {
            return;
        };
        let send_hold = self.send_hold_time(at);
        let connection = &mut self.connections[at];
        if connection.outbox.is_empty() {
            return;
        }
        connection.send_hold = connection.send_hold.or_else(|| Some(now + send_hold?));
        if !std::mem::replace(&mut connection.transmitting, true) {
            self.outputs.push_back(Output::Transmit(id));
        }
    }

    /// The connection of the session that is up, if it has nothing to send:
    /// then it may have routes.
    pub(crate) fn idle_connection(&self) -> Option<ConnectionId> {
        let mut connections = self.connections.iter();
        connections
            .find(|c| c.is_established() && c.outbox.is_empty())
            .map(|c| c.id)
    }

    /// Lets the caller come for bytes, though they are not there yet.
    pub(crate) fn ask_to_transmit(&mut self, id: ConnectionId) {
        if let Some(connection) = self.get(id)
            && !std::mem::replace(&mut connection.transmitting, true)
        {
            self.outputs.push_back(Output::Transmit(id));
        }
    }

    /// Routes to send.
    pub(crate) fn send(&mut self, id: ConnectionId, messages: Vec<Messages>, now: Instant) {
        if let Some(connection) = self.get(id) {
            connection.outbox.routes(messages);
            self.touch(id, now);
        }
    }

    pub(super) fn send_keepalive(&mut self, id: ConnectionId, now: Instant) {
        let terms = self.at(id).and_then(|at| self.connections[at].terms());
        let time = terms.map_or(Duration::ZERO, |terms| terms.keepalive_time);
        let next = now + self.pause(time);
        if let Some(connection) = self.get(id) {
            connection.keepalive = Some(next);
            connection.outbox.keepalive();
            self.touch(id, now);
        }
    }
}
