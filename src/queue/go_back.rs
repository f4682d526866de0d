//! Go back: an earlier success is deployed again, before all others.

use super::Queue;
use crate::{
    model::{
        Caller, DeploymentId, LineLoad, Load, Pause, Project, Slot,
        admission::Submission,
        go_back::{self, WentBack},
    },
    store::{Placed, StoreError},
};

/// The outcome of a rollback, with the data for its answer.
#[derive(Clone, Debug)]
pub struct WentBackOutcome {
    /// The decision.
    pub went_back: WentBack,
    /// The rollback's deployment, if there is one.
    pub own: Option<Placed>,
    /// The project's counters at that moment.
    pub project: Project,
}

impl Queue {
    /// Decides a rollback and records it. `live` is the deployment that was live when the success was chosen. With `pin`, the
    /// project is paused for that reason, in the same commit.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn go_back(
        &self,
        caller: &Caller,
        wish: Submission,
        live: Option<DeploymentId>,
        pin: Option<String>,
    ) -> Result<WentBackOutcome, StoreError> {
        let (now, policy, caller) = (self.clock.wall(), self.policy(&wish.project), caller.clone());
        let key = wish.key.as_ref().map(|(key, _)| key.clone());
        let load = Load { key, line: LineLoad::All, ..Load::default() };
        let project = wish.project.clone();
        self.transact(project, load, move |loaded| {
            let keyed = loaded.keyed.clone();
            let actor = wish.spec.actor.clone();
            let pin = pin.map(|reason| Pause {
                at: now,
                by: caller.identity.to_string(),
                actor: actor.clone(),
                reason,
                until: None,
                pin: wish.spec.retry_of_named.as_ref().map(|named| named.number),
            });
            let mut slot = Slot::of(loaded, now, &policy).by(&caller).claiming(actor);
            let went_back = go_back::go_back(&mut slot, keyed, wish, live, pin, &policy);
            let own = match &went_back {
                WentBack::Made(id) | WentBack::Found(id) => slot.deployment(*id).cloned(),
                WentBack::Changed | WentBack::Rejected(_) => None,
            };
            let own = own.map(|deployment| {
                let ahead = slot.line().into_iter().take_while(|it| it.rank() <= deployment.rank()).count() as u64;
                let position = if deployment.is_waiting() { ahead } else { 0 };
                Placed { deployment, position }
            });
            let project = slot.project().clone();
            (slot.into_changes(), WentBackOutcome { went_back, own, project })
        })
        .await
    }
}
