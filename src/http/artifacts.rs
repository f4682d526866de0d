//! `PUT`, `HEAD` and `GET /v1/artifacts/{sha256}`: streamed to and from the depot, never held in memory.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{RawPathParams, Request, State},
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    App, answer, body,
    error::{ErrorAnswer, echo},
    guard::Grant,
    params::{Query, decimal},
    uploads::UPLOADS_LIMIT,
};
use crate::{
    artifacts::{DepotError, PartName, UploadBegun, UploadError},
    model::Digest,
    wire::{ErrorCode, OFFSET_HEADER},
};

/// How many bytes are collected before a write, because a write for each network packet would keep the disk busy.
const WRITE_BYTES: usize = 1 << 20;
/// How often an upload renews its hold on the part, even if no data came.
const HOLD_PAUSE: Duration = Duration::from_secs(5);

/// Whether the artifact is there, or how much of it.
pub async fn head(State(app): State<Arc<App>>, path: RawPathParams, request: Request) -> Result<Response, ErrorAnswer> {
    Query::of(request.uri(), &[])?;
    let digest = digest(&path)?;
    let depot = app.artifacts.depot();
    if let Some(bytes) = depot.want(&digest).await? {
        let mut response = StatusCode::OK.into_response();
        describe(response.headers_mut(), bytes);
        return Ok(response);
    }
    let offset = depot.offset(&part_name(&digest, request.extensions())).await?;
    let mut response = missing().into_response();
    response.headers_mut().insert(OFFSET_HEADER, HeaderValue::from(offset));
    Ok(response)
}

/// Sends the artifact.
pub async fn get(State(app): State<Arc<App>>, path: RawPathParams, request: Request) -> Result<Response, ErrorAnswer> {
    Query::of(request.uri(), &[])?;
    let digest = digest(&path)?;
    let Some((bytes, content)) = app.artifacts.depot().read(&digest).await? else { return Err(missing()) };
    let mut response = Response::new(Body::from_stream(content));
    describe(response.headers_mut(), bytes);
    Ok(response)
}

/// Takes the artifact, or the rest of it.
pub async fn put(State(app): State<Arc<App>>, path: RawPathParams, request: Request) -> Result<Response, ErrorAnswer> {
    let (parts, mut body) = request.into_parts();
    take(&app, &path, &parts, &mut body).await
}

async fn take(
    app: &App,
    path: &RawPathParams,
    parts: &axum::http::request::Parts,
    body: &mut Body,
) -> Result<Response, ErrorAnswer> {
    Query::of(&parts.uri, &[])?;
    let digest = digest(path)?;
    let range = Range::of(&parts.headers)?;
    let max_bytes = app.artifacts.rules().max_bytes;
    let too_large =
        || ErrorAnswer::new(ErrorCode::BodyTooLarge, format!("an artifact is at most {max_bytes} bytes here"));
    if range.total.is_some_and(|total| total > max_bytes) {
        return Err(too_large());
    }
    let Some(_place) = app.uploads.take(Grant::of(&parts.extensions).caller.identity) else {
        let detail =
            format!("{UPLOADS_LIMIT} uploads of this token are under way; try again when one of them has ended");
        return Err(ErrorAnswer::new(ErrorCode::Unavailable, detail));
    };
    let part = part_name(&digest, &parts.extensions);
    let mut upload = match app.artifacts.depot().begin(&digest, &part, range.start).await? {
        UploadBegun::Whole => return Ok(answer::json(StatusCode::OK, &json!({ "sha256": digest }))),
        UploadBegun::Upload(upload) => upload,
    };
    let room = range.total.unwrap_or(max_bytes) - upload.length().min(range.total.unwrap_or(max_bytes));
    if !app.artifacts.make_room(room).await? {
        return Err(ErrorAnswer::new(
            ErrorCode::DiskFull,
            "the server has no room for more artifacts; see max_total_bytes",
        ));
    }
    let mut pieces = Vec::with_capacity(WRITE_BYTES);
    let mut received = upload.length();
    let mut holds = tokio::time::interval_at(Instant::now() + HOLD_PAUSE, HOLD_PAUSE);
    let cut = loop {
        // One future for a piece, however often the upload renews its hold meanwhile, because waiting for a piece has a
        // limit.
        let mut next = std::pin::pin!(body::next_piece(body));
        let piece = loop {
            tokio::select! {
                biased;
                _ = holds.tick() => upload.hold().await?,
                () = app.shutdown.cancelled() => {
                    break Err(ErrorAnswer::new(ErrorCode::ShuttingDown, "the server is shutting down; go on afterwards"));
                }
                piece = &mut next => break piece,
            }
        };
        match piece {
            Ok(None) => break None,
            Err(failure) => break Some(failure),
            Ok(Some(piece)) => {
                received += piece.len() as u64;
                if received > range.total.unwrap_or(max_bytes) {
                    upload.discard().await?;
                    return Err(if received > max_bytes { too_large() } else { longer() });
                }
                pieces.extend_from_slice(&piece);
            }
        }
        if pieces.len() >= WRITE_BYTES {
            (upload, pieces) = upload.add(pieces).await?;
        }
    };
    // The pieces that arrived are kept, so they are not sent again.
    (upload, _) = upload.add(pieces).await?;
    if let Some(failure) = cut {
        return Err(failure);
    }
    if range.total.is_some_and(|total| upload.length() < total) {
        let offset = upload.length();
        return Err(ErrorAnswer::new(ErrorCode::BadRequest, format!("the body ended early; go on at {offset}")));
    }
    let bytes = upload.finish().await?;
    tracing::info!(artifact = %digest, bytes, "took an artifact");
    Ok(answer::json(StatusCode::CREATED, &json!({ "sha256": digest })))
}

/// The name of the part of an artifact that this caller uploads.
fn part_name(digest: &Digest, caller: &Extensions) -> PartName {
    let visible = Grant::of(caller).projects;
    visible.patterns().map_or_else(|| PartName::of_all(digest), |patterns| PartName::of(digest, patterns))
}

/// Whether the artifact that a submit names is there. If so, it stays until the submit is stored.
///
/// # Errors
/// The depot cannot be read.
pub async fn is_there(app: &App, digest: &Digest) -> Result<bool, ErrorAnswer> {
    Ok(app.artifacts.depot().want(digest).await?.is_some())
}

/// Which part of an artifact a body contains.
struct Range {
    /// Where it begins; `None` if the body is the whole artifact, which replaces what was there.
    start: Option<u64>,
    /// The length of the whole artifact, if the client tells it.
    total: Option<u64>,
}

impl Range {
    fn of(headers: &HeaderMap) -> Result<Self, ErrorAnswer> {
        let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or_default().trim());
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(ErrorAnswer::new(ErrorCode::UnsupportedMediaType, "an artifact is sent as it is, not encoded"));
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| decimal(length.to_str().ok()?));
        let mut ranges = headers.get_all(header::CONTENT_RANGE).iter();
        let range = match (ranges.next(), ranges.next()) {
            (None, _) => return Ok(Range { start: None, total: length }),
            (Some(range), None) => range.to_str().unwrap_or_default(),
            (Some(_), Some(_)) => {
                return Err(ErrorAnswer::new(ErrorCode::InvalidParameter, "Content-Range is given twice"));
            }
        };
        let parsed = range.strip_prefix("bytes ").and_then(|range| {
            let (part, total) = range.split_once('/')?;
            let (first, last) = part.split_once('-')?;
            Some((decimal(first)?, decimal(last)?, decimal(total)?))
        });
        match parsed {
            Some((first, last, total))
                if first <= last
                    && last.checked_add(1) == Some(total)
                    && length.is_none_or(|length| length == total - first) =>
            {
                Ok(Range { start: Some(first), total: Some(total) })
            }
            _ => Err(ErrorAnswer::new(
                ErrorCode::InvalidParameter,
                format!(
                    "Content-Range is `bytes FIRST-LAST/TOTAL` with the whole rest in the body, not '{}'",
                    echo(range)
                ),
            )),
        }
    }
}

fn digest(path: &RawPathParams) -> Result<Digest, ErrorAnswer> {
    let text = path.iter().find(|(name, _)| *name == "sha256").map_or("", |(_, value)| value);
    text.parse()
        .map_err(|error| ErrorAnswer::new(ErrorCode::InvalidParameter, format!("{error}, not '{}'", echo(text))))
}

fn describe(headers: &mut HeaderMap, bytes: u64) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

fn missing() -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::NotFound, "there is no such artifact")
}

fn longer() -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::BadRequest, "the body is longer than Content-Range says")
}

impl From<UploadError> for ErrorAnswer {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Busy => ErrorAnswer::new(ErrorCode::UploadInProgress, format!("{error}; look again soon")),
            UploadError::Offset { offset } => {
                ErrorAnswer::new(ErrorCode::UploadOffset, error.to_string()).with("offset", offset)
            }
            UploadError::Mismatch { .. } => {
                ErrorAnswer::new(ErrorCode::ArtifactMismatch, format!("{error}; it was not kept, send it again whole"))
            }
            UploadError::TooMany => ErrorAnswer::new(ErrorCode::Unavailable, format!("{error}; try again later")),
            UploadError::Io(error) => error.into(),
            UploadError::Store(error) => error.into(),
        }
    }
}

impl From<io::Error> for ErrorAnswer {
    fn from(error: io::Error) -> Self {
        tracing::error!(%error, "an operation in the artifacts' directory failed");
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ErrorAnswer::new(ErrorCode::DiskFull, "the server's disk is full; free some space there")
            }
            _ => ErrorAnswer::new(ErrorCode::Unavailable, "the server cannot keep artifacts; see its log"),
        }
    }
}

impl From<DepotError> for ErrorAnswer {
    fn from(error: DepotError) -> Self {
        match error {
            DepotError::Store(error) => error.into(),
            DepotError::Disk(error) => error.into(),
        }
    }
}
