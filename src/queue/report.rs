//! Report: a worker tells how far it is.

use super::{Queue, WorkerError};
use crate::{
    model::{Command, DeploymentId, LineLoad, Load, ProjectName, Report, SecretHash, Slot},
    store::transact,
};

impl Queue {
    /// Records what a worker tells, in order, all of it or nothing.
    ///
    /// # Errors
    /// The lease is lost, or the store did not do it.
    pub async fn report(
        &self,
        project: ProjectName,
        id: DeploymentId,
        secret: SecretHash,
        reports: Vec<Report>,
    ) -> Result<(), WorkerError> {
        let now = self.clock.wall();
        let load = Load { deployments: vec![id], key: None, line: LineLoad::None };
        let reported = transact(&*self.store, project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now);
            let reported = slot.step(id, Command::Report { secret, reports }).map(|_| ());
            (slot.into_changes(), reported)
        })
        .await?;
        reported.map_err(|_| WorkerError::LeaseLost)
    }
}
