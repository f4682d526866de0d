//! `GET /v1/events` and `GET /v1/projects/{project}/events`: how projects stand, told again whenever it changes, over one
//! connection, by Server-Sent Events or by long-poll. See decision 0088.

use std::{fmt, io, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    App,
    connection::Standby,
    error::{ErrorAnswer, echo},
    events::{self, KEEP_ALIVE, frame_of},
    guard::{Grant, VisibleProjects},
    metrics::Parked,
    params::{self, InProject, Query},
    projects::{following, summary_of, view_of},
    screens,
};
use crate::{
    model::{ProjectName, bounds},
    watch::{Changed, ProjectChange},
    wire::{ErrorCode, ascii},
};

/// How many projects are read at once when all are told.
const LISTED_AT_ONCE: usize = 50;
/// The shortest time between two tellings of changes, because nobody reads faster than that.
const REST: Duration = Duration::from_millis(200);

/// How all projects stand that the caller may see.
pub async fn all(
    State(app): State<Arc<App>>,
    grant: Grant,
    reading: FeedReading,
    standby: Standby,
) -> Result<Response, ErrorAnswer> {
    answer(app, FeedScope::All(grant.projects), reading, standby).await
}

/// The rows of the projects on the screen of all projects, as they change.
pub async fn rows(
    State(app): State<Arc<App>>,
    grant: Grant,
    reading: FeedReading,
    standby: Standby,
) -> Result<Response, ErrorAnswer> {
    answer(app, FeedScope::Rows(grant.projects), reading, standby).await
}

/// The parts of one project's screen, as they change.
pub async fn screen(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    reading: FeedReading,
    standby: Standby,
) -> Result<Response, ErrorAnswer> {
    app.require_project(&project).await?;
    answer(app, FeedScope::Screen(project), reading, standby).await
}

/// How one project stands.
pub async fn one(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    reading: FeedReading,
    standby: Standby,
) -> Result<Response, ErrorAnswer> {
    app.require_project(&project).await?;
    answer(app, FeedScope::One(project), reading, standby).await
}

async fn answer(
    app: Arc<App>,
    told: FeedScope,
    reading: FeedReading,
    standby: Standby,
) -> Result<Response, ErrorAnswer> {
    let mut feed = Feed::new(app, told, reading.after);
    if reading.is_stream {
        // What cannot be read is answered as an error, and not by a stream that ends at once.
        let first = Box::pin(feed.look()).await?;
        return Ok(stream_of(feed, first));
    }
    standby.begin();
    let ends = Instant::now() + reading.window;
    let _parked = feed.app.metrics.park();
    let part = loop {
        let part = Box::pin(feed.look()).await?;
        if !part.is_empty() {
            break part;
        }
        let changed = async {
            tokio::select! {
                biased;
                () = feed.wait_end.cancelled() => false,
                changed = feed.changes.changed() => changed.is_ok(),
            }
        };
        if !timeout_at(ends, changed).await.unwrap_or(false) {
            break part;
        }
    };
    Ok(part.into_page(&feed))
}

/// How a client wants to read, and from where.
pub struct FeedReading {
    is_stream: bool,
    /// What the client has already; `None` for a client that has nothing.
    after: Option<FeedCursor>,
    window: Duration,
}

impl<S: Send + Sync> FromRequestParts<S> for FeedReading {
    type Rejection = ErrorAnswer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorAnswer> {
        let is_stream = params::wants_event_stream(&parts.headers)?;
        let query = Query::of(&parts.uri, &["after", "maxWaitSeconds"])?;
        let window = query.max_wait()?;
        let after = query.get("after").map(|text| cursor("after", text)).transpose()?;
        let mut ids = parts.headers.get_all("last-event-id").iter();
        // A browser that reconnects sends the last one, beside the address that it was given first.
        let after = match (ids.next(), ids.next()) {
            (None, _) => after,
            (Some(id), None) if id.is_empty() => after,
            (Some(id), None) => Some(cursor("Last-Event-ID", id.to_str().unwrap_or_default())?),
            (Some(_), Some(_)) => {
                return Err(ErrorAnswer::new(ErrorCode::InvalidParameter, "Last-Event-ID is given twice"));
            }
        };
        Ok(FeedReading { is_stream, after, window })
    }
}

fn cursor(name: &str, text: &str) -> Result<FeedCursor, ErrorAnswer> {
    FeedCursor::parse(text).ok_or_else(|| {
        let detail = format!("{name} is the last one that this server told, not '{}'", echo(text));
        ErrorAnswer::new(ErrorCode::InvalidParameter, detail)
    })
}

/// What a client has: every project as it was at `number`; or, while all are told, those up to `through`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FeedCursor {
    /// Whose numbers these are.
    epoch: String,
    number: u64,
    listing: Listing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Listing {
    /// All were told.
    Over,
    /// Those up to this one were told, by name.
    Through(ProjectName),
    /// None was told.
    Begins,
}

impl FeedCursor {
    fn parse(text: &str) -> Option<Self> {
        let (numbers, through) = match text.split_once('~') {
            Some((numbers, through)) => (numbers, Some(through)),
            None => (text, None),
        };
        let (epoch, number) = numbers.split_once('.')?;
        let is_epoch = epoch.len() == 32 && epoch.bytes().all(|b| b.is_ascii_hexdigit());
        let listing = match through {
            Some(name) => Listing::Through(name.parse().ok()?),
            None => Listing::Over,
        };
        is_epoch.then_some(FeedCursor { epoch: epoch.to_owned(), number: params::decimal(number)?, listing })
    }
}

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)?;
        match &self.listing {
            Listing::Through(name) => write!(f, "~{name}"),
            Listing::Over | Listing::Begins => Ok(()),
        }
    }
}

/// Which projects are told, and how.
enum FeedScope {
    /// In JSON.
    All(VisibleProjects),
    /// In JSON.
    One(ProjectName),
    /// In HTML, for the screen of all projects.
    Rows(VisibleProjects),
    /// In HTML, for the project's screen.
    Screen(ProjectName),
}

impl FeedScope {
    /// Whether they are told for a screen.
    fn is_for_screen(&self) -> bool {
        matches!(self, FeedScope::Rows(_) | FeedScope::Screen(_))
    }
}

/// One reader.
struct Feed {
    app: Arc<App>,
    told: FeedScope,
    cursor: FeedCursor,
    /// Whether the reader was not told yet that it begins anew.
    is_restart: bool,
    changes: watch::Receiver<u64>,
    wait_end: CancellationToken,
}

/// What is told at once.
struct FeedPart {
    /// Whether the reader begins anew: what it has is to be forgotten.
    is_restart: bool,
    entries: Vec<FeedEntry>,
    /// What is told of all projects together, in HTML.
    sum: Option<Bytes>,
    /// Whether with these, all projects are told.
    is_current: bool,
}

/// A project as it stands.
struct FeedEntry {
    project: ProjectName,
    /// In JSON or HTML; `None` if the project is there no more.
    standing: Option<Bytes>,
    /// The cursor after it.
    cursor: FeedCursor,
}

impl Feed {
    fn new(app: Arc<App>, told: FeedScope, after: Option<FeedCursor>) -> Self {
        // Subscribed before anything is read.
        let (changes, wait_end) = (app.watch.board().subscribe(), app.watch.wait_end().clone());
        let cursor = FeedCursor { epoch: app.watch.board().epoch().to_owned(), number: 0, listing: Listing::Begins };
        let mut feed = Feed { app, told, cursor, is_restart: false, changes, wait_end };
        // A cursor from another server, or from before a restart, says nothing here.
        match after.filter(|after| after.epoch == feed.cursor.epoch) {
            Some(after) => feed.cursor = after,
            None => feed.restart(),
        }
        feed
    }

    fn restart(&mut self) {
        self.is_restart = true;
        self.cursor.number = self.app.watch.board().last();
        self.cursor.listing = Listing::Begins;
    }

    /// How often something is to be done while nothing changes.
    fn upkeep_every(&self) -> Duration {
        if self.told.is_for_screen() { screens::BEAT_EVERY } else { KEEP_ALIVE }
    }

    /// What the reader does not have yet; nothing, if it has all.
    async fn look(&mut self) -> Result<FeedPart, ErrorAnswer> {
        self.changes.mark_unchanged();
        if self.cursor.listing == Listing::Over {
            match self.app.watch.board().since(self.cursor.number) {
                Changed::Projects(changes) => return self.changed(changes).await,
                Changed::Anything => self.restart(),
            }
        }
        let part = self.listed().await?;
        self.is_restart = false;
        Ok(part)
    }

    /// The next projects, while all are told.
    async fn listed(&mut self) -> Result<FeedPart, ErrorAnswer> {
        let mut entries = Vec::new();
        let mut cursor = self.cursor.clone();
        let is_last = match &self.told {
            FeedScope::One(project) => {
                let standing = encoded(view_of(&self.app, project.clone()).await?.as_ref());
                entries.push(FeedEntry { project: project.clone(), standing, cursor: cursor.clone() });
                true
            }
            FeedScope::Screen(project) => {
                let standing = screens::parts_of_project(&self.app, project).await?;
                entries.push(FeedEntry { project: project.clone(), standing, cursor: cursor.clone() });
                true
            }
            FeedScope::Rows(visible) => {
                for (project, row) in screens::all_rows(&self.app, visible).await? {
                    cursor.listing = Listing::Through(project.clone());
                    entries.push(FeedEntry { project, standing: Some(row.html.clone()), cursor: cursor.clone() });
                }
                true
            }
            FeedScope::All(visible) => {
                let after = match &cursor.listing {
                    Listing::Through(name) => Some(name.clone()),
                    Listing::Over | Listing::Begins => None,
                };
                let mut bytes = 0;
                let read = following(&self.app, visible, after, LISTED_AT_ONCE).await?;
                let mut is_last = read.len() < LISTED_AT_ONCE;
                for (project, summary) in read {
                    cursor.listing = Listing::Through(project.clone());
                    // One that cannot be read is left out, and the log says why.
                    let Some(standing) = encoded(summary.as_ref()) else { continue };
                    bytes += standing.len();
                    entries.push(FeedEntry { project, standing: Some(standing), cursor: cursor.clone() });
                    if bytes > bounds::PAGE_BYTES {
                        is_last = false;
                        break;
                    }
                }
                is_last
            }
        };
        if is_last {
            cursor.listing = Listing::Over;
        }
        self.cursor = cursor;
        let sum = self.sum().await?;
        Ok(FeedPart { is_restart: self.is_restart, entries, sum, is_current: is_last })
    }

    /// These projects as they stand now, of those that the reader may see.
    async fn changed(&mut self, changes: Vec<Arc<ProjectChange>>) -> Result<FeedPart, ErrorAnswer> {
        let mut entries = Vec::new();
        let mut cursor = self.cursor.clone();
        let mut bytes = 0;
        for change in changes {
            let name = &change.project;
            cursor.number = change.number;
            let standing = match &self.told {
                FeedScope::All(visible) if visible.sees(name) => {
                    let read =
                        async { Ok::<_, ErrorAnswer>(encoded(summary_of(&self.app, name.clone()).await?.as_ref())) };
                    change.summary.get_or_try_init(|| read).await?
                }
                FeedScope::One(project) if project == name => {
                    let read =
                        async { Ok::<_, ErrorAnswer>(encoded(view_of(&self.app, name.clone()).await?.as_ref())) };
                    change.view.get_or_try_init(|| read).await?
                }
                FeedScope::Rows(visible) if visible.sees(name) => {
                    &screens::row_of(&self.app, name).await?.map(|row| row.html.clone())
                }
                FeedScope::Screen(project) if project == name => {
                    change.screen.get_or_try_init(|| screens::parts_of_project(&self.app, name)).await?
                }
                FeedScope::All(_) | FeedScope::One(_) | FeedScope::Rows(_) | FeedScope::Screen(_) => continue,
            };
            bytes += standing.as_ref().map_or(0, Bytes::len);
            entries.push(FeedEntry { project: name.clone(), standing: standing.clone(), cursor: cursor.clone() });
            if bytes > bounds::PAGE_BYTES {
                // The rest has changed since, too, and so it is told at the next look.
                self.changes.mark_changed();
                break;
            }
        }
        self.cursor = cursor;
        let sum = if entries.is_empty() { None } else { self.sum().await? };
        Ok(FeedPart { is_restart: false, entries, sum, is_current: false })
    }

    async fn sum(&self) -> Result<Option<Bytes>, ErrorAnswer> {
        let FeedScope::Rows(visible) = &self.told else { return Ok(None) };
        let rows = screens::all_rows(&self.app, visible).await?;
        screens::sum(&self.app, &rows).map(|sum| Some(sum.into()))
    }
}

impl FeedPart {
    fn is_empty(&self) -> bool {
        !self.is_restart && self.entries.is_empty() && !self.is_current
    }

    /// The answer of a long-poll.
    fn into_page(self, feed: &Feed) -> Response {
        if feed.told.is_for_screen() {
            let frames = [screens::BEAT, &self.into_frames(feed)].concat();
            return ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")], frames)
                .into_response();
        }
        let mut bytes = Vec::from(&b"{\"projects\":["[..]);
        let standing = self.entries.iter().filter_map(|entry| entry.standing.as_ref());
        for (at, standing) in standing.enumerate() {
            if at > 0 {
                bytes.push(b',');
            }
            bytes.extend_from_slice(standing);
        }
        let gone: Vec<_> =
            self.entries.iter().filter(|entry| entry.standing.is_none()).map(|entry| &entry.project).collect();
        let more = feed.cursor.listing != Listing::Over;
        let rest = serde_json::json!({
            "gone": gone, "last": feed.cursor.to_string(), "restart": self.is_restart, "more": more,
        });
        bytes.extend_from_slice(b"],");
        // Without the brace that it begins with.
        bytes.extend_from_slice(&rest.to_string().as_bytes()[1..]);
        (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
    }

    /// The frames of a stream for a screen: each element takes the place of the one with its id.
    fn into_patches(self, cursor: &FeedCursor) -> Bytes {
        let mut bytes = Vec::new();
        if self.is_restart {
            screens::frame(&mut bytes, None, "restart", "{}");
        }
        for entry in &self.entries {
            match &entry.standing {
                Some(html) => {
                    screens::frame(&mut bytes, Some(&entry.cursor), "patch", &String::from_utf8_lossy(html));
                }
                None => screens::frame(&mut bytes, Some(&entry.cursor), "gone", &screens::row_id(&entry.project)),
            }
        }
        if let Some(sum) = &self.sum {
            screens::frame(&mut bytes, Some(cursor), "patch", &String::from_utf8_lossy(sum));
        }
        if self.is_current {
            screens::frame(&mut bytes, Some(cursor), "current", "{}");
        }
        bytes.into()
    }

    /// The frames of a stream.
    fn into_frames(self, feed: &Feed) -> Bytes {
        let cursor = &feed.cursor;
        if feed.told.is_for_screen() {
            return self.into_patches(cursor);
        }
        let mut bytes = Vec::new();
        if self.is_restart {
            frame_of(&mut bytes, None, "restart", |bytes| bytes.extend_from_slice(b"{}"));
        }
        for entry in &self.entries {
            match &entry.standing {
                Some(standing) => frame_of(&mut bytes, Some(&entry.cursor), "project", |bytes| {
                    bytes.extend_from_slice(standing);
                }),
                None => frame_of(&mut bytes, Some(&entry.cursor), "gone", |bytes| {
                    bytes.extend_from_slice(serde_json::json!({ "project": entry.project }).to_string().as_bytes());
                }),
            }
        }
        if self.is_current {
            frame_of(&mut bytes, Some(cursor), "current", |bytes| bytes.extend_from_slice(b"{}"));
        }
        bytes.into()
    }
}

fn encoded(standing: Option<&impl Serialize>) -> Option<Bytes> {
    let mut bytes = Vec::new();
    if let Err(error) = ascii::write(&mut bytes, standing?) {
        tracing::error!(%error, "a project has no JSON form");
        return None;
    }
    Some(bytes.into())
}

struct FeedStream {
    feed: Feed,
    ready: Option<Bytes>,
    /// When changes may be told again.
    rests_until: Instant,
    _parked: Parked,
}

fn stream_of(feed: Feed, first: FeedPart) -> Response {
    let mut first = first.into_frames(&feed);
    if feed.told.is_for_screen() {
        // Something comes at once, so that a screen knows that its stream is not held up in between.
        first = [screens::BEAT, &first].concat().into();
    }
    let ready = Some(first).filter(|frames| !frames.is_empty());
    let parked = feed.app.metrics.park();
    let streaming = FeedStream { feed, ready, rests_until: Instant::now(), _parked: parked };
    events::response_of(stream::unfold(streaming, |mut streaming| async move {
        let bytes = streaming.next().await?;
        Some((Ok::<_, io::Error>(bytes), streaming))
    }))
}

impl FeedStream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frames) = self.ready.take() {
                return Some(frames);
            }
            if self.feed.cursor.listing == Listing::Over {
                let is_for_screen = self.feed.told.is_for_screen();
                match timeout(self.feed.upkeep_every(), self.changed()).await {
                    Err(_) if is_for_screen => {
                        if let Err(error) = screens::refresh_rows(&self.feed.app).await {
                            tracing::debug!(?error, "rows could not be read again");
                        }
                        return Some(Bytes::from_static(screens::BEAT));
                    }
                    Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                    Ok(false) => return None,
                    Ok(true) => self.rests_until = Instant::now() + REST,
                }
            }
            match Box::pin(self.feed.look()).await {
                Ok(part) => {
                    self.ready = Some(part.into_frames(&self.feed)).filter(|frames| !frames.is_empty());
                }
                // The client comes again with its last cursor.
                Err(error) => {
                    tracing::debug!(?error, "a stream of projects ended early");
                    return None;
                }
            }
        }
    }

    /// Waits for a change; whether the stream goes on.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.feed.wait_end.cancelled() => false,
            changed = async {
                sleep_until(self.rests_until).await;
                self.feed.changes.changed().await
            } => changed.is_ok(),
        }
    }
}
