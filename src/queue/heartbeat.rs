//! Heartbeat: a worker shows that it lives, and learns whether it shall stop.

use super::{Queue, WorkerError};
use crate::{
    model::{CancelRequest, Command, DeploymentId, Load, ProjectName, SecretHash, Slot},
    store::transact,
};

impl Queue {
    /// Renews a lease. Answers whether somebody wants the deployment stopped.
    ///
    /// # Errors
    /// The lease is lost, or the store did not do it.
    pub async fn heartbeat(
        &self,
        project: ProjectName,
        id: DeploymentId,
        secret: SecretHash,
    ) -> Result<Option<CancelRequest>, WorkerError> {
        let now = self.clock.wall();
        let load = Load { deployments: vec![id], ..Load::default() };
        let beaten = transact(&*self.store, project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now);
            let beaten = slot.step(id, Command::Heartbeat { secret }).map(|deployment| deployment.cancel.clone());
            (slot.into_changes(), beaten)
        })
        .await?;
        beaten.map_err(|_| WorkerError::LeaseLost)
    }
}
