//! The page: screens for people, rendered by the server and readable without script. See decision 0091.
//!
//! ```text
//! GET /              ─▶ rows (cached for all who look) ─▶ templates/projects.html
//! GET /live          ─▶ feed: the rows of the projects that change, over one stream
//! ```
//!
//! What is sent over a stream depends on nobody's access but for which projects are told, so it is rendered once for all who
//! watch. What only some may do stands in the screen around it.

pub mod assets;
mod compress;
mod failure;
mod frame;
mod project;
mod projects;
mod row;
mod rows;
mod sign_in;
mod visit;
pub mod words;

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get, post},
};
use std::{fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
pub use compress::{compressed, takes_gzip};
pub use failure::failure;
pub use frame::{Frame, Viewer};
pub use projects::sum;
pub use rows::Rows;
pub use visit::{answer, instead};

/// What a stream for a screen sends while nothing changes.
pub const BEAT: &[u8] = b"event: beat\ndata: {}\n\n";
/// How often.
pub const BEAT_EVERY: Duration = Duration::from_secs(5);

use super::{App, error::ErrorAnswer, feed, router::MethodNeeds};
use crate::{
    model::{ProjectName, Scope},
    wire::ErrorCode,
};

const READ: &[Scope] = &[Scope::Read];

/// A screen's path, its methods with the scopes of which a viewer needs one, and who answers.
type ScreenRoute = (&'static str, &'static [MethodNeeds], MethodRouter<Arc<App>>);

/// What everybody may load.
pub fn open_routes() -> Vec<ScreenRoute> {
    vec![(assets::PATH, &[("get", &[])], get(assets::asset))]
}

/// The screens, and what their forms do. A viewer without access is asked to sign in.
pub fn routes() -> Vec<ScreenRoute> {
    vec![
        ("/", &[("get", READ)], get(projects::all)),
        ("/sign-in", &[("get", &[]), ("post", &[])], get(sign_in::show).post(sign_in::sign_in)),
        ("/sign-out", &[("post", &[])], post(sign_in::sign_out)),
        ("/live", &[("get", READ)], get(feed::rows)),
        ("/projects/{project}", &[("get", READ)], get(project::one)),
        ("/projects/{project}/live", &[("get", READ)], get(feed::screen)),
    ]
}

/// Whether a browser asks for a page.
pub fn is_for_browser(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accepts.contains("text/html")
}

/// What a screen may load and do: its own files, its own stream, its own forms, and nothing else.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The answer that is a screen.
///
/// # Errors
/// It cannot be rendered; that is a fault of ours.
pub fn html(status: StatusCode, screen: &impl askama::Template) -> Result<Response, ErrorAnswer> {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    Ok((status, headers, rendered(screen)?).into_response())
}

/// A template, rendered.
///
/// # Errors
/// It cannot be rendered; that is a fault of ours.
pub fn rendered(template: &impl askama::Template) -> Result<String, ErrorAnswer> {
    template.render().map_err(|error| {
        tracing::error!(%error, "a screen could not be rendered");
        ErrorAnswer::new(ErrorCode::Internal, "the server has a fault")
    })
}

/// Adds a frame for a screen to a stream. A browser drops a frame without data.
pub fn frame(bytes: &mut Vec<u8>, id: Option<&dyn Display>, name: &str, html: &str) {
    if let Some(id) = id {
        bytes.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    bytes.extend_from_slice(format!("event: {name}\n").as_bytes());
    // Each line of the data is a line of the frame, and a carriage return would end one, too.
    for line in html.split('\n') {
        bytes.extend_from_slice(b"data: ");
        bytes.extend_from_slice(line.replace('\r', "&#13;").as_bytes());
        bytes.push(b'\n');
    }
    bytes.push(b'\n');
}

/// The id of a project's row.
pub fn row_id(project: &ProjectName) -> String {
    format!("p-{project}")
}

/// The parts of a project's screen that a stream replaces, as HTML; `None` if the project is there no more.
///
/// # Errors
/// The store does not answer.
pub async fn parts_of_project(app: &App, name: &ProjectName) -> Result<Option<Bytes>, ErrorAnswer> {
    project::parts(app, name).await
}
