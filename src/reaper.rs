//! Ends deployments to which nobody attends any more, so that no slot is left locked for a human.
//!
//! The reaper believes no clock but its own: a deployment is reaped when *this* process has seen the same vital signs for
//! as long as its state allows. The store compares them once more as it ends it, so a sign of life that comes in between
//! wins, and of two reapers one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{BootInstant, Clock},
    health::{Pulse, Task},
    model::{Deployment, DeploymentId, Executor, Hint, Lapse, Refusal, State, Vital},
    notifier::Notifier,
    queue::Queue,
    store::StoreError,
};

/// How often it looks: a slot is freed at most so much later than it could be.
pub const TICK: Duration = Duration::from_secs(1);
/// How often it looks at a database that others use, too, while nothing in it needs watching: the first hint of something
/// has it look at once, and a lost one delays it by this.
const IDLE_TICK: Duration = Duration::from_secs(3);
/// A reaper that did not look for this long was stopped or starved, and its workers' heartbeats may lie unread.
const ASLEEP_LIMIT: Duration = Duration::from_secs(5);

/// How it is supervised. A look that does not come to its end for so long is stuck.
pub const TASK: Task = Task::new("reaper", Duration::from_secs(60)).with_round_limit(Duration::from_secs(15));

/// What was seen of one deployment.
#[derive(Clone, Copy, Debug)]
struct Observation {
    vital: Vital,
    /// Since when the signs are these.
    same_since: BootInstant,
    /// Since when it is known, for its deadline in the line.
    known_since: BootInstant,
}

/// Watches everything that can fall silent.
pub struct Reaper {
    queue: Queue,
    notifier: Arc<Notifier>,
    clock: Arc<dyn Clock>,
    seen: HashMap<DeploymentId, Observation>,
    last_tick: Option<BootInstant>,
    drain: CancellationToken,
}

impl Reaper {
    /// A reaper that has seen nothing yet. From `drain` on its server takes no claims.
    pub fn new(queue: Queue, notifier: Arc<Notifier>, drain: CancellationToken) -> Self {
        let clock = queue.clock().clone();
        Reaper { queue, notifier, clock, seen: HashMap::new(), last_tick: None, drain }
    }

    /// Ticks until `shutdown`.
    pub async fn run(mut self, pulse: Pulse, shutdown: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.notifier.await_anything();
            pulse.beat();
            // Nobody may be judged once HTTP ends, however long this look takes.
            let looked = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                looked = self.tick() => looked,
            };
            if let Err(error) = looked {
                tracing::warn!(%error, "the reaper could not look");
                continue;
            }
            pulse.done();
            if self.seen.is_empty() && self.queue.store().is_shared() {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = timeout(IDLE_TICK, self.notifier.anything()) => {}
                }
            }
        }
    }

    /// Looks once at everything, and ends what has lapsed. Answers how many were ended.
    ///
    /// # Errors
    /// The store did not answer; nothing is forgotten.
    pub async fn tick(&mut self) -> Result<usize, StoreError> {
        let watched = self.queue.store().watched().await?;
        let now = self.clock.boot();
        if self.last_tick.replace(now).is_some_and(|last| now.since(last) > ASLEEP_LIMIT) {
            self.seen.values_mut().for_each(|seen| seen.same_since = now);
        }
        let mut lapsed = Vec::new();
        let mut still = HashMap::with_capacity(watched.len());
        for deployment in watched.into_iter().map(|watched| watched.deployment) {
            if deployment.state == State::Ready && deployment.spec.executor == Executor::Server {
                // Its wake-up may have been lost on the way from another server.
                self.notifier.hear(Hint::Work(deployment.project.clone()));
            }
            let seen = self.observe(&deployment, now);
            if let Some(cause) = self.lapse(&deployment, seen, now) {
                lapsed.push((deployment.project.clone(), deployment.id, seen.vital, cause));
            }
            still.insert(deployment.id, seen);
        }
        self.seen = still;
        let mut ended_count = 0;
        for (project, id, vital, cause) in lapsed {
            match self.queue.reap(project.clone(), id, vital, cause).await? {
                Ok(ended) => {
                    ended_count += 1;
                    let code = ended.status().as_str();
                    tracing::info!(%project, deployment.id = %id, deployment.status = code, ?cause, "reaped");
                }
                Err(
                    Refusal::Alive
                    | Refusal::Final
                    | Refusal::LeaseLost
                    | Refusal::WrongState
                    | Refusal::Taken
                    | Refusal::OutputsFull
                    | Refusal::ReportGap { .. },
                ) => {}
            }
        }
        Ok(ended_count)
    }

    fn observe(&self, deployment: &Deployment, now: BootInstant) -> Observation {
        let vital = deployment.vital();
        match self.seen.get(&deployment.id) {
            Some(seen) if seen.vital == vital => *seen,
            Some(seen) => Observation { vital, same_since: now, known_since: seen.known_since },
            None => Observation { vital, same_since: now, known_since: now },
        }
    }

    fn lapse(&self, deployment: &Deployment, seen: Observation, now: BootInstant) -> Option<Lapse> {
        if let Some(seconds) = deployment.spec.deadline_seconds
            && deployment.is_waiting()
            && now.since(seen.known_since) >= Duration::from_secs(seconds)
        {
            return Some(Lapse::Deadline);
        }
        // A claim is the sign of life that is missing, and this server itself claims nothing and refuses agents by now. Another
        // server takes it, or this one when it has started again.
        if deployment.state == State::Ready && self.drain.is_cancelled() {
            return None;
        }
        let patience = deployment.patience(self.queue.limits())?;
        (now.since(seen.same_since) >= patience).then_some(Lapse::Silence)
    }
}
