//! Cancel: stop a deployment, or let a newer one take its place.

use super::Queue;
use crate::{
    model::{
        Caller, DeploymentId, LineLoad, Load, ProjectName, Slot,
        admission::{self, Cancellation},
    },
    store::StoreError,
};

impl Queue {
    /// Decides a cancel and records it.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn cancel(
        &self,
        caller: &Caller,
        project: ProjectName,
        id: DeploymentId,
        reason: Option<String>,
        successor: Option<DeploymentId>,
    ) -> Result<Cancellation, StoreError> {
        self.cancel_as(caller, None, project, id, reason, successor).await
    }

    /// The same; the caller gives the name `actor`.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn cancel_as(
        &self,
        caller: &Caller,
        actor: Option<String>,
        project: ProjectName,
        id: DeploymentId,
        reason: Option<String>,
        successor: Option<DeploymentId>,
    ) -> Result<Cancellation, StoreError> {
        let policy = self.policy(&project);
        let (now, caller) = (self.clock.wall(), caller.clone());
        let load = Load {
            deployments: [id].into_iter().chain(successor).collect(),
            line: if successor.is_some() { LineLoad::All } else { LineLoad::Head },
            ..Load::default()
        };
        self.transact(project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now, &policy).by(&caller).claiming(actor);
            let cancellation = admission::cancel(&mut slot, id, reason, successor, &policy);
            (slot.into_changes(), cancellation)
        })
        .await
    }
}
