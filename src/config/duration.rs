//! Durations as people write them: `30m`, `1h30m`, `500ms`.

use std::time::Duration;

/// The units, largest first, each with its length in milliseconds. `ms` stands before `m` and `s` because the
/// parser takes the first that fits.
const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("d", 24 * 60 * 60 * 1000), ("h", 60 * 60 * 1000), ("m", 60 * 1000), ("s", 1000)];

/// A longer duration is taken for a typing mistake; this limit also keeps sums of limits far from any overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Reads a duration such as `30m`, `90s`, `1h30m` or `500ms`: whole numbers, each with a unit, larger units first.
///
/// The error is a sentence that names the valid forms.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = |why: &str| {
        let shown: String = text.chars().take(64).collect();
        Err(format!("{shown:?} is not a duration: {why}; write for example 30m, 90s, 1h30m or 500ms"))
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return refuse("it is empty");
    }
    let mut total_ms = 0_u64;
    let mut last_unit_ms = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        if number.is_empty() {
            return refuse("each part is a whole number and a unit");
        }
        if after.is_empty() {
            return refuse(&format!("a number needs a unit: {number}s for seconds or {number}m for minutes"));
        }
        let Some((unit, unit_ms)) = UNITS.into_iter().find(|(unit, _)| after.starts_with(unit)) else {
            return refuse("the units are d, h, m, s and ms");
        };
        if unit_ms >= last_unit_ms {
            return refuse("each unit appears once, larger ones first");
        }
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
        match part.and_then(|part| total_ms.checked_add(part)) {
            Some(sum) => total_ms = sum,
            None => return refuse("it is too long"),
        }
        last_unit_ms = unit_ms;
        rest = &after[unit.len()..];
    }
    let total = Duration::from_millis(total_ms);
    if total > LONGEST { refuse("it is longer than a year") } else { Ok(total) }
}

/// Writes a duration the way [`parse_duration`] reads it, exact to the millisecond.
pub fn format_duration(duration: Duration) -> String {
    let mut rest_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest_ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    // The same units, but with the milliseconds where they belong when written: last.
    for (unit, unit_ms) in UNITS.iter().skip(1).chain(UNITS.iter().take(1)) {
        if rest_ms >= *unit_ms {
            text.push_str(&format!("{}{unit}", rest_ms / unit_ms));
            rest_ms %= unit_ms;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_duration_reads_back_as_itself() {
        for ms in [1, 500, 999, 1000, 61_000, 3_600_000, 5_400_000, 86_400_000, 90_061_001] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration), "{ms} ms");
        }
        assert_eq!(format_duration(Duration::from_secs(5400)), "1h30m");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn anything_else_is_refused_with_the_valid_forms() {
        for text in ["", "30", "m", "1.5h", "-3s", "3 s", "30m1h", "1s1s", "3y", "400d", "99999999999999999999s", "１s"]
        {
            let error = parse_duration(text).expect_err(text);
            assert!(error.contains("1h30m"), "{text:?} gave {error:?}");
        }
    }
}
