//! Events on peers: that a session is up, or not, and why.

use std::time::{Duration, Instant};

use super::Engine;
use crate::events::PeerNote;

/// So many events on a peer may follow each other at once.
const BURST: u32 = 5;
/// After which there is one in so long: a session that flaps is seen by its first
/// events, and the rest is in the `BGPStatus`.
const PERIOD: Duration = Duration::from_mins(2);

/// How many events on a peer may still be written.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    /// Up to when it was filled.
    filled: Instant,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            filled: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && self.filled + PERIOD <= now {
            self.left += 1;
            self.filled += PERIOD;
        }
        if self.left == BURST {
            self.filled = now;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

impl Engine {
    /// Leaves an event on a `BGPPeer`, unless there were many.
    pub(super) fn tell(&mut self, peer: &str, warning: bool, reason: &'static str, text: &str) {
        let now = Instant::now();
        let allowance = self
            .allowances
            .entry(peer.to_owned())
            .or_insert_with(|| Allowance::new(now));
        let orders = self.inputs.orders.borrow();
        let view = orders.as_ref().and_then(|orders| orders.peers.get(peer));
        let Some(view) = view.filter(|_| allowance.take(now)) else {
            return;
        };
        let note = PeerNote {
            namespace: self.inputs.namespace.clone(),
            peer: peer.to_owned(),
            uid: view.uid.clone(),
            warning,
            reason,
            text: format!("node {}: {text}", self.inputs.node),
        };
        if self.inputs.notes.try_send(note).is_err() {
            tracing::debug!(peer, reason, "too many events at once");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_flaps_is_told_of_now_and_then() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let mut told = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            told += u32::from(allowance.take(now));
        }
        assert_eq!(told, BURST + 4, "each two minutes one, after the first");
        let later = start + Duration::from_hours(1);
        let burst = (0..10).filter(|_| allowance.take(later)).count();
        assert_eq!(burst, BURST as usize);
    }
}
