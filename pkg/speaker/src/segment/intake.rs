//! Heartbeats that come in: whose they are, and by which way they came.

use std::sync::Arc;
use std::time::Instant;

use herald_election::{Election, Heartbeat, KeyRing, Reception};
use herald_net::Datagram;

use super::Segment;
use crate::beats::Beat;

/// Datagrams taken in before timers are looked at.
const BATCH: usize = 32;

impl Segment {
    /// Takes in a datagram, and those that wait behind it. For a while others wait in
    /// the sockets then, if many come: it is waking up for each that costs. When they
    /// came the kernel notes.
    pub(super) fn take_in(&mut self, ipv6: bool, first: Datagram, buffer: &mut [u8]) {
        let now = Instant::now();
        let gap = self.election.as_ref().map(Election::gap);
        let rest = gap.unwrap_or_default();
        let many = now < self.read_at + rest;
        self.read_at = now;
        let Some(keys) = self.common.keys.borrow().clone() else {
            return;
        };
        let mut datagram = first;
        for _ in 0..BATCH {
            self.take_one(&datagram, &buffer[..datagram.length], &keys);
            match self.beats.try_receive(ipv6, buffer) {
                Some(next) => datagram = next,
                None if many => {
                    self.read_at = now + rest;
                    break;
                }
                None => break,
            }
        }
        if let Some(election) = &mut self.election {
            election.handle_timeout(Instant::now());
        }
    }

    /// Takes in what waits in the sockets while nobody listens there.
    pub(super) fn take_waiting(&mut self, buffer: &mut [u8]) {
        if Instant::now() >= self.read_at {
            return;
        }
        for ipv6 in [false, true] {
            if let Some(datagram) = self.beats.try_receive(ipv6, buffer) {
                self.take_in(ipv6, datagram, buffer);
            }
        }
    }

    pub(super) fn take_one(&mut self, datagram: &Datagram, bytes: &[u8], keys: &KeyRing) {
        let now = Instant::now();
        let Some(Beat {
            heartbeat,
            at,
            source,
            on_link,
        }) = self.beats.read(datagram, bytes, keys, now)
        else {
            return;
        };
        let known = self
            .election
            .as_ref()
            .is_some_and(|election| election.knows(heartbeat.sender, heartbeat.session));
        // By another way than the link comes only a last word, to whom it concerns.
        if heartbeat.leaving && !known && heartbeat.sender != self.me {
            let _ = self.common.strays.send(Arc::new(heartbeat));
            return;
        }
        if !on_link {
            if heartbeat.leaving {
                self.stray(&heartbeat);
            } else {
                let error =
                    "a heartbeat that came through a router; something forwards UDP port 7474";
                self.beats.reject("off-link", &error);
            }
            return;
        }
        if heartbeat.sender == self.me && self.is_twin(heartbeat.session) {
            return;
        }
        let Some(election) = &mut self.election else {
            return;
        };
        match election.take_heartbeat(&heartbeat, at, now) {
            Reception::Counted => {
                if self.beats.heard(&heartbeat, source, now) {
                    let own = self.plan.borrow().own.clone();
                    self.publish(&own);
                }
            }
            Reception::Stranger => self.beats.heard_stranger(heartbeat.sender, source, now),
            Reception::Ignored => {}
        }
    }

    /// Whether a heartbeat of our own node comes from another interface of this
    /// process. Then both are on one segment, and the first of them speaks.
    pub(super) fn is_twin(&mut self, session: u64) -> bool {
        let Some(other) = self.sessions().get(&session).copied() else {
            return false;
        };
        if other < self.interface.index {
            tracing::warn!(
                interface = self.interface.name,
                other,
                "on the same segment as the interface with this index, which announces instead; \
                 bond the two, or exclude one with --exclude-interfaces"
            );
            self.twin = true;
            self.begin_or_end();
        }
        true
    }

    /// A last word that came by another way.
    pub(super) fn stray(&mut self, heartbeat: &Heartbeat) {
        if let Some(election) = &mut self.election
            && election.knows(heartbeat.sender, heartbeat.session)
        {
            election.handle_heartbeat(heartbeat, Instant::now());
        }
    }
}
