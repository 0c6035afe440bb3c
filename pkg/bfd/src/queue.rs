//! Which of many timers is due next.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Instant;

use crate::sessions::SessionId;

/// A heap of at most one live entry for each session. A timer that moves
/// further away, as a Detection Time does with each packet, costs nothing: its
/// entry comes up too early, and the session is asked again.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<(Instant, SessionId)>>,
    live: HashMap<SessionId, Instant>,
}

impl Queue {
    /// Has the session come up at `due` or before.
    pub(crate) fn schedule(&mut self, session: SessionId, due: Instant) {
        if self.live.get(&session).is_some_and(|live| *live <= due) {
            return;
        }
        self.live.insert(session, due);
        self.heap.push(Reverse((due, session)));
    }

    /// The session is no more.
    pub(crate) fn forget(&mut self, session: SessionId) {
        self.live.remove(&session);
    }

    /// When the next session comes up.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        while let Some(Reverse((due, session))) = self.heap.peek() {
            if self.live.get(session) == Some(due) {
                return Some(*due);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes out a session that has come up.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<SessionId> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, session)) = self.heap.pop()?;
        self.live.remove(&session);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_time_counts_and_comes_up_once() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let (one, two) = (
            SessionId::from_discriminator(1),
            SessionId::from_discriminator(2),
        );
        let mut queue = Queue::default();
        queue.schedule(one, at(20));
        queue.schedule(two, at(15));
        queue.schedule(one, at(30));
        queue.schedule(one, at(10));
        assert_eq!(queue.next(), Some(at(10)));
        assert_eq!(queue.pop(at(9)), None);
        assert_eq!(queue.pop(at(100)), Some(one));
        assert_eq!(queue.pop(at(100)), Some(two));
        assert_eq!(queue.pop(at(100)), None);
        queue.schedule(one, at(1));
        queue.forget(one);
        assert_eq!(queue.next(), None);
    }
}
