//! Whether a store can be written to: found out by writing, once for all who ask at about the same time.

use std::time::{Duration, Instant};

use tokio::{sync::Mutex, time::timeout};

use super::StoreError;

/// How long an answer holds: no probe costs more than a small commit in two seconds, however many balancers ask.
const OK_AGE: Duration = Duration::from_secs(2);
const FAILURE_AGE: Duration = Duration::from_millis(500);
/// How long a trial write may take. A balancer waits about as long for an answer.
const TRIAL_LIMIT: Duration = Duration::from_secs(3);

/// The answer of the last trial.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    last: Mutex<Option<(Instant, Result<(), StoreError>)>>,
}

impl Readiness {
    /// What the last trial found, or `trial` where that was too long ago. All who ask meanwhile wait for the same trial.
    ///
    /// # Errors
    /// What the trial met with; [`StoreError::Unavailable`] where it took too long.
    pub(super) async fn ask(&self, trial: impl Future<Output = Result<(), StoreError>>) -> Result<(), StoreError> {
        let mut last = self.last.lock().await;
        if let Some((at, found)) = &*last
            && at.elapsed() < if found.is_ok() { OK_AGE } else { FAILURE_AGE }
        {
            return found.clone();
        }
        let found = timeout(TRIAL_LIMIT, trial).await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable(format!("a trial write was not committed within {} s", TRIAL_LIMIT.as_secs())))
        });
        *last = Some((Instant::now(), found.clone()));
        found
    }
}
