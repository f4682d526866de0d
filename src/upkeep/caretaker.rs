//! The background task that does all of the upkeep, one look after the other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    age::AgeClock,
    forgotten,
    pack::Packer,
    prune::{self, PrunedProject, RulesOf},
    round::{LookRound, Pace},
};
use crate::{
    clock::Clock,
    health::{Pulse, Task},
    store::{Store, StoreError},
};

/// How its task is supervised. It shows a sign of life with each step.
pub const TASK: Task = Task::new("upkeep", Duration::from_secs(10 * 60));

/// How often it looks, as the configuration has it now.
pub type Interval = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Keeps a store small.
pub struct Caretaker {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rules: RulesOf,
    interval: Interval,
    packer: Packer,
    ages: AgeClock,
}

impl Caretaker {
    /// For this store, whose projects have these rules. It looks once in each `interval`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, rules: RulesOf, interval: Interval) -> Self {
        Caretaker { store, clock, rules, interval, packer: Packer::default(), ages: AgeClock::default() }
    }

    /// Looks now and then until `shutdown`.
    pub async fn run(mut self, pulse: Pulse, shutdown: CancellationToken) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = pulse.resting(sleep(pause)) => {}
            }
            pause = (self.interval)();
            pulse.beat();
            if let Err(error) = self.look(Pace::BesideTraffic, &pulse, &shutdown).await {
                tracing::warn!(%error, "the upkeep of the store stopped early; it goes on at its next look");
            }
        }
    }

    /// Looks once: everything that can be compressed, removed or given back now. Answers what retention removed; `None`
    /// where another server of the store does it.
    ///
    /// # Errors
    /// The store does not answer; the steps that were made so far stay.
    pub async fn look(
        &mut self,
        pace: Pace,
        pulse: &Pulse,
        shutdown: &CancellationToken,
    ) -> Result<Option<Vec<PrunedProject>>, StoreError> {
        let store = self.store.clone();
        let Some(upkeep) = store.upkeep() else { return Ok(None) };
        // A little less than a whole interval, so that a look is not left out because it came a moment early.
        let interval = (self.interval)();
        if !upkeep.take_turn(interval - interval / 5).await? {
            return Ok(None);
        }
        let mut look = LookRound { upkeep, pace, pulse, shutdown, renewed: Instant::now() };
        self.packer.look(&mut look).await?;
        forgotten::look(&mut look).await?;
        let pruned = prune::look(&mut look, &self.rules, &mut self.ages, self.clock.now()).await?;
        while !look.is_over() && look.write(upkeep.give_back()).await? {}
        Ok(Some(pruned))
    }
}
