//! Reap: end a deployment to which nobody attended, as an observer saw it.

use std::time::Duration;

use super::Queue;
use crate::{
    clock::BootInstant,
    model::{Command, Deployment, DeploymentId, Lapse, LineLoad, Load, ProjectName, Refusal, Slot, Vital},
    store::{StoreError, transact},
};

/// A judgement of silence counts for so long. What was locked for longer is judged anew.
const JUDGEMENT_LIMIT: Duration = Duration::from_secs(2);

impl Queue {
    /// Ends a deployment whose vital signs are still those that were `seen` at `judged_at`; else it is refused as alive.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn reap(
        &self,
        project: ProjectName,
        id: DeploymentId,
        seen: Vital,
        cause: Lapse,
        judged_at: BootInstant,
    ) -> Result<Result<Deployment, Refusal>, StoreError> {
        // It is told to people, so what cannot be read now keeps nothing from being ended.
        let absence = if cause == Lapse::Silence { self.absence(&project, id).await.ok().flatten() } else { None };
        let now = self.clock.wall();
        let clock = self.clock.clone();
        let load = Load { deployments: vec![id], line: LineLoad::Head, ..Load::default() };
        self.unheard
            .note(
                id,
                transact(&*self.store, project, load, move |loaded| {
                    let mut slot = Slot::of(loaded, now);
                    // It waited for its turn, and so did the signs of life behind it, which were heard of later.
                    let is_stale = cause == Lapse::Silence && clock.boot().since(judged_at) > JUDGEMENT_LIMIT;
                    let reaped = if is_stale {
                        Err(Refusal::Alive)
                    } else {
                        let command = match absence {
                            Some(absence) => Command::Unclaimed { seen, absence },
                            None => Command::Lapse { seen, cause },
                        };
                        slot.step(id, command).cloned()
                    };
                    (slot.into_changes(), reaped)
                }),
            )
            .await
    }
}
