//! Parses path, query string and headers strictly: errors name unknown and repeated parameters.

use std::{borrow::Cow, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::{HeaderMap, Uri, header, request::Parts},
};

use super::{
    App,
    error::{ErrorAnswer, echo},
    guard::Grant,
};
use crate::{
    config::Since,
    model::{DeploymentId, DeploymentName, IdempotencyKey, ProjectName, bounds::TAIL_LINES},
    wire::{ErrorCode, IDEMPOTENCY_HEADER, MAX_WAIT_DEFAULT_SECONDS, MAX_WAIT_LIMIT_SECONDS},
};

/// The `{project}` of a path.
pub struct InProject(pub ProjectName);

/// The `{project}` and `{id}` of a path.
pub struct PathTarget {
    pub project: ProjectName,
    pub id: DeploymentId,
}

impl<S: Send + Sync> FromRequestParts<S> for InProject {
    type Rejection = ErrorAnswer;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorAnswer> {
        let path = path_params(parts, state).await?;
        Ok(InProject(project(&path, parts)?))
    }
}

impl FromRequestParts<Arc<App>> for PathTarget {
    type Rejection = ErrorAnswer;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ErrorAnswer> {
        let path = path_params(parts, app).await?;
        let project = project(&path, parts)?;
        // A malformed name is answered like a deployment that does not exist.
        let name: DeploymentName =
            param(&path, "id").and_then(|name| name.parse().ok()).ok_or_else(ErrorAnswer::not_found)?;
        let id = app.named(&project, &name).await?;
        Ok(PathTarget { project, id })
    }
}

/// The `{token}` of a path: a name or an id.
pub struct TokenTarget(pub String);

impl<S: Send + Sync> FromRequestParts<S> for TokenTarget {
    type Rejection = ErrorAnswer;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorAnswer> {
        let path = path_params(parts, state).await?;
        Ok(TokenTarget(param(&path, "token").unwrap_or_default().to_owned()))
    }
}

/// The window of a long-poll that has no other parameter.
///
/// Extractors parse what a parked poll needs and drop the rest, because a kept piece of the request keeps the whole
/// buffer that it was read into, on each of ten thousand connections.
pub struct MaxWait(pub Duration);

impl<S: Send + Sync> FromRequestParts<S> for MaxWait {
    type Rejection = ErrorAnswer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorAnswer> {
        Ok(MaxWait(Query::of(&parts.uri, &["maxWaitSeconds"])?.max_wait()?))
    }
}

/// Who calls, and what the caller may do.
impl<S: Send + Sync> FromRequestParts<S> for Grant {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Grant::of(&parts.extensions))
    }
}

/// A query string without parameters.
pub struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = ErrorAnswer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorAnswer> {
        Query::of(&parts.uri, &[]).map(|_| NoQuery)
    }
}

/// The events after which a client wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After the last `seq` that the client has.
    After(u64),
    /// At the end of the existing events.
    End {
        /// With the last so many lines of output.
        tail: Option<usize>,
        /// With the events since then.
        since: Option<Since>,
    },
}

/// How a client wants to read events, and from where.
pub enum Reading {
    /// As a stream.
    Stream {
        /// Where it begins.
        start: Start,
    },
    /// By long-poll.
    Poll {
        /// Where it begins.
        start: Start,
        window: Duration,
    },
}

impl<S: Send + Sync> FromRequestParts<S> for Reading {
    type Rejection = ErrorAnswer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorAnswer> {
        let is_stream = wants_event_stream(&parts.headers)?;
        let query = Query::of(&parts.uri, &["after", "tail", "since", "maxWaitSeconds"])?;
        let (start, window) = (start(&parts.headers, &query)?, query.max_wait()?);
        // Streams wait by themselves, so they have no window.
        Ok(if is_stream { Reading::Stream { start } } else { Reading::Poll { start, window } })
    }
}

async fn path_params<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<RawPathParams, ErrorAnswer> {
    RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| ErrorAnswer::new(ErrorCode::BadRequest, "the path is not valid UTF-8 after decoding"))
}

fn param<'a>(path: &'a RawPathParams, name: &str) -> Option<&'a str> {
    path.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The project, if the caller may see it. Otherwise it is answered as if it did not exist.
fn project(path: &RawPathParams, parts: &Parts) -> Result<ProjectName, ErrorAnswer> {
    let name = param(path, "project").unwrap_or_default();
    let named: ProjectName = name
        .parse()
        .map_err(|error| ErrorAnswer::new(ErrorCode::InvalidProject, format!("{error}, not '{}'", echo(name))))?;
    if Grant::of(&parts.extensions).projects.sees(&named) { Ok(named) } else { Err(ErrorAnswer::foreign(&named)) }
}

/// The parameters of a query string.
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Parses the query string of `uri`, which may contain only these parameters, each once.
    ///
    /// # Errors
    /// A parameter is unknown or repeated; the error names it.
    pub fn of(uri: &'a Uri, known: &[&str]) -> Result<Self, ErrorAnswer> {
        let pairs: Vec<_> = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect();
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&&**name) {
                let knows = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(ErrorAnswer::new(
                    ErrorCode::UnknownParameter,
                    format!("unknown query parameter '{}'; this route knows {knows}", echo(name)),
                ));
            }
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(ErrorAnswer::new(
                    ErrorCode::UnknownParameter,
                    format!("query parameter '{name}' is repeated"),
                ));
            }
        }
        Ok(Query(pairs))
    }

    /// Without the parameters that a form left empty.
    #[must_use]
    pub fn filled(mut self) -> Self {
        self.0.retain(|(_, value)| !value.trim().is_empty());
        self
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The value of a parameter that is a whole number within `range`.
    ///
    /// # Errors
    /// It is something else.
    pub fn number(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, ErrorAnswer> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = decimal(text).filter(|number| range.contains(number)).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            let upper = if *high == u64::MAX { String::new() } else { format!(" to {high}") };
            ErrorAnswer::new(
                ErrorCode::InvalidParameter,
                format!("{name} is a whole number from {low}{upper}, not '{}'", echo(text)),
            )
        })?;
        Ok(Some(number))
    }

    /// The value of a parameter that is `true` or `false`.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, name: &str) -> Result<bool, ErrorAnswer> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(ErrorAnswer::new(
                ErrorCode::InvalidParameter,
                format!("{name} is true or false, not '{}'", echo(other)),
            )),
        }
    }

    /// The value of `since`.
    ///
    /// # Errors
    /// It is neither a duration nor a time.
    pub fn since(&self) -> Result<Option<Since>, ErrorAnswer> {
        let Some(text) = self.get("since") else { return Ok(None) };
        let refused = |why| ErrorAnswer::new(ErrorCode::InvalidParameter, format!("since is '{}': {why}", echo(text)));
        text.parse().map(Some).map_err(refused)
    }

    /// The window of a long-poll.
    ///
    /// # Errors
    /// It is not a whole number of seconds from 0 to 60.
    pub fn max_wait(&self) -> Result<Duration, ErrorAnswer> {
        let seconds = self.number("maxWaitSeconds", 0..=MAX_WAIT_LIMIT_SECONDS)?;
        Ok(Duration::from_secs(seconds.unwrap_or(MAX_WAIT_DEFAULT_SECONDS)))
    }
}

/// Where to begin: after `Last-Event-ID`, which a browser sends by itself when it reconnects, or else as the query
/// says.
fn start(headers: &HeaderMap, query: &Query<'_>) -> Result<Start, ErrorAnswer> {
    let tail = query.number("tail", 0..=TAIL_LINES as u64)?.map(|tail| usize::try_from(tail).unwrap_or(usize::MAX));
    let since = query.since()?;
    let after = query.number("after", 0..=u64::MAX)?;
    let begin = match (after, tail, since) {
        (after, None, None) => Start::After(after.unwrap_or(0)),
        (None, tail, since) => Start::End { tail, since },
        (Some(_), _, _) => {
            return Err(ErrorAnswer::new(
                ErrorCode::InvalidParameter,
                "after says where to begin, and so do tail and since: leave one or the other out",
            ));
        }
    };
    let mut ids = headers.get_all("last-event-id").iter();
    match (ids.next(), ids.next()) {
        (None, _) => Ok(begin),
        // A browser sends an empty one if the stream gave it none.
        (Some(id), None) if id.is_empty() => Ok(begin),
        (Some(id), None) => id.to_str().ok().and_then(decimal).map(Start::After).ok_or_else(|| {
            ErrorAnswer::new(ErrorCode::InvalidParameter, "Last-Event-ID is the number of an event of this deployment")
        }),
        (Some(_), Some(_)) => Err(ErrorAnswer::new(ErrorCode::InvalidParameter, "Last-Event-ID is given twice")),
    }
}

/// The idempotency key, if there is one.
///
/// # Errors
/// It is malformed, or given twice.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ErrorAnswer> {
    let mut keys = headers.get_all(IDEMPOTENCY_HEADER).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(key), None) => {
            let key = key.to_str().unwrap_or_default();
            let key = key.parse().map_err(|error| ErrorAnswer::new(ErrorCode::InvalidParameter, format!("{error}")))?;
            Ok(Some(key))
        }
        (Some(_), Some(_)) => Err(ErrorAnswer::new(ErrorCode::InvalidParameter, "Idempotency-Key is given twice")),
    }
}

/// Whether the client prefers Server-Sent Events to JSON. If it accepts both alike, the type that it names explicitly
/// is used.
pub fn wants_event_stream(headers: &HeaderMap) -> Result<bool, ErrorAnswer> {
    let accepts: Vec<&str> = headers.get_all(header::ACCEPT).iter().map(|value| value.to_str().unwrap_or("")).collect();
    if accepts.is_empty() {
        return Ok(false);
    }
    let ranges: Vec<_> = accepts.iter().flat_map(|accept| accept.split(',')).map(media_range).collect();
    let (stream, is_named) = quality(&ranges, "text", "event-stream");
    let (json, _) = quality(&ranges, "application", "json");
    if stream > json || (is_named && stream > 0.0 && stream == json) {
        return Ok(true);
    }
    if json > 0.0 {
        return Ok(false);
    }
    Err(ErrorAnswer::new(ErrorCode::NotAcceptable, "events come as text/event-stream or as application/json"))
}

/// A range of media types in lower case, and its weight from 0 to 1.
fn media_range(text: &str) -> (String, f32) {
    let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
    let range = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.strip_prefix("q=").map(str::to_owned));
    (range, quality.and_then(|quality| quality.parse().ok()).unwrap_or(1.0))
}

/// The weight of a media type, by the most specific range that matches, and whether that range names the type.
fn quality(ranges: &[(String, f32)], kind: &str, subtype: &str) -> (f32, bool) {
    let of = |wanted: &str| ranges.iter().find(|(range, _)| range == wanted).map(|(_, quality)| *quality);
    match of(&format!("{kind}/{subtype}")) {
        Some(quality) => (quality, true),
        None => (of(&format!("{kind}/*")).or_else(|| of("*/*")).unwrap_or(0.0), false),
    }
}

/// A number in plain digits: no sign, no blank.
pub fn decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}
