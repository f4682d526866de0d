//! A request of a batch, between its decision and the batch's commit.

use tokio::sync::oneshot;

use crate::{
    model::{Changes, Load, ProjectName, Step},
    store::StoreError,
};

pub(super) type Answer = oneshot::Sender<Result<(), StoreError>>;

/// A decision that is made, but not durable yet.
pub(super) struct AwaitingCommit {
    pub(super) project: ProjectName,
    pub(super) load: Load,
    pub(super) changes: Changes,
    pub(super) answer: Answer,
}

impl AwaitingCommit {
    /// Whether it only adds output: output gives way to everything else when room is short.
    pub(super) fn is_output_only(&self) -> bool {
        let Changes { is_pause_changed: _, project, steps, key, sealed: _, audit, notifications: _ } = &self.changes;
        let output = |step: &Step| !step.events().is_empty() && step.events().iter().all(|event| event.body.is_log());
        project.is_none() && key.is_none() && audit.is_empty() && !steps.is_empty() && steps.iter().all(output)
    }
}

/// The outcome of one request of a batch.
pub(super) enum Made {
    /// It waits for the commit.
    Decided(AwaitingCommit),
    /// It was answered already: the batch holds nothing of it.
    Refused,
    /// Nothing of the whole batch is left, because of this error.
    Lost(AwaitingCommit, rusqlite::Error),
}

pub(super) fn tell(answer: Answer, result: Result<(), StoreError>) {
    // The caller may be gone; the decision is recorded, or not, all the same.
    let _ = answer.send(result);
}

pub(super) fn refuse(answer: Answer, error: StoreError) -> Made {
    tell(answer, Err(error));
    Made::Refused
}
