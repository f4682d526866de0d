//! An error, as a screen.

use askama::Template;
use axum::{http::StatusCode, response::Response};

use super::{Frame, Viewer, html, words::plain};
use crate::{http::error::ErrorAnswer, model::RequestId};

#[derive(Template)]
#[template(path = "failure.html")]
struct FailureScreen {
    frame: Frame,
    title: &'static str,
    status: u16,
    detail: String,
    code: String,
    request: String,
}

/// The screen that tells of this error; `None` if it cannot be rendered.
pub fn failure(error: &ErrorAnswer, request: &RequestId) -> Option<Response> {
    let status = error.code().status();
    let title = match status {
        400 | 422 => "That could not be taken",
        401 | 403 => "That is not allowed",
        404 => "There is no such page",
        409 => "That cannot be done now",
        429 => "Too many attempts",
        503 => "Not available at the moment",
        _ => "That did not work",
    };
    let screen = FailureScreen {
        frame: Frame::still(Viewer::nobody()),
        title,
        status,
        detail: sentence(error.detail()),
        code: serde_json::to_string(&error.code()).unwrap_or_default().trim_matches('"').to_owned(),
        request: request.to_string(),
    };
    html(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &screen).ok()
}

/// The detail as a sentence.
pub fn sentence(detail: &str) -> String {
    let text = plain(detail);
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
