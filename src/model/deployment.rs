//! One deployment: its spec, its state and its outcome.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    digest::Digest,
    identity::{Identity, Party},
    ids::{DeploymentId, ProjectName, Revision},
    lease::Lease,
    limits::Limits,
    mention::{Mention, Named},
    rollbacks::Rollbacks,
};

/// What a client asked for. It never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// The pipeline to run.
    pub pipeline: String,
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
    /// The build number; a lower one never starts after a higher one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<u64>,
    /// Values for the pipeline.
    pub inputs: BTreeMap<String, String>,
    /// The names of further values, which are secret, each with a keyed hash of its value. The values are kept sealed until
    /// the deployment is final, and nowhere else. See decision 0071.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_inputs: BTreeMap<String, String>,
    /// The artifact to deploy: the SHA-256 of its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Digest>,
    /// Which side runs it.
    pub executor: RunBy,
    /// Whether it may go back behind a newer `order`.
    pub rollback: bool,
    /// Whether no hold holds it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub override_pause: bool,
    /// How long it may wait in line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
    /// The deployment that it runs again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<DeploymentId>,
    /// The number, actor and commit of that deployment, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of_named: Option<Named>,
    /// A digest of the pipeline's definition when it was submitted, to tell whether it changed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_digest: Option<String>,
    /// How long it may hold the slot without a worker, where that is not the server's usual time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_within_seconds: Option<u64>,
    /// Who submitted it, as the server knows it. Unknown where an earlier version took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submitted_by: Option<Identity>,
}

/// Which side runs a deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunBy {
    /// A worker that claims it: the server's own or an agent. It runs the project's pipeline.
    #[default]
    #[serde(rename = "server")]
    Worker,
    /// The client that submitted it: `singletrack run`.
    #[serde(rename = "client")]
    Submitter,
}

/// One deployment, as it stands at one committed moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its project.
    pub project: ProjectName,
    /// Its number in its project: 1, 2, 3 … in the order of arrival. 0 for a deployment that is only planned.
    pub number: u64,
    /// The spec.
    pub spec: Spec,
    /// Where it stands.
    pub state: State,
    /// Its place in the order of arrival: the revision at which it was admitted.
    pub ticket: Revision,
    /// Its place in the order in which the line is served, where it was put before older deployments; those end when it
    /// starts.
    pub line_rank: Option<i64>,
    /// The project's revision at its last slot change.
    pub revision: Revision,
    /// Counts its signs of life: a ticket's polls, a worker's heartbeats. An observer detects silence by comparing two
    /// readings of this count, so it needs no common clock.
    pub pulse: u64,
    /// 0 to 100, never falling.
    pub progress: u8,
    /// Its message: the present work or the reason for a wait, in the words of its worker.
    pub message: Option<String>,
    /// The phase that runs, or ran last.
    pub phase: Option<String>,
    /// The outputs so far.
    pub outputs: BTreeMap<String, String>,
    /// The state of its rollbacks, if one began.
    pub rollbacks: Option<Rollbacks>,
    /// The first request to stop it, if there is one.
    pub cancel: Option<CancelRequest>,
    /// Who forced the slot free, if somebody did.
    pub released_by: Option<Party>,
    /// How many events it has: the `seq` of the last one.
    pub event_count: u64,
    /// How many of its worker's numbered reports are recorded.
    pub report_count: u64,
    /// How much output is kept of it.
    pub logs: LogAccount,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When a worker took it.
    pub started_at: Option<Timestamp>,
    /// When its worker last gave a sign of life.
    pub last_heartbeat_at: Option<Timestamp>,
}

/// The state of a deployment. Each variant holds the data that exist in that state only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// In line.
    Waiting(Place),
    /// Holds the slot for a ticket whose client must come back.
    Reserved,
    /// Holds the slot and waits for a worker.
    Ready,
    /// Holds the slot; a worker runs it.
    Running(Lease),
    /// Final.
    Finished {
        /// The outcome.
        outcome: Outcome,
        /// When.
        at: Timestamp,
        /// The lease under which it ran, so that a repeated `finish` is recognised.
        lease: Option<Lease>,
    },
}

/// How a deployment stands in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A client keeps the place by polling.
    Ticket {
        /// How long its current poll may be parked; silence counts from the end of it.
        window: Duration,
    },
    /// The server starts it when its turn comes; no client must poll.
    Queued,
}

/// The five words of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// In line, or holding the slot without a worker.
    Pending,
    /// A worker runs it.
    Running,
    /// Its work succeeded.
    Succeeded,
    /// It did not.
    Failed,
    /// It was stopped.
    Cancelled,
}

impl Status {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "PENDING",
            Status::Running => "RUNNING",
            Status::Succeeded => "SUCCEEDED",
            Status::Failed => "FAILED",
            Status::Cancelled => "CANCELLED",
        }
    }

    /// Whether it never changes again.
    pub fn is_final(self) -> bool {
        match self {
            Status::Pending | Status::Running => false,
            Status::Succeeded | Status::Failed | Status::Cancelled => true,
        }
    }
}

/// The outcome of a deployment. The cause is a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its work succeeded; the outputs are the deployment's.
    Succeeded,
    /// It did not.
    Failed {
        /// Why.
        cause: FailureCause,
        /// Why, for people.
        message: String,
        /// Where.
        phase: Option<String>,
    },
    /// It was stopped.
    Cancelled {
        /// Why.
        cause: CancelCause,
        /// Why, for people.
        message: String,
    },
}

/// Why a deployment failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureCause {
    /// A phase's command failed.
    PhaseFailed,
    /// A phase took longer than it may.
    PhaseTimeout,
    /// A check never became good.
    VerifyFailed,
    /// The worker fell silent.
    WorkerLost,
    /// No worker took it.
    Unclaimed,
    /// The whole took longer than it may.
    TimedOut,
    /// Its command gave no sign of life for longer than it may.
    Stalled,
    /// An operator forced the slot free.
    Released,
}

/// Why a deployment was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelCause {
    /// A cancel was requested.
    Requested,
    /// A newer deployment took its place.
    Superseded {
        /// The newer one.
        by: DeploymentId,
    },
    /// Its client never came back.
    Abandoned,
    /// It left the line at its deadline.
    Expired,
    /// An operator forced the slot free before it started.
    Released,
}

/// A request to stop a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelRequest {
    /// When it was made.
    pub at: Timestamp,
    /// Why, in the canceller's words.
    pub reason: Option<String>,
    /// The newer deployment that takes its place.
    pub superseded_by: Option<Mention>,
    /// Who made it. Unknown where an earlier version took it, and nobody where a newer deployment's start ended this one.
    pub by: Option<Party>,
}

/// How much output of a deployment is kept. Bytes count the text of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogAccount {
    /// All that was ever written.
    pub total_bytes: u64,
    /// The last `seq` of the head, which is kept for good; 0 while everything is.
    pub head_end_seq: u64,
    /// `total_bytes` when the middle was cut last.
    pub trimmed_at_bytes: u64,
}

impl Deployment {
    /// The word for where it stands.
    pub fn status(&self) -> Status {
        match &self.state {
            State::Waiting(_) | State::Reserved | State::Ready => Status::Pending,
            State::Running(_) => Status::Running,
            State::Finished { outcome, .. } => outcome.status(),
        }
    }

    /// Whether it holds its project's slot.
    pub fn holds_slot(&self) -> bool {
        match self.state {
            State::Reserved | State::Ready | State::Running(_) => true,
            State::Waiting(_) | State::Finished { .. } => false,
        }
    }

    /// Whether it is in line.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(_))
    }

    /// Whether it never changes again.
    pub fn is_final(&self) -> bool {
        matches!(self.state, State::Finished { .. })
    }

    /// When it became final.
    pub fn ended_at(&self) -> Option<Timestamp> {
        match self.state {
            State::Finished { at, .. } => Some(at),
            State::Waiting(_) | State::Reserved | State::Ready | State::Running(_) => None,
        }
    }

    /// The lease under which it runs or ran.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Running(lease) => Some(lease),
            State::Finished { lease, .. } => lease.as_ref(),
            State::Waiting(_) | State::Reserved | State::Ready => None,
        }
    }
}

impl State {
    /// How long a deployment in this state may go without the sign of life that its state requires; `None` where its
    /// state requires none. `claim_within` is the deployment's own limit for its wait for a worker, if it has one. Each
    /// observer counts on its own clock, from when it first saw the present vital signs.
    pub fn patience(&self, claim_within: Option<Duration>, limits: &Limits) -> Option<Duration> {
        match self {
            State::Waiting(Place::Ticket { window }) => Some(*window + limits.attendance),
            State::Waiting(Place::Queued) | State::Finished { .. } => None,
            State::Reserved => Some(limits.reserve),
            State::Ready => Some(claim_within.unwrap_or(limits.unclaimed)),
            // The lock delay gives a worker that cannot reach the server the time to stop its child first.
            State::Running(lease) => Some(lease.ttl + limits.lock_delay),
        }
    }
}

impl Outcome {
    /// The word for it.
    pub fn status(&self) -> Status {
        match self {
            Outcome::Succeeded => Status::Succeeded,
            Outcome::Failed { .. } => Status::Failed,
            Outcome::Cancelled { .. } => Status::Cancelled,
        }
    }

    /// The code on the wire; `None` for a success.
    pub fn error_code(&self) -> Option<&'static str> {
        match self {
            Outcome::Succeeded => None,
            Outcome::Failed { cause, .. } => Some(cause.code()),
            Outcome::Cancelled { cause, .. } => Some(cause.code()),
        }
    }
}

impl FailureCause {
    /// Every cause, for parsing.
    pub const ALL: [FailureCause; 8] = [
        FailureCause::PhaseFailed,
        FailureCause::PhaseTimeout,
        FailureCause::VerifyFailed,
        FailureCause::WorkerLost,
        FailureCause::Unclaimed,
        FailureCause::TimedOut,
        FailureCause::Stalled,
        FailureCause::Released,
    ];

    /// The code on the wire and in the stores.
    pub fn code(self) -> &'static str {
        match self {
            FailureCause::PhaseFailed => "PHASE_FAILED",
            FailureCause::PhaseTimeout => "PHASE_TIMEOUT",
            FailureCause::VerifyFailed => "VERIFY_FAILED",
            FailureCause::WorkerLost => "WORKER_LOST",
            FailureCause::Unclaimed => "UNCLAIMED",
            FailureCause::TimedOut => "TIMED_OUT",
            FailureCause::Stalled => "STALLED",
            FailureCause::Released => "RELEASED",
        }
    }
}

impl CancelCause {
    /// The code of every cause.
    pub const CODES: [&'static str; 5] = ["CANCELLED", "SUPERSEDED", "ABANDONED", "EXPIRED", "RELEASED"];

    /// The code on the wire and in the stores.
    pub fn code(self) -> &'static str {
        match self {
            CancelCause::Requested => "CANCELLED",
            CancelCause::Superseded { .. } => "SUPERSEDED",
            CancelCause::Abandoned => "ABANDONED",
            CancelCause::Expired => "EXPIRED",
            CancelCause::Released => "RELEASED",
        }
    }
}
/// Every status of a final deployment with each code that goes with it; a success has none.
pub fn outcome_codes() -> impl Iterator<Item = (&'static str, &'static str)> {
    let failed = FailureCause::ALL.into_iter().map(|cause| (Status::Failed.as_str(), cause.code()));
    let cancelled = CancelCause::CODES.into_iter().map(|code| (Status::Cancelled.as_str(), code));
    [(Status::Succeeded.as_str(), "")].into_iter().chain(failed).chain(cancelled)
}

impl Deployment {
    /// How a text about another deployment names it.
    pub fn mention(&self) -> Mention {
        let Deployment { id, project, number, spec, .. } = self;
        let named = Named { number: *number, actor: spec.actor.clone(), commit: spec.commit.clone() };
        Mention { project: project.clone(), id: *id, named: Some(named).filter(|named| named.number > 0) }
    }
}
