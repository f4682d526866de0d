//! Heartbeat: a worker shows that it lives, and learns whether it must stop.

use super::{Queue, WorkerError};
use crate::model::{CancelRequest, Command, DeploymentId, Load, ProjectName, SecretHash, Slot};

impl Queue {
    /// Renews a lease. Answers whether a stop of the deployment was requested.
    ///
    /// # Errors
    /// There is no such deployment, the lease is lost, or the store did not do it.
    pub async fn heartbeat(
        &self,
        project: ProjectName,
        id: DeploymentId,
        secret: SecretHash,
    ) -> Result<Option<CancelRequest>, WorkerError> {
        let (now, policy) = (self.clock.wall(), self.policy(&project));
        let load = Load { deployments: vec![id], ..Load::default() };
        self.unheard
            .note(
                id,
                self.transact(project, load, move |loaded| {
                    let mut slot = Slot::of(loaded, now, &policy);
                    let lost =
                        if slot.deployment(id).is_some() { WorkerError::LeaseLost } else { WorkerError::NotFound };
                    let beaten =
                        slot.step(id, Command::Heartbeat { secret }).map(|deployment| deployment.cancel.clone());
                    (slot.into_changes(), beaten.map_err(|_| lost))
                }),
            )
            .await?
    }
}
