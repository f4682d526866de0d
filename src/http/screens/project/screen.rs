//! The screen of one project.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::Uri, response::Response};

use super::{
    actions::{ActionLink, links},
    by_day, history,
    parts::{self, LiveParts},
    rules,
};
use crate::http::{
    App,
    error::ErrorAnswer,
    params::InProject,
    screens::{Frame, Viewer, html, words},
};

#[derive(Template)]
#[template(path = "project.html")]
struct ProjectScreen {
    frame: Frame,
    title: String,
    name: String,
    policy: String,
    slot: String,
    line: String,
    time_line: String,
    live: String,
    history: String,
    by_day: Arc<str>,
    rules: String,
    actions: Vec<ActionLink>,
}

/// One project.
pub async fn one(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(name): InProject,
    uri: Uri,
) -> Result<Response, ErrorAnswer> {
    // The stream begins at the number before anything is read.
    let begin = app.watch.board().cursor();
    let parts = parts::read(&app, &name).await?.ok_or_else(ErrorAnswer::not_found)?;
    let history = history::page(&app, &name, &uri).await?;
    let LiveParts { slot, line, time_line, live, title, state, .. } = parts;
    let screen = ProjectScreen {
        actions: links(&viewer, &name),
        frame: Frame::live(viewer, format!("{}/live?after={begin}", words::project_path(&name))),
        title,
        policy: rules::sentence(&app.queue.policy(&name)),
        rules: rules::html(&app, &state).await?,
        by_day: by_day::html(&app, &name).await?,
        name: name.to_string(),
        history: history.html,
        slot,
        line,
        time_line,
        live,
    };
    html(history.status, &screen)
}
