//! How long a container that ended waits for its next start.

use std::time::Duration;

/// The kubelet begins with 10 s and ends with 5 min; a lab has less time.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// After so long a life the past is forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_mins(1);

/// The delays of one container. As with the kubelet, the first restart comes
/// at once; from the second on, each waits twice as long as the one before.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The delay after a life of `lived`.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        let next = match self.last {
            Some(last) if lived < FORGIVEN_AFTER => (last * 2).clamp(FIRST, LONGEST),
            _ => Duration::ZERO,
        };
        self.last = Some(next);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit() {
        let mut backoff = Backoff::default();
        let delays: Vec<u64> = (0..8)
            .map(|_| backoff.after(Duration::ZERO).as_secs())
            .collect();
        assert_eq!(delays, [0, 1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_long_life_is_a_new_start() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.after(Duration::ZERO);
        }
        assert_eq!(backoff.after(FORGIVEN_AFTER), Duration::ZERO);
        assert_eq!(backoff.after(Duration::ZERO), FIRST);
    }
}
