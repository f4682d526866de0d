//! Report: a worker tells how far it is.

use super::{Queue, WorkerError};
use crate::model::{Command, DeploymentId, Load, ProjectName, Refusal, Report, SecretHash, Slot};

impl Queue {
    /// Records a worker's reports in order, all of them or none. Reports that were recorded before, by their numbers
    /// from `first` on, are skipped. Answers the number of the last report that is recorded.
    ///
    /// # Errors
    /// There is no such deployment, the lease is lost, reports are missing, or the store did not do it.
    pub async fn report(
        &self,
        project: ProjectName,
        id: DeploymentId,
        secret: SecretHash,
        first: Option<u64>,
        reports: Vec<Report>,
    ) -> Result<u64, WorkerError> {
        let (now, policy) = (self.clock.wall(), self.policy(&project));
        let load = Load { deployments: vec![id], ..Load::default() };
        let call = self.transact(project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now, &policy);
            let is_there = slot.deployment(id).is_some();
            let reported = slot.step(id, Command::Report { secret, first, reports }).map(|told| told.report_count);
            let reported = reported.map_err(|refusal| match refusal {
                Refusal::ReportGap { last } => WorkerError::ReportGap { last },
                Refusal::OutputsFull => WorkerError::OutputsFull,
                Refusal::LeaseLost
                | Refusal::Final
                | Refusal::WrongState
                | Refusal::Taken
                | Refusal::Alive
                | Refusal::Held => {
                    if is_there {
                        WorkerError::LeaseLost
                    } else {
                        WorkerError::NotFound
                    }
                }
            });
            (slot.into_changes(), reported)
        });
        self.unheard.note(id, call).await?
    }
}
