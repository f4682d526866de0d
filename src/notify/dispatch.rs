//! Decides which rows are sent now, and what becomes of each.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    backoff,
    client::Undelivered,
    deliver::{Courier, Delivered},
};
use crate::{
    clock::Clock,
    config::{LiveConfig, NotifyTarget, TargetKind},
    health::{Pulse, Task},
    model::bounds,
    store::{Notification, NotificationCounts, Settlement, Store, StoreError, notifications::ERROR_LIMIT},
};

/// How many notifications of one rule a server sends at once: enough for a busy hour, few enough for any target.
const PLACES: usize = 4;
/// How long one attempt may take, with all its requests.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(20);
/// How long a claim lasts. Longer than an attempt and its settling, so that a row is sent twice only if its server died.
const LEASE: Duration = Duration::from_secs(30);
/// How often the outbox is looked at although nothing was committed here: another server may have died.
const FALLBACK: Duration = Duration::from_secs(30);
/// The shortest wait for a row that is due and could not be claimed: another server was faster, or the store is slow.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a call of the store may take, how often it is tried to say what became of a row, and the wait in between.
const STEP_LIMIT: Duration = Duration::from_secs(10);
const SETTLE_LIMIT: u32 = 3;
const SETTLE_PAUSE: Duration = Duration::from_secs(1);
/// How often dead rows are looked through, and how many are kept at most.
const PRUNE_PAUSE: Duration = Duration::from_secs(60 * 60);
const DEAD_LIMIT: usize = 10_000;
/// How long a row waits for a server that has its rule.
const NO_RULE_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long attempts that are under way may go on at a server's end.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How it is supervised: each of its steps has a limit.
pub const TASK: Task = Task::new("notifications", Duration::from_secs(120));

/// A number that operators watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationFigure {
    /// A notification was sent.
    Sent(TargetKind),
    /// An attempt failed.
    Failed(TargetKind),
    /// A notification was given up.
    Dead(TargetKind),
    /// So many rows there are.
    Counts(NotificationCounts),
}

/// Is told of the figures. Must not block.
pub type OnFigure = Arc<dyn Fn(NotificationFigure) + Send + Sync>;

/// The task that sends notifications.
pub struct Dispatcher {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    live: LiveConfig,
    wakes: watch::Receiver<()>,
    on_figure: OnFigure,
    /// The attempts under way; each ends with the name of its rule.
    under_way: JoinSet<Arc<str>>,
    busy: HashMap<Arc<str>, usize>,
    pruned_at: Option<Instant>,
    counted_at: Option<Instant>,
}

impl Dispatcher {
    /// A task that has looked at nothing yet. `wakes` tells of rows that were committed at this server.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        live: LiveConfig,
        wakes: watch::Receiver<()>,
        on_figure: OnFigure,
    ) -> Self {
        let (under_way, busy) = (JoinSet::new(), HashMap::new());
        Dispatcher { store, clock, live, wakes, on_figure, under_way, busy, pruned_at: None, counted_at: None }
    }

    /// Runs until `shutdown`. Then the attempts under way have a moment to end.
    pub async fn run(mut self, pulse: Pulse, shutdown: CancellationToken) {
        let mut config = self.live.changes();
        let mut has_begun = false;
        while !shutdown.is_cancelled() {
            self.wakes.borrow_and_update();
            let present = config.borrow_and_update().clone();
            if present.notify.is_empty() && self.under_way.is_empty() {
                let changed = pulse.resting(async {
                    tokio::select! {
                        () = shutdown.cancelled() => false,
                        changed = config.changed() => changed.is_ok(),
                    }
                });
                if !changed.await {
                    break;
                }
                continue;
            }
            let round = async {
                if !has_begun && !self.store.is_shared() {
                    limited(self.store.notifications().end_claims()).await?;
                }
                has_begun = true;
                self.round(&present.notify, present.retention.dead_letters, present.public_url.as_deref()).await
            };
            let wait = tokio::select! {
                () = shutdown.cancelled() => break,
                wait = round => wait.unwrap_or_else(|error| {
                    tracing::warn!(%error, "the outbox of notifications could not be read; it is read again");
                    RETRY_PAUSE
                }),
            };
            pulse.done();
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = self.wakes.changed() => {}
                _ = config.changed() => {}
                Some(ended) = self.under_way.join_next() => self.free(ended),
                () = sleep(wait.min(FALLBACK)) => {}
            }
            while let Some(ended) = self.under_way.try_join_next() {
                self.free(ended);
            }
        }
        let draining = async { while self.under_way.join_next().await.is_some() {} };
        // The claims of those that are ended now run out, and they are sent anew.
        let _ = pulse.resting(timeout(DRAIN_LIMIT, draining)).await;
    }

    /// Starts all attempts for which it is time and place. Answers in how long to look again.
    async fn round(
        &mut self,
        targets: &[Arc<NotifyTarget>],
        keep: Option<Duration>,
        public_url: Option<&str>,
    ) -> Result<Duration, StoreError> {
        let names: Vec<_> = targets.iter().map(|target| target.rule.name.to_string()).collect();
        self.keep_order(&names, keep).await?;
        loop {
            let due = limited(self.store.notifications().next_due(names.clone(), self.clock.wall())).await?;
            let mut next = FALLBACK;
            let mut has_claimed = false;
            for due in due {
                let Some(target) = targets.iter().find(|target| *target.rule.name == *due.rule) else { continue };
                if !due.wait.is_zero() {
                    next = next.min(due.wait);
                    continue;
                }
                let free = PLACES.saturating_sub(self.busy.get(&target.rule.name).copied().unwrap_or(0));
                if free == 0 {
                    // The end of an attempt wakes this task.
                    continue;
                }
                let room = self.store.notifications();
                let claimed = limited(room.claim(due.rule, free, LEASE, self.clock.wall())).await?;
                has_claimed |= !claimed.is_empty();
                next = next.min(RETRY_PAUSE);
                claimed.into_iter().for_each(|row| self.start(row, target.clone(), public_url));
            }
            if !has_claimed {
                return Ok(next);
            }
        }
    }

    fn start(&mut self, row: Notification, target: Arc<NotifyTarget>, public_url: Option<&str>) {
        let name = target.rule.name.clone();
        *self.busy.entry(name.clone()).or_default() += 1;
        let public_url = public_url.map(str::to_owned);
        let courier = Courier { store: self.store.clone(), clock: self.clock.clone(), public_url };
        let on_figure = self.on_figure.clone();
        self.under_way.spawn(async move {
            // A panic must not keep the place of its rule.
            let sending = tokio::spawn(async move { attempt(&courier, &row, &target, &on_figure).await });
            let guard = AbortOnDrop(sending.abort_handle());
            if sending.await.is_err_and(|error| error.is_panic()) {
                tracing::error!(rule = %name, "sending a notification panicked; it is tried again");
            }
            drop(guard);
            name
        });
    }

    fn free(&mut self, ended: Result<Arc<str>, tokio::task::JoinError>) {
        let Ok(name) = ended else { return };
        if let Some(count) = self.busy.get_mut(&name) {
            *count = count.saturating_sub(1);
        }
        self.busy.retain(|_, count| *count > 0);
    }

    /// Lets go of what was kept for long enough, and counts.
    async fn keep_order(&mut self, names: &[String], keep: Option<Duration>) -> Result<(), StoreError> {
        let room = self.store.notifications();
        if self.pruned_at.is_none_or(|at| at.elapsed() >= PRUNE_PAUSE) {
            let now = self.clock.wall();
            let before = |age: Duration| now.checked_sub(age).ok();
            let pruned = limited(room.prune(keep.and_then(before), DEAD_LIMIT)).await?;
            let mut lost = 0;
            if let Some(before) = before(NO_RULE_LIMIT) {
                lost = limited(room.give_up(names.to_vec(), before, now)).await?;
            }
            if pruned + lost > 0 {
                tracing::info!(pruned, without_rule = lost, "the outbox of notifications was tidied up");
            }
            self.pruned_at = Some(Instant::now());
        }
        if self.counted_at.is_none_or(|at| at.elapsed() >= FALLBACK / 2) {
            (self.on_figure)(NotificationFigure::Counts(limited(room.counts()).await?));
            self.counted_at = Some(Instant::now());
        }
        Ok(())
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends one row, and says what became of it.
async fn attempt(courier: &Courier, row: &Notification, target: &Arc<NotifyTarget>, on_figure: &OnFigure) {
    let kind = target.kind;
    let result = if row.attempt_count > u64::from(target.attempts) {
        Err(Undelivered::forever("the server ended during each attempt"))
    } else {
        let delivering = timeout(ATTEMPT_LIMIT, courier.deliver(row, target)).await;
        delivering.unwrap_or_else(|_| {
            Err(Undelivered::now(format!("it took longer than {} s in all", ATTEMPT_LIMIT.as_secs())))
        })
    };
    let (rule, event, project) = (&*target.rule.name, row.event.as_str(), &row.project);
    let settlement = match result {
        Ok(delivered) => {
            if delivered == Delivered::Sent {
                on_figure(NotificationFigure::Sent(kind));
                tracing::debug!(rule, event, project.name = %project, "a notification was sent");
            }
            Settlement::Done
        }
        Err(Undelivered { why, asked, is_final }) => {
            on_figure(NotificationFigure::Failed(kind));
            let error = bounds::cut(why, ERROR_LIMIT);
            let attempt = row.attempt_count;
            if is_final || attempt >= u64::from(target.attempts) {
                on_figure(NotificationFigure::Dead(kind));
                let id = row.id.as_str();
                tracing::error!(rule, event, project.name = %project, notification.id = id, attempt, %error, "a notification was given up; `singletrack notifications --dead` lists it");
                Settlement::Dead { error }
            } else {
                tracing::warn!(rule, event, project.name = %project, attempt, %error, "a notification was not sent; it is tried again");
                Settlement::Later { wait: backoff::wait(attempt, backoff::random(), asked), error: Some(error) }
            }
        }
    };
    for _ in 0..SETTLE_LIMIT {
        let room = courier.store.notifications();
        match limited(room.settle(row.clone(), settlement.clone(), courier.clock.wall())).await {
            Ok(true) => return,
            Ok(false) => {
                tracing::debug!(rule, event, "another server has this notification meanwhile");
                return;
            }
            Err(error) => tracing::warn!(%error, rule, event, "it could not be recorded what became of a notification"),
        }
        sleep(SETTLE_PAUSE).await;
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(STEP_LIMIT, call).await.unwrap_or_else(|_| Err(StoreError::Unavailable("it took too long".to_owned())))
}
