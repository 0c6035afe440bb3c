//! Whose turn it is: by time, and among those whose time has come, by how often
//! they have been announced.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

/// Where an address stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    step: usize,
    due: Instant,
    ripe: bool,
}

/// Turns to come. An address has one at the most; its owner keeps the slot.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeSet<(Instant, usize, IpAddr)>,
    /// Their time has come, and the pace is what they wait for.
    ripe: BTreeSet<(usize, Instant, IpAddr)>,
}

impl Queue {
    /// `step`: announcements that it has had; the fewer, the sooner it comes
    /// when there are more than the pace allows.
    pub(super) fn insert(
        &mut self,
        address: IpAddr,
        due: Instant,
        step: usize,
        now: Instant,
    ) -> Slot {
        let ripe = due <= now;
        if ripe {
            self.ripe.insert((step, due, address));
        } else {
            self.waiting.insert((due, step, address));
        }
        Slot { step, due, ripe }
    }

    pub(super) fn remove(&mut self, address: IpAddr, slot: Option<Slot>) {
        match slot {
            Some(Slot { step, due, ripe }) if ripe => self.ripe.remove(&(step, due, address)),
            Some(Slot { step, due, .. }) => self.waiting.remove(&(due, step, address)),
            None => false,
        };
    }

    /// Moves one whose time has come to those that wait for the pace; returns
    /// its new slot.
    pub(super) fn ripen(&mut self, now: Instant) -> Option<(IpAddr, Slot)> {
        let (due, step, address) = *self.waiting.first().filter(|(due, ..)| *due <= now)?;
        self.waiting.pop_first();
        self.ripe.insert((step, due, address));
        let ripe = true;
        Some((address, Slot { step, due, ripe }))
    }

    /// Whether nobody waits for the pace.
    pub(super) fn is_idle(&self) -> bool {
        self.ripe.is_empty()
    }

    /// Whose turn it is; their slot is void.
    pub(super) fn pop(&mut self) -> Option<IpAddr> {
        self.ripe.pop_first().map(|(.., address)| address)
    }

    /// When there is something to do, given when the pace allows it.
    pub(super) fn next(&self, pace: Instant) -> Option<Instant> {
        let waiting = self.waiting.first().map(|(due, ..)| (*due).max(pace));
        let ripe = (!self.ripe.is_empty()).then_some(pace);
        waiting.into_iter().chain(ripe).min()
    }
}
