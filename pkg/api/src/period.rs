//! Lengths of time as people write them: `90s`, `5m`, `1h30m`.

use std::time::Duration;

use thiserror::Error;

/// What a length of time looks like in a field of ours.
pub(crate) const PATTERN: &str = "^([0-9]{1,9}(ms|s|m|h))+$";

/// Why a text is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no length of time; write for example 90s, 5m or 1h30m")]
pub struct InvalidPeriod(String);

/// Reads a length of time: numbers with the units `h`, `m`, `s` and `ms`.
pub fn period(text: &str) -> Result<Duration, InvalidPeriod> {
    let invalid = || InvalidPeriod(text.to_owned());
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(invalid)?;
        let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(invalid()),
        };
        let number = u32::try_from(number).map_err(|_| invalid())?;
        sum = unit
            .checked_mul(number)
            .and_then(|part| sum.checked_add(part))
            .ok_or_else(invalid)?;
        rest = &rest[end..];
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_and_mistakes_refused() {
        assert_eq!(period("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(period("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(period("0s250ms"), Ok(Duration::from_millis(250)));
        for wrong in [
            "",
            "5",
            "m",
            "5 m",
            "-5m",
            "5d",
            "99999999999999999999s",
            "5m3",
        ] {
            assert!(period(wrong).is_err(), "{wrong:?}");
        }
    }
}
