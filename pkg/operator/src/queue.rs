//! Which Services are to be looked at, and when. A key is in it once; one that
//! is being worked on is not handed out again before it is done; one that
//! failed waits, twice as long each time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use herald_core::ServiceKey;

const FIRST_BACK_OFF: Duration = Duration::from_millis(200);
const LAST_BACK_OFF: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    due: BTreeSet<(Instant, ServiceKey)>,
    at: HashMap<ServiceKey, Instant>,
    working: HashSet<ServiceKey>,
    /// Asked for while being worked on.
    again: HashSet<ServiceKey>,
    failures: HashMap<ServiceKey, u32>,
}

impl Queue {
    /// Looks at a Service at `when` or before.
    pub(crate) fn add(&mut self, key: ServiceKey, when: Instant) {
        if self.working.contains(&key) {
            self.again.insert(key);
            return;
        }
        if let Some(at) = self.at.get(&key) {
            if *at <= when {
                return;
            }
            self.due.remove(&(*at, key.clone()));
        }
        self.at.insert(key.clone(), when);
        self.due.insert((when, key));
    }

    /// The next Service that is due.
    pub(crate) fn take(&mut self, now: Instant) -> Option<ServiceKey> {
        let (when, _) = self.due.first()?;
        if *when > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        self.at.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(when, _)| *when)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Work on a Service went well; it is looked at again after `recheck`.
    pub(crate) fn done(&mut self, key: &ServiceKey, now: Instant, recheck: Option<Duration>) {
        self.failures.remove(key);
        self.finish(key, now, recheck.map(|after| now + after));
    }

    /// Work on a Service failed; it is tried again after its back-off, or after
    /// `at_least`, or at once if it changed meanwhile.
    pub(crate) fn failed(&mut self, key: &ServiceKey, now: Instant, at_least: Option<Duration>) {
        let failures = self.failures.entry(key.clone()).or_default();
        let back_off = FIRST_BACK_OFF
            .saturating_mul(2u32.saturating_pow(*failures))
            .min(LAST_BACK_OFF)
            .max(at_least.unwrap_or_default());
        *failures = failures.saturating_add(1);
        self.finish(key, now, Some(now + back_off));
    }

    fn finish(&mut self, key: &ServiceKey, now: Instant, next: Option<Instant>) {
        self.working.remove(key);
        let next = if self.again.remove(key) {
            Some(now)
        } else {
            next
        };
        if let Some(when) = next {
            self.add(key.clone(), when);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new("default", name)
    }

    #[test]
    fn a_key_is_worked_on_once_at_a_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"), now);
        queue.add(key("a"), now);
        assert_eq!(queue.take(now), Some(key("a")));
        assert_eq!(queue.take(now), None);
        queue.add(key("a"), now);
        assert_eq!(queue.take(now), None, "it is being worked on");
        queue.done(&key("a"), now, None);
        assert_eq!(queue.take(now), Some(key("a")));
    }

    #[test]
    fn a_failure_waits_longer_each_time_and_alone() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(key("bad"), now);
        let mut waits = Vec::new();
        let mut at = now;
        for _ in 0..3 {
            queue.take(at).unwrap();
            queue.failed(&key("bad"), at, None);
            queue.add(key("good"), at);
            assert_eq!(queue.take(at), Some(key("good")));
            queue.done(&key("good"), at, None);
            let next = queue.next().unwrap();
            waits.push((next - at).as_millis());
            at = next;
        }
        assert_eq!(waits, [200, 400, 800]);
        queue.take(at).unwrap();
        queue.done(&key("bad"), at, None);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn an_edit_during_a_failing_attempt_does_not_wait() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"), now);
        queue.take(now).unwrap();
        queue.add(key("a"), now);
        queue.failed(&key("a"), now, Some(LAST_BACK_OFF));
        assert_eq!(queue.take(now), Some(key("a")));
        queue.failed(&key("a"), now, None);
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn an_earlier_time_wins() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"), now + Duration::from_mins(1));
        queue.add(key("a"), now);
        assert_eq!(queue.take(now), Some(key("a")));
    }
}
