//! The stream that keeps a deployment's screen live: its output as rows, and the other parts again whenever they change.

use std::{io, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::{BEAT, BEAT_EVERY, deployment_render, frame, log::LogRows};
use crate::{
    http::{
        App,
        connection::Standby,
        error::ErrorAnswer,
        events,
        metrics::Parked,
        params::{PathTarget, Reading, Start},
    },
    model::{DeploymentId, ProjectName},
    watch::{EventPage, Follow, WatchError},
};

/// How soon the parts may be rendered again: a flood of progress is told no more often.
const PARTS_REST: Duration = Duration::from_millis(500);
/// How many events are looked at for the time of the last row.
const LAST_LOOK: usize = 16;

/// Follows a deployment for its screen.
pub async fn live(
    State(app): State<Arc<App>>,
    target: PathTarget,
    reading: Reading,
    standby: Standby,
) -> Result<Response, ErrorAnswer> {
    let (start, window) = match reading {
        Reading::Stream { start } => (start, None),
        Reading::Poll { start, window } => (start, Some(window)),
    };
    let after = match start {
        Start::After(after) => after,
        Start::End { .. } => app.watch.read(&target.project, target.id).await?.deployment.event_count,
    };
    let PathTarget { project, id } = target;
    let (follow, now) = match Box::pin(app.watch.follow(&project, id, after)).await {
        // The page comes from elsewhere: a store that was restored knows less.
        Err(WatchError::AheadOfEnd { .. }) => {
            let mut bytes = BEAT.to_vec();
            frame(&mut bytes, None, "reload", "{}");
            return Ok(told(bytes));
        }
        followed => followed?,
    };
    let last_at = last_row(&app, id, after).await?;
    let mut live = LiveDeployment {
        follow,
        project,
        id,
        cursor: after,
        last_at,
        gist: None,
        is_complete: false,
        ready: None,
        has_ended: false,
        parts_due_at: None,
        rests_until: Instant::now(),
        beat_at: Instant::now() + BEAT_EVERY,
        _parked: app.metrics.park(),
        app,
    };
    // Something comes at once, so that a screen knows that its stream is not held up in between; and with it what changed
    // since the page was rendered.
    let mut first = BEAT.to_vec();
    live.patch(&mut first, after).await?;
    if now.is_final() && after >= now.event_count {
        live.end(&mut first);
        return Ok(told(first));
    }
    match window {
        Some(window) => {
            standby.begin();
            let ends = Instant::now() + window;
            if let Ok(Some(frames)) = timeout_at(ends, live.change()).await {
                first.extend_from_slice(&frames);
            }
            Ok(told(first))
        }
        None => {
            let begin = (live, Some(Bytes::from(first)));
            Ok(events::response_of(stream::unfold(begin, |(mut live, ready)| async move {
                let bytes = match ready {
                    Some(bytes) => bytes,
                    None => live.next().await?,
                };
                Some((Ok::<_, io::Error>(bytes), (live, None)))
            })))
        }
    }
}

/// Frames that are sent at once.
fn told(frames: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")], frames).into_response()
}

/// When the last row up to this event was recorded, if one of the last events made one.
async fn last_row(app: &App, id: DeploymentId, after: u64) -> Result<Option<Timestamp>, ErrorAnswer> {
    let events = app.queue.store().events_before(id, after.saturating_add(1), LAST_LOOK).await?;
    let mut rows = LogRows::that_follow(None, 0);
    for event in events.iter().rev() {
        rows.add(event, 0..0);
    }
    Ok(rows.last_at())
}

/// One reader.
struct LiveDeployment {
    app: Arc<App>,
    follow: Follow,
    project: ProjectName,
    id: DeploymentId,
    /// The last event that was told.
    cursor: u64,
    /// When the last row was recorded.
    last_at: Option<Timestamp>,
    /// What the reader was told last of the parts.
    gist: Option<u64>,
    /// What was read and is not sent yet.
    ready: Option<Bytes>,
    /// Whether the last event was read.
    is_complete: bool,
    has_ended: bool,
    /// When the parts are to be told again, if something changed.
    parts_due_at: Option<Instant>,
    rests_until: Instant,
    beat_at: Instant,
    _parked: Parked,
}

impl LiveDeployment {
    /// What the stream sends next; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        loop {
            match timeout_at(self.beat_at, self.change()).await {
                Ok(Some(frames)) if frames.is_empty() => {}
                Ok(told) => return told,
                Err(_) => {
                    self.beat_at = Instant::now() + BEAT_EVERY;
                    let mut bytes = BEAT.to_vec();
                    // A place in line, a forecast and a silence change by time alone.
                    match self.patch(&mut bytes, self.cursor).await {
                        Ok(()) => return Some(bytes.into()),
                        Err(error) => return ended_early(&error),
                    }
                }
            }
        }
    }

    /// What changes next; `None` if the server drains or ends, or cannot read. Dropped halfway, it loses nothing.
    async fn change(&mut self) -> Option<Bytes> {
        loop {
            if self.is_complete {
                let mut bytes = self.ready.take().map(Vec::from).unwrap_or_default();
                if let Err(error) = self.patch(&mut bytes, self.cursor).await {
                    return ended_early(&error);
                }
                self.end(&mut bytes);
                return Some(bytes.into());
            }
            if let Some(frames) = self.ready.take() {
                return Some(frames);
            }
            let page = match self.parts_due_at {
                None => self.follow.next_page().await,
                Some(due_at) => match timeout_at(due_at, self.follow.next_page()).await {
                    Ok(page) => page,
                    Err(_) => {
                        let mut bytes = Vec::new();
                        if let Err(error) = self.patch(&mut bytes, self.cursor).await {
                            return ended_early(&error);
                        }
                        if bytes.is_empty() {
                            continue;
                        }
                        return Some(bytes.into());
                    }
                },
            };
            match page {
                Ok(page) if page.events.is_empty() => return None,
                // From here to the next turn of the loop nothing waits, so what was read is not lost.
                Ok(page) => self.take(&page),
                Err(error) => return ended_early(&error.into()),
            }
        }
    }

    /// Makes ready what a page of events tells.
    fn take(&mut self, page: &EventPage) {
        let mut rows = LogRows::that_follow(self.last_at, self.cursor);
        page.events.iter().for_each(|event| rows.add(event, 0..usize::MAX));
        self.last_at = rows.last_at();
        self.cursor = page.last;
        self.is_complete = page.complete.is_some();
        // All who have read the page share the bytes.
        let frames = page.encoded_rows.get_or_init(|| {
            let mut bytes = Vec::new();
            let html = rows.finish();
            if !html.is_empty() {
                frame(&mut bytes, Some(&page.last), "append", &format!("log\n{html}"));
            }
            bytes.into()
        });
        self.ready = Some(frames.clone()).filter(|frames| !frames.is_empty());
        if page.events.iter().any(|event| !event.body.is_log()) {
            self.parts_due_at = self.parts_due_at.or(Some(self.rests_until.max(Instant::now())));
        }
    }

    /// Adds the parts as they are after this event, if the reader does not have them.
    async fn patch(&mut self, bytes: &mut Vec<u8>, seq: u64) -> Result<(), ErrorAnswer> {
        let parts = deployment_render::parts(&self.app, &self.project, self.id, seq).await?;
        self.parts_due_at = None;
        self.rests_until = Instant::now() + PARTS_REST;
        let gist = parts.gist();
        if self.gist != Some(gist) {
            self.gist = Some(gist);
            frame(bytes, Some(&self.cursor), "patch", &parts.all());
        }
        Ok(())
    }

    fn end(&mut self, bytes: &mut Vec<u8>) {
        self.has_ended = true;
        frame(bytes, Some(&self.cursor), "end", "{}");
    }
}

/// The reader comes again with its last cursor.
fn ended_early(error: &ErrorAnswer) -> Option<Bytes> {
    tracing::debug!(?error, "a stream of a deployment ended early");
    None
}
