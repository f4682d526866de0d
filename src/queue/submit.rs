//! Submit: take the slot, take a place in line, or learn which deployment holds the slot.

use super::Queue;
use crate::{
    model::{
        Caller, Deployment, DeploymentId, Edges, Hold, LineLoad, LinePolicy, Load, Mention, Project, Slot,
        admission::{self, Admission, OnConflict, Submission},
        order,
    },
    store::{Placed, StoreError},
};

/// The outcome of a submit, with the data for its answer.
#[derive(Clone, Debug)]
pub struct SubmitOutcome {
    /// The decision.
    pub admission: Admission,
    /// The deployment that was made, was found again, or waits.
    pub own: Option<Placed>,
    /// The newer deployment that supersedes `own` when the newer one starts.
    pub overtaker: Option<Mention>,
    /// What holds the project at that moment.
    pub hold: Option<Hold>,
    /// The project's counters at that moment.
    pub project: Project,
}

impl Queue {
    /// Decides a submit and records it.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn submit(&self, caller: &Caller, wish: Submission) -> Result<SubmitOutcome, StoreError> {
        self.decide_submit(caller, wish, false).await
    }

    /// The same. If it makes a deployment, which must pass every hold, it ends the project's pause as well.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn submit_and_resume(&self, caller: &Caller, wish: Submission) -> Result<SubmitOutcome, StoreError> {
        self.decide_submit(caller, wish, true).await
    }

    async fn decide_submit(
        &self,
        caller: &Caller,
        wish: Submission,
        resumes: bool,
    ) -> Result<SubmitOutcome, StoreError> {
        let policy = self.policy(&wish.project);
        let may_join = wish.on_conflict != OnConflict::Refuse;
        let edges = Edges {
            is_start: wish.claim.is_some() && wish.key.is_some(),
            above: order::ordinary_order(&wish.spec).filter(|_| may_join),
        };
        let load = Load {
            key: wish.key.as_ref().map(|(key, _)| key.clone()),
            line: match policy.line {
                LinePolicy::Latest | LinePolicy::All if wish.spec.override_pause => LineLoad::All,
                LinePolicy::Latest if may_join => LineLoad::All,
                LinePolicy::Latest | LinePolicy::All if edges == Edges::default() => LineLoad::Head,
                LinePolicy::Latest | LinePolicy::All => LineLoad::Edges(edges),
            },
            ..Load::default()
        };
        let now = self.clock.wall();
        let project = wish.project.clone();
        let (new, caller) = (wish.id, caller.clone());
        let mut submitted = self
            .transact(project.clone(), load, move |loaded| {
                let keyed = loaded.keyed.clone();
                let mut slot = Slot::of(loaded, now, &policy).by(&caller);
                let admission = admission::submit(&mut slot, keyed, wish, &policy);
                if resumes && let Some(made) = slot.deployment(new).map(Deployment::mention) {
                    slot.resume(Some(format!("with {made}")));
                }
                let own = own_deployment(&admission).and_then(|id| slot.deployment(id)).cloned();
                let (project, hold) = (slot.project().clone(), slot.hold());
                let waiting = own.as_ref().filter(|own| own.is_waiting());
                let overtaker = waiting.and_then(|own| slot.overtaker(own.age(), own.rank()));
                let own = own.map(|deployment| {
                    let line = slot.line();
                    let position = match (deployment.is_waiting(), deployment.line_rank) {
                        (false, _) => 0,
                        // A deployment joins at the end, or before older ones: in the second case, the whole line was
                        // loaded.
                        (true, None) => project.waiting_count,
                        (true, Some(_)) => line.iter().take_while(|it| it.rank() <= deployment.rank()).count() as u64,
                    };
                    Placed { deployment, position }
                });
                (slot.into_changes(), SubmitOutcome { admission, own, overtaker, hold, project })
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
