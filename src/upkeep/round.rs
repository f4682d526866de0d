//! One look at everything: its steps that write, and the pauses between them.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    health::Pulse,
    store::{StoreError, Upkeep},
};

/// After each step that wrote, it pauses for so many times as long as the step took, so that it takes at most a fifth
/// of the writer's time.
const PAUSE_PER_STEP: u32 = 4;
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often it says to the other servers of the store that it is still at it.
const RENEWAL: Duration = Duration::from_secs(5);

/// How fast it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Beside traffic, which goes first.
    BesideTraffic,
    /// With nothing to wait for.
    Alone,
}

/// One look: what its steps need.
pub(super) struct LookRound<'a> {
    pub(super) upkeep: &'a dyn Upkeep,
    pub(super) pace: Pace,
    pub(super) pulse: &'a Pulse,
    pub(super) shutdown: &'a CancellationToken,
    /// When it last told the others that it is still at it.
    pub(super) renewed: Instant,
}

impl LookRound<'_> {
    /// Whether the server ends.
    pub(super) fn is_over(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Makes a step that writes, and pauses after it.
    pub(super) async fn write<T>(
        &mut self,
        step: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let done = step.await?;
        self.pulse.beat();
        if self.pace == Pace::BesideTraffic {
            let pause = (began.elapsed() * PAUSE_PER_STEP).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = sleep(pause) => {}
            }
        }
        if self.renewed.elapsed() >= RENEWAL {
            self.upkeep.take_turn(Duration::ZERO).await?;
            self.renewed = Instant::now();
        }
        Ok(done)
    }
}
