//! `POST …/pause` and `POST …/resume`: a person holds a project, and lets it go on.

use std::sync::Arc;

use axum::{
    extract::{Request, State as Shared},
    http::StatusCode,
    response::Response,
};
use jiff::Timestamp;

use super::{
    App, answer, body,
    cancel::{actor_text, reason_text},
    error::ErrorAnswer,
    guard::Grant,
    params::{InProject, Query},
};
use crate::{
    model::{Caller, Hold, ProjectName, State},
    queue::pause::{PauseWish, Standing},
    wire::{ErrorCode, PauseAnswer, PauseOutcome, PauseRequest, ResumeRequest},
};

/// Holds a project, or changes the pause that it has.
pub async fn pause(
    Shared(app): Shared<Arc<App>>,
    InProject(project): InProject,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let caller = Grant::of(&parts.extensions).caller;
    Query::of(&parts.uri, &[])?;
    let wish: PauseRequest = body::read_json(&parts.headers, body).await?;
    Ok(answer::json(StatusCode::OK, &pause_project(&app, &caller, project, wish).await?))
}

/// Holds a project, or changes the pause that it has.
///
/// # Errors
/// The wish is not valid, the project is not there, or the store did not do it.
pub async fn pause_project(
    app: &App,
    caller: &Caller,
    project: ProjectName,
    wish: PauseRequest,
) -> Result<PauseAnswer, ErrorAnswer> {
    let wish = checked(app, wish)?;
    app.require_project(&project).await?;
    let standing = app.queue.pause(caller, project.clone(), wish).await?;
    if let Some(hold) = &standing.hold {
        tracing::warn!(%project, by = %caller.identity, %hold, "somebody paused a project");
    }
    let outcome = if standing.before.is_some() { PauseOutcome::Changed } else { PauseOutcome::Paused };
    Ok(told(project, outcome, standing))
}

/// The wish, as it is recorded.
///
/// # Errors
/// Its reason, its end or its actor is not valid.
pub fn checked(app: &App, PauseRequest { reason, until, actor }: PauseRequest) -> Result<PauseWish, ErrorAnswer> {
    let reason = reason_text(&reason)?;
    let actor = actor.map(actor_text).transpose()?;
    require_later(until, app.now())?;
    Ok(PauseWish { actor, reason, until })
}

/// Ends the pause of a project.
pub async fn resume(
    Shared(app): Shared<Arc<App>>,
    InProject(project): InProject,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let caller = Grant::of(&parts.extensions).caller;
    Query::of(&parts.uri, &[])?;
    let bytes = body::read(&parts.headers, body).await?;
    let wish = if bytes.is_empty() { ResumeRequest::default() } else { body::parse(&bytes)? };
    let answer = resume_project(&app, &caller, project, wish).await?;
    Ok(answer::json(StatusCode::OK, &answer))
}

/// Ends the pause of a project.
///
/// # Errors
/// The reason is not valid, the project is not there, or the store did not do it.
pub async fn resume_project(
    app: &App,
    caller: &Caller,
    project: ProjectName,
    ResumeRequest { reason }: ResumeRequest,
) -> Result<PauseAnswer, ErrorAnswer> {
    let reason = reason.map(|reason| reason_text(&reason)).transpose()?;
    app.require_project(&project).await?;
    let standing = app.queue.resume(caller, project.clone(), reason).await?;
    let outcome = if standing.before.is_some() { PauseOutcome::Resumed } else { PauseOutcome::Unchanged };
    tracing::warn!(%project, by = %caller.identity, ?outcome, "somebody resumed a project");
    Ok(told(project, outcome, standing))
}

fn told(project: ProjectName, outcome: PauseOutcome, standing: Standing) -> PauseAnswer {
    let Standing { before, hold, holder, taken_back, waiting_count } = standing;
    // Only the pause itself, as it was: the rules of the configuration are not a part of it.
    let before = before.and_then(|before| Hold::of(&crate::model::Policy::default(), Some(&before), before.at));
    PauseAnswer {
        outcome,
        hold,
        before,
        running: holder.as_ref().filter(|it| matches!(it.state, State::Running(_))).map(answer::unplaced),
        called_up: holder.as_ref().filter(|it| !matches!(it.state, State::Running(_))).map(answer::unplaced),
        taken_back: taken_back.as_ref().map(|it| crate::wire::Deployment::of(it, 1)),
        line_length: waiting_count,
        project,
    }
}

fn require_later(until: Option<Timestamp>, now: Timestamp) -> Result<(), ErrorAnswer> {
    match until {
        Some(until) if until <= now => Err(invalid(format!(
            "until is {until:.0}, which is over: this server's clock says {now:.0}; leave it out to pause until somebody resumes"
        ))),
        Some(_) | None => Ok(()),
    }
}

fn invalid(detail: String) -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::InvalidBody, detail)
}
