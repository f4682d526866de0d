//! What a waiting deployment is told: which deployment would supersede it, and when it is expected to start.

use jiff::Timestamp;

use super::{App, answer, error::ErrorAnswer};
use crate::{
    model::{
        Deployment, Eta, Hold, Mention, Policy,
        forecast::{Forecast, StartUnknown},
        order,
    },
    store::{Placed, ProjectState},
    wire::{self, Conflict},
};

/// How much of a line's front is read for a deployment that waits further back. Deployments that are put ahead stand in
/// this part, and more of the line would not make the expected start more exact.
pub const LOOK_LIMIT: usize = 20;

/// A project's slot and the front of its line, at one moment.
pub struct SlotAndLine<'a> {
    state: &'a ProjectState,
    policy: Policy,
    now: Timestamp,
    waits_for_agent: bool,
}

/// The standing of one deployment in line.
#[derive(Clone, Debug, Default)]
pub struct StandingInLine {
    /// The newer deployment that supersedes it when that one starts.
    pub overtaker: Option<Mention>,
    /// How long until it has the slot; `None` if it does not wait, or if the slot is being handed on right now.
    pub start: Option<Result<Eta, StartUnknown>>,
    /// What holds it.
    pub hold: Option<Hold>,
}

impl App {
    /// The slot and the line, from a project that was read.
    pub async fn line<'a>(&self, state: &'a ProjectState) -> Result<SlotAndLine<'a>, ErrorAnswer> {
        let waits_for_agent = match &state.holder {
            Some(holder) => self.agent_absence(holder).await?.is_some(),
            None => false,
        };
        let policy = self.queue.policy(&state.project.name);
        Ok(SlotAndLine { state, policy, now: self.now(), waits_for_agent })
    }

    /// The standing of a deployment; empty if it does not wait.
    pub async fn standing(&self, placed: &Placed) -> Result<StandingInLine, ErrorAnswer> {
        let waiting = &placed.deployment;
        if !waiting.is_waiting() {
            return Ok(StandingInLine::default());
        }
        match self.queue.store().project(waiting.project.clone(), LOOK_LIMIT).await? {
            Some(state) => Ok(self.line(&state).await?.standing(placed)),
            None => Ok(StandingInLine::default()),
        }
    }

    /// A deployment for the wire, with all that a waiting deployment is told: about the line, or about an agent.
    pub async fn told(&self, placed: &Placed) -> Result<wire::Deployment, ErrorAnswer> {
        let told = self.standing(placed).await?.in_deployment(answer::deployment(placed));
        self.with_absence(&placed.deployment, told).await
    }
}

impl SlotAndLine<'_> {
    /// The standing of this deployment.
    pub fn standing(&self, placed: &Placed) -> StandingInLine {
        let waiting = &placed.deployment;
        if !waiting.is_waiting() {
            return StandingInLine::default();
        }
        let hold = self.hold().filter(|_| !waiting.spec.override_pause);
        StandingInLine { overtaker: self.overtaker(waiting), start: self.start(placed, hold.as_ref()), hold }
    }

    /// What holds the project.
    pub fn hold(&self) -> Option<Hold> {
        Hold::of(&self.policy, self.state.project.pause.as_ref(), self.now)
    }

    fn overtaker(&self, waiting: &Deployment) -> Option<Mention> {
        let ahead = self.state.line.iter().take_while(|ahead| ahead.rank() < waiting.rank());
        order::overtaker(waiting.age(), self.state.holder.iter().chain(ahead))
    }

    fn start(&self, placed: &Placed, hold: Option<&Hold>) -> Option<Result<Eta, StartUnknown>> {
        let ProjectState { project, holder, line, .. } = self.state;
        if holder.is_none() && hold.is_none() {
            return None;
        }
        let forecast = Forecast { project, policy: &self.policy, holder: holder.as_ref(), now: self.now };
        Some(match self.waits_for_agent && hold.is_none() {
            true => Err(StartUnknown::NoAgent),
            false => forecast.start(&placed.deployment, placed.position, line),
        })
    }
}

impl StandingInLine {
    /// Adds the standing to the deployment.
    pub fn in_deployment(&self, told: wire::Deployment) -> wire::Deployment {
        let (expected_start, start_unknown) = self.start();
        let hold = self.hold.clone();
        wire::Deployment { expected_start, start_unknown, hold, ..told.overtaken_by(self.overtaker.clone()) }
    }

    /// Adds the standing to the conflict of the deployment that waits.
    pub fn in_conflict(&self, conflict: Conflict, own: &Placed) -> Conflict {
        let (expected_start, start_unknown) = self.start();
        let (will_be_superseded_by, will_be_superseded_by_deployment) = wire::parts(self.overtaker.clone());
        Conflict {
            ticket: Some(own.deployment.id),
            ticket_number: Some(own.deployment.number),
            queue_position: Some(own.position),
            will_be_superseded_by,
            will_be_superseded_by_deployment,
            expected_start,
            start_unknown,
            hold: self.hold.clone(),
            ..conflict
        }
    }

    /// The members about the start: the time, null if it is unknown, and then the reason.
    fn start(&self) -> (Option<Option<Eta>>, Option<String>) {
        match &self.start {
            Some(Ok(start)) => (Some(Some(*start)), None),
            Some(Err(unknown)) => (Some(None), Some(unknown.to_string())),
            None => (None, None),
        }
    }
}
