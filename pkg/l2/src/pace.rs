//! How fast an interface may announce. Some switches close a port that sends
//! too much ARP (dynamic ARP inspection), and hosts drop a flood.

use std::time::{Duration, Instant};

/// Announcements a second, on and on.
const RATE: u32 = 200;
/// Announcements that may go out at once after a quiet time.
pub(crate) const BURST: u32 = 500;

/// A token bucket, kept as the time at which it was last empty: it holds one
/// token for each [`interval`] since then.
#[derive(Debug)]
pub(crate) struct Pace {
    empty: Instant,
}

fn interval() -> Duration {
    Duration::from_secs(1) / RATE
}

impl Pace {
    /// A full bucket. `now` need not be exact.
    pub(crate) fn new(now: Instant) -> Self {
        // Early in the life of a machine the clock may not reach back so far;
        // the first burst is smaller then.
        Self {
            empty: now.checked_sub(interval() * BURST).unwrap_or(now),
        }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if let Some(full) = now.checked_sub(interval() * BURST) {
            self.empty = self.empty.max(full);
        }
        let free = self.next() <= now;
        if free {
            self.empty += interval();
        }
        free
    }

    /// When there is a token; may have passed.
    pub(crate) fn next(&self) -> Instant {
        self.empty + interval()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let begin = Instant::now() + Duration::from_hours(1);
        let mut pace = Pace::new(begin);
        let burst = (0..2 * BURST).filter(|_| pace.take(begin)).count();
        assert_eq!(burst, usize::try_from(BURST).unwrap());
        assert!(!pace.take(begin + interval() / 2));
        assert!(pace.take(begin + interval()));
        let second = begin + interval() + Duration::from_secs(1);
        let more = (0..2 * BURST).filter(|_| pace.take(second)).count();
        assert_eq!(more, usize::try_from(RATE).unwrap());
    }

    #[test]
    fn a_long_quiet_time_saves_no_more_than_a_burst() {
        let begin = Instant::now() + Duration::from_hours(1);
        let mut pace = Pace::new(begin);
        let later = begin + Duration::from_hours(1);
        let burst = (0..2 * BURST).filter(|_| pace.take(later)).count();
        assert_eq!(burst, usize::try_from(BURST).unwrap());
    }
}
