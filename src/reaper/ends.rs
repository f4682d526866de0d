//! Ends the deployments that have lapsed, each project by itself: a project that is locked, slow or cannot be read does
//! not delay the others.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::BootInstant,
    model::{DeploymentId, Lapse, ProjectName, Refusal, Vital},
    queue::Queue,
    store::StoreError,
};

/// In how many projects at once deployments are ended. Each of them may keep a connection to a database.
const PROJECT_LIMIT: usize = 16;
/// How long one end may take before it is given up.
const END_LIMIT: Duration = Duration::from_secs(3);
/// The pause before a project that could not be written to is tried again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A deployment that has lapsed.
#[derive(Debug)]
pub(super) struct Lapsed {
    pub(super) project: ProjectName,
    pub(super) id: DeploymentId,
    /// Its vital signs when it was judged.
    pub(super) vital: Vital,
    pub(super) judged_at: BootInstant,
    pub(super) cause: Lapse,
}

/// The ends that are under way.
pub(super) struct Ends {
    queue: Queue,
    permits: Arc<Semaphore>,
    projects: Projects,
}

/// The projects in which something is being ended, or that cannot be written to.
#[derive(Clone, Default)]
struct Projects(Arc<Mutex<HashSet<ProjectName>>>);

impl Ends {
    pub(super) fn new(queue: Queue) -> Self {
        Ends { queue, permits: Arc::new(Semaphore::new(PROJECT_LIMIT)), projects: Projects::default() }
    }

    /// Begins to end these deployments, except in projects where an end is under way, or that cannot be written to. Nothing
    /// of it goes on after `shutdown`, because no sign of life can be recorded from then on.
    pub(super) fn begin(&self, lapsed: Vec<Lapsed>, shutdown: &CancellationToken) {
        let mut by_project: BTreeMap<ProjectName, Vec<Lapsed>> = BTreeMap::new();
        for one in lapsed {
            by_project.entry(one.project.clone()).or_default().push(one);
        }
        for (project, lapsed) in by_project {
            let Some(turn) = self.projects.take(project) else { continue };
            let (queue, permits) = (self.queue.clone(), self.permits.clone());
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let ending = async {
                    if end(&queue, &permits, lapsed).await.is_err() {
                        outlast(&queue, &permits, &turn.project).await;
                    }
                };
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {}
                    () = ending => {}
                }
            });
        }
    }
}

/// Ends what has lapsed in one project.
async fn end(queue: &Queue, permits: &Semaphore, lapsed: Vec<Lapsed>) -> Result<(), StoreError> {
    // The semaphore is never closed.
    let _permit = permits.acquire().await;
    for Lapsed { project, id, vital, judged_at, cause } in lapsed {
        let ended = timeout(END_LIMIT, queue.reap(project.clone(), id, vital, cause, judged_at)).await;
        match ended.unwrap_or_else(|_| Err(too_long())) {
            Ok(Ok(ended)) => {
                let code = ended.status().as_str();
                tracing::info!(%project, deployment.id = %id, deployment.status = code, ?cause, "reaped");
            }
            // A sign of life came in between, or another server ended it first.
            Ok(Err(
                Refusal::Alive
                | Refusal::Final
                | Refusal::LeaseLost
                | Refusal::WrongState
                | Refusal::Taken
                | Refusal::Held
                | Refusal::OutputsFull
                | Refusal::ReportGap { .. },
            )) => {}
            Err(error) => {
                tracing::warn!(%project, deployment.id = %id, %error, "a lapsed deployment could not be ended; it is tried again");
                queue.unheard().note_failed(project);
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Waits until the project can be written to again. Signs of life that came to another server could not be recorded until
/// then, and nothing tells this server when that is over; so it tries, and patience with the project begins anew at the end.
async fn outlast(queue: &Queue, permits: &Semaphore, project: &ProjectName) {
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let tried = {
            let _permit = permits.acquire().await;
            timeout(END_LIMIT, queue.try_project(project.clone())).await
        };
        queue.unheard().note_failed(project.clone());
        if matches!(tried, Ok(Ok(()))) {
            return;
        }
    }
}

fn too_long() -> StoreError {
    StoreError::Unavailable("it took too long".to_owned())
}

/// The right to end something in a project.
struct EndTurn {
    projects: Projects,
    project: ProjectName,
}

impl Drop for EndTurn {
    fn drop(&mut self) {
        self.projects.table().remove(&self.project);
    }
}

impl Projects {
    fn take(&self, project: ProjectName) -> Option<EndTurn> {
        let is_free = self.table().insert(project.clone());
        is_free.then(|| EndTurn { projects: self.clone(), project })
    }

    fn table(&self) -> MutexGuard<'_, HashSet<ProjectName>> {
        // Every change of it is one call, so a panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
