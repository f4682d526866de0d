//! What a redaction asks for, and its answer.

use serde::{Deserialize, Serialize};

use crate::model::DeploymentId;

/// A redaction: of a value, or of whatever matches a pattern. It has no `Debug`, so that no log can show it.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedactRequest {
    /// The reason; it is recorded.
    pub reason: String,
    /// The leaked secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// A regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// What a redaction changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedactAnswer {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// How many events were changed.
    pub events: u64,
    /// Whether the record itself was changed: its message, inputs, outputs or reasons.
    pub record: bool,
    /// How many blocks of output are damaged, so that they could not be searched.
    pub damaged_blocks: u64,
    /// Whether former versions were overwritten, as far as the store itself keeps them.
    pub scrubbed: bool,
}
