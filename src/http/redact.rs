//! `POST …/{id}/redact`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};

use super::{
    App, answer, body,
    cancel::reason_text,
    error::ErrorAnswer,
    guard::Grant,
    params::{PathTarget, Query},
};
use crate::{
    model::AuditEntry,
    store::audit::NewAuditLine,
    upkeep::{self, LeakedSecret, RedactCount},
    wire::{ErrorCode, RedactAnswer, RedactRequest},
};

/// Takes a leaked secret out of what is recorded of a deployment.
pub async fn redact(
    State(app): State<Arc<App>>,
    target: PathTarget,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let caller = Grant::of(&parts.extensions).caller;
    Query::of(&parts.uri, &[])?;
    let RedactRequest { reason, value, pattern } = body::read_json(&parts.headers, body).await?;
    let refuse = |why: &str| ErrorAnswer::new(ErrorCode::InvalidBody, why);
    let secret = match (value, pattern) {
        (Some(value), None) => LeakedSecret::value(&value),
        (None, Some(pattern)) => LeakedSecret::pattern(&pattern),
        (Some(_), Some(_)) | (None, None) => Err("a redaction has either a value or a pattern"),
    };
    let secret = secret.map_err(refuse)?;
    let reason = reason_text(&reason)?;
    if secret.is_in(&reason) {
        return Err(refuse("the reason holds what is to be redacted; the reason is recorded"));
    }
    let PathTarget { project, id } = target;
    let store = app.queue.store();
    if store.deployment(project.clone(), id).await?.is_none() {
        return Err(ErrorAnswer::not_found());
    }
    let Some(room) = store.redact() else {
        return Err(refuse("this server keeps everything in memory; what is to be forgotten goes with a restart"));
    };
    // Before the first change, so that one that breaks off is on record, too.
    let detail = reason.clone();
    let entry = AuditEntry { at: app.now(), action: "redact", caller, deployment: Some(id), detail };
    store.audit().append(vec![NewAuditLine::of(Some(project.clone()), entry)]).await?;
    tracing::warn!(%project, deployment.id = %id, %reason, "a redaction begins");
    let RedactCount { events, is_record_changed, damaged_blocks, is_scrubbed } =
        upkeep::redact(room, id, secret).await?;
    let record = is_record_changed;
    let answer = RedactAnswer { deployment_id: id, events, record, damaged_blocks, scrubbed: is_scrubbed };
    Ok(answer::json(StatusCode::OK, &answer))
}
