//! `?dryRun=true`: what a submit would do, without doing it.

use std::collections::BTreeMap;

use axum::{http::StatusCode, response::Response};

use super::{App, answer, error::Failure};
use crate::{
    api::{Plan, PlanChange, PlanPhase},
    config::PhaseAction,
    model::{
        Eta, LinePolicy, Spec, Status,
        admission::Submission,
        order::{self, Age},
    },
    store::{ListQuery, ProjectState},
};

/// Answers the plan of a submission.
pub async fn plan(app: &App, submission: Submission) -> Result<Response, Failure> {
    let Submission { project, spec, .. } = submission;
    // What an agent's pipeline does, only the agent knows.
    let configured = match app.by_agents(&project) {
        Some(_) => &[],
        None => app.pipeline(&project, &spec.pipeline)?.phases.as_slice(),
    };
    let latest = app.queue.policy(&project).line == LinePolicy::Latest;
    let state = app.queue.store().project(project.clone(), if latest { usize::MAX } else { 0 }).await?;
    let ahead_count = state.as_ref().map_or(0, |state| match latest {
        true => served_before(&spec, state),
        false => state.project.waiting_count,
    });
    let query = ListQuery { status: Some(Status::Succeeded), before: None, limit: 1 };
    let last = app.queue.store().list(project.clone(), query).await?.into_iter().next();
    let phases = configured.iter().map(|phase| PlanPhase {
        name: phase.name.clone(),
        kind: match phase.action {
            PhaseAction::Run(_) => "run".to_owned(),
            PhaseAction::Check(_) => "check".to_owned(),
        },
        protected: phase.protected,
        rollback: phase.rollback.is_some(),
    });
    let holder = state.as_ref().and_then(|state| state.holder.as_ref());
    let plan = Plan {
        dry_run: true,
        pipeline: spec.pipeline.clone(),
        phases: phases.collect(),
        changes: changes(last.as_ref().map(|last| &last.spec), &spec),
        holder: holder.map(answer::unplaced),
        queue_position: holder.and(state.as_ref()).map_or(0, |_| ahead_count + 1),
        expected_wait: expected_wait(app, state.as_ref(), ahead_count, &spec),
        project,
    };
    Ok(answer::json(StatusCode::OK, &plan))
}

/// How many of those in line would be served before one, where the newest is served first.
fn served_before(spec: &Spec, state: &ProjectState) -> u64 {
    let age = Age { spec, ticket: state.project.revision.next() };
    let line: Vec<_> = state.line.iter().collect();
    order::place_before_older(age, &line).map_or(line.len(), |(at, _)| at) as u64
}

/// How long until the slot would be one's own: the rest of the holder's run, and a whole run of each that is served before.
fn expected_wait(app: &App, state: Option<&ProjectState>, waiting: u64, spec: &Spec) -> Option<Eta> {
    let Some(state) = state else { return Some(Eta { p50_seconds: 0, p90_seconds: 0 }) };
    let Some(holder) = &state.holder else { return Some(Eta { p50_seconds: 0, p90_seconds: 0 }) };
    let rest = answer::eta(holder, &state.project, app.now())?;
    if waiting == 0 {
        return Some(rest);
    }
    let each = state.project.eta(&spec.pipeline, std::time::Duration::ZERO)?;
    Some(Eta {
        p50_seconds: rest.p50_seconds + waiting * each.p50_seconds,
        p90_seconds: rest.p90_seconds + waiting * each.p90_seconds,
    })
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
        ("artifact", spec.artifact.clone()),
        ("ref", spec.ref_name.clone()),
        ("commit", spec.commit.clone()),
        ("order", spec.order.map(|order| order.to_string())),
    ];
    let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    named.chain(spec.inputs.iter().map(|(name, value)| (format!("inputs.{name}"), value.clone()))).collect()
}
