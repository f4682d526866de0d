//! Questions about the server itself.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;

use super::{App, answer, error::ErrorAnswer, params::Query};
use crate::{
    health::{Failing, Health, ProcessState, ReadinessReport},
    store::StoreError,
    version::{BUILD, Build},
};

/// What `/readyz` answers.
#[derive(Serialize)]
struct ReadyAnswer {
    #[serde(flatten)]
    report: ReadinessReport,
    #[serde(flatten)]
    build: Build,
}

/// The process lives.
pub async fn healthz(uri: Uri) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    Ok(answer::json(StatusCode::OK, &json!({ "status": "ok" })))
}

/// It can work: every check passes, and it is not shutting down.
pub async fn readyz(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    if !app.watch.is_draining() {
        app.health.set("store", app.queue.store().ready().await.map_err(why_not_ready));
    }
    Ok(ready(&app.health))
}

/// The readiness, from what is known.
pub fn ready(health: &Health) -> Response {
    let report = health.report();
    let is_ok = report.status == ProcessState::Ok;
    let report = ReadyAnswer { report, build: BUILD };
    if is_ok {
        return answer::json(StatusCode::OK, &report);
    }
    let mut response = answer::json(StatusCode::SERVICE_UNAVAILABLE, &report);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// What a caller without a token may know of it; the log has the details.
fn why_not_ready(error: StoreError) -> Failing {
    let told = match error {
        StoreError::Full => "the disk is full",
        StoreError::Unavailable(_) | StoreError::Unknown(_) | StoreError::Refused(_) => {
            "the store does not answer, or takes no writes"
        }
        StoreError::Unusable(_) => "the store cannot be used; see the server's log",
    };
    Failing { told: told.to_owned(), why: error.to_string() }
}

/// The API description of exactly this server.
pub async fn openapi(uri: Uri) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    let kind = HeaderValue::from_static("application/yaml");
    Ok(([(header::CONTENT_TYPE, kind)], include_str!("../../openapi.yaml")).into_response())
}
