//! Projects, plans and releases on the wire.

use serde::{Deserialize, Serialize};

use super::{
    deployment::{Deployment, mention},
    mark::MarkView,
    problem::ErrorCode,
    submit::Liveness,
    worker::AgentView,
};
use crate::model::{DeploymentId, DeploymentName, Eta, Hold, Mention, Named, Policy, ProjectName, Revision};

/// A project with its slot and line: everything that `why` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectView {
    /// Its name.
    pub project: ProjectName,
    /// The deployment that holds the slot; null when it is free.
    pub holder: Option<Deployment>,
    /// Whether the holder's worker lives; null when the slot is free.
    pub liveness: Option<Liveness>,
    /// How much longer the holder is expected to take; null when that cannot be told.
    pub eta: Option<Eta>,
    /// What holds the project. Missing from an older server.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// The front of the line, at most 100.
    pub line: Vec<Deployment>,
    /// How many wait in line.
    pub line_length: u64,
    /// The deployment that ran last and is final.
    pub last_outcome: Option<Deployment>,
    /// What is live: the deployment that succeeded last. Missing from an older server.
    #[serde(default)]
    pub current: Option<Deployment>,
    /// The build number below which no deployment starts. Missing from an older server.
    #[serde(default)]
    pub mark: Option<MarkView>,
    /// The project's rules.
    pub policy: PolicyView,
    /// The pipelines that the server runs for it, or that its agents offer.
    pub pipelines: Vec<String>,
    /// The agents that run it, those that asked last first; at most 100. Missing from an older server.
    #[serde(default)]
    pub agents: Vec<AgentView>,
    /// The project's revision.
    pub revision: Revision,
}

/// A project's rules as the wire shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// `all` or `latest`.
    pub line: crate::model::LinePolicy,
    /// How many may wait at once.
    pub line_limit: u32,
    /// `allow`, `never` or `{times}`.
    pub preempt: crate::model::Preempt,
    /// Whether the configuration holds the project.
    pub paused: bool,
    /// The freeze windows, in words. Missing from an older server.
    #[serde(default)]
    pub freezes: Vec<String>,
}

impl From<Policy> for PolicyView {
    fn from(policy: Policy) -> Self {
        let Policy { line, line_limit, preempt, paused, freezes } = policy;
        PolicyView { line, line_limit, preempt, paused, freezes: freezes.iter().map(ToString::to_string).collect() }
    }
}

/// A project in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectSummary {
    /// Its name.
    pub project: ProjectName,
    /// The deployment that holds the slot; null when it is free.
    pub holder: Option<Deployment>,
    /// How many wait in line.
    pub line_length: u64,
    /// The deployment that ran last and is final.
    pub last_outcome: Option<Deployment>,
    /// What is live: the deployment that succeeded last. Missing from an older server.
    #[serde(default)]
    pub current: Option<Deployment>,
    /// Whether the project is held. Missing from an older server.
    #[serde(default)]
    pub paused: bool,
    /// What holds the project. Missing from an older server.
    #[serde(default)]
    pub hold: Option<Hold>,
}

/// A page of projects, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectList {
    /// The page.
    pub projects: Vec<ProjectSummary>,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}

/// The plan of a deployment: the answer to a dry run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Always true.
    pub dry_run: bool,
    /// The project.
    pub project: ProjectName,
    /// The pipeline.
    pub pipeline: String,
    /// Its phases, in order.
    pub phases: Vec<PlanPhase>,
    /// The differences from the last success.
    pub changes: Vec<PlanChange>,
    /// The deployment that holds the slot; null when it is free.
    pub holder: Option<Deployment>,
    /// The place in line that it would get now, or, where it does not wait, would get if it did; 0 when it would start at
    /// once, or be refused.
    pub queue_position: u64,
    /// What would hold it. Missing from an older server.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// How long the wait for the slot is expected to take; null when that cannot be told.
    pub expected_wait: Option<Eta>,
    /// Why the wait cannot be told; not null exactly where `expected_wait` is null. Missing from an older server.
    #[serde(default)]
    pub start_unknown: Option<String>,
    /// The outcome that the submit would have. Missing from an older server.
    #[serde(default)]
    pub outcome: Option<PlanOutcome>,
    /// Why it would be refused; not null exactly where the outcome is `refused`.
    #[serde(default)]
    pub refusal: Option<PlanRefusal>,
    /// The deployment that an earlier submit with the same key made; not null exactly where the outcome is `replayed`.
    #[serde(default)]
    pub replays: Option<Deployment>,
    /// The deployment that it would cancel.
    #[serde(default)]
    pub cancels: Option<Deployment>,
    /// Why it would cancel no deployment, although that is asked for.
    #[serde(default)]
    pub cancel_refusal: Option<PlanRefusal>,
    /// The deployments in line that it would supersede when it starts.
    #[serde(default)]
    pub supersedes: Vec<Deployment>,
    /// The newer deployment that would supersede it when the newer one starts.
    #[serde(default)]
    pub will_be_superseded_by: Option<DeploymentId>,
    /// The number, actor and commit of that deployment, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub will_be_superseded_by_deployment: Option<Named>,
    /// One sentence, where no connected agent could run it.
    #[serde(default)]
    pub waits_for_agent: Option<String>,
    /// How long its run would take.
    #[serde(flatten)]
    pub takes: super::submit::Takes,
}

impl Plan {
    /// The newer deployment that would supersede it when the newer one starts.
    pub fn overtaker(&self) -> Option<Mention> {
        mention(&self.project, self.will_be_superseded_by, self.will_be_superseded_by_deployment.as_ref())
    }
}

/// The outcome that a submit would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanOutcome {
    /// It would have the slot at once.
    Starts,
    /// It would wait in line.
    Waits,
    /// The slot is held, and it does not wait.
    Blocked,
    /// It would be refused, and waiting would not help.
    Refused,
    /// An earlier submit with the same key made it already.
    Replayed,
}

/// Why something would be refused: the code and the text of the refusal itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanRefusal {
    /// For programs.
    pub error_code: ErrorCode,
    /// For people.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

/// A phase of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanPhase {
    /// Its name.
    pub name: String,
    /// `run` or `check`.
    pub kind: String,
    /// Whether a cancel waits until it is over.
    pub protected: bool,
    /// Whether it can be taken back.
    pub rollback: bool,
}

/// A difference from the last success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanChange {
    /// Which field.
    pub field: String,
    /// Its value then; null when there was none.
    pub from: Option<String>,
    /// Its value now; null when there is none.
    pub to: Option<String>,
}

/// The body of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The reason; it is recorded.
    pub reason: String,
    /// Only if this deployment holds the slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<DeploymentName>,
    /// Whether to release even from a worker that gave a sign of life within its lease, and may still be at work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub even_if_alive: bool,
    /// Who releases it, as the client says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// The answer to a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReleaseAnswer {
    /// The deployment that held the slot; null when it was free.
    pub released: Option<Deployment>,
}
