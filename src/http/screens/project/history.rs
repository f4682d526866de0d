//! The history: a table of deployments, the newest first, by the viewer's filter and in pages.

use askama::Template;
use axum::http::{StatusCode, Uri};
use jiff::Timestamp;

use crate::{
    http::{
        App, answer,
        error::ErrorAnswer,
        params::Query,
        read::{from_cursor, to_cursor},
        scan::{ListFilter, Scan},
        screens::{
            rendered,
            words::{self, Tag, moment, plain, seconds_between, since, span},
        },
    },
    model::{Deployment, Outcome, ProjectName, State, Status},
};

/// How many deployments a page has.
const PAGE: usize = 25;
/// The states that a filter offers, with their words.
const STATES: [(Status, &str); 5] = [
    (Status::Pending, "waiting or called up"),
    (Status::Running, "running"),
    (Status::Succeeded, "succeeded"),
    (Status::Failed, "failed"),
    (Status::Cancelled, "cancelled or superseded"),
];

/// The history with its filter, as HTML, and the status of the answer.
pub struct HistoryPage {
    /// As HTML.
    pub html: String,
    /// Whether the filter is one.
    pub status: StatusCode,
}

#[derive(Template)]
#[template(path = "project_history.html")]
struct HistoryView {
    path: String,
    states: Vec<StateOption>,
    actor: String,
    ref_name: String,
    since: String,
    wrong: Option<String>,
    rows: Vec<String>,
    /// Whether new deployments belong on this page.
    is_live: bool,
    is_filtered: bool,
    is_later: bool,
    older: Option<String>,
    newest: String,
}

struct StateOption {
    value: &'static str,
    word: &'static str,
    is_chosen: bool,
}

#[derive(Template)]
#[template(path = "project_row.html")]
struct HistoryRow {
    id: String,
    ticket: u64,
    tag: Tag,
    path: String,
    label: String,
    what: String,
    run: Option<String>,
    why: Option<String>,
    when: String,
    waited: String,
    took: String,
}

/// A page of the history.
///
/// # Errors
/// The store does not answer, or a parameter is unknown.
pub async fn page(app: &App, project: &ProjectName, uri: &Uri) -> Result<HistoryPage, ErrorAnswer> {
    let query = Query::of(uri, &[&ListFilter::PARAMETERS[..], &["cursor"]].concat())?.filled();
    let now = app.now();
    let asked =
        ListFilter::of(&query, now).and_then(|filter| Ok((filter, query.get("cursor").map(from_cursor).transpose()?)));
    let (found, next, wrong) = match asked {
        Ok((filter, before)) => {
            let found = Scan::of(app, project, filter).next(before, PAGE).await?;
            let full = found.deployments.last().filter(|_| found.deployments.len() == PAGE).map(|last| last.ticket);
            (found.deployments, full.or(found.goes_on), None)
        }
        Err(wrong) => (Vec::new(), None, Some(wrong)),
    };
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let path = words::project_path(project);
    let filter = |cursor: Option<String>| {
        let mut written = form_urlencoded::Serializer::new(String::new());
        for name in ListFilter::PARAMETERS {
            query.get(name).into_iter().for_each(|value| _ = written.append_pair(name, value));
        }
        cursor.into_iter().for_each(|cursor| _ = written.append_pair("cursor", &cursor));
        match written.finish() {
            query if query.is_empty() => format!("{path}#history-title"),
            query => format!("{path}?{query}#history-title"),
        }
    };
    let is_filtered = ListFilter::PARAMETERS.iter().any(|name| query.get(name).is_some());
    let is_later = query.get("cursor").is_some();
    let status = wrong.as_ref().map_or(200, |wrong| wrong.code().status());
    let view = HistoryView {
        states: STATES.map(|(status, word)| state(status, word, query.get("status"))).into(),
        actor: text("actor"),
        ref_name: text("ref"),
        since: text("since"),
        wrong: wrong.map(|wrong| plain(wrong.detail())),
        rows: found.iter().map(|deployment| row(deployment, now)).collect::<Result<_, _>>()?,
        is_live: !is_filtered && !is_later,
        is_filtered,
        is_later,
        older: next.map(|ticket| filter(Some(to_cursor(ticket)))),
        newest: filter(None),
        path,
    };
    Ok(HistoryPage { html: rendered(&view)?, status: StatusCode::from_u16(status).unwrap_or(StatusCode::OK) })
}

fn state(status: Status, word: &'static str, chosen: Option<&str>) -> StateOption {
    StateOption { value: status.as_str(), word, is_chosen: chosen == Some(status.as_str()) }
}

/// A deployment's row, as HTML.
///
/// # Errors
/// It cannot be rendered; that is a fault of ours.
pub fn row(deployment: &Deployment, now: Timestamp) -> Result<String, ErrorAnswer> {
    let (started, ended) = (deployment.started_at, deployment.ended_at());
    let until = started.or(ended);
    let waited = match until {
        Some(until) => span(seconds_between(deployment.created_at, until)),
        None => since(deployment.created_at, now),
    };
    let took = match (started, ended) {
        (Some(started), Some(ended)) => span(seconds_between(started, ended)),
        (Some(started), None) => since(started, now),
        (None, _) => "–".to_owned(),
    };
    let view = HistoryRow {
        id: format!("d-{}", deployment.ticket.0),
        ticket: deployment.ticket.0,
        tag: Tag::of(deployment, answer::liveness(deployment, now)),
        path: words::deployment_path(deployment),
        label: words::label(deployment),
        what: words::what(deployment),
        run: deployment.spec.url.as_deref().and_then(words::link),
        why: why(deployment),
        when: moment(ended.or(started).unwrap_or(deployment.created_at)),
        waited,
        took,
    };
    Ok(rendered(&view)?.replace('\n', ""))
}

/// Why it did not succeed.
fn why(deployment: &Deployment) -> Option<String> {
    let State::Finished { outcome, .. } = &deployment.state else { return None };
    let message = match outcome {
        Outcome::Succeeded => return None,
        Outcome::Failed { message, .. } | Outcome::Cancelled { message, .. } => message,
    };
    Some(plain(message)).filter(|message| !message.is_empty())
}
