//! The instant by which ages are judged.
//!
//! The ages of deployments are the only thing that the server decides by the time of day, and a clock that leaps ahead
//! must not remove a history at once without anybody seeing it. So this instant follows the clock, but goes forward at
//! most [`SPEED`] times as fast as time passes by the machine's boot clock. It is kept in the store. A server that was
//! away for a month has caught up after a good day; a clock that leapt by two years needs a month, and is reported in
//! the log all that time.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    clock::{BootInstant, Now, span},
    store::{
        StoreError, Upkeep,
        upkeep::{AgedHistory, UpkeepMark},
    },
};

/// How much faster than time itself the instant may go forward.
const SPEED: u32 = 24;
/// A smaller lag is not worth a word.
const TOLD_LAG: Duration = Duration::from_secs(2 * 24 * 60 * 60);
/// How often a lag is reported.
const TOLD_EVERY: Duration = Duration::from_secs(60 * 60);

/// Knows when it looked last.
#[derive(Debug, Default)]
pub(super) struct AgeClock {
    looked: Option<BootInstant>,
    told: Option<BootInstant>,
}

impl AgeClock {
    /// The instant by which ages are judged at this look.
    pub(super) async fn advance(&mut self, upkeep: &dyn Upkeep, now: Now) -> Result<Timestamp, StoreError> {
        let elapsed = self.looked.map_or(Duration::ZERO, |looked| now.boot.since(looked));
        let (known, aged_until) = judged(upkeep.history(), now.wall, elapsed).await?;
        if known != Some(aged_until) {
            upkeep.set_mark(UpkeepMark::AgedUntil, aged_until).await?;
        }
        self.looked = Some(now.boot);
        let lag = now.wall.as_millisecond().saturating_sub(aged_until);
        self.tell_lag(Duration::from_millis(lag.max(0).unsigned_abs()), now.boot);
        Ok(Timestamp::from_millisecond(aged_until).unwrap_or(now.wall))
    }

    fn tell_lag(&mut self, lag: Duration, boot: BootInstant) {
        if lag >= TOLD_LAG && self.told.is_none_or(|told| boot.since(told) >= TOLD_EVERY) {
            self.told = Some(boot);
            tracing::warn!(
                ahead = span(lag),
                "the clock is far ahead of the time at which retention looked last: it was set, or the server was away; \
                 retention follows it by one day in each hour. If the clock is wrong, set it right"
            );
        }
    }
}

/// The instant by which a server that has just started would judge ages; nothing is written.
///
/// # Errors
/// The store does not answer.
pub async fn ages_judged_at(history: &dyn AgedHistory, wall: Timestamp) -> Result<Timestamp, StoreError> {
    let (_, aged_until) = judged(history, wall, Duration::ZERO).await?;
    Ok(Timestamp::from_millisecond(aged_until).unwrap_or(wall))
}

/// The instant that the store knows, and the one that follows, in milliseconds.
async fn judged(
    history: &dyn AgedHistory,
    wall: Timestamp,
    elapsed: Duration,
) -> Result<(Option<i64>, i64), StoreError> {
    let known = history.mark(UpkeepMark::AgedUntil).await?;
    let newest = match known {
        Some(_) => None,
        None => history.newest().await?.map(|(_, created_at)| created_at),
    };
    Ok((known, next(known, newest, elapsed, wall.as_millisecond())))
}

/// Where the instant goes, from where it was known to be; at first, from the newest deployment.
fn next(known: Option<i64>, newest: Option<i64>, elapsed: Duration, wall: i64) -> i64 {
    let step = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX).saturating_mul(i64::from(SPEED));
    match (known, newest) {
        (Some(known), _) => known.saturating_add(step).min(wall),
        (None, Some(newest)) => newest.min(wall),
        (None, None) => wall,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY_MS: i64 = 24 * 3600 * 1000;

    #[test]
    fn ages_follow_the_clock_by_one_day_in_each_hour_at_most() {
        let now = 1_800_000_000_000;
        assert_eq!(next(None, None, Duration::ZERO, now), now, "a new store");
        assert_eq!(next(None, Some(now - DAY_MS), Duration::ZERO, now), now - DAY_MS, "a store of an older version");
        assert_eq!(next(None, Some(now + DAY_MS), Duration::ZERO, now), now, "its newest row is from the future");
        assert_eq!(next(Some(now - 1000), None, HOUR, now), now, "as it goes on");
        assert_eq!(next(Some(now), None, HOUR, now + 730 * DAY_MS), now + DAY_MS, "the clock leapt by two years");
        assert_eq!(next(Some(now), None, HOUR, now - DAY_MS), now - DAY_MS, "the clock was set back");
        assert_eq!(next(Some(now), None, Duration::MAX, i64::MAX), i64::MAX);
    }
}
