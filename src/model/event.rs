//! The history of a deployment, in order, as its watchers see it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    deployment::Status,
    hold::Hold,
    identity::Party,
    ids::{DeploymentId, ProjectName},
    mention::{Mention, Named},
    phase::{PhaseState, Stream},
};

/// A deployment's message that begins with this text says for what its cancel waits.
pub const CANCEL_WAITS: &str = "the cancel waits until";

/// A deployment's message that begins with this text says which part of it cannot be ended, so that it keeps the slot.
pub const CANNOT_BE_ENDED: &str = "cannot be ended: ";

/// One entry of a deployment's history. `seq` counts 1, 2, 3 … without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the deployment's history.
    pub seq: u64,
    /// When it was recorded.
    pub at: Timestamp,
    /// What happened.
    pub body: EventBody,
}

/// What happened. The serialized form is both the wire's and the stores'.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum EventBody {
    /// Its place in line: as it entered, moved, was overtaken by a newer one, or got the slot, which is position 0.
    Queue {
        /// How many are served before it, itself included; 0 when the slot is its own.
        position: u64,
        /// The deployment that held the slot at that moment.
        #[serde(skip_serializing_if = "Option::is_none")]
        blocker: Option<DeploymentId>,
        /// The number, actor and commit of that deployment, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocker_deployment: Option<Named>,
        /// The newer deployment that supersedes it when the newer one starts, if it still waits then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        will_be_superseded_by: Option<DeploymentId>,
        /// The number, actor and commit of that deployment, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        will_be_superseded_by_deployment: Option<Named>,
        /// What held it at that moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold: Option<Box<Hold>>,
    },
    /// Its status changed.
    Status {
        /// The new one.
        status: Status,
    },
    /// A phase began or ended.
    Phase {
        /// The phase.
        name: String,
        /// The phase's new state.
        state: PhaseState,
        /// More about it, such as that a cancel must wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// It came further.
    Progress {
        /// The status at that moment.
        status: Status,
        /// 0 to 100, never falling.
        progress: u8,
        /// The present work, in the worker's words.
        message: Option<String>,
    },
    /// It produced something.
    Output {
        /// The name.
        name: String,
        /// The value.
        value: String,
    },
    /// Lines of output.
    Log {
        /// Where they were written to.
        stream: Stream,
        /// By which phase.
        phase: Option<String>,
        /// The lines, without their ends.
        lines: Vec<String>,
    },
    /// A stop was requested.
    Cancel {
        /// Why, in the canceller's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The newer deployment that takes its place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        superseded_by: Option<DeploymentId>,
        /// The number, actor and commit of that deployment, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        superseded_by_deployment: Option<Named>,
        /// Who requested it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Party>,
    },
    /// Lines that are no longer kept stood here.
    Gap {
        /// The first missing `seq`.
        from: u64,
        /// The last missing `seq`.
        to: u64,
    },
    /// It is final; the last event. The wire adds the whole deployment.
    Complete,
}

impl EventBody {
    /// The event of a place in line: the position, the deployment in front, and the newer deployment that will
    /// supersede it.
    pub fn queue(position: u64, blocker: Option<Mention>, overtaker: Option<Mention>) -> Self {
        let (blocker, blocker_deployment) = parts(blocker);
        let (will_be_superseded_by, will_be_superseded_by_deployment) = parts(overtaker);
        EventBody::Queue {
            position,
            blocker,
            blocker_deployment,
            will_be_superseded_by,
            will_be_superseded_by_deployment,
            hold: None,
        }
    }

    /// The event of a place in line where the deployment is held.
    pub fn held(position: u64, blocker: Option<Mention>, overtaker: Option<Mention>, held_by: Option<Hold>) -> Self {
        let mut event = EventBody::queue(position, blocker, overtaker);
        if let EventBody::Queue { hold, .. } = &mut event {
            *hold = held_by.map(Box::new);
        }
        event
    }

    /// The event of a request to stop.
    pub fn cancel(reason: Option<String>, successor: Option<Mention>, by: Option<Party>) -> Self {
        let (superseded_by, superseded_by_deployment) = parts(successor);
        EventBody::Cancel { reason, superseded_by, superseded_by_deployment, by }
    }

    /// The newer deployment of the project that this event names: the one that takes the place, or will take it.
    pub fn told_of(&self, project: &ProjectName) -> Option<Mention> {
        let (id, named) = match self {
            EventBody::Queue { will_be_superseded_by: Some(id), will_be_superseded_by_deployment: named, .. }
            | EventBody::Cancel { superseded_by: Some(id), superseded_by_deployment: named, .. } => (*id, named),
            EventBody::Queue { .. }
            | EventBody::Cancel { .. }
            | EventBody::Status { .. }
            | EventBody::Phase { .. }
            | EventBody::Progress { .. }
            | EventBody::Output { .. }
            | EventBody::Log { .. }
            | EventBody::Gap { .. }
            | EventBody::Complete => return None,
        };
        Some(Mention { project: project.clone(), id, named: named.clone() })
    }

    /// The word for it on the wire and in the stores.
    pub fn kind(&self) -> &'static str {
        match self {
            EventBody::Queue { .. } => "queue",
            EventBody::Status { .. } => "status",
            EventBody::Phase { .. } => "phase",
            EventBody::Progress { .. } => "progress",
            EventBody::Output { .. } => "output",
            EventBody::Log { .. } => "log",
            EventBody::Cancel { .. } => "cancel",
            EventBody::Gap { .. } => "gap",
            EventBody::Complete => "complete",
        }
    }

    /// Whether retention may cut it: only output may be cut, never other events.
    pub fn is_log(&self) -> bool {
        matches!(self, EventBody::Log { .. })
    }

    /// Whether it tells the course of a deployment: where it stood, its phases, requests to stop it, its end.
    pub fn is_of_course(&self) -> bool {
        match self {
            EventBody::Queue { .. }
            | EventBody::Status { .. }
            | EventBody::Phase { .. }
            | EventBody::Cancel { .. }
            | EventBody::Complete => true,
            EventBody::Progress { .. } | EventBody::Output { .. } | EventBody::Log { .. } | EventBody::Gap { .. } => {
                false
            }
        }
    }

    /// About how large it is, in bytes.
    pub fn size(&self) -> usize {
        let text = match self {
            EventBody::Log { lines, .. } => lines.iter().map(|line| line.len() + 3).sum(),
            EventBody::Output { name, value } => name.len() + value.len(),
            EventBody::Phase { message, .. } | EventBody::Progress { message, .. } => {
                message.as_ref().map_or(0, String::len)
            }
            EventBody::Queue { .. }
            | EventBody::Status { .. }
            | EventBody::Cancel { .. }
            | EventBody::Gap { .. }
            | EventBody::Complete => 0,
        };
        text + 128
    }

    /// How many bytes of output it holds: the text of its lines and their ends; 0 for anything else.
    pub fn log_bytes(&self) -> u64 {
        match self {
            EventBody::Log { lines, .. } => lines.iter().map(|line| line.len() as u64 + 1).sum(),
            EventBody::Queue { .. }
            | EventBody::Status { .. }
            | EventBody::Phase { .. }
            | EventBody::Progress { .. }
            | EventBody::Output { .. }
            | EventBody::Cancel { .. }
            | EventBody::Gap { .. }
            | EventBody::Complete => 0,
        }
    }
}

fn parts(mention: Option<Mention>) -> (Option<DeploymentId>, Option<Named>) {
    mention.map_or((None, None), |Mention { id, named, .. }| (Some(id), named))
}
