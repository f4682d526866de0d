//! The reaper's rounds: once a second it looks at all deployments whose state requires a sign of life, and finds those
//! that have lapsed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::ends::{Ends, Lapsed};
use crate::{
    clock::{BootInstant, Clock},
    health::{Pulse, Task, ticks},
    model::{DeploymentId, Hint, Lapse, Limits, ProjectName, RunBy, State, Vital},
    queue::{Hearing, Queue},
    store::{StoreError, Watched},
    watch::Notifier,
};

/// How often it looks: a slot is freed at most this much later than it could be.
pub const TICK: Duration = Duration::from_secs(1);
/// How often it looks at a shared database while nothing in it needs watching: the first hint of something makes it
/// look at once, and a lost hint delays it by this.
const IDLE_TICK: Duration = Duration::from_secs(3);
/// A process that did not run for this long was stopped or starved, and its workers' heartbeats may lie unread. A store
/// that did not answer for this long could not record them either.
const DEAF_LIMIT: Duration = Duration::from_secs(5);
/// How long a look may take. A look that is cut has seen nothing.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// How it is supervised: it shows signs of life while it looks, too.
pub const TASK: Task = Task::new("reaper", Duration::from_secs(60)).with_round_limit(Duration::from_secs(15));

/// The observation of one deployment.
#[derive(Clone, Copy, Debug)]
struct Observed {
    vital: Vital,
    /// Since when the signs are unchanged, although they could have changed.
    same_since: BootInstant,
    /// Since when the deployment is known, for its deadline in the line.
    known_since: BootInstant,
}

/// Watches everything that can fall silent.
pub struct Reaper {
    queue: Queue,
    notifier: Arc<Notifier>,
    clock: Arc<dyn Clock>,
    seen: HashMap<DeploymentId, Observed>,
    drain: CancellationToken,
    ends: Ends,
    /// The last moment at which this process is known to have run.
    ran_at: BootInstant,
    /// Since when the store has not answered.
    unanswered_since: Option<BootInstant>,
    /// Until when no sign of life could be recorded.
    deaf_until: Option<BootInstant>,
    limits: Limits,
    /// The limits before the last reload that changed them, and until when they count beside the present ones.
    former_limits: Option<(Limits, BootInstant)>,
}

impl Reaper {
    /// A reaper that has seen nothing yet. From `drain` on its server takes no claims.
    pub fn new(queue: Queue, notifier: Arc<Notifier>, drain: CancellationToken) -> Self {
        let clock = queue.clock().clone();
        let (ends, ran_at, limits) = (Ends::new(queue.clone()), clock.boot(), queue.limits());
        Reaper {
            limits,
            former_limits: None,
            queue,
            notifier,
            clock,
            seen: HashMap::new(),
            ends,
            ran_at,
            unanswered_since: None,
            deaf_until: None,
            drain,
        }
    }

    /// Ticks until `shutdown`.
    pub async fn run(mut self, pulse: Pulse, shutdown: CancellationToken) {
        let mut ticks = ticks(TICK);
        while pulse.next_round(&mut ticks, &shutdown).await {
            self.notifier.await_anything();
            // No deployment may be judged once HTTP ends, however long this look takes.
            let looked = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                looked = self.look() => looked,
            };
            match looked {
                Ok(lapsed) => {
                    pulse.done();
                    self.ends.begin(lapsed, &shutdown);
                }
                Err(error) => {
                    tracing::warn!(%error, "the reaper could not look");
                    continue;
                }
            }
            if self.seen.is_empty() && self.queue.store().is_shared() {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = timeout(IDLE_TICK, self.notifier.anything()) => {}
                }
            }
        }
    }

    /// Looks once at everything. Answers the deployments that have lapsed.
    async fn look(&mut self) -> Result<Vec<Lapsed>, StoreError> {
        let watched = self.read().await?;
        let now = self.clock.boot();
        if self.deaf_until.take().is_some() {
            self.seen.values_mut().for_each(|seen| seen.same_since = now);
        }
        self.note_limits(now);
        let unheard = self.queue.unheard().clone();
        let turned_away_at = unheard.turned_away_at();
        let mut lapsed = Vec::new();
        let mut still = HashMap::with_capacity(watched.len());
        for one in &watched {
            if one.state == State::Ready && one.executor == RunBy::Worker {
                // Its wake-up may have been lost on the way from another server.
                self.notifier.hear(Hint::Work(one.project.clone()));
            }
            let mut seen = self.observe(one, now);
            for unheard_at in turned_away_at.into_iter().chain(unheard.failed_at(&one.project)) {
                seen.same_since = seen.same_since.max(unheard_at);
            }
            match unheard.of(one.id) {
                Hearing::Clear => {}
                Hearing::FailedAt(failed_at) => seen.same_since = seen.same_since.max(failed_at),
                Hearing::Stuck => seen.same_since = now,
            }
            still.insert(one.id, seen);
            if let Some(cause) = self.lapse(one, seen, now) {
                let project = one.project.clone();
                lapsed.push(Lapsed { project, id: one.id, vital: seen.vital, judged_at: now, cause });
            }
        }
        let is_of_any = |project: &ProjectName| watched.iter().any(|one| one.project == *project);
        unheard.forget_others(|id| still.contains_key(&id), is_of_any);
        self.seen = still;
        Ok(lapsed)
    }

    /// Reads the deployments to judge, and finds out whether signs of life could be recorded until now.
    async fn read(&mut self) -> Result<Vec<Watched>, StoreError> {
        let began = self.clock.boot();
        self.note_running(began);
        let store = self.queue.store().clone();
        let has_seen = !self.seen.is_empty();
        let reading = async move {
            // No deployment is judged whose signs of life the store could not record; on a full disk, the store records
            // signs of life all the same.
            let writes = async { if has_seen { store.ready().await } else { Ok(()) } };
            let (watched, writes) = tokio::join!(store.watched(), writes);
            Ok((watched?, !matches!(writes, Ok(()) | Err(StoreError::Full))))
        };
        let answered = self.while_running(timeout(LOOK_LIMIT, reading)).await;
        let answered = answered.unwrap_or_else(|_| Err(StoreError::Unavailable("it took too long".to_owned())));
        let now = self.clock.boot();
        match &answered {
            Ok((_, takes_no_writes)) => {
                let was_deaf = self.unanswered_since.take().is_some_and(|since| now.since(since) > DEAF_LIMIT);
                if was_deaf || *takes_no_writes {
                    self.deaf_until = Some(now);
                }
            }
            Err(_) => _ = self.unanswered_since.get_or_insert(began),
        }
        answered.map(|(watched, _)| watched)
    }

    /// Waits for something, and notices whether the process was stopped meanwhile. How long it takes does not matter.
    async fn while_running<T>(&mut self, waiting: impl Future<Output = T>) -> T {
        let mut waiting = std::pin::pin!(waiting);
        let mut ticks = ticks(TICK);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => self.note_running(self.clock.boot()),
                done = &mut waiting => {
                    self.note_running(self.clock.boot());
                    return done;
                }
            }
        }
    }

    fn note_running(&mut self, now: BootInstant) {
        if now.since(std::mem::replace(&mut self.ran_at, now)) > DEAF_LIMIT {
            self.deaf_until = Some(now);
        }
    }

    fn observe(&self, watched: &Watched, now: BootInstant) -> Observed {
        let vital = watched.vital;
        match self.seen.get(&watched.id) {
            Some(seen) if seen.vital == vital => *seen,
            Some(seen) => Observed { vital, same_since: now, known_since: seen.known_since },
            None => Observed { vital, same_since: now, known_since: now },
        }
    }

    /// Shorter limits hold at once only for those that know them. A parked poll keeps its place in line anew in each third
    /// of the `attendance` that it began with.
    fn note_limits(&mut self, now: BootInstant) {
        let present = self.queue.limits();
        if present != self.limits {
            let former = std::mem::replace(&mut self.limits, present);
            self.former_limits = Some((former, now.after(former.attendance)));
        }
        self.former_limits = self.former_limits.filter(|(_, until)| now < *until);
    }

    /// How long the deployment's sign of life may be missing.
    fn patience(&self, watched: &Watched) -> Option<Duration> {
        let former = self.former_limits.and_then(|(limits, _)| watched.patience(&limits));
        watched.patience(&self.limits).max(former)
    }

    fn lapse(&self, watched: &Watched, seen: Observed, now: BootInstant) -> Option<Lapse> {
        if let Some(deadline) = watched.deadline
            && matches!(watched.state, State::Waiting(_))
            && now.since(seen.known_since) >= deadline
        {
            return Some(Lapse::Deadline);
        }
        // The missing sign of life is a claim, and this server itself claims nothing and refuses agents by now. Another
        // server takes the deployment, or this server after its next start.
        if watched.state == State::Ready && self.drain.is_cancelled() {
            return None;
        }
        let patience = self.patience(watched)?;
        (now.since(seen.same_since) >= patience).then_some(Lapse::Silence)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{clock::SystemClock, store::memory::MemoryStore};

    /// A clock that a test moves on, in seconds.
    #[derive(Default)]
    struct HandClock(AtomicU64);

    impl Clock for HandClock {
        fn wall(&self) -> jiff::Timestamp {
            SystemClock.wall()
        }

        fn boot(&self) -> BootInstant {
            BootInstant::from_start(Duration::from_secs(self.0.load(Ordering::Relaxed)))
        }
    }

    #[tokio::test]
    async fn a_look_that_takes_long_is_no_sleep_of_the_process() {
        let clock = Arc::new(HandClock::default());
        let store = Arc::new(MemoryStore::new(Arc::new(|_, _| {})));
        let queue = Queue::new(store, clock.clone(), Default::default());
        let mut reaper = Reaper::new(queue, Arc::default(), CancellationToken::new());
        let long_look = async {
            for _ in 0..3 {
                tokio::time::sleep(TICK).await;
                clock.0.fetch_add(DEAF_LIMIT.as_secs() - 2, Ordering::Relaxed);
            }
        };
        reaper.while_running(long_look).await;
        reaper.note_running(clock.boot());
        assert_eq!(reaper.deaf_until, None, "the process ran all the time");
        let sleep = async { _ = clock.0.fetch_add(20, Ordering::Relaxed) };
        reaper.while_running(sleep).await;
        assert_eq!(reaper.deaf_until, Some(clock.boot()), "the process was stopped");
    }
}
