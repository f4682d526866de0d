//! `GET /metrics`: the figures of this server, and of the store that it shares, for Prometheus.
//!
//! ```text
//! commit  ─▶ Metrics::note                   counts and times, in memory (`observed`)
//! answer  ─▶ Metrics::count
//! scrape  ─▶ Scrape: checks, the configuration, figures of the store (`scrape`), the process (`process`) ─▶ text (`text`)
//! ```
//!
//! Each server has its own registry, so that two servers in one process share nothing. See decision 0085.

mod gauges;
mod labels;
mod notifications;
mod observed;
mod process;
mod projects;
mod scrape;
mod text;

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};

pub use observed::{Metrics, Parked};
pub use scrape::Scrape;

use super::{App, error::ErrorAnswer, params::Query};
use crate::wire::ErrorCode;
use text::TextFormat;

/// `GET /metrics`.
pub async fn metrics(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    let format = TextFormat::of(&headers);
    app.scrape.look(&app.queue, &app.health).await;
    // The process's files are read, and thousands of lines are written.
    let scraped = app.clone();
    let text = tokio::task::spawn_blocking(move || scraped.scrape.text(format)).await;
    let text = text.ok().flatten();
    let text = text.ok_or_else(|| ErrorAnswer::new(ErrorCode::Internal, "the figures cannot be written"))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
        (header::VARY, HeaderValue::from_static("accept")),
    ];
    Ok((headers, text).into_response())
}
