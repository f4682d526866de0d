//! `DELETE /v1/projects/{project}`: an administrator forgets a project.

use std::sync::Arc;

use axum::{
    extract::{Request, State as Shared},
    http::StatusCode,
    response::Response,
};

use super::{
    App, answer,
    cancel::reason_text,
    error::ErrorAnswer,
    guard::Grant,
    params::{InProject, Query},
};
use crate::{
    model::{AuditEntry, ProjectName},
    store::{ForgetOutcome, NewAuditLine},
    wire::{ErrorCode, ForgetAnswer},
};

/// Forgets a project, unless it is in use.
pub async fn forget(
    Shared(app): Shared<Arc<App>>,
    InProject(project): InProject,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let caller = Grant::of(request.extensions()).caller;
    let query = Query::of(request.uri(), &["reason"])?;
    let reason = query.get("reason").map(reason_text).transpose().map_err(|refusal| {
        // It stands in a parameter here, and not in a body.
        ErrorAnswer::new(ErrorCode::InvalidParameter, refusal.detail().to_owned())
    })?;
    app.require_project(&project).await?;
    let configured = app.is_configured(&project);
    let by = caller.identity.clone();
    let detail = reason.unwrap_or_default();
    let entry = AuditEntry { at: app.now(), action: "forget", caller, deployment: None, detail };
    let line = NewAuditLine::of(Some(project.clone()), entry);
    let answer = match app.queue.store().forget().forget(project.clone(), line).await? {
        ForgetOutcome::Forgotten { deployment_count } => {
            tracing::warn!(%project, %by, deployment_count, "somebody forgot a project");
            ForgetAnswer { project, forgotten: true, deployments: deployment_count, configured }
        }
        ForgetOutcome::Unknown if configured => ForgetAnswer { project, forgotten: false, deployments: 0, configured },
        ForgetOutcome::Unknown => return Err(ErrorAnswer::not_found()),
        ForgetOutcome::InUse => return Err(in_use(&app, &project).await?),
    };
    Ok(answer::json(StatusCode::OK, &answer))
}

/// Who uses it, and what to do.
async fn in_use(app: &App, project: &ProjectName) -> Result<ErrorAnswer, ErrorAnswer> {
    let state = app.queue.store().project(project.clone(), 1).await?;
    let holder = state.as_ref().and_then(|state| state.holder.as_ref());
    let waiting = state.as_ref().map_or(0, |state| state.project.waiting_count);
    let holder = holder.map(|holder| format!("{} has its slot", holder.mention()));
    let line = (waiting > 0).then(|| format!("{waiting} wait in line"));
    let who: Vec<_> = [holder, line].into_iter().flatten().collect();
    let who = if who.is_empty() { "a deployment came or went at this moment".to_owned() } else { who.join(" and ") };
    let detail = format!("{project} is in use: {who}; cancel what is there, wait for its end, and ask again");
    Ok(ErrorAnswer::new(ErrorCode::ProjectInUse, detail))
}
