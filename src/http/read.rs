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
    error::{ErrorAnswer, echo},
    page::{Filled, PageFilling},
    params::{InProject, PathTarget, Query},
    scan::{ListFilter, Scan},
};
use crate::{
    model::{Deployment, ProjectName, Revision},
    wire::{self, DeploymentList, ErrorCode},
};

/// How many deployments a page has by default.
const PAGE_DEFAULT: u64 = 20;
/// How many deployments a page may have: a few hundred KiB of JSON.
const PAGE_LIMIT: u64 = 100;

/// The digits of a cursor. Revisions are counted; no project ever has so many.
const CURSOR_DIGITS: usize = 14;

/// One deployment.
pub async fn one(State(app): State<Arc<App>>, target: PathTarget, uri: Uri) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    let placed = app.watch.read(&target.project, target.id).await?;
    Ok(answer::json(StatusCode::OK, &app.told(&placed).await?))
}

/// A project's deployments, newest first.
pub async fn list(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    uri: Uri,
) -> Result<Response, ErrorAnswer> {
    let query = Query::of(&uri, &[&ListFilter::PARAMETERS[..], &["limit", "cursor"]].concat())?;
    let filter = ListFilter::of(&query, app.now())?;
    let limit = page_limit(&query)?;
    let before = query.get("cursor").map(from_cursor).transpose()?;
    let mut page = PageFilling::of(limit);
    let mut scan = Scan::of(&app, &project, filter);
    let mut next = before;
    let next = loop {
        let found = scan.next(next, page.wanted()).await?;
        let mut shown = Vec::with_capacity(found.deployments.len());
        for deployment in &found.deployments {
            shown.push(Listed { ticket: deployment.ticket, deployment: placed(&app, &project, deployment).await? });
        }
        match page.fill(shown) {
            Filled::NotYet => next = page.last().map(|last| last.ticket),
            Filled::Full => break page.last().map(|last| last.ticket),
            Filled::All => break found.goes_on,
        }
    };
    let deployments: Vec<_> = page.into_entries().into_iter().map(|listed| listed.deployment).collect();
    if deployments.is_empty() && before.is_none() {
        app.require_project(&project).await?;
    }
    Ok(answer::json(StatusCode::OK, &DeploymentList { deployments, next_cursor: next.map(to_cursor) }))
}

/// A cursor, which only this server has to understand: the ticket of the last deployment that was examined. Later
/// deployments have higher tickets, so a cursor's position does not change.
pub fn to_cursor(ticket: Revision) -> String {
    format!("t{:x}", ticket.0)
}

/// The ticket of a cursor.
///
/// # Errors
/// It is none.
pub fn from_cursor(text: &str) -> Result<Revision, ErrorAnswer> {
    let is_hex = |hex: &&str| hex.len() <= CURSOR_DIGITS && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let ticket = text.strip_prefix('t').filter(is_hex).and_then(|hex| u64::from_str_radix(hex, 16).ok());
    ticket.map(Revision).ok_or_else(|| {
        ErrorAnswer::new(ErrorCode::InvalidParameter, format!("cursor is one that a page gave, not '{}'", echo(text)))
    })
}

/// A deployment of a list, and its ticket in the order of arrival.
#[derive(Serialize)]
struct Listed {
    #[serde(skip)]
    ticket: Revision,
    #[serde(flatten)]
    deployment: wire::Deployment,
}

/// A deployment with its place in line. Only a waiting deployment has a place, and finding that place needs a count.
async fn placed(app: &App, project: &ProjectName, deployment: &Deployment) -> Result<wire::Deployment, ErrorAnswer> {
    let placed = if deployment.is_waiting() {
        app.queue.store().deployment(project.clone(), deployment.id).await?
    } else {
        None
    };
    Ok(placed.as_ref().map_or_else(|| answer::unplaced(deployment), answer::deployment))
}

/// How many deployments a page shall have.
///
/// # Errors
/// The client asks for none, or for too many.
pub fn page_limit(query: &Query<'_>) -> Result<usize, ErrorAnswer> {
    let limit = query.number("limit", 1..=PAGE_LIMIT)?.unwrap_or(PAGE_DEFAULT);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}
