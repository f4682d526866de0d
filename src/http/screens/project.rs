//! One project's screen.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use bytes::Bytes;

use super::{Frame, Viewer, html, rendered, words};
use crate::{
    http::{App, error::ErrorAnswer, params::InProject, projects::view_of},
    model::ProjectName,
    wire,
};

#[derive(Template)]
#[template(path = "project.html")]
struct ProjectScreen {
    frame: Frame,
    title: String,
    name: String,
    parts: String,
}

/// What a stream replaces.
#[derive(Template)]
#[template(path = "project_parts.html")]
struct ProjectParts {
    view: wire::ProjectView,
}

/// One project.
pub async fn one(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(name): InProject,
) -> Result<Response, ErrorAnswer> {
    let begin = app.watch.board().cursor();
    let parts = parts(&app, &name).await?.ok_or_else(ErrorAnswer::not_found)?;
    let path = words::project_path(&name);
    let screen = ProjectScreen {
        frame: Frame::live(viewer, format!("{path}/live?after={begin}")),
        title: name.to_string(),
        name: name.to_string(),
        parts: String::from_utf8_lossy(&parts).into_owned(),
    };
    html(StatusCode::OK, &screen)
}

/// What a stream replaces of a project's screen, as HTML; `None` if the project is there no more.
///
/// # Errors
/// The store does not answer.
pub async fn parts(app: &App, name: &ProjectName) -> Result<Option<Bytes>, ErrorAnswer> {
    let Some(view) = view_of(app, name.clone()).await? else { return Ok(None) };
    Ok(Some(rendered(&ProjectParts { view })?.into()))
}
