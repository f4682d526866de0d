//! `GET …/{id}/events`: the same events by Server-Sent Events, and by JSON long-poll for networks that block streams.

use std::{fmt::Display, io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    App, answer,
    connection::Standby,
    error::ErrorAnswer,
    metrics::Parked,
    params::{PathTarget, Reading, Start},
};
use crate::{
    model::{self, Deployment, EventBody},
    watch::{EventPage, Follow, StartingPoint, WantedEvents},
    wire::{Event, EventData, EventsPage, ascii},
};

/// How often an idle stream sends something, because proxies cut streams that are silent for a minute or less.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The buffer size of a short event.
const FRAME_BYTES: usize = 256;

/// Follows a deployment's events.
pub async fn events(
    State(app): State<Arc<App>>,
    target: PathTarget,
    reading: Reading,
    standby: Standby,
) -> Result<Response, ErrorAnswer> {
    match reading {
        Reading::Stream { start } => {
            let StartingPoint { after, skipped_lines } = Box::pin(begin(&app, &target, start)).await?;
            let (follow, now) = Box::pin(app.watch.follow(&target.project, target.id, after)).await?;
            // A browser reopens an ended stream for ever, unless it is told that there is nothing more.
            if now.is_final() && after >= now.event_count {
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            Ok(stream_of(follow, &now, skipped_lines, app.metrics.park()))
        }
        Reading::Poll { start, window } => {
            standby.begin();
            let StartingPoint { after, skipped_lines } = Box::pin(begin(&app, &target, start)).await?;
            let _parked = app.metrics.park();
            let page = app.watch.events(&target.project, target.id, after, window).await?;
            let (last, is_final) = (page.last, page.complete.is_some());
            Ok(answer::json(
                StatusCode::OK,
                &EventsPage { events: wire(&page, skipped_lines), last, r#final: is_final },
            ))
        }
    }
}

async fn begin(app: &App, target: &PathTarget, start: Start) -> Result<StartingPoint, ErrorAnswer> {
    match start {
        Start::After(after) => Ok(StartingPoint { after, skipped_lines: 0 }),
        Start::End { tail, since } => {
            let wanted = WantedEvents { tail, since: since.map(|since| since.moment(app.now())) };
            Ok(app.watch.begin(&target.project, target.id, wanted).await?)
        }
    }
}

/// The events of a page; the first event without its first `skipped_lines` lines.
fn wire(page: &EventPage, skipped_lines: usize) -> Vec<Event> {
    let ended = |event: &model::Event| match event.body {
        EventBody::Complete => page.complete.as_deref().map(answer::unplaced),
        _ => None,
    };
    let mut events: Vec<_> = page.events.iter().filter_map(|event| Event::of(event.clone(), ended(event))).collect();
    if let Some(Event { data: EventData::Other(EventBody::Log { lines, .. }), .. }) = events.first_mut() {
        lines.drain(..skipped_lines.min(lines.len()));
    }
    events
}

struct Streaming {
    follow: Follow,
    ready: Option<Bytes>,
    is_over: bool,
    /// How many lines of the first event are left out.
    skipped_lines: usize,
    _parked: Parked,
}

fn stream_of(follow: Follow, now: &Deployment, skipped_lines: usize, parked: Parked) -> Response {
    // The current state is sent first and at once, so that a new client has something to show.
    let state = EventBody::Progress { status: now.status(), progress: now.progress, message: now.message.clone() };
    let mut first = Vec::with_capacity(FRAME_BYTES);
    frame(&mut first, None, "progress", &state);
    let ready = Some(Bytes::from(first));
    let streaming = Streaming { follow, ready, is_over: false, skipped_lines, _parked: parked };
    let frames = stream::unfold(streaming, |mut streaming| async move {
        let bytes = streaming.next().await?;
        Some((Ok(bytes), streaming))
    });
    response_of(frames)
}

/// The answer that is a stream of these frames.
pub(super) fn response_of(frames: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Streaming {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frames) = self.ready.take() {
                return Some(frames);
            }
            if self.is_over {
                return None;
            }
            match timeout(KEEP_ALIVE, self.follow.next_page()).await {
                Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                // The client resumes after the last event that it got.
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a stream ended early");
                    return None;
                }
                Ok(Ok(page)) => {
                    // An empty page says that the server shuts down.
                    self.is_over = page.events.is_empty() || page.complete.is_some();
                    // A thousand clients that watch the same deployment share the same bytes.
                    let encoded = match std::mem::take(&mut self.skipped_lines) {
                        0 => page.encoded.get_or_init(|| frames(&page, 0)).clone(),
                        skipped_lines => frames(&page, skipped_lines),
                    };
                    self.ready = Some(encoded).filter(|frames| !frames.is_empty());
                }
            }
        }
    }
}

/// All events of a page.
fn frames(page: &EventPage, skipped_lines: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(FRAME_BYTES * page.events.len());
    wire(page, skipped_lines).iter().for_each(|event| frame(&mut bytes, Some(&event.seq), event.name(), event));
    bytes.into()
}

fn frame(bytes: &mut Vec<u8>, id: Option<&dyn Display>, name: &str, data: &impl Serialize) {
    frame_of(bytes, id, name, |bytes| {
        if let Err(error) = ascii::write(bytes, data) {
            tracing::error!(%error, "an event has no JSON form");
        }
    });
}

/// One frame, whose data is written by `write`, without a line end.
pub(super) fn frame_of(bytes: &mut Vec<u8>, id: Option<&dyn Display>, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
    if let Some(id) = id {
        bytes.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    bytes.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
    write(bytes);
    bytes.extend_from_slice(b"\n\n");
}
