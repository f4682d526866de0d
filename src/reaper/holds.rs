//! Brings a project to where the begin or the end of a hold wants it, at that moment: by a timer that is set to the next one.
//! See decision 0069.
//!
//! ```text
//! which pauses are there? ─▶ whose hold began or ended since the last look? ─▶ settle ─▶ wait for the next end, or for news
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    health::{Pulse, Task},
    model::{Hint, Hold, Pause, ProjectName},
    queue::Queue,
    store::{HeldProject, StoreError},
    watch::Notifier,
};

/// How often the wall clock is looked at, without the store: it may be set, and the machine may sleep.
const CLOCK_LOOK: Duration = Duration::from_secs(2);
/// How often a shared store is asked for pauses of which no hint came.
const FALLBACK: Duration = Duration::from_secs(30);
/// How long a question or a decision may take, and the pause before it is tried again.
const STEP_LIMIT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How it is supervised: each of its steps has a limit.
pub const HOLDS_TASK: Task = Task::new("holds", Duration::from_secs(120));

/// The timer.
pub struct HoldTimer {
    queue: Queue,
    notifier: Arc<Notifier>,
    /// Whether each project that may be held was held at the last look.
    was_held: HashMap<ProjectName, bool>,
}

impl HoldTimer {
    /// A timer that has looked at nothing yet: at its first look, it does what no server did meanwhile.
    pub fn new(queue: Queue, notifier: Arc<Notifier>) -> Self {
        HoldTimer { queue, notifier, was_held: HashMap::new() }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, pulse: Pulse, shutdown: CancellationToken) {
        let mut pauses = self.notifier.pauses();
        let mut config = self.queue.config().changes();
        while !shutdown.is_cancelled() {
            pauses.borrow_and_update();
            config.borrow_and_update();
            let next = tokio::select! {
                () = shutdown.cancelled() => return,
                next = self.look(&pulse) => next,
            };
            pulse.done();
            let looked_at = Instant::now();
            loop {
                let now = self.queue.clock().wall();
                let is_stale = self.queue.store().is_shared() && looked_at.elapsed() >= FALLBACK;
                if is_stale || next.is_some_and(|next| next <= now) {
                    break;
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = pauses.changed() => break,
                    _ = config.changed() => break,
                    () = sleep(left(next, now)) => pulse.beat(),
                }
            }
        }
    }

    /// Settles each project whose hold began or ended. Answers when to look again.
    async fn look(&mut self, pulse: &Pulse) -> Option<Timestamp> {
        let now = self.queue.clock().wall();
        let again = now.checked_add(RETRY_PAUSE).ok();
        let asked = timeout(STEP_LIMIT, self.queue.store().held_projects()).await;
        let held = match asked.unwrap_or_else(|_| Err(too_long())) {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(%error, "the pauses of the projects could not be read; they are read again");
                return again;
            }
        };
        let config = self.queue.config().now();
        let mut all: BTreeMap<ProjectName, Option<HeldProject>> = BTreeMap::new();
        let configured = config.projects.iter().filter(|(_, project)| project.policy.may_hold());
        all.extend(configured.map(|(name, _)| (name.clone(), None)));
        all.extend(held.into_iter().map(|held| (held.project.clone(), Some(held))));
        let mut next = None;
        let mut is_held = HashMap::with_capacity(all.len());
        for (project, listed) in all {
            pulse.beat();
            let policy = self.queue.policy(&project);
            let pause = listed.as_ref().and_then(|listed| listed.pause.as_ref());
            let holds = Hold::of(&policy, pause, now).is_some();
            next = earlier(next, Hold::next_change(&policy, pause, now));
            if self.needs_settling(&project, listed.as_ref(), holds, now) && !self.settle(&project).await {
                // It is looked at as if for the first time.
                next = earlier(next, again);
                continue;
            }
            is_held.insert(project, holds);
        }
        // A project that is listed no more is held no more, and was settled by whoever ended its hold.
        self.was_held = is_held;
        next
    }

    fn needs_settling(&self, project: &ProjectName, listed: Option<&HeldProject>, holds: bool, now: Timestamp) -> bool {
        let pause = listed.and_then(|listed| listed.pause.as_ref());
        let was_held = self.was_held.get(project).copied();
        let is_over = pause.is_some_and(|pause: &Pause| !pause.lasts(now));
        // Whoever set the pause took the slot back. A freeze window begins by itself.
        let begins = holds && was_held != Some(true) && pause.is_none();
        let ends = !holds && (was_held == Some(true) || listed.is_some());
        is_over || begins || ends
    }

    async fn settle(&self, project: &ProjectName) -> bool {
        let settled = timeout(STEP_LIMIT, self.queue.settle(project.clone())).await;
        match settled.unwrap_or_else(|_| Err(too_long())) {
            Ok(standing) => {
                // It may be that nobody waits, so that nothing was committed.
                self.notifier.hear(Hint::Project(project.clone()));
                match &standing.hold {
                    Some(hold) => tracing::info!(%project, %hold, "a project is held"),
                    None => tracing::info!(%project, "a project is held no more"),
                }
                true
            }
            Err(error) => {
                tracing::warn!(%project, %error, "a hold began or ended, and that could not be carried out; it is tried again");
                false
            }
        }
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// How long to wait until the next look at the wall clock.
fn left(next: Option<Timestamp>, now: Timestamp) -> Duration {
    let left_ms = next.map_or(i64::MAX, |next| next.as_millisecond().saturating_sub(now.as_millisecond()));
    // A whole millisecond more, because the last one is cut off.
    let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0).saturating_add(1));
    left.min(CLOCK_LOOK)
}

fn too_long() -> StoreError {
    StoreError::Unavailable("it took too long".to_owned())
}
