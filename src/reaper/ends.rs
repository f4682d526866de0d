//! Ends the deployments that have lapsed, each project by itself: a project that is locked, slow or cannot be read does
//! not delay the others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};
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
/// How long a project whose deployments could not be ended is left alone: at first, and at most.
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

/// The projects in which nothing is to be ended now, and why.
#[derive(Clone, Default)]
struct Projects(Arc<Mutex<HashMap<ProjectName, EndStanding>>>);

#[derive(Clone, Copy)]
enum EndStanding {
    /// An end is under way in it.
    UnderWay,
    /// An end failed, and the project is left alone for a while.
    Failed { until: BootInstant, pause: Duration },
}

impl Ends {
    pub(super) fn new(queue: Queue) -> Self {
        Ends { queue, permits: Arc::new(Semaphore::new(PROJECT_LIMIT)), projects: Projects::default() }
    }

    /// Begins to end these deployments, except in projects where an end is under way, or has just failed. Nothing of it
    /// goes on after `shutdown`, because no sign of life can be recorded from then on.
    pub(super) fn begin(&self, lapsed: Vec<Lapsed>, shutdown: &CancellationToken) {
        let mut by_project: BTreeMap<ProjectName, Vec<Lapsed>> = BTreeMap::new();
        for one in lapsed {
            by_project.entry(one.project.clone()).or_default().push(one);
        }
        let now = self.queue.clock().boot();
        self.projects.forget_others(&by_project);
        for (project, lapsed) in by_project {
            let Some(turn) = self.projects.take(project, now) else { continue };
            let (queue, permits) = (self.queue.clone(), self.permits.clone());
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let ending = async {
                    // The semaphore is never closed.
                    let _permit = permits.acquire().await;
                    end(&queue, lapsed, turn).await;
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

/// Ends the deployments that have lapsed in one project.
async fn end(queue: &Queue, lapsed: Vec<Lapsed>, mut turn: EndTurn) {
    for Lapsed { project, id, vital, judged_at, cause } in lapsed {
        let ended = timeout(END_LIMIT, queue.reap(project.clone(), id, vital, cause, judged_at)).await;
        match ended.unwrap_or_else(|_| Err(StoreError::Unavailable("it took too long".to_owned()))) {
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
                | Refusal::OutputsFull
                | Refusal::ReportGap { .. },
            )) => {}
            Err(error) => {
                if turn.is_first_failure() {
                    tracing::warn!(%project, deployment.id = %id, %error, "a lapsed deployment could not be ended; it is tried again");
                }
                queue.unheard().note_failed(project);
                return turn.failed(queue.clock().boot());
            }
        }
    }
}

/// The right to end something in a project.
struct EndTurn {
    projects: Projects,
    project: ProjectName,
    pause: Option<Duration>,
    failed_until: Option<(BootInstant, Duration)>,
}

impl EndTurn {
    fn is_first_failure(&self) -> bool {
        self.pause.is_none()
    }

    fn failed(&mut self, now: BootInstant) {
        let pause = self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
        self.failed_until = Some((now.after(pause), pause));
    }
}

impl Drop for EndTurn {
    fn drop(&mut self) {
        let mut projects = self.projects.table();
        match self.failed_until {
            Some((until, pause)) => _ = projects.insert(self.project.clone(), EndStanding::Failed { until, pause }),
            None => _ = projects.remove(&self.project),
        }
    }
}

impl Projects {
    fn take(&self, project: ProjectName, now: BootInstant) -> Option<EndTurn> {
        let mut projects = self.table();
        let pause = match projects.get(&project) {
            None => None,
            Some(EndStanding::Failed { until, pause }) if *until <= now => Some(*pause),
            Some(EndStanding::Failed { .. } | EndStanding::UnderWay) => return None,
        };
        projects.insert(project.clone(), EndStanding::UnderWay);
        Some(EndTurn { projects: self.clone(), project, pause, failed_until: None })
    }

    /// Forgets the failures of projects in which nothing has lapsed any more.
    fn forget_others(&self, lapsed: &BTreeMap<ProjectName, Vec<Lapsed>>) {
        self.table().retain(|project, standing| match standing {
            EndStanding::UnderWay => true,
            EndStanding::Failed { .. } => lapsed.contains_key(project),
        });
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ProjectName, EndStanding>> {
        // Every change of it is one call, so a panic leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
