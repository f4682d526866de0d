//! Signs of life that arrived and could not be recorded: their senders were not silent. See decision 0036.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    clock::{BootInstant, Clock},
    model::{DeploymentId, ProjectName},
    store::StoreError,
};

/// A call that takes longer than this is stuck: its failure may be noted too late.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// The deployments whose signs of life could not be recorded. Clones share it.
#[derive(Clone)]
pub struct Unheard {
    clock: Arc<dyn Clock>,
    calls: Arc<Mutex<HashMap<DeploymentId, SignsOfLife>>>,
    /// When this server last failed to write to a project.
    projects: Arc<Mutex<HashMap<ProjectName, BootInstant>>>,
    /// When a caller was last turned away before its call was read.
    turned_away_at: Arc<Mutex<Option<BootInstant>>>,
}

/// The known failures of a deployment's signs of life. Calls that were recorded soon leave nothing behind.
#[derive(Default)]
struct SignsOfLife {
    /// When each call began that is still being recorded.
    under_way: Vec<BootInstant>,
    failed_at: Option<BootInstant>,
}

/// Whether a deployment's signs of life could be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// No failure is known.
    Clear,
    /// A sign of life could not be recorded; the last failure was at this instant.
    FailedAt(BootInstant),
    /// A sign of life has been waiting for long to be recorded.
    Stuck,
}

impl Unheard {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Unheard { clock, calls: Arc::default(), projects: Arc::default(), turned_away_at: Arc::default() }
    }

    /// Makes a call that is a sign of life of a deployment, and notes where it fails or is stuck. The reader finds out
    /// whether it is stuck, because a timer for each call would wake the runtime for each.
    pub(super) async fn note<T>(
        &self,
        id: DeploymentId,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut under_way = UnderWay::begin(self, id);
        let answer = call.await;
        under_way.has_failed = answer.is_err();
        answer
    }

    /// Notes that this server could not write to a project. Then another server could not record any sign of life in
    /// the project either, and cannot tell this server.
    pub fn note_failed(&self, project: ProjectName) {
        let failed_at = self.clock.boot();
        self.failed_projects().insert(project, failed_at);
    }

    /// When this server last failed to write to a project.
    pub fn failed_at(&self, project: &ProjectName) -> Option<BootInstant> {
        self.failed_projects().get(project).copied()
    }

    fn failed_projects(&self) -> MutexGuard<'_, HashMap<ProjectName, BootInstant>> {
        self.projects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a caller was turned away before its call was read: it may have brought a sign of life of any
    /// deployment.
    pub fn note_turned_away(&self) {
        *self.last_turned_away() = Some(self.clock.boot());
    }

    /// When a caller was last turned away.
    pub fn turned_away_at(&self) -> Option<BootInstant> {
        *self.last_turned_away()
    }

    fn last_turned_away(&self) -> MutexGuard<'_, Option<BootInstant>> {
        self.turned_away_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this deployment's signs of life could be recorded.
    pub fn of(&self, id: DeploymentId) -> Hearing {
        let now = self.clock.boot();
        match self.calls().get(&id) {
            Some(calls) if calls.under_way.iter().any(|begun_at| is_stuck(*begun_at, now)) => Hearing::Stuck,
            Some(SignsOfLife { failed_at: Some(failed_at), .. }) => Hearing::FailedAt(*failed_at),
            Some(_) | None => Hearing::Clear,
        }
    }

    /// Forgets the deployments that are not watched, and the projects without watched ones.
    pub fn forget_others(&self, is_watched: impl Fn(DeploymentId) -> bool, has_watched: impl Fn(&ProjectName) -> bool) {
        self.failed_projects().retain(|project, _| has_watched(project));
        self.calls().retain(|id, calls| !calls.under_way.is_empty() || is_watched(*id));
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<DeploymentId, SignsOfLife>> {
        // Every change of it is one call, so a panic leaves it whole.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_stuck(begun_at: BootInstant, now: BootInstant) -> bool {
    now.since(begun_at) > STUCK_AFTER
}

/// A call that is being recorded, until this is dropped: also when its caller goes away.
struct UnderWay<'a> {
    unheard: &'a Unheard,
    id: DeploymentId,
    begun_at: BootInstant,
    has_failed: bool,
}

impl<'a> UnderWay<'a> {
    fn begin(unheard: &'a Unheard, id: DeploymentId) -> Self {
        let begun_at = unheard.clock.boot();
        unheard.calls().entry(id).or_default().under_way.push(begun_at);
        UnderWay { unheard, id, begun_at, has_failed: false }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let now = self.unheard.clock.boot();
        let mut all = self.unheard.calls();
        let Some(calls) = all.get_mut(&self.id) else { return };
        if let Some(at) = calls.under_way.iter().position(|begun_at| *begun_at == self.begun_at) {
            calls.under_way.swap_remove(at);
        }
        if self.has_failed || is_stuck(self.begun_at, now) {
            calls.failed_at = Some(now);
        }
        if calls.under_way.is_empty() && calls.failed_at.is_none() {
            all.remove(&self.id);
        }
    }
}
