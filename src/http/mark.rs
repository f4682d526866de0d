//! `PUT …/order`: a person sets the mark of a project, or removes it.

use std::sync::Arc;

use axum::{
    extract::{Request, State as Shared},
    http::StatusCode,
    response::Response,
};

use super::{
    App, answer, body,
    cancel::{actor_text, reason_text},
    error::ErrorAnswer,
    guard::Grant,
    params::{InProject, Query},
};
use crate::{
    model::{Caller, ORDER_LIMIT, ProjectName},
    queue::mark::{MarkWish, Marked},
    wire::{ErrorCode, OrderAnswer, OrderRequest},
};

/// Sets the mark, or removes it.
pub async fn set(
    Shared(app): Shared<Arc<App>>,
    InProject(project): InProject,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let caller = Grant::of(&parts.extensions).caller;
    Query::of(&parts.uri, &[])?;
    let wish: OrderRequest = body::read_json(&parts.headers, body).await?;
    Ok(answer::json(StatusCode::OK, &set_mark(&app, &caller, project, wish).await?))
}

/// Sets the mark, or removes it.
///
/// # Errors
/// The wish is not valid, the project is not there, or the store did not do it.
pub async fn set_mark(
    app: &App,
    caller: &Caller,
    project: ProjectName,
    OrderRequest { order, reason, actor }: OrderRequest,
) -> Result<OrderAnswer, ErrorAnswer> {
    if order.is_some_and(|order| order > ORDER_LIMIT) {
        let why = format!("order is a whole number from 0 to {ORDER_LIMIT}, or null, which removes the mark");
        return Err(ErrorAnswer::new(ErrorCode::InvalidBody, why));
    }
    let reason = reason.map(|reason| reason_text(&reason)).transpose()?;
    let actor = actor.map(actor_text).transpose()?;
    app.require_project(&project).await?;
    let wish = MarkWish { order, reason, actor };
    let Marked { is_changed, before, mark, outdated_count, waiting_count } =
        app.queue.set_mark(caller, project.clone(), wish).await?;
    if is_changed {
        let [from, to] = [&before, &mark].map(|mark| mark.as_ref().map(crate::model::BuildMark::order));
        tracing::warn!(%project, by = %caller.identity, ?from, ?to, "somebody set the mark of a project");
    }
    Ok(OrderAnswer {
        project,
        changed: is_changed,
        mark: mark.map(Into::into),
        before: before.map(Into::into),
        outdated_in_line: outdated_count,
        line_length: waiting_count,
    })
}
