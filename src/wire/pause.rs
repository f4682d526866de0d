//! Pause and resume on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{deployment::Deployment, time};
use crate::model::{Hold, ProjectName};

/// The body of a pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PauseRequest {
    /// Why; everybody who is held is told.
    pub reason: String,
    /// The end; without one, the pause lasts until somebody resumes.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::option")]
    pub until: Option<Timestamp>,
    /// The person that asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// The optional body of a resume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ResumeRequest {
    /// Why; it is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a pause or a resume did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PauseOutcome {
    /// The project was not paused, and is now.
    Paused,
    /// The project was paused before; reason, person and end are the new ones.
    Changed,
    /// The pause is over.
    Resumed,
    /// The project was not paused.
    Unchanged,
}

/// The answer to a pause or a resume: how the project stands now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseAnswer {
    /// The project.
    pub project: ProjectName,
    /// What was done.
    pub outcome: PauseOutcome,
    /// What holds the project now; null where nothing does.
    pub hold: Option<Hold>,
    /// The pause that lasted until then; null where there was none.
    pub before: Option<Hold>,
    /// The deployment that runs, and goes on; null where none does.
    pub running: Option<Deployment>,
    /// The deployment for which the slot is kept; null where there is none.
    pub called_up: Option<Deployment>,
    /// The deployment that had the slot, had not started, and waits again; null where there is none.
    pub taken_back: Option<Deployment>,
    /// How many wait in line.
    pub line_length: u64,
}
