//! Finish: a worker reports the end of its deployment, and the next in line gets the slot in the same commit.

use super::{Queue, WorkerError};
use crate::{
    model::{
        Command, Deployment, DeploymentId, LineLoad, Load, ProjectName, Refusal, SecretHash, Slot, State, Verdict,
        bounds,
    },
    store::transact,
};

/// How many bytes of a late result the audit log keeps.
const LATE_RESULT_LIMIT: usize = 4096;

impl Queue {
    /// Ends a deployment. The same verdict again gets the answer that the first one got. A verdict that comes too late
    /// changes nothing, and is kept in the audit log.
    ///
    /// # Errors
    /// There is no such deployment, the lease is lost, or the store did not do it.
    pub async fn finish(
        &self,
        project: ProjectName,
        id: DeploymentId,
        secret: SecretHash,
        verdict: Verdict,
    ) -> Result<Deployment, WorkerError> {
        let now = self.clock.wall();
        let load = Load { deployments: vec![id], line: LineLoad::Head, ..Load::default() };
        let call = transact(&*self.store, project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now);
            let finished = match slot.step(id, Command::Finish { secret, verdict: verdict.clone() }) {
                Ok(deployment) => Ok(deployment.clone()),
                Err(refusal) => repeated(&slot, id, secret, &verdict).ok_or(refusal),
            };
            let finished = finished.map_err(|refusal: Refusal| match (slot.deployment(id), refusal) {
                (Some(_), Refusal::OutputsFull) => WorkerError::OutputsFull,
                (Some(_), _) => {
                    slot.audit("late_result", Some(id), bounds::cut(format!("{verdict:?}"), LATE_RESULT_LIMIT));
                    WorkerError::LeaseLost
                }
                (None, _) => WorkerError::NotFound,
            });
            (slot.into_changes(), finished)
        });
        self.unheard.note(id, call).await?
    }
}

/// The deployment, if it ended under this lease with this verdict.
fn repeated(slot: &Slot, id: DeploymentId, secret: SecretHash, verdict: &Verdict) -> Option<Deployment> {
    let ended = slot.deployment(id)?;
    let State::Finished { outcome, lease: Some(lease), .. } = &ended.state else { return None };
    (lease.secret == secret && verdict.agrees_with(outcome)).then(|| ended.clone())
}
