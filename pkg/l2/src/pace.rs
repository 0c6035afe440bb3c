//! How fast an interface may announce. Some switches close a port that sends
//! too much ARP (dynamic ARP inspection), and hosts drop a flood.

use std::time::{Duration, Instant};

/// A limit on announcements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Frames a second, on and on; at least 1.
    pub per_second: u32,
    /// Frames that may go out at once after a quiet time; at least 1.
    pub burst: u32,
}

impl Rate {
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }

    /// How long an empty bucket takes to fill.
    fn fill(self) -> Duration {
        self.interval() * self.burst.max(1)
    }
}

/// A token bucket, kept as the time at which it was last empty: it holds one
/// token for each interval since then.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Rate,
    empty: Instant,
}

impl Pace {
    /// A full bucket. `now` need not be exact.
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        // Early in the life of a machine the clock may not reach back so far;
        // the first burst is smaller then.
        Self {
            rate,
            empty: now.checked_sub(rate.fill()).unwrap_or(now),
        }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let free = self.next() <= now;
        if free {
            self.spend(now);
        }
        free
    }

    /// Takes a token though there may be none: what comes next waits for it.
    pub(crate) fn spend(&mut self, now: Instant) {
        if let Some(full) = now.checked_sub(self.rate.fill()) {
            self.empty = self.empty.max(full);
        }
        self.empty += self.rate.interval();
    }

    /// When there is a token; may have passed.
    pub(crate) fn next(&self) -> Instant {
        self.empty + self.rate.interval()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 200,
        burst: 500,
    };

    fn taken(pace: &mut Pace, now: Instant) -> u32 {
        (0..2 * RATE.burst).map(|_| u32::from(pace.take(now))).sum()
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let begin = Instant::now() + Duration::from_hours(1);
        let mut pace = Pace::new(RATE, begin);
        assert_eq!(taken(&mut pace, begin), RATE.burst);
        let interval = RATE.interval();
        assert!(!pace.take(begin + interval / 2));
        assert!(pace.take(begin + interval));
        let second = begin + interval + Duration::from_secs(1);
        assert_eq!(taken(&mut pace, second), RATE.per_second);
    }

    #[test]
    fn a_long_quiet_time_saves_no_more_than_a_burst() {
        let begin = Instant::now() + Duration::from_hours(1);
        let mut pace = Pace::new(RATE, begin);
        assert_eq!(
            taken(&mut pace, begin + Duration::from_hours(1)),
            RATE.burst
        );
    }

    #[test]
    fn what_was_sent_beyond_the_rate_is_waited_for() {
        let begin = Instant::now() + Duration::from_hours(1);
        let mut pace = Pace::new(RATE, begin);
        taken(&mut pace, begin);
        pace.spend(begin);
        assert!(!pace.take(begin + RATE.interval()));
        assert!(pace.take(begin + 2 * RATE.interval()));
    }
}
