//! When an address is announced: a burst on take-over, then a refresh.

use std::time::Duration;

/// Offsets from the take-over. The first reaches most hosts, the repeats cover
/// a lost frame, and the one past a second covers hosts that refuse a second
/// change within their lock time.
pub(crate) const BURST: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(1100),
    Duration::from_millis(2200),
    Duration::from_secs(5),
];

/// How long after an announcement the next is due; `step` counts announcements
/// made since the take-over. The refresh is spread over its period by `spread`
/// (0 to 255), so that many addresses do not all speak at once.
pub(crate) fn gap(step: usize, spread: u8, refresh: Duration) -> Duration {
    match (BURST.get(step.wrapping_sub(1)), BURST.get(step)) {
        (Some(before), Some(next)) => next.saturating_sub(*before),
        _ => refresh.mul_f64(0.75 + f64::from(spread) / 512.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_ends_in_the_refresh() {
        let refresh = Duration::from_secs(100);
        let total: Duration = (1..BURST.len()).map(|step| gap(step, 0, refresh)).sum();
        assert_eq!(total, Duration::from_secs(5));
        assert_eq!(gap(BURST.len(), 0, refresh), Duration::from_secs(75));
        assert!(gap(BURST.len(), 255, refresh) < Duration::from_secs(125));
    }
}
