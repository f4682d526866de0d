//! Questions about the server itself.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{App, answer, error::Failure, params::Query};
use crate::api::ErrorCode;

/// The process lives.
pub async fn healthz(uri: Uri) -> Result<Response, Failure> {
    Query::of(&uri, &[])?;
    Ok(answer::json(StatusCode::OK, &json!({ "status": "ok" })))
}

/// It can do its work: the store answers, and it is not about to end.
pub async fn readyz(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Failure> {
    Query::of(&uri, &[])?;
    if app.watch.is_shutting_down() {
        return Err(Failure::new(ErrorCode::ShuttingDown, "the server is shutting down"));
    }
    app.queue.store().ready().await?;
    Ok(answer::json(StatusCode::OK, &json!({ "status": "ok" })))
}

/// What this server speaks, exactly.
pub async fn openapi(uri: Uri) -> Result<Response, Failure> {
    Query::of(&uri, &[])?;
    let kind = HeaderValue::from_static("application/yaml");
    Ok(([(header::CONTENT_TYPE, kind)], include_str!("../../openapi.yaml")).into_response())
}
