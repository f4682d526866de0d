//! Turns, one per project, within this server: a request that waits for a project here does not wait for its row in the
//! database, and so occupies no connection. Turns also keep the announcements of a project's commits in order.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

use crate::model::ProjectName;

type Gates = HashMap<ProjectName, Arc<tokio::sync::Mutex<()>>>;

/// The turns of all projects that are being worked on.
#[derive(Debug, Default)]
pub(super) struct Turns {
    gates: Mutex<Gates>,
}

/// A turn: no other task of this server works on the project until it is dropped.
#[derive(Debug)]
pub(super) struct ProjectTurn {
    turns: Arc<Turns>,
    project: ProjectName,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for a turn; first come, first served.
    pub(super) async fn take(self: &Arc<Self>, project: ProjectName) -> ProjectTurn {
        let gate = self.gates().entry(project.clone()).or_default().clone();
        let mut turn = ProjectTurn { turns: self.clone(), project, guard: None };
        turn.guard = Some(gate.lock_owned().await);
        turn
    }

    fn gates(&self) -> MutexGuard<'_, Gates> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ProjectTurn {
    fn drop(&mut self) {
        let mut gates = self.turns.gates();
        self.guard = None;
        // A waiting task also holds the gate, and it got hold of the gate under this lock.
        if gates.get(&self.project).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            gates.remove(&self.project);
        }
    }
}
