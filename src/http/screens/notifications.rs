//! The outbox: what is to be told to targets outside, and what was given up and can be tried anew.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::Response,
};
use jiff::Timestamp;

use super::{
    Frame, Viewer, html,
    visit::go_to,
    words::{self, moment, plain},
};
use crate::{
    http::{
        App,
        error::ErrorAnswer,
        notifications::{page, try_again},
        params::Query,
    },
    store::{Notification, NotificationState},
};

/// The screen's path.
pub const PATH: &str = "/notifications";

#[derive(Template)]
#[template(path = "notifications.html")]
struct OutboxScreen {
    frame: Frame,
    state: String,
    rows: Vec<OutboxRow>,
    older: Option<String>,
}

struct OutboxRow {
    id: String,
    is_dead: bool,
    event: &'static str,
    project: String,
    path: String,
    deployment: Option<String>,
    rule: String,
    at: String,
    attempts: u64,
    next: Option<String>,
    error: String,
}

/// All that is in the outbox, the last one first.
pub async fn outbox(State(app): State<Arc<App>>, viewer: Viewer, uri: Uri) -> Result<Response, ErrorAnswer> {
    let (found, next) = page(&app, &viewer.grant, &uri).await?;
    let state = Query::of(&uri, &["state", "limit", "cursor"])?.get("state").unwrap_or_default().to_owned();
    let now = app.now();
    let older = next.map(|cursor| {
        let mut written = form_urlencoded::Serializer::new(String::new());
        if !state.is_empty() {
            written.append_pair("state", &state);
        }
        format!("{PATH}?{}", written.append_pair("cursor", &cursor).finish())
    });
    let rows = found.into_iter().map(|row| view(row, now)).collect();
    html(StatusCode::OK, &OutboxScreen { frame: Frame::still(viewer), state, rows, older })
}

/// Tries one anew.
pub async fn retry(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    Path(id): Path<String>,
) -> Result<Response, ErrorAnswer> {
    try_again(&app, &viewer.grant, &id).await?;
    Ok(go_to(PATH))
}

fn view(row: Notification, now: Timestamp) -> OutboxRow {
    let is_dead = row.state == NotificationState::Dead;
    let path = words::project_path(&row.project);
    OutboxRow {
        deployment: row.deployment.map(|id| format!("{path}/deployments/{id}")),
        path,
        id: row.id.to_string(),
        is_dead,
        event: row.event.as_str(),
        project: row.project.to_string(),
        rule: plain(&row.rule),
        at: moment(row.at),
        attempts: row.attempt_count,
        next: (!is_dead).then(|| if row.due_at > now { moment(row.due_at) } else { "now".to_owned() }),
        error: row.error.as_deref().map(plain).unwrap_or_default(),
    }
}
