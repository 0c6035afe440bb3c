//! How soon a watch of the API is tried again after an outage.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use kube::runtime::utils::Backoff;

const SHORTEST: Duration = Duration::from_millis(200);
/// New Services wait this long, and its jitter, at most once the API is back. A
/// replica that tries again this often, with four watches, is no load.
const LONGEST: Duration = Duration::from_secs(2);

/// A watch that went well for so long begins at the shortest delay again.
/// Events alone are no sign: the begin of a list comes from ourselves, before
/// the API has been asked.
const WELL: Duration = Duration::from_secs(10);

/// Delays that double from 0.2 s to 2 s, each with up to as much again at
/// random, until a watch goes well for 10 s. They never end.
#[derive(Debug)]
pub struct Retry {
    delays: ExponentialBackoff,
    last: Option<Instant>,
}

/// Begins at the shortest delay.
impl Default for Retry {
    fn default() -> Self {
        Self {
            delays: delays(),
            last: None,
        }
    }
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(SHORTEST)
        .with_max_delay(LONGEST)
        // Adds at most as much again.
        .with_jitter()
        .without_max_times()
        .build()
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.last = Some(Instant::now());
        self.delays.next()
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() > WELL) {
            self.delays = delays();
            self.last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_short_limit_and_never_end() {
        let mut retry = Retry::default();
        let delays: Vec<Duration> = (0..100)
            .map(|_| {
                retry.reset();
                retry.next().expect("it is tried for ever")
            })
            .collect();
        assert!(delays[0] < 2 * SHORTEST + SHORTEST);
        assert!(delays.iter().all(|delay| *delay <= 2 * LONGEST));
        assert!(delays[99] >= LONGEST, "a list's begin made it hasty");
    }
}
