//! Follows a deployment to its end: by the event stream, or by polls on the same cursor if streams do not work. Each
//! event is passed on once and in order, however often a stream or a poll breaks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use reqwest::Response;
use serde_json::Value;
use sse_stream::{Error as SseError, Sse, SseByteStream};

use super::calls::{Completion, Connection, Fault, pauses};
use crate::{
    config::Since,
    model::{DeploymentId, EventBody, ProjectName, Status},
    wire::{Deployment, ErrorCode, Event, EventData},
};

/// After this many streams in a row without a new event, polls take over. Two such streams can be chance.
const STRIKES_LIMIT: u32 = 3;
/// The pause after a poll without events, so that a server that does not park is not asked in a tight loop.
const EMPTY_PAUSE: Duration = Duration::from_millis(200);

/// How long a poll for existing events is parked: long enough for a busy server to read the store.
const MOMENT: Duration = Duration::from_secs(1);

/// How to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By stream, then by polls.
    Auto,
    /// By stream only.
    Stream,
    /// By polls only.
    Polls,
    /// Waits for the end only, without the events.
    EndOnly,
}

/// The time limits of following.
#[derive(Clone, Copy, Debug)]
pub struct FollowLimits {
    /// Until a stream's first byte. The server sends this byte at once, so a proxy holds the stream back if the byte is
    /// late.
    pub first_byte: Duration,
    /// Between two bytes of a stream: the server sends one at least every 15 s.
    pub silence: Duration,
    /// How long a poll is parked.
    pub window: Duration,
    /// The largest block of a stream, in bytes: an event is at most a batch of log lines.
    pub block_limit: usize,
}

impl Default for FollowLimits {
    fn default() -> Self {
        FollowLimits {
            first_byte: Duration::from_secs(5),
            silence: Duration::from_secs(40),
            window: Duration::from_secs(30),
            block_limit: 16 << 20,
        }
    }
}

/// Something to show to the user.
#[derive(Debug)]
pub enum Update {
    /// An event. Each event comes once and in order. The final event is not shown but returned.
    Event(Event),
    /// The deployment's state at the begin of a stream.
    State {
        status: Status,
        /// 0 to 100.
        progress: u8,
        /// The deployment's current message.
        message: Option<String>,
    },
    /// The way of following has changed; the text is a whole sentence.
    Switched(String),
}

/// Follows one deployment.
pub struct Follower<'a> {
    pub connection: &'a Connection,
    pub project: &'a ProjectName,
    pub id: DeploymentId,
    pub limits: FollowLimits,
    /// The last event that was passed on.
    pub after: u64,
}

/// How a stream ended.
enum StreamEnd {
    Complete(Box<Deployment>),
    Broken,
    Mute,
    /// The deployment has ended, and the deployment itself must be fetched.
    Over,
}

/// What to do with an event.
enum FollowStep {
    Pass,
    Skip,
    Hole,
}

impl Follower<'_> {
    /// Follows to the end and returns the deployment; events until then go to `show`.
    ///
    /// # Errors
    /// No usable answer came, or there is no such deployment.
    pub async fn follow(&mut self, how: How, show: &mut (dyn FnMut(Update) + Send)) -> Result<Deployment, Fault> {
        match how {
            How::Auto => {
                if let Some(deployment) = self.by_stream(Some(STRIKES_LIMIT), show).await? {
                    return Ok(deployment);
                }
                self.by_polls(show).await
            }
            How::Stream => loop {
                if let Some(deployment) = self.by_stream(None, show).await? {
                    return Ok(deployment);
                }
            },
            How::Polls => self.by_polls(show).await,
            How::EndOnly => self.end().await,
        }
    }

    /// Begins with the last existing events: with the last `tail` lines of output, or with the events since `since`.
    /// Returns the final deployment if its end is among these events.
    ///
    /// # Errors
    /// No usable answer came, or there is no such deployment.
    pub async fn begin(
        &mut self,
        tail: Option<u64>,
        since: Option<Since>,
        show: &mut (dyn FnMut(Update) + Send),
    ) -> Result<Option<Deployment>, Fault> {
        let page = self.connection.last_events(self.project, self.id, tail, since).await?;
        let first = page.events.first().and_then(|event| event["seq"].as_u64());
        self.after = first.map_or(page.last, |first| first.saturating_sub(1));
        for value in page.events {
            match self.take(value, true, show) {
                Some(StreamEnd::Complete(deployment)) => return Ok(Some(*deployment)),
                Some(StreamEnd::Over) => return self.end().await.map(Some),
                Some(StreamEnd::Broken | StreamEnd::Mute) | None => {}
            }
        }
        Ok(None)
    }

    /// Shows the events until now, without waiting for more.
    ///
    /// # Errors
    /// No usable answer came, or there is no such deployment.
    pub async fn read_so_far(&mut self, show: &mut (dyn FnMut(Update) + Send)) -> Result<(), Fault> {
        loop {
            let page = self.connection.events(self.project, self.id, self.after, MOMENT).await?;
            let before = self.after;
            let is_over = page.events.into_iter().any(|value| self.take(value, true, show).is_some());
            if is_over || self.after == before {
                return Ok(());
            }
        }
    }

    /// Follows by stream; `None` when polls must take over.
    async fn by_stream(
        &mut self,
        strikes_limit: Option<u32>,
        show: &mut (dyn FnMut(Update) + Send),
    ) -> Result<Option<Deployment>, Fault> {
        let mut strikes = 0;
        let mut pause = pauses();
        loop {
            let before = self.after;
            let end = self.one_stream(strikes, show).await?;
            if self.after > before {
                strikes = 0;
                pause = pauses();
            }
            strikes += 1;
            match end {
                StreamEnd::Complete(deployment) => return Ok(Some(*deployment)),
                StreamEnd::Over => return self.end().await.map(Some),
                StreamEnd::Mute if strikes_limit.is_some() => {
                    show(Update::Switched("the event stream sends nothing; polling instead".to_owned()));
                    return Ok(None);
                }
                StreamEnd::Broken if strikes_limit.is_some_and(|limit| strikes >= limit) => {
                    show(Update::Switched("the event stream breaks again and again; polling instead".to_owned()));
                    return Ok(None);
                }
                StreamEnd::Mute | StreamEnd::Broken => {}
            }
            tokio::time::sleep(pause.next().unwrap_or(EMPTY_PAUSE)).await;
            // While the server is away, this call waits for the server and reports that. Then the stream is opened
            // again.
            self.connection.deployment(self.project, &self.id.into()).await?;
        }
    }

    /// Reads one stream to its end.
    async fn one_stream(&mut self, strikes: u32, show: &mut (dyn FnMut(Update) + Send)) -> Result<StreamEnd, Fault> {
        let opening = self.connection.event_stream(self.project, self.id, self.after);
        let response = match tokio::time::timeout(self.limits.first_byte, opening).await {
            Ok(Ok(Some(response))) => response,
            Ok(Ok(None)) => return Ok(StreamEnd::Over),
            Ok(Err(Fault::Refused(refusal))) if refusal.status != 406 => return Err(Fault::Refused(refusal)),
            Ok(Err(
                Fault::Refused(_)
                | Fault::Foreign { .. }
                | Fault::Proxy { .. }
                | Fault::Unreachable { .. }
                | Fault::NoToken { .. },
            )) => {
                return Ok(StreamEnd::Broken);
            }
            Err(_) => return Ok(StreamEnd::Mute),
        };
        let unread = Arc::new(AtomicUsize::new(0));
        let mut blocks = SseByteStream::new(Box::pin(timed(response, self.limits, Arc::clone(&unread))));
        while let Some(block) = blocks.next().await {
            unread.store(0, Ordering::Relaxed);
            let block = match block {
                Ok(block) => block,
                Err(SseError::Body(cause)) if matches!(cause.downcast_ref(), Some(BodyFault::Mute)) => {
                    return Ok(StreamEnd::Mute);
                }
                Err(_) => return Ok(StreamEnd::Broken),
            };
            if let Some(end) = self.take_block(&block, strikes > 0, show) {
                return Ok(end);
            }
        }
        Ok(StreamEnd::Broken)
    }

    /// Handles one block of a stream. Returns the stream's end if the block is the end.
    fn take_block(&mut self, block: &Sse, again: bool, show: &mut (dyn FnMut(Update) + Send)) -> Option<StreamEnd> {
        let value: Value = serde_json::from_str(block.data.as_deref()?).ok()?;
        if block.id.is_none() && value["type"] == "progress" {
            if let Ok(EventBody::Progress { status, progress, message }) = serde_json::from_value(value) {
                show(Update::State { status, progress, message });
            }
            return None;
        }
        self.take(value, again, show)
    }

    /// Handles one event. Returns the stream's end if the event is the end.
    fn take(&mut self, value: Value, again: bool, show: &mut (dyn FnMut(Update) + Send)) -> Option<StreamEnd> {
        let seq = value["seq"].as_u64()?;
        match self.step(seq, value["type"] == "gap", again) {
            FollowStep::Skip => return None,
            FollowStep::Hole => return Some(StreamEnd::Broken),
            FollowStep::Pass => {}
        }
        let is_complete = value["type"] == "complete";
        match serde_json::from_value::<Event>(value) {
            Ok(Event { data: EventData::Complete { deployment, .. }, .. }) => {
                self.after = seq;
                return Some(StreamEnd::Complete(deployment));
            }
            Ok(event) => show(Update::Event(event)),
            Err(_) if is_complete => return Some(StreamEnd::Over),
            // An event of a newer server, which this version cannot show.
            Err(_) => {}
        }
        self.after = seq;
        None
    }

    /// The server repeats no event and leaves no event out, but a proxy may. Repeated events are skipped. If an event
    /// is missing, the stream is opened again. If the same event is missing again, it no longer exists, and the later
    /// events are passed on without it.
    fn step(&self, seq: u64, is_gap: bool, again: bool) -> FollowStep {
        if seq <= self.after {
            FollowStep::Skip
        } else if seq == self.after + 1 || is_gap || again {
            FollowStep::Pass
        } else {
            FollowStep::Hole
        }
    }

    async fn by_polls(&mut self, show: &mut (dyn FnMut(Update) + Send)) -> Result<Deployment, Fault> {
        let (mut strikes, mut pause) = (0, pauses());
        loop {
            let page = match self.connection.events(self.project, self.id, self.after, self.limits.window).await {
                Ok(page) => page,
                Err(Fault::Refused(refusal)) if refusal.code == Some(ErrorCode::NotFound) => {
                    return Err(Fault::Refused(refusal));
                }
                // Most likely a proxy answers while the server is being restarted, so wait for the server.
                Err(Fault::Foreign { .. }) if strikes < STRIKES_LIMIT => {
                    strikes += 1;
                    self.connection.deployment(self.project, &self.id.into()).await?;
                    tokio::time::sleep(pause.next().unwrap_or(EMPTY_PAUSE)).await;
                    continue;
                }
                Err(Fault::Refused(_) | Fault::Foreign { .. } | Fault::Proxy { .. }) => {
                    show(Update::Switched("the events cannot be read; waiting for the end without them".to_owned()));
                    return self.end().await;
                }
                Err(fault @ (Fault::Unreachable { .. } | Fault::NoToken { .. })) => return Err(fault),
            };
            strikes = 0;
            let is_empty = page.events.is_empty();
            for value in page.events {
                match self.take(value, true, show) {
                    Some(StreamEnd::Complete(deployment)) => return Ok(*deployment),
                    Some(StreamEnd::Over) => return self.end().await,
                    Some(StreamEnd::Broken | StreamEnd::Mute) | None => {}
                }
            }
            if page.r#final && page.last <= self.after {
                return self.end().await;
            }
            if is_empty {
                tokio::time::sleep(EMPTY_PAUSE).await;
            }
        }
    }

    /// Waits for the end, without the events.
    async fn end(&self) -> Result<Deployment, Fault> {
        loop {
            match self.connection.completion(self.project, self.id, self.limits.window).await? {
                Completion::Final(deployment) => return Ok(*deployment),
                Completion::Still(_) => tokio::time::sleep(EMPTY_PAUSE).await,
            }
        }
    }
}

/// Why a stream's bytes ended.
#[derive(Debug)]
enum BodyFault {
    Mute,
    Broken,
    TooLarge,
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BodyFault::Mute => "the stream sends nothing",
            BodyFault::Broken => "the stream is broken",
            BodyFault::TooLarge => "the stream's event is too large",
        })
    }
}

impl std::error::Error for BodyFault {}

/// The bytes of a stream, with its time limits; `unread` counts the bytes of the block that is not complete yet.
fn timed(
    response: Response,
    limits: FollowLimits,
    unread: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Bytes, BodyFault>> {
    stream::unfold((response, limits.first_byte), move |(mut response, patience)| {
        let unread = Arc::clone(&unread);
        async move {
            let item = match tokio::time::timeout(patience, response.chunk()).await {
                Err(_) => Err(BodyFault::Mute),
                Ok(Err(_)) => Err(BodyFault::Broken),
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(chunk))) => {
                    // Keep-alives make no block, so what they leave here is counted until the next event: a few bytes
                    // every 15 s, which takes months to matter.
                    let so_far = unread.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len();
                    if so_far > limits.block_limit { Err(BodyFault::TooLarge) } else { Ok(chunk) }
                }
            };
            Some((item, (response, limits.silence)))
        }
    })
}
