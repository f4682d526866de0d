//! `GET /v1/audit`: who did what, from where, and with which request. See decision 0076.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use jiff::Timestamp;

use super::{
    App, answer,
    error::{ErrorAnswer, echo},
    guard::Grant,
    params::{Query, decimal},
};
use crate::{
    config::Since,
    model::{DeploymentId, bounds},
    store::{AuditLine, AuditQuery},
    wire::{AuditList, AuditRecord, ErrorCode},
};

/// How many lines a page has by default, and at most.
const PAGE_DEFAULT: u64 = 50;
const PAGE_LIMIT: u64 = 500;
/// How often one request asks the store. If few lines fit, the page is short, and the next one goes on.
const LOOKS_LIMIT: usize = 10;
/// The longest name of an action or a caller that can be searched for.
const WORD_LIMIT: usize = 1_000;

const PARAMETERS: [&str; 8] = ["project", "deployment", "since", "until", "action", "caller", "limit", "cursor"];

/// The audit log, the last line first. A caller with project patterns sees the lines of these projects, and no line that
/// is about no project.
pub async fn list(State(app): State<Arc<App>>, grant: Grant, uri: Uri) -> Result<Response, ErrorAnswer> {
    let query = Query::of(&uri, &PARAMETERS)?;
    let limit = usize::try_from(query.number("limit", 1..=PAGE_LIMIT)?.unwrap_or(PAGE_DEFAULT)).unwrap_or(1);
    let mut wanted = wanted(&query, app.now())?;
    if wanted.project.as_ref().is_some_and(|project| !grant.projects.sees(project)) {
        // As about a project that does not exist.
        return Ok(answered(Vec::new(), None));
    }
    let sees = |line: &AuditLine| match &line.project {
        Some(project) => grant.projects.sees(project),
        None => grant.projects.sees_all(),
    };
    app.refusals.flush(app.queue.store(), app.now()).await;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let mut next = None;
    for _ in 0..LOOKS_LIMIT {
        wanted.limit = limit - entries.len();
        let page = app.queue.store().audit().audit_page(wanted.clone()).await?;
        next = page.goes_on;
        for line in page.lines.into_iter().filter(sees) {
            let (number, record) = (line.number, record(line));
            bytes += answer::size(&record);
            if bytes > bounds::PAGE_BYTES && !entries.is_empty() {
                // The page is full before this line, so the next page begins with it.
                return Ok(answered(entries, Some(number + 1)));
            }
            entries.push(record);
        }
        wanted.before = next;
        if next.is_none() || entries.len() >= limit {
            break;
        }
    }
    Ok(answered(entries, next))
}

fn answered(entries: Vec<AuditRecord>, next: Option<u64>) -> Response {
    let next_cursor = next.map(|before| format!("a{before}"));
    answer::json(StatusCode::OK, &AuditList { entries, next_cursor })
}

fn wanted(query: &Query<'_>, now: Timestamp) -> Result<AuditQuery, ErrorAnswer> {
    let word = |name: &str| match query.get(name) {
        Some(word) if word.is_empty() || word.len() > WORD_LIMIT => {
            Err(invalid(format!("{name} is empty or too long")))
        }
        word => Ok(word.map(str::to_owned)),
    };
    let moment = |name: &str| match query.get(name) {
        None => Ok(None),
        Some(text) => match text.parse::<Since>() {
            Ok(moment) => Ok(Some(moment.moment(now))),
            Err(why) => Err(invalid(format!("{name} is '{}': {why}", echo(text)))),
        },
    };
    let project = query.get("project").map(str::parse).transpose();
    let deployment = query.get("deployment").map(str::parse::<DeploymentId>).transpose();
    let cursor = |text: &str| {
        let before = text.strip_prefix('a').and_then(decimal);
        before.ok_or_else(|| invalid(format!("cursor is one that a page gave, not '{}'", echo(text))))
    };
    Ok(AuditQuery {
        before: query.get("cursor").map(cursor).transpose()?,
        project: project.map_err(|error| ErrorAnswer::new(ErrorCode::InvalidProject, format!("{error}")))?,
        deployment: deployment.map_err(|error| invalid(format!("deployment: {error}")))?,
        since: moment("since")?,
        until: moment("until")?,
        action: word("action")?,
        caller: word("caller")?,
        limit: 0,
    })
}

fn invalid(why: String) -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::InvalidParameter, why)
}

fn record(line: AuditLine) -> AuditRecord {
    AuditRecord {
        number: line.number,
        at: line.at,
        action: line.action,
        caller: line.caller,
        address: line.address,
        request_id: line.request,
        project: line.project,
        deployment_id: line.deployment,
        deployment_number: line.deployment_number,
        detail: line.detail,
        count: line.count,
    }
}
