//! Durations as people write them: `30m`, `90s`, `1h30m`, `500ms`.

use std::time::Duration;

use thiserror::Error;

/// Each unit and its milliseconds, longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Why a text is not a duration. Reads alone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidDuration {
    /// Nothing was written.
    #[error("a duration is empty: write one such as 30m, 90s or 1h30m")]
    Empty,
    /// A number stands without a unit.
    #[error("a duration needs a unit: write {0}s for seconds or {0}m for minutes")]
    NoUnit(u64),
    /// The unit is none of ours.
    #[error("'{0}' is not a unit of time: d, h, m, s and ms are")]
    UnknownUnit(String),
    /// It is not numbers and units.
    #[error("a duration is whole numbers and units, such as 30m, 90s, 1h30m or 500ms")]
    Malformed,
    /// A unit stands twice, or after a shorter one.
    #[error("a duration names each unit once, the longest first: 1h30m")]
    Order,
    /// It does not fit.
    #[error("a duration is at most 36500d")]
    TooLong,
}

/// Reads a duration.
///
/// # Errors
/// The text is not whole numbers with units, the longest unit first.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(InvalidDuration::Empty);
    }
    let mut total_ms = 0u64;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return Err(InvalidDuration::Malformed);
        }
        let count: u64 = rest[..digits].parse().map_err(|_| InvalidDuration::TooLong)?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = rest.split_at(letters);
        if unit.is_empty() {
            return Err(if rest.is_empty() { InvalidDuration::NoUnit(count) } else { InvalidDuration::Malformed });
        }
        // The iterator goes on where the last unit stood, so that only shorter ones are found.
        let Some((_, unit_ms)) = units.find(|(name, _)| *name == unit) else {
            let known = UNITS.iter().any(|(name, _)| *name == unit);
            return Err(if known {
                InvalidDuration::Order
            } else {
                InvalidDuration::UnknownUnit(unit.chars().take(16).collect())
            });
        };
        total_ms = count
            .checked_mul(*unit_ms)
            .and_then(|ms| total_ms.checked_add(ms))
            .filter(|ms| *ms <= 36_500 * 86_400_000)
            .ok_or(InvalidDuration::TooLong)?;
        rest = after;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes a duration so that [`parse`] reads the same, to the millisecond.
pub fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, unit_ms) in UNITS {
        let count = left / unit_ms;
        left %= unit_ms;
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units_the_longest_first() {
        for (text, ms) in [
            ("30m", 1_800_000),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1d1h1m1s1ms", 90_061_001),
            ("0s", 0),
            (" 5s ", 5_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_told_apart() {
        for (text, why) in [
            ("", InvalidDuration::Empty),
            ("  ", InvalidDuration::Empty),
            ("30", InvalidDuration::NoUnit(30)),
            ("1h30", InvalidDuration::NoUnit(30)),
            ("30min", InvalidDuration::UnknownUnit("min".to_owned())),
            ("1.5h", InvalidDuration::Malformed),
            ("-5s", InvalidDuration::Malformed),
            ("5 s", InvalidDuration::Malformed),
            ("soon", InvalidDuration::Malformed),
            ("30m1h", InvalidDuration::Order),
            ("5s5s", InvalidDuration::Order),
            ("99999999999999999999s", InvalidDuration::TooLong),
            ("36501d", InvalidDuration::TooLong),
            ("５s", InvalidDuration::Malformed),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn a_written_duration_reads_the_same() {
        for (ms, text) in [(0, "0s"), (1, "1ms"), (90_000, "1m30s"), (5_400_000, "1h30m"), (86_400_000, "1d")] {
            assert_eq!(format(Duration::from_millis(ms)), text);
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)));
        }
    }
}
