//! Finish: a worker reports the end of its deployment, and the next in line gets the slot in the same commit.

use super::{Queue, WorkerError};
use crate::model::{
    Caller, Command, Deployment, DeploymentId, FailureCause, LineLoad, Load, ProjectName, Refusal, SecretHash, Slot,
    State, Verdict, bounds,
};

/// How many bytes of a late result the audit log keeps.
const LATE_RESULT_LIMIT: usize = 4096;

impl Queue {
    /// Ends a deployment of the server's own worker.
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
        self.finish_by(&Caller::server(), project, id, secret, verdict).await
    }

    /// Ends a deployment. The same verdict again gets the answer that the first one got. A verdict that comes too late
    /// changes nothing, and is kept in the audit log.
    ///
    /// # Errors
    /// There is no such deployment, the lease is lost, or the store did not do it.
    pub async fn finish_by(
        &self,
        caller: &Caller,
        project: ProjectName,
        id: DeploymentId,
        secret: SecretHash,
        verdict: Verdict,
    ) -> Result<Deployment, WorkerError> {
        let (now, policy, caller) = (self.clock.wall(), self.policy(&project), caller.clone());
        let load = Load { deployments: vec![id], line: LineLoad::Head, ..Load::default() };
        let call = self.transact(project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now, &policy).by(&caller);
            let finished = match slot.step(id, Command::Finish { secret, verdict: verdict.clone() }) {
                Ok(deployment) => {
                    let ended = deployment.clone();
                    // The worker ended before its work did: nobody asked for that end.
                    if let Verdict::Failed { cause: FailureCause::WorkerLost, message, .. } = &verdict {
                        slot.audit("worker_stopped", Some(id), bounds::cut(message.clone(), LATE_RESULT_LIMIT));
                    }
                    Ok(ended)
                }
                Err(refusal) => repeated(&slot, id, secret, &verdict).ok_or(refusal),
            };
            let finished = finished.map_err(|refusal: Refusal| match (slot.deployment(id), refusal) {
                (Some(_), Refusal::OutputsFull) => WorkerError::OutputsFull,
                (Some(_), _) => {
                    // Anybody may send a secret that is none, as often as they like.
                    if slot.deployment(id).is_some_and(|deployment| was_under(deployment, secret)) {
                        slot.audit("late_result", Some(id), bounds::cut(format!("{verdict:?}"), LATE_RESULT_LIMIT));
                    }
                    WorkerError::LeaseLost
                }
                (None, _) => WorkerError::NotFound,
            });
            (slot.into_changes(), finished)
        });
        self.unheard.note(id, call).await?
    }
}

/// Whether the deployment's last lease had this secret.
fn was_under(deployment: &Deployment, secret: SecretHash) -> bool {
    match &deployment.state {
        State::Finished { lease: Some(lease), .. } => lease.secret == secret,
        _ => deployment.lease().is_some_and(|lease| lease.secret == secret),
    }
}

/// The deployment, if it ended under this lease with this verdict.
fn repeated(slot: &Slot, id: DeploymentId, secret: SecretHash, verdict: &Verdict) -> Option<Deployment> {
    let ended = slot.deployment(id)?;
    let State::Finished { outcome, lease: Some(lease), .. } = &ended.state else { return None };
    (lease.secret == secret && verdict.agrees_with(outcome)).then(|| ended.clone())
}
