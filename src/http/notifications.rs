//! `GET /v1/notifications`: what is to be told to targets outside, and what was given up; and a new attempt. See decision
//! 0086.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::Response,
};

use super::{
    App, answer,
    error::{ErrorAnswer, echo},
    guard::Grant,
    params::{Query, decimal},
};
use crate::{
    model::NotificationId,
    store::{Notification, NotificationQuery, NotificationState},
    wire::{ErrorCode, NotificationList, NotificationView},
};

/// How many a page has by default, and at most.
const PAGE_DEFAULT: u64 = 50;
const PAGE_LIMIT: u64 = 500;
/// How often one request asks the store. If few fit, the page is short, and the next one goes on.
const LOOKS_LIMIT: usize = 10;

/// The notifications of the projects that the caller may see, the last one first.
pub async fn list(State(app): State<Arc<App>>, grant: Grant, uri: Uri) -> Result<Response, ErrorAnswer> {
    let (notifications, next_cursor) = page(&app, &grant, &uri).await?;
    let notifications = notifications.into_iter().map(view).collect();
    Ok(answer::json(StatusCode::OK, &NotificationList { notifications, next_cursor }))
}

/// A page of notifications, as the query asks for it, and the cursor of the next one.
///
/// # Errors
/// The query is not valid, or the store does not answer.
pub async fn page(app: &App, grant: &Grant, uri: &Uri) -> Result<(Vec<Notification>, Option<String>), ErrorAnswer> {
    let query = Query::of(uri, &["state", "limit", "cursor"])?;
    let limit = usize::try_from(query.number("limit", 1..=PAGE_LIMIT)?.unwrap_or(PAGE_DEFAULT)).unwrap_or(1);
    let state = |word: &str| {
        let known = NotificationState::of(word);
        known.ok_or_else(|| invalid(format!("state is pending or dead, not '{}'", echo(word))))
    };
    let cursor = |text: &str| {
        let before = text.strip_prefix('n').and_then(decimal);
        before.ok_or_else(|| invalid(format!("cursor is one that a page gave, not '{}'", echo(text))))
    };
    let state = query.get("state").map(state).transpose()?;
    let mut before = query.get("cursor").map(cursor).transpose()?;
    let mut notifications = Vec::new();
    for _ in 0..LOOKS_LIMIT {
        let wanted = limit - notifications.len();
        let found = app.queue.store().notifications().page(NotificationQuery { state, before, limit: wanted }).await?;
        let is_end = found.len() < wanted;
        before = found.last().map(|last| last.number).filter(|_| !is_end);
        notifications.extend(found.into_iter().filter(|row| grant.projects.sees(&row.project)));
        if before.is_none() || notifications.len() >= limit {
            break;
        }
    }
    Ok((notifications, before.map(|before| format!("n{before}"))))
}

/// Tries a notification anew that was given up. One that is still tried is left as it is.
pub async fn retry(
    State(app): State<Arc<App>>,
    grant: Grant,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    Ok(answer::json(StatusCode::OK, &view(try_again(&app, &grant, &id).await?)))
}

/// Tries a notification anew that was given up.
///
/// # Errors
/// It is not there, or the store did not do it.
pub async fn try_again(app: &App, grant: &Grant, id: &str) -> Result<Notification, ErrorAnswer> {
    let unknown = || ErrorAnswer::new(ErrorCode::NotFound, format!("there is no notification '{}'", echo(id)));
    let parsed = NotificationId::parse(id.strip_prefix("msg_").unwrap_or(id)).ok_or_else(unknown)?;
    let room = app.queue.store().notifications();
    // One of a project that the caller may not see is answered as if it did not exist.
    let found = room.by_id(parsed.clone()).await?.filter(|row| grant.projects.sees(&row.project));
    let found = found.ok_or_else(unknown)?;
    let retried = room.retry(found.id, grant.caller.clone(), app.now()).await?.ok_or_else(unknown)?;
    app.watch.notification_came();
    Ok(retried)
}

fn view(row: Notification) -> NotificationView {
    let Notification { id, rule, event, project, deployment, at, state, attempt_count, due_at, error, dead_at, .. } =
        row;
    NotificationView {
        id: id.to_string(),
        state: state.as_str().to_owned(),
        rule,
        event: event.as_str().to_owned(),
        project,
        deployment_id: deployment,
        at,
        attempts: attempt_count,
        next_attempt_at: Some(due_at).filter(|_| state == NotificationState::Pending),
        error,
        dead_at,
    }
}

fn invalid(why: String) -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::InvalidParameter, why)
}
