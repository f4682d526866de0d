//! Reap: end a deployment to which nobody attended, as an observer saw it.

use super::Queue;
use crate::{
    model::{Command, Deployment, DeploymentId, Lapse, LineLoad, Load, ProjectName, Refusal, Slot, Vital},
    store::{StoreError, transact},
};

impl Queue {
    /// Ends a deployment whose vital signs are still those that were `seen`; else it is refused as alive.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn reap(
        &self,
        project: ProjectName,
        id: DeploymentId,
        seen: Vital,
        cause: Lapse,
    ) -> Result<Result<Deployment, Refusal>, StoreError> {
        let now = self.clock.wall();
        let load = Load { deployments: vec![id], line: LineLoad::Head, ..Load::default() };
        self.unheard
            .note(
                id,
                transact(&*self.store, project, load, move |loaded| {
                    let mut slot = Slot::of(loaded, now);
                    let reaped = slot.step(id, Command::Lapse { seen, cause }).cloned();
                    (slot.into_changes(), reaped)
                }),
            )
            .await
    }
}
