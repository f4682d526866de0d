//! One deadline over everything a command does, on boot time: a machine that slept has used its time up.

use std::{sync::Arc, time::Duration};

use crate::clock::{BootInstant, Clock};

/// How long a sleep may be before the clock is asked again. Timers stand still while a machine sleeps and the boot
/// clock does not, so a deadline is noticed within a second of the machine's waking.
const SLICE: Duration = Duration::from_secs(1);

/// The moment when a command gives up.
#[derive(Clone)]
pub struct Deadline {
    clock: Arc<dyn Clock>,
    at: BootInstant,
}

impl Deadline {
    /// `timeout` from now.
    pub fn after(clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        let at = clock.boot().after(timeout);
        Deadline { clock, at }
    }

    /// How long is left; zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.at.since(self.clock.boot())
    }

    /// Resolves when it has passed.
    pub async fn passed(&self) {
        loop {
            let remaining = self.remaining();
            if remaining.is_zero() {
                return;
            }
            tokio::time::sleep(remaining.min(SLICE)).await;
        }
    }
}
