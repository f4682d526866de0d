//! `POST …/rollback`: an earlier success is live again.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::Uri,
    response::Response,
};
use sha2::{Digest as _, Sha256};

use super::{
    App, body,
    cancel::{actor_text, reason_text},
    error::{ErrorAnswer, draining, echo},
    guard::Grant,
    params::{InProject, Query, idempotency_key},
    submit,
};
use crate::{
    model::{
        Deployment, DeploymentId, Hold, IdempotencyKey, ProjectName, RunBy, Scope, Status,
        admission::Submission,
        go_back::{self, WentBack},
    },
    store::ListQuery,
    wire::{ErrorCode, OnConflict, RollbackRequest, SubmitRequest},
};

/// How many successes before the live one are looked at, and how many after it. More than ever end out of the order of their
/// arrival.
const SUCCESSES_LIMIT: usize = 50;
/// How long a chain of rollbacks is followed to the deployment that they repeat.
const CHAIN_LIMIT: usize = 100;
/// How often the success is chosen anew, because another deployment became live meanwhile.
const CHOICES_LIMIT: usize = 10;

/// Brings an earlier success back.
pub async fn rollback(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let uri: &Uri = &parts.uri;
    Query::of(uri, &[])?;
    let grant = Grant::of(&parts.extensions);
    let key = idempotency_key(&parts.headers)?;
    let wish: RollbackRequest = body::read_json(&parts.headers, body).await?;
    roll_back(&app, &grant, project, key, wish).await
}

/// Brings an earlier success back.
///
/// # Errors
/// The wish is not valid, the caller may not do it, it is not possible, or the store did not do it.
pub async fn roll_back(
    app: &App,
    grant: &Grant,
    project: ProjectName,
    key: Option<IdempotencyKey>,
    wish: RollbackRequest,
) -> Result<Response, ErrorAnswer> {
    // It may cancel what runs.
    grant.require(&[Scope::Cancel])?;
    let wish = checked(wish)?;
    let fingerprint = Sha256::digest(serde_json::to_vec(&wish).unwrap_or_default()).into();
    let key = key.map(|key| app.recorded_key(&project, (key, fingerprint), &wish.inputs));
    for _ in 0..CHOICES_LIMIT {
        let choice = match choose(app, &project, &wish, key.clone()).await {
            Ok(choice) => choice,
            // The key comes first: a rollback that was made under it is answered, whatever is live since.
            Err(failure) => {
                let Some(key) = key else { return Err(failure) };
                let repeated = submit::repeated(app, project, &SubmitRequest::default(), key);
                return submit::decide(app, &grant.caller, repeated, false, Some(failure)).await;
            }
        };
        let Choice { submission, live, is_held } = choice;
        if !wish.leave_open || is_held {
            // It holds all others, or passes those that are held.
            grant.require(&[Scope::Admin]).map_err(|missing| {
                let hint = if is_held { "" } else { "; with leaveOpen (--no-pin) the project is not paused" };
                missing.adding(hint)
            })?;
        }
        let pin = (!wish.leave_open).then(|| wish.reason.clone().unwrap_or_else(|| "no reason was given".to_owned()));
        let outcome = app.queue.go_back(&grant.caller, submission, Some(live), pin).await?;
        let replayed = match outcome.went_back {
            WentBack::Made(_) => false,
            WentBack::Found(_) => true,
            WentBack::Changed => continue,
            WentBack::Rejected(rejection) => return Err(rejection.into()),
        };
        let own = outcome.own.ok_or_else(ErrorAnswer::not_found)?;
        return submit::accepted(app, &own, None, &outcome.project, replayed).await;
    }
    Err(ErrorAnswer::new(ErrorCode::Unavailable, "what is live changes all the time; try again"))
}

fn checked(wish: RollbackRequest) -> Result<RollbackRequest, ErrorAnswer> {
    let reason = wish.reason.map(|reason| reason_text(&reason)).transpose()?;
    let actor = wish.actor.map(actor_text).transpose()?;
    Ok(RollbackRequest { reason, actor, ..wish })
}

/// What a rollback deploys.
struct Choice {
    submission: Submission,
    /// What was live when that was chosen.
    live: DeploymentId,
    /// Whether something held the project then.
    is_held: bool,
}

async fn choose(
    app: &App,
    project: &ProjectName,
    wish: &RollbackRequest,
    key: Option<(IdempotencyKey, [u8; 32])>,
) -> Result<Choice, ErrorAnswer> {
    if app.watch.is_draining() {
        return Err(draining());
    }
    let state = app.queue.store().project(project.clone(), 0).await?;
    let state = match state {
        Some(state) => state,
        None if app.is_configured(project) => {
            return Err(impossible(format!("{project} was never deployed, so there is nothing to go back to")));
        }
        None => return Err(ErrorAnswer::not_found()),
    };
    let live = state.last_success.ok_or_else(|| {
        impossible(format!("no deployment of {project} has succeeded yet, so there is nothing to go back to"))
    })?;
    let origin = origin(app, live.clone()).await?;
    let target = match &wish.to {
        None => earlier(app, project, &origin).await?.ok_or_else(|| {
            impossible(format!("{} is live, and no deployment of {project} succeeded before it", origin.mention()))
        })?,
        Some(name) => {
            let id = app.named(project, name).await?;
            let named = app.queue.store().deployment(project.clone(), id).await?.ok_or_else(ErrorAnswer::not_found)?;
            named.deployment
        }
    };
    if target.status() != Status::Succeeded {
        let status = target.status().as_str();
        return Err(impossible(format!("{} is {status}: only a success can be live again", target.mention())));
    }
    let target = self::origin(app, target).await?;
    // Where something ran after it, what is there may be a mixture, so that the same once more makes sense.
    let ran_since = state.holder.is_some_and(|holder| holder.started_at.is_some() && holder.id != live.id)
        || state.project.last_outcome != Some(live.id);
    if target.id == origin.id && !ran_since {
        return Err(impossible(format!(
            "{} is live already; `redeploy` runs it again",
            if live.id == target.id {
                live.mention().to_string()
            } else {
                format!("what {} did, as {},", target.mention(), live.mention())
            }
        )));
    }
    if target.spec.executor == RunBy::Submitter {
        return Err(impossible(format!(
            "the command of {} was run by its client (`singletrack run`): run that command again",
            target.mention()
        )));
    }
    if let Some(name) = wish.inputs.keys().find(|name| !target.spec.secret_inputs.contains_key(*name)) {
        let why = format!(
            "{} is no secret input of {}: all others are those of that deployment",
            echo(name),
            target.mention()
        );
        return Err(ErrorAnswer::new(ErrorCode::InvalidBody, why));
    }
    let reason = wish.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let again = SubmitRequest {
        message: Some(format!("rollback to #{}{reason}", target.number)),
        actor: wish.actor.clone(),
        url: wish.url.clone(),
        inputs: wish.inputs.clone(),
        on_conflict: OnConflict::Queue,
        deadline_seconds: wish.deadline_seconds,
        rollback: true,
        ..SubmitRequest::default()
    };
    submit::check(&again, true)?;
    let mut submission = submit::submission(app, project.clone(), again, None, key, submit::Former::of(target)).await?;
    submission.refusal = submit::refusal(app, &submission).await?;
    let policy = app.queue.policy(project);
    let is_held = Hold::of(&policy, state.project.pause.as_ref(), app.now()).is_some();
    Ok(Choice { submission, live: live.id, is_held })
}

/// The deployment whose content this one has: for a rollback, the one that it repeats.
async fn origin(app: &App, mut deployment: Deployment) -> Result<Deployment, ErrorAnswer> {
    for _ in 0..CHAIN_LIMIT {
        let Some(repeated) = deployment.spec.retry_of.filter(|_| deployment.spec.rollback) else { break };
        // Retention may have removed it.
        let found = app.queue.store().deployment(deployment.project.clone(), repeated).await?;
        let Some(placed) = found.filter(|placed| placed.deployment.status() == Status::Succeeded) else { break };
        deployment = placed.deployment;
    }
    Ok(deployment)
}

/// The last success before this one.
async fn earlier(app: &App, project: &ProjectName, origin: &Deployment) -> Result<Option<Deployment>, ErrorAnswer> {
    let query = |before| ListQuery { status: Some(Status::Succeeded), before, limit: SUCCESSES_LIMIT };
    let store = app.queue.store();
    let mut successes = store.list(project.clone(), query(Some(origin.ticket))).await?;
    // One that arrived later may have ended earlier.
    successes.extend(store.list(project.clone(), query(None)).await?);
    Ok(go_back::before(origin, &successes).cloned())
}

fn impossible(why: String) -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::RollbackImpossible, why)
}
