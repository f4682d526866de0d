//! The arithmetic of a lease: pure functions, without a clock.
//!
//! A lease is trusted until an instant of the boot clock: when the last answered heartbeat was *sent*, plus the lease's
//! length. The server waits longer than that before it frees the slot. So the work survives a server's restart or a cut
//! network until then, and it is gone before the slot can go to another deployment.

use std::time::Duration;

use crate::{clock::BootInstant, model::Limits};

/// How many heartbeats one lease has if the worker knows only its length: five may be lost.
const BEATS: u32 = 6;
/// How long everything may take to stop before the lease ends, unless the lease is short.
const KILL_BUDGET: Duration = Duration::from_secs(10);
/// How long the last reports may delay an end that cannot wait. A reachable server takes them in much less time.
const LAST_REPORTS_LIMIT: Duration = Duration::from_secs(10);
/// The first pause after an attempt that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between attempts.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);

/// The lengths of time by which one lease is kept. The letters in brackets are those of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How long the lease lasts after the last answered heartbeat (L).
    pub lease: Duration,
    /// How often it is renewed (H).
    pub beat: Duration,
    /// How long a heartbeat waits at the lessor, so that a cancel arrives at once.
    pub park: Duration,
    /// How much longer than `park` an answer may take. A heartbeat without an answer by then counts as lost, so that
    /// there is time for another attempt.
    pub answer_limit: Duration,
    /// How long before the lease's end the work begins to stop if the lease was not renewed (K).
    pub kill_budget: Duration,
}

impl Times {
    /// For a worker that knows only the lease's length: `run` and agents.
    pub fn of_length(lease: Duration) -> Times {
        let beat = lease / BEATS;
        Times {
            lease,
            beat,
            // The wire counts whole seconds.
            park: Duration::from_secs(beat.as_secs().clamp(1, 30)),
            answer_limit: beat.clamp(Duration::from_millis(500), Duration::from_secs(10)),
            kill_budget: KILL_BUDGET.min(lease / 4),
        }
    }

    /// For a worker that shares the server's configuration: the server's own worker.
    pub fn of_limits(limits: &Limits) -> Times {
        let Limits { lease, heartbeat, kill_budget, .. } = *limits;
        Times { lease, beat: heartbeat, park: heartbeat, answer_limit: heartbeat, kill_budget }
    }

    /// Until when the lease is trusted, if its grant or renewal was requested at `sent_at`.
    pub fn trusted_until(&self, sent_at: BootInstant) -> BootInstant {
        sent_at.after(self.lease)
    }

    /// How long until the first heartbeat is due. Short work needs none, unless the grant took long to arrive.
    pub fn before_first_beat(&self, now: BootInstant, trusted_until: BootInstant) -> Duration {
        let is_fresh = trusted_until.since(now) > self.lease.saturating_sub(self.beat);
        if is_fresh { FIRST_PAUSE } else { Duration::ZERO }
    }

    /// How long a heartbeat waits at the lessor. It does not wait while the work stops, because a cancel would change
    /// nothing.
    pub fn park(&self, is_stopping: bool) -> Duration {
        if is_stopping { Duration::ZERO } else { self.park }
    }

    /// How long until the next heartbeat is due, after one that was parked for up to `park` and answered after `spent`.
    /// There is always a pause, so a lessor that answers at once is not flooded.
    pub fn before_next_beat(&self, park: Duration, spent: Duration) -> Duration {
        let wanted = if park.is_zero() { self.beat } else { FIRST_PAUSE };
        wanted.saturating_sub(spent)
    }

    /// How long until the work must begin to stop unless the lease is renewed; zero means now.
    pub fn before_stop(&self, now: BootInstant, trusted_until: BootInstant) -> Duration {
        trusted_until.since(now.after(self.kill_budget))
    }

    /// When the last process must be gone, after the lessor has answered that the lease is lost: soon, and never later
    /// than without that answer.
    pub fn gone_by(&self, now: BootInstant, trusted_until: BootInstant) -> BootInstant {
        trusted_until.min(now.after(self.kill_budget))
    }

    /// How long the last reports may delay an end that cannot wait for them.
    pub fn last_reports_limit(&self) -> Duration {
        LAST_REPORTS_LIMIT.min(self.lease / 2)
    }
}

/// The pause after this many failed attempts in a row, at least one.
pub fn pause_after(failure_count: u32) -> Duration {
    let doublings = failure_count.saturating_sub(1).min(16);
    FIRST_PAUSE.saturating_mul(1 << doublings).min(PAUSE_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(length: u64) -> Duration {
        Duration::from_millis(length)
    }

    const fn s(length: u64) -> Duration {
        Duration::from_secs(length)
    }

    fn at(second: u64) -> BootInstant {
        BootInstant::from_start(s(second))
    }

    #[test]
    fn the_times_of_a_lease_follow_from_its_length() {
        //             lease    beat       park   answer     kill budget, last reports
        let table = [
            (s(1), ms(1000) / 6, s(1), ms(500), ms(250), ms(500)),
            (s(6), s(1), s(1), s(1), ms(1500), s(3)),
            (s(15), ms(2500), s(2), ms(2500), ms(3750), ms(7500)),
            (s(60), s(10), s(10), s(10), s(10), s(10)),
            (s(600), s(100), s(30), s(10), s(10), s(10)),
        ];
        for (lease, beat, park, answer_limit, kill_budget, last_reports) in table {
            let times = Times::of_length(lease);
            assert_eq!(times, Times { lease, beat, park, answer_limit, kill_budget });
            assert_eq!(times.last_reports_limit(), last_reports, "{lease:?}");
        }
    }

    #[test]
    fn the_servers_own_worker_keeps_to_the_configuration() {
        let limits = Limits { lease: s(30), heartbeat: s(4), kill_budget: s(7), ..Limits::default() };
        let wanted = Times { lease: s(30), beat: s(4), park: s(4), answer_limit: s(4), kill_budget: s(7) };
        assert_eq!(Times::of_limits(&limits), wanted);
    }

    #[test]
    fn a_lease_is_trusted_from_when_its_heartbeat_was_sent() {
        assert_eq!(Times::of_length(s(60)).trusted_until(at(100)), at(160));
    }

    #[test]
    fn work_begins_to_stop_one_kill_budget_before_the_lease_is_over() {
        let times = Times::of_length(s(60));
        //              now, trusted until, how long until it begins
        let table = [(100, 160, s(50)), (149, 160, s(1)), (150, 160, s(0)), (155, 160, s(0)), (500, 160, s(0))];
        for (now, until, wanted) in table {
            assert_eq!(times.before_stop(at(now), at(until)), wanted, "at {now}");
        }
    }

    #[test]
    fn a_lease_that_is_said_to_be_lost_ends_soon_and_never_later_than_it_would_anyway() {
        let times = Times::of_length(s(60));
        //              now, trusted until, gone by
        let table = [(100, 160, 110), (150, 160, 160), (155, 160, 160), (170, 160, 160)];
        for (now, until, wanted) in table {
            assert_eq!(times.gone_by(at(now), at(until)), at(wanted), "at {now}");
        }
    }

    #[test]
    fn the_first_heartbeat_is_due_at_once_where_the_grant_took_long() {
        let times = Times::of_length(s(60));
        //              now, trusted until, how long until it is due
        let table = [(100, 160, ms(100)), (109, 160, ms(100)), (110, 160, s(0)), (159, 160, s(0)), (200, 160, s(0))];
        for (now, until, wanted) in table {
            assert_eq!(times.before_first_beat(at(now), at(until)), wanted, "at {now}");
        }
    }

    #[test]
    fn the_next_heartbeat_is_due_after_a_beat_that_the_parked_one_has_waited_out() {
        let times = Times::of_length(s(60));
        //            is stopping, spent, how long until the next
        let table = [
            (false, s(10), s(0)),
            (false, s(3), s(0)),
            (false, ms(30), ms(70)),
            (true, ms(30), ms(9970)),
            (true, s(10), s(0)),
            (true, s(12), s(0)),
        ];
        for (is_stopping, spent, wanted) in table {
            let park = times.park(is_stopping);
            assert_eq!(times.before_next_beat(park, spent), wanted, "{is_stopping}, {spent:?}");
        }
    }

    #[test]
    fn several_heartbeats_may_be_lost_before_the_work_must_stop() {
        for lease in [6, 15, 60, 300, 3600].map(s) {
            let times = Times::of_length(lease);
            let one = times.park + times.answer_limit;
            assert!(times.lease - times.kill_budget >= 2 * one, "{lease:?}: two that hang for as long as they may");
        }
    }

    #[test]
    fn pauses_between_attempts_grow_to_a_second() {
        let pauses = [1, 2, 3, 4, 5, 6, 1000, u32::MAX].map(pause_after);
        assert_eq!(pauses, [ms(100), ms(200), ms(400), ms(800), s(1), s(1), s(1), s(1)]);
    }
}
