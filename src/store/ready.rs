//! Whether a store can be written to: found out by a trial write, once for all callers that ask at about the same time.

use std::time::{Duration, Instant};

use tokio::{sync::Mutex, task::JoinHandle, time::timeout};

use super::error::StoreError;

/// How long an answer holds: no probe costs more than a small commit in two seconds, however many balancers ask.
const OK_AGE: Duration = Duration::from_secs(2);
const FAILURE_AGE: Duration = Duration::from_millis(500);
/// How long a trial write may take. A balancer waits about as long for an answer.
const TRIAL_LIMIT: Duration = Duration::from_secs(3);

type Found = Result<(), StoreError>;

/// The last answer, and the trial that is under way.
#[derive(Debug, Default)]
pub(super) struct Readiness(Mutex<KnownReadiness>);

#[derive(Debug, Default)]
struct KnownReadiness {
    last: Option<(Instant, Found)>,
    /// The trial that is under way, if its callers have stopped waiting for it.
    trial: Option<JoinHandle<Found>>,
}

impl Readiness {
    /// The result of the last trial, or of `trial` where the last one is too old. All callers meanwhile wait for the
    /// same trial, and there is never a second one beside it, because where writes hang, each would hold a connection.
    ///
    /// # Errors
    /// The error of the trial; [`StoreError::Unavailable`] where it took too long.
    pub(super) async fn ask(&self, trial: impl Future<Output = Found> + Send + 'static) -> Found {
        let mut known = self.0.lock().await;
        if let Some((at, found)) = &known.last
            && at.elapsed() < if found.is_ok() { OK_AGE } else { FAILURE_AGE }
        {
            return found.clone();
        }
        let under_way = known.trial.get_or_insert_with(|| tokio::spawn(trial));
        let found = match timeout(TRIAL_LIMIT, under_way).await {
            Ok(ended) => {
                known.trial = None;
                ended.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the trial write failed: {error}"))))
            }
            Err(_) => Err(StoreError::Unavailable(format!(
                "a trial write was not committed within {} s",
                TRIAL_LIMIT.as_secs()
            ))),
        };
        known.last = Some((Instant::now(), found.clone()));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn all_who_ask_share_one_trial_and_one_that_hangs_is_not_joined_by_another() {
        let (readiness, count) = (Readiness::default(), Arc::new(AtomicU32::new(0)));
        let trial = |ends: bool| {
            let count = count.clone();
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                if ends { Ok(()) } else { std::future::pending().await }
            }
        };
        let (one, other) = tokio::join!(readiness.ask(trial(true)), readiness.ask(trial(true)));
        assert_eq!((one, other, count.load(Ordering::Relaxed)), (Ok(()), Ok(()), 1));
        // An answer holds for a moment.
        *readiness.0.lock().await = KnownReadiness::default();
        for _ in 0..2 {
            let found = readiness.ask(trial(false)).await;
            assert!(matches!(found, Err(StoreError::Unavailable(why)) if why.contains("trial write")));
            readiness.0.lock().await.last = None;
        }
        assert_eq!(count.load(Ordering::Relaxed), 2, "the first one that hangs is still under way");
    }
}
