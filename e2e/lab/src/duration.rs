//! Durations as people type them: `10s`, `500ms`, `2m`.

use std::time::Duration;

use thiserror::Error;

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no duration; write for example 500ms, 10s or 2m")]
pub struct InvalidDuration(String);

/// Reads a whole number with a unit: `ms`, `s` or `m`.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.to_owned());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| invalid())?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" if number < u64::from(u32::MAX) => Ok(Duration::from_mins(number)),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_needs_a_unit() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("2m"), Ok(Duration::from_mins(2)));
        for wrong in ["10", "s", "", "-1s", "1h", "1.5s"] {
            assert!(parse(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
