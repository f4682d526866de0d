//! A rollback on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::DeploymentName;

/// The body of a rollback. Every field may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RollbackRequest {
    /// The success to go back to; the last one before the live one, where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<DeploymentName>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who does it, as the client says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Where to read more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The values of the secret inputs of that success, which are not kept.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// Whether the project is left open. Else it is paused in the same commit, so that the next push does not undo the
    /// rollback.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub leave_open: bool,
    /// How long it may wait in line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
}
