//! Why the executor should stop, and its words about processes that it cannot end.

use std::cmp::{Ordering, Reverse};

use tokio::sync::watch;

pub use crate::model::{FailureCause, PhaseState, Report, Stream, Verdict};
use crate::{clock::BootInstant, model::CANNOT_BE_ENDED};

/// The message of a phase that a cancel does not interrupt, set when it starts.
pub const PROTECTED_MESSAGE: &str = "protected: a cancel waits until it is over";

/// The message about processes that the executor has no right to end.
pub fn cannot_be_ended(what: &str) -> String {
    format!(
        "{CANNOT_BE_ENDED}{what}, another user's or stuck in the kernel; the slot is kept until it ends, or until an operator \
         frees it with `singletrack release`"
    )
}

/// Why work should stop before its end, the least urgent first. Of two, the more urgent one counts (`max`). `None`
/// means that nothing asks for a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The deployment was cancelled: stop at the next safe point and roll back.
    Cancel,
    /// The worker ends, and its grace for running pipelines is over: stop now and roll back.
    Shutdown,
    /// The lease can no longer be trusted: everything must be gone at the deadline, and nothing may be rolled back,
    /// because the slot may belong to another deployment then.
    LeaseLost {
        /// When the last process is killed at the latest.
        deadline: BootInstant,
    },
}

impl Stop {
    /// Makes the stop at least as urgent as this: a cancel never replaces a lost lease.
    pub fn ask(self, stop: &watch::Sender<Option<Stop>>) {
        stop.send_if_modified(|asked| {
            let wanted = (*asked).max(Some(self));
            std::mem::replace(asked, wanted) != wanted
        });
    }

    /// How urgent it is. Of two lost leases, the one with the earlier deadline is more urgent.
    fn urgency(self) -> (u8, Reverse<Option<BootInstant>>) {
        match self {
            Stop::Cancel => (0, Reverse(None)),
            Stop::Shutdown => (1, Reverse(None)),
            Stop::LeaseLost { deadline } => (2, Reverse(Some(deadline))),
        }
    }
}

impl Ord for Stop {
    fn cmp(&self, other: &Self) -> Ordering {
        self.urgency().cmp(&other.urgency())
    }
}

impl PartialOrd for Stop {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lost(second: u64) -> Stop {
        Stop::LeaseLost { deadline: BootInstant::from_start(Duration::from_secs(second)) }
    }

    #[test]
    fn of_two_reasons_to_stop_the_more_urgent_one_holds() {
        let by_urgency = [None, Some(Stop::Cancel), Some(Stop::Shutdown), Some(lost(20)), Some(lost(10))];
        assert!(by_urgency.is_sorted(), "{by_urgency:?}");
    }

    #[test]
    fn a_cancel_never_takes_back_that_the_lease_is_lost() {
        let asked = watch::Sender::new(None);
        let seen = [Stop::Cancel, lost(10), Stop::Shutdown, lost(20), Stop::Cancel].map(|stop| {
            stop.ask(&asked);
            *asked.borrow()
        });
        assert_eq!(seen, [Some(Stop::Cancel), Some(lost(10)), Some(lost(10)), Some(lost(10)), Some(lost(10))]);
    }
}
