//! How soon the API is tried again.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use kube::runtime::utils::Backoff;

/// Nothing depends on it but how soon new Services are seen once the API is
/// back.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// A watch that went well for so long begins at the shortest delay again. It
/// is not enough that something came: the begin of a list comes from ourselves,
/// before the API has been asked.
const WELL: Duration = Duration::from_secs(10);

/// Delays that double, until it goes well for a while.
#[derive(Debug)]
pub(crate) struct Retry {
    delays: ExponentialBackoff,
    last: Option<Instant>,
}

impl Retry {
    pub(crate) fn new() -> Self {
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
    fn the_begin_of_a_list_does_not_make_it_hasty() {
        let mut retry = Retry::new();
        for _ in 0..8 {
            retry.next();
            retry.reset();
        }
        assert!(retry.next().unwrap() >= LONGEST);
    }
}
