//! Which projects were locked when a claim last tried them, so that the next claims try them last.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{model::ProjectName, store::Claimable};

/// How long a project that was locked is tried after the others.
const LOCKED_MEMORY: Duration = Duration::from_secs(60);

/// The projects that were locked when a claim last tried them, and when that was. Clones share it.
#[derive(Clone, Default)]
pub(super) struct LockedProjects(Arc<Mutex<HashMap<ProjectName, Instant>>>);

impl LockedProjects {
    pub(super) fn all(&self) -> MutexGuard<'_, HashMap<ProjectName, Instant>> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mark(&self, project: ProjectName) {
        let mut all = self.all();
        all.retain(|_, at| at.elapsed() < LOCKED_MEMORY);
        all.insert(project, Instant::now());
    }

    pub(super) fn forget(&self, project: &ProjectName) {
        self.all().remove(project);
    }

    pub(super) fn count(&self) -> usize {
        self.all().len()
    }

    /// The same order, but projects that were locked a moment ago come last; of these, the project that was tried
    /// longest ago comes first.
    pub(super) fn last(&self, mut claimable: Vec<Claimable>) -> Vec<Claimable> {
        let all = self.all();
        if !all.is_empty() {
            claimable.sort_by_key(|it| all.get(&it.project).filter(|at| at.elapsed() < LOCKED_MEMORY).copied());
        }
        claimable
    }
}

/// The projects that a claim is trying. Those that are still in it when it is dropped count as locked.
pub(super) struct Marks<'a> {
    pub(super) locked: &'a LockedProjects,
    pub(super) projects: BTreeSet<ProjectName>,
}

impl Drop for Marks<'_> {
    fn drop(&mut self) {
        std::mem::take(&mut self.projects).into_iter().for_each(|project| self.locked.mark(project));
    }
}
