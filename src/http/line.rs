//! What those in line are told: who ends them there, and when they are expected to start.

use jiff::Timestamp;

use super::{App, answer, error::ErrorAnswer};
use crate::{
    model::{
        Deployment, Eta, Mention,
        forecast::{Forecast, StartUnknown},
        order,
    },
    store::{Placed, ProjectState},
    wire::{self, Conflict},
};

/// So much of a line's front is looked at for one that waits further back: whoever is put before others stands there, and how long
/// all before it take is no better known with more of them.
pub const LOOK_LIMIT: usize = 20;

/// A project's slot and the front of its line, at one moment.
pub struct SlotAndLine<'a> {
    state: &'a ProjectState,
    now: Timestamp,
    waits_for_agent: bool,
}

/// How one stands in line.
#[derive(Clone, Debug, Default)]
pub struct StandingInLine {
    /// The newer deployment that supersedes it when that starts.
    pub overtaker: Option<Mention>,
    /// How long until it has the slot; `None` where it does not wait, or the slot is just handed on.
    pub start: Option<Result<Eta, StartUnknown>>,
}

impl App {
    /// The line of a project that was read.
    pub async fn line<'a>(&self, state: &'a ProjectState) -> Result<SlotAndLine<'a>, ErrorAnswer> {
        let waits_for_agent = match &state.holder {
            Some(holder) => self.agent_absence(holder).await?.is_some(),
            None => false,
        };
        Ok(SlotAndLine { state, now: self.now(), waits_for_agent })
    }

    /// How a deployment stands, if it waits in line.
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

    /// A deployment for the wire, with everything that is told of one that waits: in line, or for an agent.
    pub async fn told(&self, placed: &Placed) -> Result<wire::Deployment, ErrorAnswer> {
        let told = self.standing(placed).await?.in_deployment(answer::deployment(placed));
        self.with_absence(&placed.deployment, told).await
    }
}

impl SlotAndLine<'_> {
    /// How this one stands in it.
    pub fn standing(&self, placed: &Placed) -> StandingInLine {
        let waiting = &placed.deployment;
        if !waiting.is_waiting() {
            return StandingInLine::default();
        }
        StandingInLine { overtaker: self.overtaker(waiting), start: self.start(placed) }
    }

    fn overtaker(&self, waiting: &Deployment) -> Option<Mention> {
        let ahead = self.state.line.iter().take_while(|ahead| ahead.rank() < waiting.rank());
        order::overtaker(waiting.age(), self.state.holder.iter().chain(ahead))
    }

    fn start(&self, placed: &Placed) -> Option<Result<Eta, StartUnknown>> {
        let ProjectState { project, holder, line, .. } = self.state;
        let forecast = Forecast { project, holder: holder.as_ref()?, now: self.now };
        Some(match self.waits_for_agent {
            true => Err(StartUnknown::NoAgent),
            false => forecast.start(&placed.deployment, placed.position, line),
        })
    }
}

impl StandingInLine {
    /// The deployment with it.
    pub fn in_deployment(&self, told: wire::Deployment) -> wire::Deployment {
        let (expected_start, start_unknown) = self.start();
        wire::Deployment { expected_start, start_unknown, ..told.overtaken_by(self.overtaker.clone()) }
    }

    /// The conflict of the one that waits, with it.
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
            ..conflict
        }
    }

    /// What is told of the start: the time, null where nobody can tell; and then why.
    fn start(&self) -> (Option<Option<Eta>>, Option<String>) {
        match &self.start {
            Some(Ok(start)) => (Some(Some(*start)), None),
            Some(Err(unknown)) => (Some(None), Some(unknown.to_string())),
            None => (None, None),
        }
    }
}
