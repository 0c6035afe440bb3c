//! The fake's time: it runs, runs faster, or stands until it is told to go on.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// How time passes in the fake.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Pace {
    /// So many seconds in each second, above 0; 1 is real time.
    Running(f64),
    /// Only when it is told to.
    Stopped,
}

/// A clock that begins at 0. It reads tokio's, so a test with paused time has
/// a paused fake.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pace: Pace,
    started: tokio::time::Instant,
    started_at: SystemTime,
    advanced: Duration,
}

impl Clock {
    /// A clock that starts now.
    pub fn start(pace: Pace) -> Self {
        Self {
            pace,
            started: tokio::time::Instant::now(),
            started_at: SystemTime::now(),
            advanced: Duration::ZERO,
        }
    }

    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.advanced
            + match self.pace {
                Pace::Running(speed) => scaled(self.started.elapsed(), speed),
                Pace::Stopped => Duration::ZERO,
            }
    }

    /// Moves it forward, at any pace.
    pub fn advance(&mut self, by: Duration) {
        self.advanced = self.advanced.saturating_add(by);
    }

    /// The date that a time of this clock stands for.
    pub fn date(&self, time: Duration) -> SystemTime {
        self.started_at + time
    }

    /// A time of this clock as an instant, for what counts in those.
    pub fn instant(&self, time: Duration) -> Instant {
        self.started.into_std() + time
    }

    /// How long a time of this clock takes in the world; none if it stands.
    pub fn in_the_world(&self, time: Duration) -> Option<Duration> {
        match self.pace {
            Pace::Running(speed) => Some(scaled(time, speed.recip())),
            Pace::Stopped => None,
        }
    }
}

/// Nanoseconds are enough for 584 years.
fn scaled(time: Duration, by: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() * by).unwrap_or(Duration::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_at_its_pace_and_can_be_moved() {
        let mut fast = Clock::start(Pace::Running(1000.0));
        let mut stopped = Clock::start(Pace::Stopped);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2) {}
        assert!(fast.now() >= Duration::from_secs(2));
        assert_eq!(stopped.now(), Duration::ZERO);
        let before = fast.now();
        fast.advance(Duration::from_hours(1));
        stopped.advance(Duration::from_secs(1));
        assert!(fast.now() >= before + Duration::from_hours(1));
        assert_eq!(stopped.now(), Duration::from_secs(1));
        assert_eq!(
            fast.in_the_world(Duration::from_secs(5)),
            Some(Duration::from_millis(5))
        );
        assert_eq!(stopped.in_the_world(Duration::from_secs(5)), None);
    }
}
