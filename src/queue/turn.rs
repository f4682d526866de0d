//! Turn: a ticket's client shows that it still stands in line.

use std::time::Duration;

use super::Queue;
use crate::{
    model::{Command, DeploymentId, Load, ProjectName, Slot},
    store::StoreError,
};

impl Queue {
    /// Keeps a ticket alive while its client is parked for `window`, and for the attendance limit after it. Does
    /// nothing to a deployment that has no client that must poll.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn attend(&self, project: ProjectName, id: DeploymentId, window: Duration) -> Result<(), StoreError> {
        let (now, policy) = (self.clock.wall(), self.policy(&project));
        let load = Load { deployments: vec![id], ..Load::default() };
        self.unheard
            .note(
                id,
                self.transact(project, load, move |loaded| {
                    let mut slot = Slot::of(loaded, now, &policy);
                    // A refusal says that the ticket has left the line: the polling client reads that for itself.
                    let _ = slot.step(id, Command::Attend { window });
                    (slot.into_changes(), ())
                }),
            )
            .await
    }
}
