//! A turn of all sessions, with the sockets that their packets pass through.

use std::time::Instant;

use crate::sessions::{Arrival, Dropped, SessionId, Sessions, Transmit};

/// What becomes of the payload of a datagram.
pub type Take<'a> = &'a mut dyn FnMut(&[u8], &Arrival) -> Result<SessionId, Dropped>;

/// Where packets go to, and where they come from.
pub trait Wire {
    /// Sends a packet. One that does not get out is lost, as on the way.
    fn send(&mut self, transmit: &Transmit);

    /// Hands over each datagram that is there. With `fresh` also those that came so late
    /// that nothing has told of them yet: it is the last look before a peer is given up.
    fn receive(&mut self, fresh: bool, take: Take<'_>);
}

impl Sessions {
    /// Does all that is due, in the order that a stalled process needs: first what is
    /// late, so that no peer loses us for it; then what has come, so that it counts
    /// although it is read late; and only then who was not heard. What happened is told
    /// by [`poll_event`](Self::poll_event).
    pub fn turn(&mut self, wire: &mut impl Wire, clock: impl Fn() -> Instant) {
        let now = clock();
        self.start_turn(now);
        self.transmit(wire, now);
        self.receive(wire, false);
        if self.is_expiring(now) {
            self.receive(wire, true);
        }
        self.handle_expiries(now);
        self.transmit(wire, clock());
    }

    fn transmit(&mut self, wire: &mut impl Wire, now: Instant) {
        while let Some(transmit) = self.poll_transmit(now) {
            wire.send(&transmit);
        }
    }

    fn receive(&mut self, wire: &mut impl Wire, fresh: bool) {
        wire.receive(fresh, &mut |payload, arrival| {
            self.handle_datagram(payload, arrival)
        });
    }
}
