//! When output is told: at once to a few, and in turns to a crowd.
//!
//! Each telling costs a write, and a crowd that is told of each line at the same moment keeps everyone else waiting. So who
//! follows is told of output the more seldom the more they are, and not all at the same moment: they are split into shifts,
//! and each shift is told together.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicU32, Ordering},
    thread::available_parallelism,
    time::Duration,
};

use tokio::time::Instant;

/// How long after some output the next is read at the earliest: nobody reads faster than that.
const REST: Duration = Duration::from_millis(25);
/// The longest that output waits for more of it, however many follow.
const REST_LIMIT: Duration = Duration::from_secs(1);
/// How many of a crowd are told within a second, for each processor that there is: with what the kernel does for it, and those
/// who read on the same machine, it is a twentieth of them.
const TOLD_PER_SECOND: u64 = 1250;
/// Into how many shifts those who follow are split. Those of one are told with one read.
const SHIFT_COUNT: u32 = 16;

/// Splits those who follow into shifts.
#[derive(Debug)]
pub struct Shifts {
    begun: Instant,
    told_per_second: u64,
    followed_count: AtomicU32,
}

impl Default for Shifts {
    fn default() -> Self {
        Shifts::of(available_parallelism().map_or(1, NonZeroUsize::get))
    }
}

impl Shifts {
    /// Shifts on a machine with so many processors.
    fn of(processor_count: usize) -> Self {
        let told_per_second = u64::try_from(processor_count).unwrap_or(1) * TOLD_PER_SECOND;
        Shifts { begun: Instant::now(), told_per_second, followed_count: AtomicU32::new(0) }
    }

    /// The shift of the next one who follows.
    pub fn next(&self) -> Shift {
        let number = self.followed_count.fetch_add(1, Ordering::Relaxed) % SHIFT_COUNT;
        Shift { begun: self.begun, told_per_second: self.told_per_second, number }
    }
}

/// When some of those who follow are told of output.
#[derive(Clone, Copy, Debug)]
pub struct Shift {
    begun: Instant,
    told_per_second: u64,
    number: u32,
}

impl Shift {
    /// When output is told that has come now, after a rest; `None` for at once.
    pub fn begins(self, reader_count: usize, now: Instant) -> Option<Instant> {
        let rest = self.rest(reader_count);
        (rest > REST).then(|| self.turn(rest, now))
    }

    /// When more output is told, to one who has been told of some now.
    pub fn next(self, reader_count: usize, now: Instant) -> Instant {
        let rest = self.rest(reader_count);
        // Half of it at least: one who was told late is not told again right away.
        if rest > REST { self.turn(rest, now + rest / 2) } else { now + rest }
    }

    /// How long output waits for more of it where so many follow. Few who come and go change nothing of it, so that shifts
    /// stay together.
    fn rest(self, reader_count: usize) -> Duration {
        let rounded = reader_count.checked_next_power_of_two().and_then(|count| u64::try_from(count).ok());
        let ms = rounded.unwrap_or(u64::MAX).saturating_mul(1000) / self.told_per_second;
        Duration::from_millis(ms).clamp(REST, REST_LIMIT)
    }

    /// The first turn of the shift from `from` on.
    fn turn(self, rest: Duration, from: Instant) -> Instant {
        let own = self.begun + rest * self.number / SHIFT_COUNT;
        let since = from.saturating_duration_since(own).as_micros();
        let turns = since.div_ceil(rest.as_micros());
        // A rest is a second at most, so this ends with the age of the universe.
        own + rest * u32::try_from(turns).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shifts of so many who follow, on two processors, and a moment long after they have begun.
    fn shifts(count: usize) -> (Vec<Shift>, Instant) {
        let shifts = Shifts::of(2);
        ((0..count).map(|_| shifts.next()).collect(), shifts.begun + Duration::from_secs(86_400))
    }

    #[test]
    fn a_few_are_told_at_once_and_then_after_a_rest() {
        let (shifts, now) = shifts(60);
        assert!(shifts.iter().all(|shift| shift.begins(60, now).is_none()));
        assert!(shifts.iter().all(|shift| shift.next(60, now) == now + REST));
    }

    #[test]
    fn a_crowd_is_told_in_turns_that_are_spread_evenly() {
        let (shifts, now) = shifts(1000);
        let mut turns: Vec<Duration> =
            shifts.iter().map(|shift| shift.begins(1000, now).expect("they are a crowd") - now).collect();
        turns.sort();
        let of_one_shift = turns.chunk_by(|one, other| one == other).map(<[Duration]>::len).max();
        assert!(of_one_shift.is_some_and(|count| count <= 1000 / 16 + 1), "{of_one_shift:?}");
        assert!(turns[999] - turns[0] > Duration::from_millis(380) && turns[999] < Duration::from_millis(410));
    }

    #[test]
    fn one_of_a_crowd_is_told_once_a_turn() {
        let (shifts, mut now) = shifts(1000);
        for shift in shifts {
            let told = shift.next(1000, now);
            let again = shift.next(1000, told + Duration::from_millis(3));
            assert_eq!(again - told, Duration::from_millis(409), "a turn that is late moves none of the next");
            assert!(told - now >= Duration::from_millis(204), "nobody is told twice in a moment");
            now += Duration::from_micros(137);
        }
    }

    #[test]
    fn no_crowd_waits_longer_than_a_second() {
        let (shifts, now) = shifts(16);
        for count in [5000, 10_000, usize::MAX] {
            assert!(shifts.iter().all(|shift| shift.begins(count, now).is_some_and(|at| at <= now + REST_LIMIT)));
        }
    }
}
