//! When an address is announced: a burst on take-over, then a refresh.

use std::time::Duration;

use crate::pace::Rate;

/// How an interface announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The limit on all announcements of the interface together.
    pub rate: Rate,
    /// When an address is announced, from its take-over on; the first is 0.
    pub burst: &'static [Duration],
    /// Between two announcements of an address that stays where it is, on
    /// average. A switch forgets a quiet port after 300 s while a router keeps
    /// its ARP entry longer, so that its packets would go nowhere.
    pub refresh: Duration,
    /// Questions a second about addresses of others, at the most; at least 1.
    pub questions: u32,
    /// Whether IPv4 addresses are announced by an ARP reply too, at the
    /// take-over and a second later, for devices that heed no request.
    pub replies: bool,
}

/// The first reaches most hosts, the repeats cover a lost frame, and the one
/// past a second covers hosts that refuse a second change within their lock
/// time.
const BURST: &[Duration] = &[
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(300),
    LOCK_TIME,
    Duration::from_millis(2200),
    Duration::from_secs(5),
];

/// The same reasons, with as few frames as they allow.
const POLITE_BURST: &[Duration] = &[Duration::ZERO, LOCK_TIME, Duration::from_secs(5)];

/// A little more than the second for which a host may refuse another change
/// (Linux `neigh.locktime`).
const LOCK_TIME: Duration = Duration::from_millis(1100);

impl Default for Profile {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Profile {
    /// For networks without a limit on ARP.
    pub const DEFAULT: Self = Self {
        rate: Rate {
            per_second: 500,
            burst: 1000,
        },
        burst: BURST,
        refresh: Duration::from_secs(90),
        questions: 5,
        replies: false,
    };

    /// For switches with dynamic ARP inspection, some of which close a port
    /// that sends more than 15 a second.
    pub const POLITE: Self = Self {
        rate: Rate {
            per_second: 10,
            burst: 10,
        },
        burst: POLITE_BURST,
        questions: 1,
        ..Self::DEFAULT
    };

    /// How long after an announcement the next is due; `step` counts those made
    /// since the take-over. The refresh is spread over its period by `spread`
    /// (0 to 255), so that many addresses do not all speak at once.
    pub(crate) fn gap(&self, step: usize, spread: u8) -> Duration {
        match (self.burst.get(step.wrapping_sub(1)), self.burst.get(step)) {
            (Some(before), Some(next)) => next.saturating_sub(*before),
            _ => self.refresh.mul_f64(0.75 + f64::from(spread) / 512.0),
        }
    }

    /// Whether the announcement after `step` others comes in the reply form too.
    pub(crate) fn replies_at(&self, step: usize) -> bool {
        let at = self.burst.get(step);
        self.replies && at.is_some_and(|at| at.is_zero() || *at == LOCK_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_ends_in_the_refresh() {
        for profile in [Profile::DEFAULT, Profile::POLITE] {
            let steps = profile.burst.len();
            let total: Duration = (1..steps).map(|step| profile.gap(step, 0)).sum();
            assert_eq!(total, Duration::from_secs(5));
            assert_eq!(profile.gap(steps, 0), profile.refresh.mul_f64(0.75));
            assert!(profile.gap(steps, 255) < profile.refresh.mul_f64(1.25));
        }
    }

    #[test]
    fn the_reply_form_comes_twice_and_only_when_asked_for() {
        let asked = Profile {
            replies: true,
            ..Profile::DEFAULT
        };
        let times = |profile: &Profile| (0..9).filter(|step| profile.replies_at(*step)).count();
        assert_eq!(times(&asked), 2);
        assert_eq!(times(&Profile::DEFAULT), 0);
    }
}
