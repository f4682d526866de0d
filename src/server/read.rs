//! `GET …/deployments` and `GET …/deployments/{id}`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};

use super::{
    App, answer,
    error::{Failure, echo},
    params::{InProject, Query, Target},
};
use crate::{
    api::{DeploymentList, ErrorCode},
    model::{Revision, Status},
    store::ListQuery,
};

/// How many a page has, if the client does not say.
const PAGE_DEFAULT: u64 = 20;
/// How many a page may have: a few hundred KiB of JSON.
const PAGE_LIMIT: u64 = 100;

/// One deployment.
pub async fn one(State(app): State<Arc<App>>, target: Target, uri: Uri) -> Result<Response, Failure> {
    Query::of(&uri, &[])?;
    let placed = app.watch.read(&target.project, target.id).await?;
    Ok(answer::json(StatusCode::OK, &answer::deployment(&placed)))
}

/// A project's deployments, newest first.
pub async fn list(State(app): State<Arc<App>>, InProject(project): InProject, uri: Uri) -> Result<Response, Failure> {
    let query = Query::of(&uri, &["status", "limit", "cursor"])?;
    let status = query.get("status").map(status).transpose()?;
    let limit = page_limit(&query)?;
    let before = query.number("cursor", 1..=u64::MAX)?.map(Revision);
    // One more than asked for tells whether there is a next page.
    let wanted = ListQuery { status, before, limit: limit + 1 };
    let mut deployments = app.queue.store().list(project.clone(), wanted).await?;
    if deployments.is_empty() && before.is_none() {
        app.require_project(&project).await?;
    }
    let has_more = deployments.len() > limit;
    deployments.truncate(limit);
    let next_cursor = deployments.last().filter(|_| has_more).map(|last| last.ticket.to_string());
    let mut shown = Vec::with_capacity(deployments.len());
    for deployment in &deployments {
        // Only who waits has a place, and that must be counted.
        let placed = if deployment.is_waiting() {
            app.queue.store().deployment(project.clone(), deployment.id).await?
        } else {
            None
        };
        shown.push(placed.as_ref().map_or_else(|| answer::unplaced(deployment), answer::deployment));
    }
    Ok(answer::json(StatusCode::OK, &DeploymentList { deployments: shown, next_cursor }))
}

/// How many a page shall have.
///
/// # Errors
/// The client asks for none, or for too many.
pub fn page_limit(query: &Query<'_>) -> Result<usize, Failure> {
    let limit = query.number("limit", 1..=PAGE_LIMIT)?.unwrap_or(PAGE_DEFAULT);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

fn status(text: &str) -> Result<Status, Failure> {
    const ALL: [Status; 5] = [Status::Pending, Status::Running, Status::Succeeded, Status::Failed, Status::Cancelled];
    ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
        let known = ALL.map(Status::as_str).join(", ");
        Failure::new(ErrorCode::InvalidParameter, format!("status is one of {known}, not '{}'", echo(text)))
    })
}
