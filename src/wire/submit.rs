//! Submit and cancel: the requests of clients, and the body of a conflict.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{artifact::ArtifactRef, deployment::mention, time};
use crate::model::{DeploymentId, DeploymentName, Eta, Hold, Mention, Named, ProjectName, RunBy, Status};

/// The body of a submit. Every field may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SubmitRequest {
    /// The pipeline to run; `deploy` when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// The branch or tag.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub ref_name: Option<String>,
    /// The commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// A line about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The person or system that started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Where to read more: the CI job's page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The build number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<u64>,
    /// Values for the pipeline.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// The artifact to deploy, uploaded before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactRef>,
    /// Which side runs it.
    pub executor: RunBy,
    /// Whether the answer shall carry the lease already; only with `executor: client`.
    pub claim: bool,
    /// How long the lease lasts without a heartbeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u64>,
    /// What to do when the slot is held.
    pub on_conflict: OnConflict,
    /// How long it may wait in line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
    /// Whether it may go back behind a newer `order`.
    pub rollback: bool,
    /// Whether no pause and no freeze window holds it, which needs the scope `admin`. It goes before all who are held.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub override_pause: bool,
    /// Whether it also ends the pause of the project, in the commit in which it is admitted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resume: bool,
    /// A former deployment of the project that is run again: fields that are left out above are taken from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<DeploymentName>,
}

/// What to do when the slot is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// 409, and nothing is stored.
    #[default]
    Refuse,
    /// 409, and the place in line is kept for a client that polls `turn`.
    Wait,
    /// 202, and the server starts it when its turn comes.
    Queue,
}

/// The members that a conflict's problem body adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conflict {
    /// The deployment that holds the slot. Left out where the slot is free and given to nobody, because the project is held.
    #[serde(flatten)]
    pub blocker: Option<Blocker>,
    /// What holds your deployment, beside the deployment that has the slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// The id that your deployment will have, where a place in line is kept for you.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<DeploymentId>,
    /// The number of that deployment in its project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_number: Option<u64>,
    /// How many are served before you, yourself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u64>,
    /// The newer deployment that supersedes yours when the newer one starts, if yours still waits then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub will_be_superseded_by: Option<DeploymentId>,
    /// The number, actor and commit of that deployment, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub will_be_superseded_by_deployment: Option<Named>,
    /// How long until yours is expected to have the slot; null where that cannot be told, left out where no place is
    /// kept for you.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_start: Option<Option<Eta>>,
    /// Why that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_unknown: Option<String>,
    /// How long yours takes, where a place in line is kept for you.
    #[serde(flatten)]
    pub takes: Takes,
}

/// The members of a conflict that describe the deployment that holds the slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocker {
    /// The deployment; never a final one.
    pub deployment_id: DeploymentId,
    /// More about it.
    pub blocking: Blocking,
    /// Whether it is of the same CI run.
    pub relation: Relation,
}

/// How long a deployment's run takes once it has the slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Takes {
    /// The pipeline's own time-out, where the server's configuration sets one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_timeout_seconds: Option<u64>,
    /// How long runs of the pipeline took so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual_duration: Option<Eta>,
}

impl Blocker {
    /// The deployment that holds the slot, as texts about another one name it.
    pub fn mention(&self, project: &ProjectName) -> Mention {
        let Blocking { number, actor, commit, .. } = &self.blocking;
        let named = number.map(|number| Named { number, actor: actor.clone(), commit: commit.clone() });
        Mention { project: project.clone(), id: self.deployment_id, named }
    }
}

impl Conflict {
    /// The id of the deployment that holds the slot.
    pub fn holder_id(&self) -> Option<DeploymentId> {
        self.blocker.as_ref().map(|blocker| blocker.deployment_id)
    }

    /// The newer deployment that supersedes yours when the newer one starts.
    pub fn overtaker(&self, project: &ProjectName) -> Option<Mention> {
        mention(project, self.will_be_superseded_by, self.will_be_superseded_by_deployment.as_ref())
    }
}

/// The deployment in the way: its actor, its spec, its progress and its remaining time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocking {
    /// Its number in its project. Missing from an older server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// The person or system that started it.
    pub actor: Option<String>,
    /// The branch or tag.
    #[serde(rename = "ref")]
    pub ref_name: Option<String>,
    /// The commit.
    pub commit: Option<String>,
    /// Where to read more.
    pub url: Option<String>,
    /// Which pipeline.
    pub pipeline: String,
    /// Where it stands.
    pub status: Status,
    /// The phase that runs.
    pub phase: Option<String>,
    /// Its message: what it does or waits for, in its own words. Missing from an older server.
    #[serde(default)]
    pub message: Option<String>,
    /// 0 to 100.
    pub progress: u8,
    /// When a worker took it.
    #[serde(with = "time::option")]
    pub started_at: Option<Timestamp>,
    /// When its worker last gave a sign of life.
    #[serde(with = "time::option")]
    pub last_heartbeat_at: Option<Timestamp>,
    /// When a stop was first requested.
    #[serde(with = "time::option")]
    pub cancel_requested_at: Option<Timestamp>,
    /// Whether its worker lives.
    pub liveness: Liveness,
    /// How much longer it is expected to take; null without a past success.
    pub eta: Option<Eta>,
}

/// Whether a worker lives, as far as the server can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// Its signs of life come in time.
    Alive,
    /// Heartbeats are overdue.
    Silent,
    /// Its lease has run out; the reaper will free the slot.
    Lost,
}

/// How the holder in a conflict relates to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// Of the same CI run: a client that waited for it would wait for itself.
    #[serde(rename = "self")]
    Own,
    /// Of another.
    Other,
}

/// The optional body of a cancel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelBody {
    /// The newer deployment that takes the place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<DeploymentName>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asks for it, as the client says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}
