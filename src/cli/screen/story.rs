//! What happened to a deployment, as its client saw it: for which deployments it waited and for how long, and its
//! phases. The summary in a CI is made of this story.

use std::time::Duration;

use jiff::Timestamp;

use super::words::{LineAhead, between};
use crate::{
    clock::BootInstant,
    model::{DeploymentId, Hold, PhaseState},
};

/// How many waits and phases are kept: more than any summary shows.
const ENTRIES_LIMIT: usize = 200;

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Story {
    waits: Vec<WaitStory>,
    /// Whether the last wait still lasts.
    is_waiting: bool,
    phases: Vec<PhaseStory>,
}

/// A wait for another deployment.
#[derive(Clone, Debug)]
pub struct WaitStory {
    /// The deployment that was ahead; `None` where the project was held.
    id: Option<DeploymentId>,
    /// Name and owner of the deployment that was ahead, or what held the project.
    pub who: String,
    /// Where to read more about the deployment that was ahead.
    pub url: Option<String>,
    since: BootInstant,
    until: BootInstant,
}

impl WaitStory {
    /// How long the wait lasted.
    pub fn length(&self) -> Duration {
        self.until.since(self.since)
    }
}

/// A phase, or its rollback.
#[derive(Clone, Debug)]
pub struct PhaseStory {
    pub name: String,
    pub state: PhaseState,
    began_at: Option<Timestamp>,
    /// How long the phase took, if its begin and its end were both seen.
    pub took: Option<Duration>,
}

impl Story {
    /// The deployment waits for the deployment `ahead`.
    pub fn waiting(&mut self, ahead: &LineAhead, now: BootInstant) {
        self.wait(Some(ahead.id), ahead.name_and_who(), ahead.blocking.url.clone(), now);
    }

    /// The deployment waits because its project is held.
    pub fn held(&mut self, hold: &Hold, now: BootInstant) {
        self.wait(None, format!("the project, which was {}", hold.what()), None, now);
    }

    fn wait(&mut self, id: Option<DeploymentId>, who: String, url: Option<String>, now: BootInstant) {
        self.stay(now);
        let is_same = self.is_waiting && self.waits.last().is_some_and(|wait| wait.id == id);
        if !is_same && self.waits.len() < ENTRIES_LIMIT {
            self.waits.push(WaitStory { id, who, url, since: now, until: now });
            self.is_waiting = true;
        }
    }

    /// The deployment no longer waits.
    pub fn waited(&mut self, now: BootInstant) {
        self.stay(now);
        self.is_waiting = false;
    }

    fn stay(&mut self, now: BootInstant) {
        if let Some(last) = self.waits.last_mut().filter(|_| self.is_waiting) {
            last.until = now;
        }
    }

    /// A phase has changed.
    pub fn phase(&mut self, name: &str, state: PhaseState, at: Timestamp) {
        let began = match state {
            PhaseState::Started | PhaseState::RollingBack => None,
            _ => self.phases.last_mut().filter(|phase| phase.name == name && begins(phase.state)),
        };
        if let Some(phase) = began {
            phase.state = state;
            phase.took = phase.began_at.map(|began| between(began, at));
        } else if self.phases.len() < ENTRIES_LIMIT {
            let began_at = begins(state).then_some(at);
            self.phases.push(PhaseStory { name: name.to_owned(), state, began_at, took: None });
        }
    }

    /// The waits, the first one first.
    pub fn waits(&self) -> &[WaitStory] {
        &self.waits
    }

    /// The phases, in the order in which they began.
    pub fn phases(&self) -> &[PhaseStory] {
        &self.phases
    }
}

/// Whether this state begins a phase or its rollback.
fn begins(state: PhaseState) -> bool {
    matches!(state, PhaseState::Started | PhaseState::RollingBack)
}
