//! `?dryRun=true`: what a submit would do, without doing it.

use std::collections::BTreeMap;

use axum::{http::StatusCode, response::Response};

use super::{App, answer, error::ErrorAnswer, pipeline};
use crate::{
    config::PhaseAction,
    model::{
        Eta, Spec, Status,
        admission::{Admission, Rejection, Submission},
        forecast::StartUnknown,
    },
    queue::Planned,
    store::ListQuery,
    wire::{self, Plan, PlanChange, PlanOutcome, PlanPhase},
};

/// The flags of a dry run besides the submit itself.
#[derive(Clone, Copy, Debug)]
pub struct DryRunFlags {
    /// Whether the client would ask the holder to give up the slot.
    pub cancels: bool,
    /// Whether the client would upload the artifact first.
    pub uploads: bool,
}

/// Answers the plan of a submission.
pub async fn plan(app: &App, submission: Submission, asked: DryRunFlags) -> Result<Response, ErrorAnswer> {
    let Submission { id, project, spec, .. } = submission.clone();
    let config = app.config();
    // Only the agent knows what an agent's pipeline does.
    let configured = match app.by_agents(&project) {
        Some(_) => &[],
        None => pipeline(&config, &project, &spec.pipeline)?.phases.as_slice(),
    };
    let phases = configured.iter().map(|phase| PlanPhase {
        name: phase.name.clone(),
        kind: match phase.action {
            PhaseAction::Run(_) => "run".to_owned(),
            PhaseAction::Check(_) => "check".to_owned(),
        },
        protected: phase.protected,
        rollback: phase.rollback.is_some(),
    });
    let planned = app.queue.plan(submission, asked.cancels).await?;
    let query = ListQuery { status: Some(Status::Succeeded), before: None, limit: 1 };
    let last = app.queue.store().list(project.clone(), query).await?.into_iter().next();
    // Leave out the id, because the deployment is never made and so its id means nothing.
    let refusal = |rejection: Rejection| {
        let mut refusal = ErrorAnswer::from(rejection).planned();
        refusal.message = refusal.message.replacen(&format!("deployment {id}"), "it", 1);
        refusal
    };
    let (outcome, refused) = match &planned.admission {
        Admission::Rejected(rejection) => (PlanOutcome::Refused, Some(refusal(rejection.clone()))),
        Admission::Replayed(_) => (PlanOutcome::Replayed, None),
        Admission::Conflict { ticket: None, .. } => (PlanOutcome::Blocked, None),
        Admission::Accepted(_) | Admission::Conflict { .. } if planned.position > 0 => (PlanOutcome::Waits, None),
        Admission::Accepted(_) | Admission::Conflict { .. } => (PlanOutcome::Starts, None),
    };
    let waits_for_agent = match (outcome, app.by_agents(&project)) {
        (PlanOutcome::Starts | PlanOutcome::Waits, Some(_)) => {
            let known = app.agents.of(&project).await?;
            known.absence(&project, &spec.pipeline)
        }
        _ => None,
    };
    let (expected_wait, start_unknown) = match start(app, &planned).await? {
        Ok(wait) => (Some(wait), None),
        Err(unknown) => (None, Some(unknown.to_string())),
    };
    let replays = planned.own.as_ref().filter(|_| outcome == PlanOutcome::Replayed);
    let (will_be_superseded_by, will_be_superseded_by_deployment) = wire::parts(planned.overtaker.clone());
    let plan = Plan {
        dry_run: true,
        pipeline: spec.pipeline.clone(),
        phases: phases.collect(),
        changes: changes(last.as_ref().map(|last| &last.spec), &spec),
        holder: planned.holder.as_ref().map(answer::unplaced),
        queue_position: planned.position,
        hold: planned.hold.clone(),
        expected_wait,
        start_unknown,
        project,
        outcome: Some(outcome),
        refusal: refused,
        replays: replays.map(|own| wire::Deployment::of(own, planned.position)),
        cancels: planned.cancelled.as_deref().map(answer::unplaced),
        cancel_refusal: planned.cancel_refusal.clone().map(refusal),
        supersedes: planned.superseded.iter().map(answer::unplaced).collect(),
        will_be_superseded_by,
        will_be_superseded_by_deployment,
        waits_for_agent,
        takes: app.takes(&planned.project, &spec),
    };
    Ok(answer::json(StatusCode::OK, &plan))
}

/// How long until the caller would get the slot, or why that is unknown.
async fn start(app: &App, planned: &Planned) -> Result<Result<Eta, StartUnknown>, ErrorAnswer> {
    let Some(start) = &planned.start else { return Ok(Ok(Eta { p50_seconds: 0, p90_seconds: 0 })) };
    match &planned.holder {
        Some(holder) if app.agent_absence(holder).await?.is_some() => Ok(Err(StartUnknown::NoAgent)),
        Some(_) | None => Ok(start.clone()),
    }
}

fn changes(last: Option<&Spec>, next: &Spec) -> Vec<PlanChange> {
    let from = last.map(fields).unwrap_or_default();
    let to = fields(next);
    let mut names: Vec<_> = from.keys().chain(to.keys()).cloned().collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| from.get(name) != to.get(name))
        .map(|name| PlanChange { from: from.get(&name).cloned(), to: to.get(&name).cloned(), field: name })
        .collect()
}

fn fields(spec: &Spec) -> BTreeMap<String, String> {
    let named = [
        ("pipeline", Some(spec.pipeline.clone())),
        ("pipelineDigest", spec.pipeline_digest.clone()),
        ("artifact", spec.artifact.clone().map(String::from)),
        ("ref", spec.ref_name.clone()),
        ("commit", spec.commit.clone()),
        ("order", spec.order.map(|order| order.to_string())),
    ];
    let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    named.chain(spec.inputs.iter().map(|(name, value)| (format!("inputs.{name}"), value.clone()))).collect()
}
