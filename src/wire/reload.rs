//! What a reload of the configuration changed.

use serde::{Deserialize, Serialize};

/// What a reload changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReloadAnswer {
    /// The projects that changed.
    pub projects: ReloadedProjects,
    /// The other keys that changed, and hold from now on.
    pub keys: Vec<String>,
    /// The keys whose values in the file are not those that the server runs with. They wait for a restart.
    pub waits_for_restart: Vec<String>,
}

/// The names of projects whose configuration changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReloadedProjects {
    /// New in the file.
    pub added: Vec<String>,
    /// No longer in the file.
    pub removed: Vec<String>,
    /// In the file with other settings or pipelines.
    pub changed: Vec<String>,
}
