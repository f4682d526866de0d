//! Since when, as people write it: `10m`, `2026-03-01T12:00:00Z` or `2026-03-01`.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{format_duration, parse_duration};

/// A moment in the past. A duration is counted back by the clock of the side that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// At this moment.
    At(Timestamp),
}

impl Since {
    /// The moment, where the time is `now`.
    pub fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            // A duration is at most a year long.
            Since::Ago(duration) => now.checked_sub(duration).unwrap_or(Timestamp::MIN),
            Since::At(at) => at,
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let midnight = |date: Date| date.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp());
        // A time has its zone; a date alone begins at midnight, UTC.
        let at = match text.contains(['T', 't']) {
            true => text.parse::<Timestamp>().ok(),
            false => text.parse::<Date>().and_then(midnight).ok(),
        };
        match (at, parse_duration(text)) {
            (Some(at), _) => Ok(Since::At(at)),
            (None, Ok(duration)) => Ok(Since::Ago(duration)),
            (None, Err(_)) => Err("write how long ago, such as 10m or 2h30m, or a time in UTC, such as \
                                   2026-03-01T12:00:00Z or 2026-03-01"
                .to_owned()),
        }
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Since::Ago(duration) => f.write_str(&format_duration(*duration)),
            Since::At(at) => at.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_date_or_a_duration_before_now() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let now = at("2026-03-01T12:00:00Z");
        for (text, moment) in [
            ("10m", "2026-03-01T11:50:00Z"),
            ("1h30m", "2026-03-01T10:30:00Z"),
            ("2026-02-28T23:00:00+01:00", "2026-02-28T22:00:00Z"),
            ("2026-02-28T23:00:00.250Z", "2026-02-28T23:00:00.250Z"),
            ("2026-02-28", "2026-02-28T00:00:00Z"),
        ] {
            let since: Since = text.parse().expect(text);
            assert_eq!(since.moment(now), at(moment), "{text}");
            assert_eq!(since.to_string().parse(), Ok(since), "{text}");
        }
        for text in ["", "10", "yesterday", "2026-02-30", "2026-02-28T23:00:00", "-5m"] {
            let error = text.parse::<Since>().expect_err(text);
            assert!(error.contains("10m") && error.contains("2026-03-01"), "{text}: {error}");
        }
    }
}
