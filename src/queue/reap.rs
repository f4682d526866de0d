//! Reap: end a deployment that has lapsed, as an observer saw it.

use std::time::Duration;

use super::Queue;
use crate::{
    clock::BootInstant,
    model::{Command, Deployment, DeploymentId, Lapse, LineLoad, Load, ProjectName, Refusal, Slot, State, Vital},
    store::{StoreError, transact},
};

/// How long a judgement of silence counts. A deployment that was locked for longer is judged anew.
const JUDGEMENT_LIMIT: Duration = Duration::from_secs(2);

impl Queue {
    /// Ends a deployment whose vital signs are still those that were `seen` at `judged_at`; otherwise the call is
    /// refused, because the deployment is alive.
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
        // The sentence is for people, so a failure to read it must not keep the deployment from being ended.
        let absence = if cause == Lapse::Silence { self.absence(&project, id).await.ok().flatten() } else { None };
        let (now, policy) = (self.clock.wall(), self.policy(&project));
        let clock = self.clock.clone();
        let load = Load { deployments: vec![id], line: LineLoad::Head, ..Load::default() };
        self.unheard
            .note(
                id,
                self.transact(project, load, move |loaded| {
                    let mut slot = Slot::of(loaded, now, &policy);
                    // The judgement waited for the project's lock, and so did the signs of life that arrived after it.
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
                    if let Ok(ended) = &reaped {
                        slot.audit("reap", Some(id), end_of(ended));
                    }
                    (slot.into_changes(), reaped)
                }),
            )
            .await
    }

    /// Whether decisions of this project can be made: one that changes nothing is.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn try_project(&self, project: ProjectName) -> Result<(), StoreError> {
        let (now, policy) = (self.clock.wall(), self.policy(&project));
        let nothing = move |loaded| (Slot::of(loaded, now, &policy).into_changes(), ());
        transact(&*self.store, project, Load::default(), nothing).await
    }
}

/// The code of a deployment's end, for the audit log.
fn end_of(ended: &Deployment) -> String {
    let State::Finished { outcome, .. } = &ended.state else { return String::new() };
    outcome.error_code().unwrap_or_default().to_owned()
}
