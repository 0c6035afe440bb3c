//! What a session is set up with.

use std::time::Duration;

use thiserror::Error;

/// A session that is not up announces no shorter Desired Min TX Interval than
/// this (RFC 5880 §6.8.3).
pub const SLOW: Duration = Duration::from_secs(1);

/// The timers and the role of a session. The default is 300 ms, three times,
/// active: what other implementations have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// bfd.DesiredMinTxInterval while up: 1 ms to 60 s.
    pub desired_min_tx: Duration,
    /// bfd.RequiredMinRxInterval: 1 ms to 60 s.
    pub required_min_rx: Duration,
    /// bfd.DetectMult: of our packets, so many may be lost in a row before the
    /// peer takes us for gone. 1 to 255.
    pub detect_mult: u8,
    /// Whether to be silent until the peer speaks (§6.1).
    pub passive: bool,
    /// The C bit: whether this session goes on while the control plane that it
    /// serves restarts. False for a session in the process of its control
    /// plane, on a thread of its own or not (RFC 5882 §4.3.2).
    pub control_plane_independent: bool,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            desired_min_tx: Duration::from_millis(300),
            required_min_rx: Duration::from_millis(300),
            detect_mult: 3,
            passive: false,
            control_plane_independent: false,
        }
    }
}

/// A setting that no session can have.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// An interval out of range.
    #[error("the {name} is {value:?}; it must be between 1 ms and 60 s")]
    Interval {
        /// Which one.
        name: &'static str,
        /// What it was to be.
        value: Duration,
    },
    /// A detect multiplier of 0.
    #[error("the detect multiplier is 0; it must be between 1 and 255")]
    DetectMult,
}

impl SessionConfig {
    /// Whether every value is in its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (name, value) in [
            ("transmit interval", self.desired_min_tx),
            ("receive interval", self.required_min_rx),
        ] {
            if !(Duration::from_millis(1)..=Duration::from_mins(1)).contains(&value) {
                return Err(ConfigError::Interval { name, value });
            }
        }
        if self.detect_mult == 0 {
            return Err(ConfigError::DetectMult);
        }
        Ok(())
    }
}

/// An interval as it is sent. Longer than the field holds can't be: intervals
/// are at most a minute.
pub(crate) fn micros(interval: Duration) -> u32 {
    u32::try_from(interval.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_kept() {
        assert_eq!(SessionConfig::default().validate(), Ok(()));
        let zero = SessionConfig {
            required_min_rx: Duration::ZERO,
            ..SessionConfig::default()
        };
        assert!(
            zero.validate()
                .unwrap_err()
                .to_string()
                .contains("receive interval")
        );
        let long = SessionConfig {
            desired_min_tx: Duration::from_secs(61),
            ..SessionConfig::default()
        };
        assert!(long.validate().unwrap_err().to_string().contains("61s"));
        let none = SessionConfig {
            detect_mult: 0,
            ..SessionConfig::default()
        };
        assert_eq!(none.validate(), Err(ConfigError::DetectMult));
    }
}
