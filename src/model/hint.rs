//! Which deployments changed. Enough to wake the right waiters; carries no state, so every waiter re-reads the store.

use super::{
    deployment::{RunBy, State},
    ids::{DeploymentId, ProjectName},
    slot::Changes,
};

/// Something that was committed, or may have been. Only the store has the state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hint {
    /// A deployment's slot changed, or a cancel was asked for.
    State(DeploymentId),
    /// A deployment has a new event that is more than output.
    History(DeploymentId),
    /// A deployment has new output.
    Output(DeploymentId),
    /// A deployment of this project became ready for a worker of the servers.
    Work(ProjectName),
    /// A pause was set, changed or removed.
    Pauses,
    /// A token was made or revoked.
    Tokens,
    /// An agent came that was not there before.
    Agents,
    /// Hints were lost: anything may have happened.
    Anything,
}

impl Changes {
    /// The hints for these changes.
    pub fn hints(&self) -> impl Iterator<Item = Hint> + '_ {
        let pauses = self.is_pause_changed.then_some(Hint::Pauses);
        let of_steps = self.steps.iter().flat_map(|step| {
            let after = step.deployment();
            let is_work = matches!(after.state, State::Ready) && after.spec.executor == RunBy::Worker;
            let is_told = !step.events().is_empty();
            let is_output = step.events().iter().all(|event| event.body.is_log());
            [
                step.is_state_change().then_some(Hint::State(after.id)),
                (step.is_state_change() && is_work).then(|| Hint::Work(after.project.clone())),
                (is_told && !is_output).then_some(Hint::History(after.id)),
                (is_told && is_output).then_some(Hint::Output(after.id)),
            ]
            .into_iter()
            .flatten()
        });
        of_steps.chain(pauses)
    }
}
