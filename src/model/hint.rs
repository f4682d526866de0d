//! Which deployments changed. Enough to wake the right waiters; carries no state, so every waiter re-reads the store.

use super::{
    deployment::{RunBy, State},
    ids::{DeploymentId, ProjectName},
    lifecycle::Step,
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
    /// What is shown of this project changed.
    Project(ProjectName),
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
    /// The project, where these changes are more than output and signs of life.
    fn shown_project(&self) -> Option<&ProjectName> {
        let is_more = |step: &Step| step.is_state_change() || step.events().iter().any(|event| !event.body.is_log());
        let of_step = self.steps.iter().find(|step| is_more(step)).map(|step| &step.deployment().project);
        // A change without a step is one of the project itself: a pause, or its mark.
        let of_counters = self.project.as_ref().filter(|_| self.is_pause_changed || self.steps.is_empty());
        of_step.or(of_counters.map(|project| &project.name))
    }

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
        of_steps.chain(self.shown_project().cloned().map(Hint::Project)).chain(pauses)
    }
}
