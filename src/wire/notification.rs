//! The outbox of notifications on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::time;
use crate::model::{DeploymentId, ProjectName};

/// A notification that is to be sent, or was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationView {
    /// Its id. A webhook's receiver sees it as `msg_` and this.
    pub id: String,
    /// `pending` or `dead`.
    pub state: String,
    /// The name of its rule.
    pub rule: String,
    /// What happened.
    pub event: String,
    /// In which project.
    pub project: ProjectName,
    /// To which deployment; null for what happened to the project.
    pub deployment_id: Option<DeploymentId>,
    /// When it happened.
    #[serde(serialize_with = "time::serialize", deserialize_with = "time::deserialize")]
    pub at: Timestamp,
    /// How often it was tried.
    pub attempts: u64,
    /// From when on it is tried next; null for one that was given up.
    #[serde(serialize_with = "time::option::serialize", deserialize_with = "time::option::deserialize")]
    pub next_attempt_at: Option<Timestamp>,
    /// Why the last attempt failed; null where none has.
    pub error: Option<String>,
    /// When it was given up; null while it is to be sent.
    #[serde(serialize_with = "time::option::serialize", deserialize_with = "time::option::deserialize")]
    pub dead_at: Option<Timestamp>,
}

/// A page of notifications, the last one first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationList {
    /// The notifications.
    pub notifications: Vec<NotificationView>,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}
