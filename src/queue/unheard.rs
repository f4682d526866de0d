//! Signs of life that came and could not be recorded: whoever sent them was not silent.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::timeout;

use crate::{
    clock::{BootInstant, Clock},
    model::{DeploymentId, ProjectName},
    store::StoreError,
};

/// A call that takes longer than this is stuck: it may be noted when it is too late.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// The deployments whose signs of life could not be recorded. Clones share it.
#[derive(Clone)]
pub struct Unheard {
    clock: Arc<dyn Clock>,
    troubles: Arc<Mutex<HashMap<DeploymentId, Trouble>>>,
    /// When this server itself could not write to a project, the last time.
    projects: Arc<Mutex<HashMap<ProjectName, BootInstant>>>,
    /// When a caller could not even be listened to, the last time.
    turned_away_at: Arc<Mutex<Option<BootInstant>>>,
}

#[derive(Clone, Copy)]
struct Trouble {
    stuck_count: usize,
    failed_at: BootInstant,
}

/// Whether a deployment could be heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Nothing is known against it.
    Clear,
    /// A sign of life could not be recorded; the last time, at this instant.
    FailedAt(BootInstant),
    /// A sign of life is waiting to be recorded, and has been for long.
    Stuck,
}

impl Unheard {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Unheard { clock, troubles: Arc::default(), projects: Arc::default(), turned_away_at: Arc::default() }
    }

    /// Makes a call that is a sign of life of a deployment, and notes where it fails or is stuck.
    pub(super) async fn note<T>(
        &self,
        id: DeploymentId,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut call = pin!(call);
        let answer = match timeout(STUCK_AFTER, &mut call).await {
            Ok(answer) => answer,
            Err(_) => {
                // It is dropped when the caller goes away, too.
                let _stuck = Stuck::begin(self, id);
                call.await
            }
        };
        if answer.is_err() {
            self.change(id, |trouble| trouble);
        }
        answer
    }

    /// Notes that this server could not write to a project: another server could not record anybody's signs of life in it
    /// either, and cannot tell this one.
    pub fn note_failed(&self, project: ProjectName) {
        let failed_at = self.clock.boot();
        self.failed_projects().insert(project, failed_at);
    }

    /// When this server could not write to a project, the last time.
    pub fn failed_at(&self, project: &ProjectName) -> Option<BootInstant> {
        self.failed_projects().get(project).copied()
    }

    fn failed_projects(&self) -> MutexGuard<'_, HashMap<ProjectName, BootInstant>> {
        self.projects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a caller was turned away before it could say anything: it may have been anybody, with a sign of life.
    pub fn note_turned_away(&self) {
        *self.last_turned_away() = Some(self.clock.boot());
    }

    /// When a caller was turned away last.
    pub fn turned_away_at(&self) -> Option<BootInstant> {
        *self.last_turned_away()
    }

    fn last_turned_away(&self) -> MutexGuard<'_, Option<BootInstant>> {
        self.turned_away_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this deployment could be heard.
    pub fn of(&self, id: DeploymentId) -> Hearing {
        match self.troubles().get(&id) {
            None => Hearing::Clear,
            Some(Trouble { stuck_count: 0, failed_at }) => Hearing::FailedAt(*failed_at),
            Some(_) => Hearing::Stuck,
        }
    }

    /// Forgets the deployments that nobody watches, and the projects without any.
    pub fn forget_others(&self, is_watched: impl Fn(DeploymentId) -> bool, has_watched: impl Fn(&ProjectName) -> bool) {
        self.failed_projects().retain(|project, _| has_watched(project));
        self.troubles().retain(|id, trouble| trouble.stuck_count > 0 || is_watched(*id));
    }

    fn change(&self, id: DeploymentId, change: impl FnOnce(Trouble) -> Trouble) {
        let failed_at = self.clock.boot();
        let mut troubles = self.troubles();
        let before = troubles.get(&id).copied().unwrap_or(Trouble { stuck_count: 0, failed_at });
        troubles.insert(id, Trouble { failed_at, ..change(before) });
    }

    fn troubles(&self) -> MutexGuard<'_, HashMap<DeploymentId, Trouble>> {
        // Every change of it is one call, so a panic leaves it whole.
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is stuck, until this is dropped.
struct Stuck<'a> {
    unheard: &'a Unheard,
    id: DeploymentId,
}

impl<'a> Stuck<'a> {
    fn begin(unheard: &'a Unheard, id: DeploymentId) -> Self {
        unheard.change(id, |trouble| Trouble { stuck_count: trouble.stuck_count + 1, ..trouble });
        Stuck { unheard, id }
    }
}

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        self.unheard
            .change(self.id, |trouble| Trouble { stuck_count: trouble.stuck_count.saturating_sub(1), ..trouble });
    }
}
