//! The machine's two clocks, as a value that is passed to everything that decides by time.
//!
//! Wall time is for people: it is shown and stored, and no decision rests on it. Boot time (`CLOCK_BOOTTIME`, which
//! goes on while the machine sleeps and never jumps) is for leases and deadlines. How long one call or one pause may take
//! is measured by tokio's clock.

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// An instant of `CLOCK_BOOTTIME`, as the time since this machine started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// The instant so long after the machine's start.
    pub const fn from_start(since: Duration) -> Self {
        BootInstant(since)
    }

    /// How much later this is than `earlier`; zero if it is not later.
    pub fn since(self, earlier: BootInstant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `by` later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        BootInstant(self.0.saturating_add(by))
    }
}

/// One instant on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For people.
    pub wall: Timestamp,
    /// For decisions.
    pub boot: BootInstant,
}

/// The source of time; an argument of everything that needs the time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, for people.
    fn wall(&self) -> Timestamp;
    /// Time since the machine started, for decisions.
    fn boot(&self) -> BootInstant;
    /// Both.
    fn now(&self) -> Now {
        Now { wall: self.wall(), boot: self.boot() }
    }
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        // The wire and the stores carry milliseconds, so nothing finer is ever let in.
        let now = Timestamp::now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    fn boot(&self) -> BootInstant {
        let now = clock_gettime(ClockId::Boottime);
        BootInstant(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }
}

/// A span of time for people: `42s`, `4m20s`, `1h05m`, `3d04h`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d{:02}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h{:02}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m{:02}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m01s"), (3_700, "1h01m"), (273_600, "3d04h")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
