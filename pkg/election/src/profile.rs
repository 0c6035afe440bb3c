//! How soon a silent node is taken for dead.

use std::time::Duration;

/// Timers of failure detection. A heartbeat goes out every
/// [`interval`](Self::interval), and a node that nobody has heard for
/// [`detect`](Self::detect) is dead.
///
/// | profile | interval | detect | misses | a crash is detected after |
/// |---|---|---|---|---|
/// | `default` | 70 ms | 280 ms | 4 | 210 to 280 ms |
/// | `fast` | 15 ms | 75 ms | 5 | 60 to 75 ms |
/// | `safe` | 200 ms | 1 s | 5 | 0.8 to 1 s |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Profile {
    /// For any network.
    #[default]
    Default,
    /// For links without loss, and speakers without a CPU limit.
    Fast,
    /// For links that lose a lot, and nodes that are overloaded.
    Safe,
}

impl Profile {
    /// All of them; their numbers on the wire are their places here.
    pub const ALL: [Self; 3] = [Self::Default, Self::Fast, Self::Safe];

    /// Between two heartbeats.
    pub const fn interval(self) -> Duration {
        Duration::from_millis(match self {
            Self::Default => 70,
            Self::Fast => 15,
            Self::Safe => 200,
        })
    }

    /// Silence after which a node is dead.
    pub const fn detect(self) -> Duration {
        Duration::from_millis(match self {
            Self::Default => 280,
            Self::Fast => 75,
            Self::Safe => 1000,
        })
    }

    /// Silence after which an owner under `strict` gives up what it has: well
    /// before the others may take it, so that clocks may differ in rate.
    pub const fn fence(self) -> Duration {
        Duration::from_millis(match self {
            Self::Default => 196,
            Self::Fast => 52,
            Self::Safe => 700,
        })
    }

    /// Silence after which a speaker is dead whose node still answers for its
    /// own address. Such a node forwards on, so it is not that urgent.
    pub const fn stalled(self) -> Duration {
        Duration::from_millis(match self {
            Self::Default => 420,
            Self::Fast => 112,
            Self::Safe => 1500,
        })
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Default => 0,
            Self::Fast => 1,
            Self::Safe => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_in_order() {
        for (index, profile) in Profile::ALL.into_iter().enumerate() {
            assert_eq!(profile.index(), index);
            assert!(profile.interval() * 3 < profile.detect());
            assert!(profile.interval() * 2 < profile.fence());
            assert!(profile.fence() * 5 < profile.detect() * 4);
            assert!(profile.detect() < profile.stalled());
        }
    }
}
