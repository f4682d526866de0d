//! How the engines that speak SQL write the model into columns: the same words in all of them, so that a store can be
//! copied from one engine to another.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;

use crate::model::{
    CancelCause, Deployment, DeploymentId, Digest, FailureCause, Lease, Outcome, Place, RecentRun, RunBy, State, Step,
};

/// The fields of a deployment that may change, as values of columns.
pub(super) struct Written<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) outputs: String,
    pub(super) rollbacks: Option<String>,
    pub(super) window_ms: Option<u64>,
    pub(super) state: &'static str,
    pub(super) ended_at: Option<i64>,
    pub(super) lease: Option<&'a Lease>,
    pub(super) cause: Option<&'static str>,
    pub(super) cause_message: Option<&'a str>,
    pub(super) cause_phase: Option<&'a str>,
    pub(super) superseded_by: Option<DeploymentId>,
}

impl<'a> Written<'a> {
    pub(super) fn of(deployment: &'a Deployment) -> serde_json::Result<Self> {
        let outputs =
            if deployment.outputs.is_empty() { "{}".to_owned() } else { serde_json::to_string(&deployment.outputs)? };
        let mut written = Written {
            deployment,
            outputs,
            rollbacks: deployment.rollbacks.as_ref().map(serde_json::to_string).transpose()?,
            window_ms: None,
            state: "",
            ended_at: deployment.ended_at().map(Timestamp::as_millisecond),
            lease: deployment.lease(),
            cause: None,
            cause_message: None,
            cause_phase: None,
            superseded_by: None,
        };
        written.state = match &deployment.state {
            State::Waiting(Place::Ticket { window }) => {
                written.window_ms = Some(millis(*window));
                "waiting"
            }
            State::Waiting(Place::Queued) => "waiting",
            State::Reserved => "reserved",
            State::Ready => "ready",
            State::Running(_) => "running",
            State::Finished { outcome, .. } => match outcome {
                Outcome::Succeeded => "succeeded",
                Outcome::Failed { cause, message, phase } => {
                    written.cause = Some(cause.code());
                    written.cause_message = Some(message);
                    written.cause_phase = phase.as_deref();
                    "failed"
                }
                Outcome::Cancelled { cause, message } => {
                    written.cause = Some(cause.code());
                    written.cause_message = Some(message);
                    if let CancelCause::Superseded { by } = cause {
                        written.superseded_by = Some(*by);
                    }
                    "cancelled"
                }
            },
        };
        Ok(written)
    }
}

/// The deployments that a decision's steps change, each as its row is written, and whether that row is new.
///
/// Where one deployment has several steps, the last one gives its state. The order is kept, so that the slot is free
/// before it is taken.
pub(super) fn written_rows(steps: &[Step]) -> Vec<(&Deployment, bool)> {
    let mut last_steps: BTreeMap<DeploymentId, (usize, bool)> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        let (last_step, is_created) = last_steps.entry(step.deployment().id).or_default();
        *last_step = at;
        *is_created |= step.is_creation();
    }
    let rows = steps.iter().enumerate().filter_map(|(at, step)| {
        let (last_step, is_created) = last_steps[&step.deployment().id];
        (at == last_step).then_some((step.deployment(), is_created))
    });
    rows.collect()
}

/// The word for the side that runs a deployment.
pub(super) fn executor_word(executor: RunBy) -> &'static str {
    match executor {
        RunBy::Worker => "server",
        RunBy::Submitter => "client",
    }
}

/// The cause of a failure that has this code.
pub(super) fn failure_cause(code: &str) -> Option<FailureCause> {
    FailureCause::ALL.into_iter().find(|cause| cause.code() == code)
}

/// The cause of a cancellation that has this code.
pub(super) fn cancel_cause(code: &str, superseded_by: Option<DeploymentId>) -> Option<CancelCause> {
    [CancelCause::Requested, CancelCause::Abandoned, CancelCause::Expired, CancelCause::Released]
        .into_iter()
        .chain(superseded_by.map(|by| CancelCause::Superseded { by }))
        .find(|cause| cause.code() == code)
}

/// The recent runs as `[["deploy"],[[0,1200],[0,1300]]]`: every decision reads and most of them write this, so each
/// pipeline is named once.
pub(super) fn recent_runs_to_json(runs: &[RecentRun]) -> serde_json::Result<String> {
    let mut pipelines: Vec<&str> = Vec::new();
    let mut durations: Vec<(usize, u64)> = Vec::with_capacity(runs.len());
    for RecentRun { pipeline, duration_ms } in runs {
        let known = pipelines.iter().position(|known| *known == &**pipeline);
        durations.push((known.unwrap_or(pipelines.len()), *duration_ms));
        if known.is_none() {
            pipelines.push(pipeline);
        }
    }
    serde_json::to_string(&(pipelines, durations))
}

/// Reads [`recent_runs_to_json`].
pub(super) fn recent_runs_from_json(text: &str) -> Result<Vec<RecentRun>, String> {
    let (pipelines, durations): (Vec<Arc<str>>, Vec<(usize, u64)>) =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    let run = |(pipeline, duration_ms)| {
        let pipeline: &Arc<str> = pipelines.get(pipeline).ok_or("a run of no pipeline")?;
        Ok(RecentRun { pipeline: pipeline.clone(), duration_ms })
    };
    durations.into_iter().map(run).collect()
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The part of a spec that tasks for all projects read. All other fields are skipped, because they may be unknown, or
/// large.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct JudgedSpec {
    pub(super) artifact: Option<Digest>,
    deadline_seconds: Option<u64>,
    claim_within_seconds: Option<u64>,
}

impl JudgedSpec {
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.deadline_seconds.map(Duration::from_secs)
    }

    pub(super) fn claim_within(&self) -> Option<Duration> {
        self.claim_within_seconds.map(Duration::from_secs)
    }
}

/// Reads the word for the side that runs a deployment.
pub(super) fn executor(word: &str) -> Option<RunBy> {
    [RunBy::Worker, RunBy::Submitter].into_iter().find(|executor| executor_word(*executor) == word)
}
