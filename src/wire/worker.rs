//! The messages between workers and the server: claims, heartbeats, reports and ends, all under a lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{artifact::ArtifactRef, deployment::Deployment, submit::Takes};
use crate::model::{DeploymentId, FailureCause, Named, ProjectName, Report, Revision, Status, Verdict, bounds};

/// The header that carries a lease's secret.
pub const LEASE_HEADER: &str = "singletrack-lease";

/// Proof that a deployment belongs to a worker, and for how long.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// To be sent with each call as `Singletrack-Lease`: 64 hexadecimal digits.
    pub secret: String,
    /// Grows with every lease of the project.
    pub fencing_token: Revision,
    /// How long the lease lasts after the last answered heartbeat was sent.
    pub ttl_seconds: u64,
}

impl Lease {
    /// How long it lasts after the last answered heartbeat was sent; a second at least.
    pub fn length(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds.max(1))
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("fencing_token", &self.fencing_token).finish_non_exhaustive()
    }
}

/// The answer to an accepted submit: the deployment, and its lease where the submit claimed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The deployment.
    #[serde(flatten)]
    pub deployment: Deployment,
    /// The lease, with `claim: true`, once the slot is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// How long it takes.
    #[serde(flatten)]
    pub takes: Takes,
}

/// An agent asks for work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimRequest {
    /// The agent's name, for people: 1 to 100 visible ASCII characters.
    pub worker: String,
    /// The agent's own name for this one call, 1 to 64 visible ASCII characters: repeated, it gets the same work.
    pub claim_id: String,
    /// The pipelines that it can run, by project.
    pub projects: BTreeMap<ProjectName, Vec<String>>,
    /// How many more deployments it could run at once; 0 only shows that it is there.
    #[serde(default = "one")]
    pub capacity: u32,
}

fn one() -> u32 {
    1
}

/// Work for an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claimed {
    /// The deployment, running.
    pub deployment: Deployment,
    /// Its lease.
    pub lease: Lease,
    /// Values for the pipeline; those of its secret inputs are among them.
    pub inputs: BTreeMap<String, String>,
    /// The names of the inputs whose values are secret: they are masked in the output. Empty from an older server.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secret_inputs: BTreeSet<String>,
    /// The artifact to unpack before the first phase.
    pub artifact: Option<ArtifactRef>,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatAnswer {
    /// Whether the deployment shall stop at its next safe point.
    pub cancel_requested: bool,
    /// Why.
    pub reason: Option<String>,
    /// The newer deployment that takes its place.
    pub superseded_by: Option<DeploymentId>,
    /// The number, actor and commit of that deployment, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by_deployment: Option<Named>,
    /// How long the lease lasts from when this heartbeat was sent.
    pub ttl_seconds: u64,
    /// Whether the worker's token was revoked: it may end its work under the lease, and nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub token_revoked: bool,
}

/// A worker's reports between its claim and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportsRequest {
    /// The number of the first of these reports; a worker numbers its reports 1, 2, 3 …
    pub first: u64,
    /// The reports, in order, at most 256.
    pub reports: Vec<Report>,
}

/// The answer to reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportsAnswer {
    /// The number of the last report that is recorded; those up to it were recorded now or before.
    pub last: u64,
}

/// A worker reports the end of its deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishRequest {
    /// SUCCEEDED, FAILED or CANCELLED.
    pub status: Status,
    /// Its outputs, beside those that were reported already; with SUCCEEDED.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
    /// Why; with FAILED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FinishError>,
}

/// Why a deployment failed, as its worker reports it. The state of its rollbacks is known from the reports of its
/// phases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishError {
    /// One of the protocol's codes.
    pub code: String,
    /// For people.
    pub message: String,
    /// Where it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
}

impl From<Verdict> for FinishRequest {
    fn from(verdict: Verdict) -> Self {
        let (status, none) = (verdict.status(), BTreeMap::new());
        match verdict {
            Verdict::Succeeded { outputs } => FinishRequest { status, outputs, error: None },
            Verdict::Failed { cause, message, phase } => {
                let message = bounds::cut(message, bounds::REPORT_TEXT);
                let error = Some(FinishError { code: cause.code().to_owned(), message, phase });
                FinishRequest { status, outputs: none, error }
            }
            Verdict::Stopped => FinishRequest { status, outputs: none, error: None },
        }
    }
}

/// The causes of a failure that a worker may report.
const TOLD_BY_WORKERS: [FailureCause; 6] = [
    FailureCause::PhaseFailed,
    FailureCause::PhaseTimeout,
    FailureCause::VerifyFailed,
    FailureCause::TimedOut,
    FailureCause::Stalled,
    FailureCause::WorkerLost,
];

/// Why a reported end is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidEnd {
    /// A worker may not report a failure with this code.
    UnknownCode(String),
    /// The parts of the report contradict each other.
    Contradiction(&'static str),
}

impl InvalidEnd {
    /// For people; `echo` makes the sent text fit to be shown.
    pub fn detail(&self, echo: impl Fn(&str) -> String) -> String {
        match self {
            InvalidEnd::UnknownCode(code) => {
                let known = TOLD_BY_WORKERS.map(FailureCause::code).join(", ");
                format!("error.code is one of {known}, not '{}'", echo(code))
            }
            InvalidEnd::Contradiction(why) => (*why).to_owned(),
        }
    }
}

impl TryFrom<FinishRequest> for Verdict {
    type Error = InvalidEnd;

    fn try_from(finish: FinishRequest) -> Result<Self, InvalidEnd> {
        let FinishRequest { status, outputs, error } = finish;
        match (status, error) {
            (Status::Succeeded, None) => Ok(Verdict::Succeeded { outputs }),
            (Status::Cancelled, None) => Ok(Verdict::Stopped),
            (Status::Failed, Some(FinishError { code, message, phase })) => {
                let cause = TOLD_BY_WORKERS.into_iter().find(|cause| cause.code() == code);
                let cause = cause.ok_or(InvalidEnd::UnknownCode(code))?;
                Ok(Verdict::Failed { cause, message, phase })
            }
            (Status::Failed, None) => Err(InvalidEnd::Contradiction("FAILED goes with an error")),
            (Status::Succeeded | Status::Cancelled, Some(_)) => {
                Err(InvalidEnd::Contradiction("an error goes with FAILED only"))
            }
            (Status::Pending | Status::Running, _) => {
                Err(InvalidEnd::Contradiction("status is SUCCEEDED, FAILED or CANCELLED"))
            }
        }
    }
}

/// An agent as `why` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentView {
    /// Its name.
    pub worker: String,
    /// The pipelines of this project that it can run.
    pub pipelines: Vec<String>,
    /// When it last asked for work.
    #[serde(with = "super::time")]
    pub last_seen_at: jiff::Timestamp,
    /// Whether it is asking right now.
    pub connected: bool,
}
