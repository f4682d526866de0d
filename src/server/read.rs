//! `GET …/deployments` and `GET …/deployments/{id}`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use serde::Serialize;

use super::{
    App, answer,
    error::{Failure, echo},
    page::{Filled, Page},
    params::{InProject, Query, Target},
};
use crate::{
    api::{self, DeploymentList, ErrorCode},
    model::{Deployment, ProjectName, Revision, Status},
    store::ListQuery,
};

/// How many a page has, if the client does not say.
const PAGE_DEFAULT: u64 = 20;
/// How many a page may have: a few hundred KiB of JSON.
const PAGE_LIMIT: u64 = 100;

/// Revisions are counted; no project ever has so many.
const CURSOR_LIMIT: u64 = 1 << 53;

/// One deployment.
pub async fn one(State(app): State<Arc<App>>, target: Target, uri: Uri) -> Result<Response, Failure> {
    Query::of(&uri, &[])?;
    let placed = app.watch.read(&target.project, target.id).await?;
    Ok(answer::json(StatusCode::OK, &app.told(&placed).await?))
}

/// A project's deployments, newest first.
pub async fn list(State(app): State<Arc<App>>, InProject(project): InProject, uri: Uri) -> Result<Response, Failure> {
    let query = Query::of(&uri, &["status", "limit", "cursor"])?;
    let status = query.get("status").map(status).transpose()?;
    let limit = page_limit(&query)?;
    let before = query.number("cursor", 1..=CURSOR_LIMIT)?.map(Revision);
    let mut page = Page::of(limit);
    let mut next = before;
    let filled = loop {
        let wanted = ListQuery { status, before: next, limit: page.wanted() };
        let read = app.queue.store().list(project.clone(), wanted).await?;
        let mut shown = Vec::with_capacity(read.len());
        for deployment in &read {
            shown.push(Listed { ticket: deployment.ticket, deployment: placed(&app, &project, deployment).await? });
        }
        match page.fill(shown) {
            Filled::NotYet => next = page.last().map(|last| last.ticket),
            filled @ (Filled::All | Filled::Full) => break filled,
        }
    };
    let next_cursor = page.last().filter(|_| filled == Filled::Full).map(|last| last.ticket.to_string());
    let deployments: Vec<_> = page.into_entries().into_iter().map(|listed| listed.deployment).collect();
    if deployments.is_empty() && before.is_none() {
        app.require_project(&project).await?;
    }
    Ok(answer::json(StatusCode::OK, &DeploymentList { deployments, next_cursor }))
}

/// A deployment of a list, and its place in the order of arrival.
#[derive(Serialize)]
struct Listed {
    #[serde(skip)]
    ticket: Revision,
    #[serde(flatten)]
    deployment: api::Deployment,
}

/// A deployment with its place in line. Only one that waits has a place, and that must be counted.
async fn placed(app: &App, project: &ProjectName, deployment: &Deployment) -> Result<api::Deployment, Failure> {
    let placed = if deployment.is_waiting() {
        app.queue.store().deployment(project.clone(), deployment.id).await?
    } else {
        None
    };
    Ok(placed.as_ref().map_or_else(|| answer::unplaced(deployment), answer::deployment))
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
