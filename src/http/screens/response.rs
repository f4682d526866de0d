//! Answers that are screens.

use askama::Template;
use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use crate::{http::error::ErrorAnswer, wire::ErrorCode};

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
pub fn html(status: StatusCode, screen: &impl Template) -> Result<Response, ErrorAnswer> {
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
pub fn rendered(template: &impl Template) -> Result<String, ErrorAnswer> {
    template.render().map_err(|error| {
        tracing::error!(%error, "a screen could not be rendered");
        ErrorAnswer::new(ErrorCode::Internal, "the server has a fault")
    })
}
