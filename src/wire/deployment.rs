//! A deployment as the wire shows it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{artifact::ArtifactRef, time};
use crate::model::{
    self, CANCEL_WAITS, CANNOT_BE_ENDED, CancelCause, DeploymentId, Eta, Hold, Mention, Named, Outcome, Party,
    ProjectName, Revision, State, Status,
};

/// A deployment, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its number in its project. Missing for a deployment that is only planned, and from an older server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Its project.
    pub project: ProjectName,
    /// The project again, by the name that the stock client knows.
    pub logical_id: ProjectName,
    /// Which pipeline.
    pub pipeline: String,
    /// Where it stands.
    pub status: Status,
    /// How many are served before it, itself included; 0 when it does not wait in line.
    pub queue_position: u64,
    /// The phase that runs, or ran last.
    pub phase: Option<String>,
    /// 0 to 100, never falling.
    pub progress: u8,
    /// Its message; while it is not final, in the worker's own words.
    pub message: Option<String>,
    /// The reason for its wait: no worker has a free place, no agent is there, or a cancel may not interrupt the
    /// present phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// The branch or tag.
    #[serde(rename = "ref")]
    pub ref_name: Option<String>,
    /// The commit.
    pub commit: Option<String>,
    /// The person or system that started it.
    pub actor: Option<String>,
    /// Where to read more.
    pub url: Option<String>,
    /// The build number.
    pub order: Option<u64>,
    /// Values for the pipeline, by name. Empty from an older server.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// The names of further values, which are secret, each with a keyed hash of its value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_inputs: BTreeMap<String, String>,
    /// The artifact that it deploys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactRef>,
    /// Always false: a dry run makes no deployment.
    pub dry_run: bool,
    /// Its outputs so far, by name. Empty from an older server.
    #[serde(default)]
    pub outputs: BTreeMap<String, String>,
    /// Its outputs; not null exactly when it succeeded.
    pub result: Option<DeploymentResult>,
    /// Why it did not succeed; not null exactly when it failed or was cancelled.
    pub error: Option<DeploymentError>,
    /// The newer deployment that took its place.
    pub superseded_by: Option<DeploymentId>,
    /// The number, actor and commit of that deployment, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by_deployment: Option<Named>,
    /// The newer deployment that supersedes it when the newer one starts, if it still waits then. Set only in answers
    /// for which it was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub will_be_superseded_by: Option<DeploymentId>,
    /// The number, actor and commit of that deployment, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub will_be_superseded_by_deployment: Option<Named>,
    /// How long until it is expected to have the slot; null where that cannot be told, left out where it does not wait
    /// in line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_start: Option<Option<Eta>>,
    /// Why that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_unknown: Option<String>,
    /// What holds it, while it waits in line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Whether no hold holds it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub override_pause: bool,
    /// The deployment that it runs again.
    pub retry_of: Option<DeploymentId>,
    /// The number, actor and commit of that deployment, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of_deployment: Option<Named>,
    /// Who submitted it. Missing where an earlier version took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_by: Option<Party>,
    /// Who asked for it to be stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<Party>,
    /// Who forced its slot free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_by: Option<Party>,
    /// The worker that runs it or ran it: the server's own, an agent, or the client of a `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// When it was submitted.
    #[serde(with = "time")]
    pub created_at: Timestamp,
    /// When a worker took it.
    #[serde(with = "time::option")]
    pub started_at: Option<Timestamp>,
    /// When it became final.
    #[serde(with = "time::option")]
    pub ended_at: Option<Timestamp>,
    /// When a stop was first requested.
    #[serde(with = "time::option")]
    pub cancel_requested_at: Option<Timestamp>,
    /// When its worker last gave a sign of life.
    #[serde(with = "time::option")]
    pub last_heartbeat_at: Option<Timestamp>,
    /// The project's revision at its last slot change.
    pub revision: Revision,
}

/// The outputs of a success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentResult {
    /// Values by name.
    pub outputs: BTreeMap<String, String>,
}

/// Why a deployment did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentError {
    /// One of the protocol's codes.
    pub code: String,
    /// For people.
    pub message: String,
    /// Where it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The state of its rollbacks; left out where none began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
}

/// The state of a deployment's rollbacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// Of all of them: `rolledBack` where each one that was begun succeeded, else `rollbackFailed`.
    pub status: String,
    /// The phases after which a person must look.
    #[serde(default)]
    pub failed: Vec<FailedRollback>,
}

/// A phase that was not rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRollback {
    /// The phase.
    pub phase: String,
    /// Why, for people.
    pub message: String,
}

/// A page of deployments, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentList {
    /// The page.
    pub deployments: Vec<Deployment>,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}

impl Deployment {
    /// The wire's form of a deployment that stands at `queue_position`.
    pub fn of(deployment: &model::Deployment, queue_position: u64) -> Self {
        let spec = &deployment.spec;
        let (result, error) = match &deployment.state {
            State::Finished { outcome, .. } => ends(outcome, deployment),
            State::Waiting(_) | State::Reserved | State::Ready | State::Running(_) => (None, None),
        };
        let superseded_by = match &deployment.state {
            State::Finished { outcome: Outcome::Cancelled { cause: CancelCause::Superseded { by }, .. }, .. } => {
                Some(*by)
            }
            State::Finished { .. } | State::Waiting(_) | State::Reserved | State::Ready | State::Running(_) => None,
        };
        let successor = deployment.cancel.as_ref().and_then(|cancel| cancel.superseded_by.as_ref());
        let superseded_by_deployment = successor.filter(|it| Some(it.id) == superseded_by);
        Deployment {
            id: deployment.id,
            number: Some(deployment.number).filter(|number| *number > 0),
            project: deployment.project.clone(),
            logical_id: deployment.project.clone(),
            pipeline: spec.pipeline.clone(),
            status: deployment.status(),
            queue_position,
            phase: deployment.phase.clone(),
            progress: deployment.progress,
            message: deployment.message.clone().or_else(|| spec.message.clone()),
            waits_for: waits_for(deployment),
            ref_name: spec.ref_name.clone(),
            commit: spec.commit.clone(),
            actor: spec.actor.clone(),
            url: spec.url.clone(),
            order: spec.order,
            inputs: spec.inputs.clone(),
            secret_inputs: spec.secret_inputs.clone(),
            artifact: spec.artifact.clone().map(|digest| ArtifactRef { sha256: digest.into() }),
            dry_run: false,
            outputs: deployment.outputs.clone(),
            result,
            error,
            superseded_by,
            superseded_by_deployment: superseded_by_deployment.and_then(|successor| successor.named.clone()),
            will_be_superseded_by: None,
            expected_start: None,
            start_unknown: None,
            will_be_superseded_by_deployment: None,
            hold: None,
            override_pause: spec.override_pause,
            retry_of: spec.retry_of,
            retry_of_deployment: spec.retry_of_named.clone(),
            submitted_by: spec.submitted_by.clone().map(|identity| Party { identity, actor: spec.actor.clone() }),
            cancelled_by: deployment.cancel.as_ref().and_then(|cancel| cancel.by.clone()),
            released_by: deployment.released_by.clone(),
            worker: deployment.lease().map(|lease| lease.holder.worker_name().to_owned()),
            created_at: deployment.created_at,
            started_at: deployment.started_at,
            ended_at: deployment.ended_at(),
            cancel_requested_at: deployment.cancel.as_ref().map(|cancel| cancel.at),
            last_heartbeat_at: deployment.last_heartbeat_at,
            revision: deployment.revision,
        }
    }
}

impl Deployment {
    /// How a text about another deployment names it.
    pub fn mention(&self) -> Mention {
        let (actor, commit) = (self.actor.clone(), self.commit.clone());
        let named = self.number.map(|number| Named { number, actor, commit });
        Mention { project: self.project.clone(), id: self.id, named }
    }

    /// Its name for people: `web#17`, or its id where the server knows no numbers.
    pub fn name(&self) -> String {
        name(&self.project, self.number, self.id)
    }

    /// How a command names it: by its number, or by its id where the server knows no numbers. The number has no `#`,
    /// because `#` begins a comment in a shell.
    pub fn argument(&self) -> String {
        self.number.map_or_else(|| self.id.to_string(), |number| number.to_string())
    }

    /// The newer deployment that took its place.
    pub fn successor(&self) -> Option<Mention> {
        mention(&self.project, self.superseded_by, self.superseded_by_deployment.as_ref())
    }

    /// The newer deployment that supersedes it when the newer one starts.
    pub fn overtaker(&self) -> Option<Mention> {
        mention(&self.project, self.will_be_superseded_by, self.will_be_superseded_by_deployment.as_ref())
    }

    /// The deployment that it runs again.
    pub fn former(&self) -> Option<Mention> {
        mention(&self.project, self.retry_of, self.retry_of_deployment.as_ref())
    }

    /// Adds the newer deployment that supersedes it when the newer one starts.
    #[must_use]
    pub fn overtaken_by(self, overtaker: Option<Mention>) -> Self {
        let (will_be_superseded_by, will_be_superseded_by_deployment) = parts(overtaker);
        Deployment { will_be_superseded_by, will_be_superseded_by_deployment, ..self }
    }
}

/// A deployment's name for people: `web#17`, or its id where its number is not known.
pub fn name(project: &ProjectName, number: Option<u64>, id: DeploymentId) -> String {
    number.map_or_else(|| format!("deployment {id}"), |number| format!("{project}#{number}"))
}

/// The mention of the deployment with this id, whose number, actor and commit stand beside the id.
pub fn mention(project: &ProjectName, id: Option<DeploymentId>, named: Option<&Named>) -> Option<Mention> {
    id.map(|id| Mention { project: project.clone(), id, named: named.cloned() })
}

/// The id of a mention, and the number, actor and commit that stand beside the id.
pub fn parts(mention: Option<Mention>) -> (Option<DeploymentId>, Option<Named>) {
    mention.map_or((None, None), |Mention { id, named, .. }| (Some(id), named))
}

fn waits_for(deployment: &model::Deployment) -> Option<String> {
    let message = deployment.message.as_ref();
    let told = match &deployment.state {
        State::Ready => message,
        State::Running(_) => message.filter(|text| {
            text.starts_with(CANNOT_BE_ENDED) || (deployment.cancel.is_some() && text.starts_with(CANCEL_WAITS))
        }),
        State::Waiting(_) | State::Reserved | State::Finished { .. } => None,
    };
    told.cloned()
}

fn ends(outcome: &Outcome, deployment: &model::Deployment) -> (Option<DeploymentResult>, Option<DeploymentError>) {
    let (message, phase) = match outcome {
        Outcome::Succeeded => return (Some(DeploymentResult { outputs: deployment.outputs.clone() }), None),
        Outcome::Failed { message, phase, .. } => (message.clone(), phase.clone()),
        Outcome::Cancelled { message, .. } => (message.clone(), None),
    };
    let code = outcome.error_code().unwrap_or_default().to_owned();
    let rollback = deployment.rollbacks.as_ref().map(Rollback::of);
    (None, Some(DeploymentError { code, message, phase, rollback }))
}

impl Rollback {
    fn of(rollbacks: &model::Rollbacks) -> Self {
        let failed: Vec<_> = rollbacks
            .failed()
            .map(|model::FailedRollback { phase, message }| FailedRollback { phase, message })
            .collect();
        let status = if failed.is_empty() { "rolledBack" } else { "rollbackFailed" };
        Rollback { status: status.to_owned(), failed }
    }
}
