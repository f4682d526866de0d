//! Postpone: a worker that will take a deployment says that it has no free place yet.

use super::Queue;
use crate::{
    model::{Command, Deployment, DeploymentId, Load, ProjectName, Refusal, Slot},
    store::StoreError,
};

impl Queue {
    /// Keeps a deployment that holds its slot from being taken for unclaimed. People who look at it read `why`.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn postpone(
        &self,
        project: ProjectName,
        id: DeploymentId,
        why: String,
    ) -> Result<Result<Deployment, Refusal>, StoreError> {
        let (now, policy) = (self.clock.wall(), self.policy(&project));
        let load = Load { deployments: vec![id], ..Load::default() };
        self.transact(project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now, &policy);
            let postponed = slot.step(id, Command::Postpone { why }).cloned();
            (slot.into_changes(), postponed)
        })
        .await
    }
}
