//! Submit: take the slot, a place in line, or learn who holds it.

use super::Queue;
use crate::{
    model::{
        DeploymentId, LineLoad, LinePolicy, Load, Project, Slot,
        admission::{self, Admission, OnConflict, Submission},
    },
    store::{Placed, StoreError, transact},
};

/// What became of a submit, with what is needed to tell it.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The decision.
    pub admission: Admission,
    /// The deployment that was made, found again, or waits.
    pub own: Option<Placed>,
    /// The project's counters at that moment.
    pub project: Project,
}

impl Queue {
    /// Decides a submit and records it.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn submit(&self, wish: Submission) -> Result<Submitted, StoreError> {
        let policy = self.policy(&wish.project);
        let keeps_latest = policy.line == LinePolicy::Latest && wish.on_conflict != OnConflict::Refuse;
        let load = Load {
            key: wish.key.as_ref().map(|(key, _)| key.clone()),
            line: if keeps_latest { LineLoad::All } else { LineLoad::Head },
            ..Load::default()
        };
        let now = self.clock.wall();
        let project = wish.project.clone();
        let new = wish.id;
        let mut submitted = transact(&*self.store, project.clone(), load, move |loaded| {
            let keyed = loaded.keyed.clone();
            let mut slot = Slot::of(loaded, now);
            let admission = admission::submit(&mut slot, keyed, wish, &policy);
            let own = own_deployment(&admission).and_then(|id| slot.deployment(id)).cloned();
            let project = slot.project().clone();
            let own = own.map(|deployment| {
                // Whoever has just joined the line stands at its end.
                let position = if deployment.is_waiting() { project.waiting_count } else { 0 };
                Placed { deployment, position }
            });
            (slot.into_changes(), Submitted { admission, own, project })
        })
        .await?;
        if let Some(own) = &mut submitted.own
            && own.deployment.is_waiting()
            && own.deployment.id != new
            && let Some(placed) = self.store.deployment(project, own.deployment.id).await?
        {
            *own = placed;
        }
        Ok(submitted)
    }
}

fn own_deployment(admission: &Admission) -> Option<DeploymentId> {
    match admission {
        Admission::Accepted(id) | Admission::Replayed(id) => Some(*id),
        Admission::Conflict { ticket, .. } => *ticket,
        Admission::Rejected(_) => None,
    }
}
