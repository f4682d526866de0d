//! The `[retention]` table, and a project's own: how long deployments and their output are kept. See decision 0078.

use std::time::Duration;

use super::{duration::parse_duration, reader::ConfigTable};

/// Below this, a deployment is never removed: for so long, its idempotency key protects a client that asks again.
pub const KEY_PROTECTION: Duration = Duration::from_secs(7 * DAY);
/// How many of the newest deployments of each project are kept when the configuration is silent.
const DEFAULT_KEEP: u32 = 50;
/// How often the upkeep looks when the configuration is silent.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How long a notification that could not be sent is kept when the configuration is silent.
const DEFAULT_DEAD_LETTERS: Duration = Duration::from_secs(30 * DAY);
const DAY: u64 = 24 * 60 * 60;
/// A longer time is taken for a typing mistake.
const YEARS_LIMIT: u64 = 100;

/// How the server keeps its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// The rules of projects that have none of their own.
    pub rules: RetentionRules,
    /// How often the server looks for what it can compress, remove or give back.
    pub interval: Duration,
    /// How long a notification that could not be sent is kept; as long as there are not too many if unset.
    pub dead_letters: Option<Duration>,
}

/// What is kept of a project: by age, or by number, whichever keeps more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionRules {
    /// How long output is kept after the deployment's end; for ever if unset.
    pub output: Option<Duration>,
    /// How long a deployment is kept after its end; for ever if unset.
    pub deployments: Option<Duration>,
    /// How many of the newest deployments are kept with all their output, whatever their age.
    pub keep: u32,
}

impl RetentionRules {
    /// Whether anything is ever removed.
    pub fn may_remove(&self) -> bool {
        self.output.is_some() || self.deployments.is_some()
    }
}

impl Default for RetentionRules {
    fn default() -> Self {
        RetentionRules { output: None, deployments: None, keep: DEFAULT_KEEP }
    }
}

impl Default for RetentionSettings {
    fn default() -> Self {
        RetentionSettings {
            rules: RetentionRules::default(),
            interval: DEFAULT_INTERVAL,
            dead_letters: Some(DEFAULT_DEAD_LETTERS),
        }
    }
}

pub(super) fn read(mut section: ConfigTable<'_>) -> RetentionSettings {
    let interval = section.duration("interval").unwrap_or(DEFAULT_INTERVAL);
    if interval < Duration::from_secs(1) {
        let message = format!("`{}` is shorter than a second", section.path_of("interval"));
        section.document.problem(section.span_of("interval"), message);
    }
    let dead_letters = section.parsed("dead_letters", parse_age).unwrap_or(Some(DEFAULT_DEAD_LETTERS));
    RetentionSettings { dead_letters, rules: read_rules(section, RetentionRules::default()), interval }
}

/// Reads the rules; a key that is not there is as in `default`.
pub(super) fn read_rules(mut section: ConfigTable<'_>, default: RetentionRules) -> RetentionRules {
    let rules = RetentionRules {
        output: section.parsed("output", parse_age).unwrap_or(default.output),
        deployments: section.parsed("deployments", parse_age).unwrap_or(default.deployments),
        keep: section.number("keep", 1..=1_000_000).unwrap_or(default.keep),
    };
    if let Some(deployments) = rules.deployments {
        let key = if section.has("deployments") { "deployments" } else { "output" };
        if deployments < KEY_PROTECTION {
            let message = format!(
                "`{}` is shorter than 7d: for so long, a deployment's idempotency key must protect clients that ask again",
                section.path_of("deployments")
            );
            section.document.problem(section.span_of(key), message);
        } else if rules.output.is_none_or(|output| output > deployments) && section.has("output") {
            let (output, whole) = (section.path_of("output"), section.path_of("deployments"));
            section.document.problem(
                section.span_of("output"),
                format!("`{output}` is longer than `{whole}`: the output goes with its deployment"),
            );
        } else if rules.output.is_some_and(|output| output > deployments) {
            let whole = section.path_of("deployments");
            section.document.problem(
                section.span_of(key),
                format!("`{whole}` is shorter than the time for which output is kept; give `output`, too"),
            );
        }
    }
    section.finish();
    rules
}

/// Reads a time such as `90d`, `2y`, `6w` or `12h`, or `forever`, which is none.
fn parse_age(text: &str) -> Result<Option<Duration>, String> {
    let text = text.trim();
    if text == "forever" {
        return Ok(None);
    }
    let days = [("y", 365), ("w", 7), ("d", 1)].into_iter().find_map(|(unit, days)| {
        let number = text.strip_suffix(unit)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| number.parse::<u64>().ok().and_then(|number| number.checked_mul(days)).unwrap_or(u64::MAX))
    });
    let age = match days {
        Some(days) if days > YEARS_LIMIT * 365 => {
            return Err(format!("is longer than {YEARS_LIMIT} years; write \"forever\" to keep everything"));
        }
        Some(days) => Duration::from_secs(days * DAY),
        None => parse_duration(text).map_err(|_| {
            format!(
                "{:?} is not a time; write for example 90d, 6w, 2y, 12h or forever",
                text.chars().take(64).collect::<String>()
            )
        })?,
    };
    if age.is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(Some(age)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_numbers_with_a_unit_or_forever() {
        let days = |days: u64| Ok(Some(Duration::from_secs(days * DAY)));
        assert_eq!(parse_age("90d"), days(90));
        assert_eq!(parse_age("2y"), days(730));
        assert_eq!(parse_age("6w"), days(42));
        assert_eq!(parse_age("12h"), Ok(Some(Duration::from_secs(12 * 3600))));
        assert_eq!(parse_age("forever"), Ok(None));
        for wrong in ["", "0d", "90", "d", "-1d", "1.5y", "101y", "99999999999999999999y", "ever"] {
            assert!(parse_age(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
