//! How long to wait before a notification is tried again.

use std::time::Duration;

/// The wait after the first attempt; three times as long after each further one.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// The longest wait that a target may ask for: then a notification is no news any more.
const ASKED_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The wait after so many attempts. `random` spreads it over its second half, so that not all that failed together comes
/// again together; the target may ask for a longer one.
pub(super) fn wait(attempt_count: u64, random: u32, asked: Option<Duration>) -> Duration {
    let exponent = u32::try_from(attempt_count.saturating_sub(1)).unwrap_or(u32::MAX).min(20);
    let whole = FIRST.saturating_mul(3_u32.saturating_pow(exponent)).min(LONGEST);
    let spread = whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX));
    spread.max(asked.unwrap_or_default().min(ASKED_LIMIT))
}

/// A random number; where the system gives none, all wait as long as they may.
pub(super) fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_up_to_a_limit_and_is_never_shorter_than_what_the_target_asks() {
        let seconds = |attempts, random| wait(attempts, random, None).as_secs_f64();
        assert_eq!([1, 2, 3, 4].map(|attempts| seconds(attempts, u32::MAX)), [1.0, 3.0, 9.0, 27.0]);
        assert_eq!(seconds(4, 0), 13.5);
        assert_eq!([8, 30, u64::MAX].map(|attempts| seconds(attempts, u32::MAX)), [2187.0, 3600.0, 3600.0]);
        let asked = |seconds| wait(1, 0, Some(Duration::from_secs(seconds))).as_secs();
        assert_eq!((asked(0), asked(90), asked(u64::MAX)), (0, 90, 86_400));
    }
}
