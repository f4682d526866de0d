//! The audit log on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::time;
use crate::model::{DeploymentId, ProjectName};

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Its number, by which a program tells lines that it has already from new ones.
    pub number: u64,
    /// When it happened.
    #[serde(serialize_with = "time::serialize", deserialize_with = "time::deserialize")]
    pub at: Timestamp,
    /// What happened.
    pub action: String,
    /// Who did it; null if nobody knows.
    pub caller: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// With which request.
    pub request_id: Option<String>,
    /// The project that it is about.
    pub project: Option<ProjectName>,
    /// The deployment that it is about.
    pub deployment_id: Option<DeploymentId>,
    /// That deployment's number; null where the server knows the deployment no longer.
    pub deployment_number: Option<u64>,
    /// More about it.
    pub detail: String,
    /// How often it happened.
    pub count: u64,
}

/// A page of the audit log, the last line first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditList {
    /// The lines.
    pub entries: Vec<AuditRecord>,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}
