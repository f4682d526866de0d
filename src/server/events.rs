//! `GET …/{id}/events`: the same events by Server-Sent Events, and by JSON long-poll for where a stream cannot pass.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use tokio::time::timeout;

use super::{
    App, answer,
    connection::Standby,
    error::Failure,
    metrics::Parked,
    params::{Reading, Target},
};
use crate::{
    api::{Event, EventsPage},
    model::{self, Deployment, EventBody},
    watch::{Follow, Page},
};

/// Proxies cut streams that are mute for a minute or less.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How much room an event takes that says little.
const FRAME_BYTES: usize = 256;

/// Follows a deployment's events.
pub async fn events(
    State(app): State<Arc<App>>,
    target: Target,
    reading: Reading,
    standby: Standby,
) -> Result<Response, Failure> {
    match reading {
        Reading::Stream { after } => {
            let (follow, now) = app.watch.follow(&target.project, target.id, after).await?;
            Ok(stream_of(follow, &now, after, app.metrics.park()))
        }
        Reading::Poll { after, window } => {
            standby.begin();
            let _parked = app.metrics.park();
            let page = app.watch.events(&target.project, target.id, after, window).await?;
            let (last, is_final) = (page.last, page.complete.is_some());
            Ok(answer::json(StatusCode::OK, &EventsPage { events: wire(&page), last, r#final: is_final }))
        }
    }
}

fn wire(page: &Page) -> Vec<Event> {
    let ended = |event: &model::Event| match event.body {
        EventBody::Complete => page.complete.as_deref().map(answer::unplaced),
        _ => None,
    };
    page.events.iter().filter_map(|event| Event::of(event.clone(), ended(event))).collect()
}

struct Streaming {
    follow: Follow,
    ready: Option<Bytes>,
    is_over: bool,
    _parked: Parked,
}

fn stream_of(follow: Follow, now: &Deployment, after: u64, parked: Parked) -> Response {
    // The state as it is now comes first and at once, so that who connects has something to show.
    let state = EventBody::Progress { status: now.status(), progress: now.progress, message: now.message.clone() };
    let mut first = Vec::with_capacity(FRAME_BYTES);
    frame(&mut first, None, "progress", &state);
    let ready = Some(Bytes::from(first));
    let is_over = now.is_final() && after >= now.event_count;
    let streaming = Streaming { follow, ready, is_over, _parked: parked };
    let frames = stream::unfold(streaming, |mut streaming| async move {
        let bytes = streaming.next().await?;
        Some((Ok::<_, io::Error>(bytes), streaming))
    });
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
                    // A thousand who watch the same deployment send the same bytes.
                    let encoded = page.encoded.get_or_init(|| frames(&page));
                    self.ready = Some(encoded.clone()).filter(|frames| !frames.is_empty());
                }
            }
        }
    }
}

/// All events of a page.
fn frames(page: &Page) -> Bytes {
    let mut bytes = Vec::with_capacity(FRAME_BYTES * page.events.len());
    wire(page).iter().for_each(|event| frame(&mut bytes, Some(event.seq), event.name(), event));
    bytes.into()
}

fn frame(bytes: &mut Vec<u8>, seq: Option<u64>, name: &str, data: &impl Serialize) {
    if let Some(seq) = seq {
        bytes.extend_from_slice(format!("id: {seq}\n").as_bytes());
    }
    bytes.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
    let mut serializer = serde_json::Serializer::with_formatter(&mut *bytes, Ascii);
    if let Err(error) = data.serialize(&mut serializer) {
        tracing::error!(%error, "an event has no JSON form");
    }
    bytes.extend_from_slice(b"\n\n");
}

/// JSON in plain ASCII: nothing in it can be taken for the end of a line, whatever a client thinks a line ends with.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(|c: char| !c.is_ascii() || c == '\u{7f}') {
            let (plain, tail) = rest.split_at(at);
            CompactFormatter.write_string_fragment(writer, plain)?;
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}
