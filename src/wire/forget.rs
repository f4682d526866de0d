//! Forgetting a project on the wire.

use serde::{Deserialize, Serialize};

use crate::model::ProjectName;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForgetAnswer {
    /// The project.
    pub project: ProjectName,
    /// Whether there was anything to forget.
    pub forgotten: bool,
    /// How many deployments it had, those that retention removed before included.
    pub deployments: u64,
    /// Whether the server's configuration names it, so that it is still there, empty.
    pub configured: bool,
}
