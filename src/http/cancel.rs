//! `POST …/{id}/cancel`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};

use super::{
    App, answer, body,
    error::ErrorAnswer,
    guard::Grant,
    params::{PathTarget, Query},
};
use crate::{
    model::{Caller, Deployment, DeploymentId, admission::Cancellation, bounds},
    wire::{CancelBody, ErrorCode},
};

/// Asks for a deployment to be stopped.
pub async fn cancel(
    State(app): State<Arc<App>>,
    target: PathTarget,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let caller = Grant::of(&parts.extensions).caller;
    Query::of(&parts.uri, &[])?;
    // Read the body whatever its declared type is, because some clients declare a type for a body that they do not
    // send.
    let bytes = body::read(&parts.headers, body).await?;
    let CancelBody { superseded_by, reason, actor } =
        if bytes.is_empty() { CancelBody::default() } else { body::parse(&bytes)? };
    let superseded_by = app.named_if_any(&target.project, superseded_by.as_ref()).await?;
    let (status, deployment) = ask(&app, &caller, target, CancelWish { actor, reason, superseded_by }).await?;
    Ok(answer::json(status, &answer::unplaced(&deployment)))
}

/// What a caller says with a cancel.
#[derive(Default)]
pub struct CancelWish {
    /// The name that the caller gives.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The newer deployment that takes its place.
    pub superseded_by: Option<DeploymentId>,
}

/// Asks for a deployment to be stopped: the API's calls and the page's forms come here. Answers whether that changed anything,
/// as a status.
///
/// # Errors
/// The texts are not valid, there is no such deployment, or it cannot be stopped.
pub async fn ask(
    app: &App,
    caller: &Caller,
    target: PathTarget,
    wish: CancelWish,
) -> Result<(StatusCode, Box<Deployment>), ErrorAnswer> {
    let CancelWish { actor, reason, superseded_by } = wish;
    let reason = reason.map(|reason| reason_text(&reason)).transpose()?;
    let actor = actor.map(actor_text).transpose()?;
    let PathTarget { project, id } = target;
    match app.queue.cancel_as(caller, actor, project, id, reason, superseded_by).await? {
        Cancellation::Requested(deployment) => Ok((StatusCode::ACCEPTED, deployment)),
        Cancellation::Unchanged(deployment) => Ok((StatusCode::OK, deployment)),
        Cancellation::NotFound => Err(ErrorAnswer::not_found()),
        Cancellation::Rejected(rejection) => Err(rejection.into()),
    }
}

/// The name that a client gives, as it is recorded.
///
/// # Errors
/// It is too long, or holds control characters.
pub fn actor_text(actor: String) -> Result<String, ErrorAnswer> {
    if bounds::fits(&actor, bounds::ACTOR) && !actor.chars().any(char::is_control) {
        return Ok(actor);
    }
    Err(ErrorAnswer::new(
        ErrorCode::InvalidBody,
        format!("actor is one line of at most {} characters without control characters", bounds::ACTOR),
    ))
}

/// A reason as it is recorded.
///
/// # Errors
/// It is empty, too long, or holds control characters.
pub fn reason_text(reason: &str) -> Result<String, ErrorAnswer> {
    let is_line = bounds::fits(reason, bounds::REASON) && !reason.chars().any(char::is_control);
    let reason = reason.trim();
    if reason.is_empty() || !is_line {
        return Err(ErrorAnswer::new(
            ErrorCode::InvalidBody,
            format!("a reason is one line of 1 to {} characters without control characters", bounds::REASON),
        ));
    }
    Ok(reason.to_owned())
}
