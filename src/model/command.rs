//! The commands that can change a deployment, and why one is refused. The words are those of the deployment: "its turn
//! has come", "its worker lives".

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    deployment::{FailureCause, Outcome, Status},
    hold::Hold,
    identity::Party,
    ids::Revision,
    lease::{LeaseHolder, SecretHash},
    mention::Mention,
    phase::{PhaseState, Stream},
};

/// A change of a deployment, from outside or from another deployment.
#[derive(Clone, Debug)]
pub enum Command {
    /// Its turn has come: the slot is its own.
    Promote,
    /// It is put before older ones in line, which end when it starts.
    PutAhead {
        /// Its new rank.
        rank: i64,
        /// How many are served before it then, itself included; 0 when it has the slot.
        position: u64,
        /// The deployment that holds the slot.
        blocker: Option<Mention>,
    },
    /// A newer deployment was put before it.
    Overtaken {
        /// How many are served before it then, itself included.
        position: u64,
        /// The deployment that holds the slot.
        blocker: Option<Mention>,
        /// The newer deployment.
        by: Mention,
    },
    /// Its ticket's client polls, and will be parked for `window` at most.
    Attend {
        /// How long the poll will be parked.
        window: Duration,
    },
    /// Its ticket's client has come back for the slot that was kept.
    TakeUp,
    /// Its project is held, so it loses the slot that no worker has taken yet, and waits again.
    TakeBack {
        /// How many are served before it then, itself included.
        position: u64,
        /// What holds the project.
        hold: Hold,
    },
    /// A worker takes it.
    Claim {
        /// Proof of ownership from now on.
        secret: SecretHash,
        /// How long the lease lasts.
        ttl: Duration,
        /// The holder of the lease.
        holder: LeaseHolder,
    },
    /// A living worker will take it, but has no free place yet.
    Postpone {
        /// The message for people.
        why: String,
    },
    /// Its worker lives.
    Heartbeat {
        /// The worker's proof.
        secret: SecretHash,
    },
    /// Its worker tells how far it is.
    Report {
        /// The worker's proof.
        secret: SecretHash,
        /// The worker's own number of the first report, from 1; reports that were recorded before are skipped. `None`
        /// for a worker that loses no answers, and so does not number its reports.
        first: Option<u64>,
        /// The reports, in order.
        reports: Vec<Report>,
    },
    /// A stop is requested.
    Cancel {
        /// Why, in the canceller's words.
        reason: Option<String>,
        /// The newer deployment that takes its place.
        superseded_by: Option<Mention>,
        /// Who requests it; nobody where a newer deployment ends it by its start.
        by: Option<Party>,
    },
    /// Its worker is done with it.
    Finish {
        /// The worker's proof.
        secret: SecretHash,
        /// How it ended.
        verdict: Verdict,
    },
    /// It has lapsed, as an observer saw: silence, a deadline, or a lost worker.
    Lapse {
        /// The vital signs at the time of the observation.
        seen: Vital,
        /// What has run out.
        cause: Lapse,
    },
    /// No worker took it in time, and no worker is there that could.
    Unclaimed {
        /// The vital signs at the time of the observation.
        seen: Vital,
        /// Which agents are missing, for people.
        absence: String,
    },
    /// An operator forces the slot free.
    Release {
        /// Why.
        reason: String,
        /// The operator.
        by: Option<Party>,
    },
}

/// How a worker says that its deployment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its work succeeded.
    Succeeded {
        /// The outputs, beside those that were reported already.
        outputs: BTreeMap<String, String>,
    },
    /// It did not.
    Failed {
        /// Why.
        cause: FailureCause,
        /// Why, for people.
        message: String,
        /// Where.
        phase: Option<String>,
    },
    /// It was stopped because of a cancel.
    Stopped,
}

impl Verdict {
    /// The status of a deployment that ends with this verdict.
    pub fn status(&self) -> Status {
        match self {
            Verdict::Succeeded { .. } => Status::Succeeded,
            Verdict::Failed { .. } => Status::Failed,
            Verdict::Stopped => Status::Cancelled,
        }
    }

    /// The same verdict without its text, where the text cannot be kept.
    #[must_use]
    pub fn bare(self) -> Verdict {
        match self {
            Verdict::Succeeded { outputs: _ } => Verdict::Succeeded { outputs: BTreeMap::new() },
            Verdict::Failed { cause, message: _, phase: _ } => {
                Verdict::Failed { cause, message: "its message could not be kept by the store".to_owned(), phase: None }
            }
            Verdict::Stopped => Verdict::Stopped,
        }
    }

    /// Whether a deployment with this outcome ended by this verdict.
    pub fn agrees_with(&self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Verdict::Succeeded { .. }, Outcome::Succeeded) | (Verdict::Stopped, Outcome::Cancelled { .. }) => true,
            (Verdict::Failed { cause: told, .. }, Outcome::Failed { cause, .. }) => told == cause,
            (Verdict::Succeeded { .. } | Verdict::Failed { .. } | Verdict::Stopped, _) => false,
        }
    }
}

/// A message of a worker between its claim and its end, in the form that it has on the wire and in an agent's journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub enum Report {
    /// A phase began or ended.
    Phase {
        /// Which.
        name: String,
        /// The phase's new state.
        state: PhaseState,
        /// More about it, such as that a cancel must wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// It came further.
    Progress {
        /// 0 to 100; a lower one than before leaves it where it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        progress: Option<u8>,
        /// The present work, in the worker's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// It produced something. A later value of the same name replaces this one.
    Output {
        /// The name.
        name: String,
        /// The value.
        value: String,
    },
    /// Lines of output.
    Log {
        /// Where they were written to.
        stream: Stream,
        /// By which phase.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<String>,
        /// The lines, without their ends.
        lines: Vec<String>,
    },
}

impl Report {
    /// The part of the report that is left where its text cannot be kept; `None` where nothing is left.
    pub fn bare(&self) -> Option<Report> {
        let bare = match self {
            Report::Phase { name, state, message: Some(_) } => {
                Report::Phase { name: name.clone(), state: *state, message: None }
            }
            Report::Progress { progress: Some(progress), message: Some(_) } => {
                Report::Progress { progress: Some(*progress), message: None }
            }
            Report::Log { stream, phase, lines } => {
                let line = format!("[singletrack: {} lines could not be kept by the store]", lines.len());
                Report::Log { stream: *stream, phase: phase.clone(), lines: vec![line] }
            }
            Report::Phase { message: None, .. } | Report::Progress { .. } | Report::Output { .. } => return None,
        };
        (bare != *self).then_some(bare)
    }
}

/// The values that an observer compares to detect silence: equal twice means that no sign of life came in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vital {
    /// The deployment's last slot change.
    pub revision: Revision,
    /// Its signs of life.
    pub pulse: u64,
}

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lapse {
    /// The sign of life that its state requires (poll, heartbeat, claim) did not come.
    Silence,
    /// Its deadline in the line.
    Deadline,
    /// The worker's process is known to be gone.
    WorkerGone,
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The lease is not, or no longer, this deployment's.
    #[error("the lease is not, or no longer, this deployment's")]
    LeaseLost,
    /// It is final.
    #[error("the deployment is final")]
    Final,
    /// The command has no meaning in its state.
    #[error("the deployment is not in a state for that")]
    WrongState,
    /// The same claim call has already taken another deployment.
    #[error("its claim has taken another deployment already")]
    Taken,
    /// Its project is held, so it waits again.
    #[error("its project is held, so it waits again")]
    Held,
    /// A sign of life arrived after it was observed as silent.
    #[error("it was heard of in between")]
    Alive,
    /// Its outputs would be too many, or too large together.
    #[error("its outputs would be too many, or too large together")]
    OutputsFull,
    /// Reports before these are missing.
    #[error("reports are missing: the last one that is recorded is number {last}")]
    ReportGap {
        /// The number of the last one that is recorded.
        last: u64,
    },
}
