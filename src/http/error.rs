//! The one mapping from errors to HTTP.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    model::{BuildMark, Caller, Identity, ProjectName, RequestId, admission::Rejection, bounds},
    queue::WorkerError,
    store::StoreError,
    watch::WatchError,
    wire::{ErrorCode, MarkView, PlanRefusal, Problem, REQUEST_ID_HEADER, ascii},
};

/// How many characters of raw input are shown.
const ECHO_LIMIT: usize = 64;

/// An error that is about to be answered.
#[derive(Clone, Debug)]
pub struct ErrorAnswer {
    code: ErrorCode,
    detail: String,
    extra: Map<String, Value>,
    /// The project that is there, perhaps, and that the caller may not see.
    foreign: Option<ProjectName>,
    /// Who was refused, where the door knows it.
    caller: Option<Arc<Identity>>,
}

/// What an answer tells besides its body.
#[derive(Debug, Default)]
pub struct RenderedError {
    /// The error's code.
    pub code: Option<ErrorCode>,
    /// The project that the caller may not see.
    pub foreign: Option<ProjectName>,
    /// Who was refused, where the door knows it.
    pub caller: Option<Arc<Identity>>,
}

/// An error that a screen shows in its own words. The answer has its body.
#[derive(Clone, Debug)]
pub struct ShownError(pub ErrorAnswer);

impl RenderedError {
    fn of(failure: &mut ErrorAnswer) -> Self {
        RenderedError { code: Some(failure.code), foreign: failure.foreign.take(), caller: failure.caller.take() }
    }
}

impl ErrorAnswer {
    /// An error with this code.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        ErrorAnswer { code, detail: detail.into(), extra: Map::new(), foreign: None, caller: None }
    }

    /// Notes who is refused.
    #[must_use]
    pub fn to(self, caller: &Caller) -> Self {
        ErrorAnswer { caller: Some(caller.identity.clone()), ..self }
    }

    /// Adds a member to the body.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        // The members that we add are types of our own, so they always have a JSON form.
        self.extra.insert(name.to_owned(), serde_json::to_value(value).unwrap_or(Value::Null));
        self
    }

    /// Adds the members of a structure to the body.
    #[must_use]
    pub fn with_all(mut self, members: impl Serialize) -> Self {
        if let Ok(Value::Object(members)) = serde_json::to_value(members) {
            self.extra.extend(members);
        }
        self
    }

    /// The kind of this error.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// What happened, and what to do.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// After how long to try again, if there were too many attempts.
    pub fn retry_after(&self) -> Option<HeaderValue> {
        (self.code == ErrorCode::TooManyAttempts).then(|| retry_after(&self.extra))
    }

    /// The same error, with more to say.
    #[must_use]
    pub fn adding(mut self, more: &str) -> Self {
        self.detail.push_str(more);
        self
    }

    /// This error as a plan shows it.
    pub fn planned(self) -> PlanRefusal {
        PlanRefusal { error_code: self.code, message: self.detail, retryable: self.code.is_retryable() }
    }

    /// The answer about a project that the caller may not see: as if it did not exist.
    pub fn foreign(project: &ProjectName) -> Self {
        ErrorAnswer { foreign: Some(project.clone()), ..ErrorAnswer::not_found() }
    }

    /// Not found. The words are the same whatever is missing, so that no answer tells one project's client about
    /// another project.
    pub fn not_found() -> Self {
        ErrorAnswer::new(
            ErrorCode::NotFound,
            "there is no such project or deployment on this server, retention has removed it, or this token may not see it",
        )
    }
}

impl IntoResponse for ErrorAnswer {
    /// Only the status. [`render`] adds the body, because only its caller has the request and so the path.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The server drains: it takes no new deployments.
pub fn draining() -> ErrorAnswer {
    Rejection::Draining.into()
}

/// Makes a screen of an error; `None` if that fails.
pub type ScreenOf = fn(&ErrorAnswer, &RequestId) -> Option<Response>;

/// Gives an answer the request's id, and an error its body: a screen where a person's browser asked. Returns what else the
/// error tells.
pub fn render(
    path: &str,
    request: &RequestId,
    mut response: Response,
    screen_of: Option<ScreenOf>,
) -> (Response, RenderedError) {
    let failure = response.extensions_mut().remove::<ErrorAnswer>();
    let mut told = RenderedError::default();
    if let Some(ShownError(mut shown)) = response.extensions_mut().remove() {
        told = RenderedError::of(&mut shown);
    }
    if let Some(mut failure) = failure {
        told = RenderedError::of(&mut failure);
        let screen = screen_of.and_then(|screen_of| screen_of(&failure, request));
        response = screen.unwrap_or_else(|| with_body(path, request, failure, response));
    }
    if let Ok(id) = HeaderValue::try_from(request.to_string()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, id);
    }
    (response, told)
}

/// After how long a client that was refused for too many attempts may try again.
fn retry_after(extra: &Map<String, Value>) -> HeaderValue {
    HeaderValue::from(extra.get("retryAfterSeconds").and_then(Value::as_u64).unwrap_or(1))
}

fn with_body(path: &str, request: &RequestId, failure: ErrorAnswer, response: Response) -> Response {
    let ErrorAnswer { code, detail, extra, foreign: _, caller: _ } = failure;
    // Any other status means that the path was parsed, so it contains only our own text by then.
    let instance = if matches!(code.status(), 400..=405 | 414 | 431) { echo(path) } else { path.to_owned() };
    let mut problem = Problem::new(code, detail, instance);
    problem.request_id = Some(request.clone());
    problem.extra = extra;
    let body = ascii::to_vec(&problem).unwrap_or_default();
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match code.status() {
        503 => _ = parts.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
        429 => _ = parts.headers.insert(header::RETRY_AFTER, retry_after(&problem.extra)),
        401 => _ = parts.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        408 => {
            let status = problem.extra.get("deployment").and_then(|deployment| deployment.get("status"));
            if let Some(status) = status.and_then(Value::as_str).and_then(|status| HeaderValue::from_str(status).ok()) {
                parts.headers.insert(crate::wire::STATUS_HEADER, status);
            }
        }
        _ => {}
    }
    Response::from_parts(parts, body.into())
}

/// User input, safe to show: at most 64 characters, controls and non-ASCII escaped.
pub fn echo(input: &str) -> String {
    let mut shown = String::new();
    for c in input.chars() {
        let before = shown.len();
        match c {
            ' '..='~' => shown.push(c),
            // Writing to a string cannot fail.
            _ => _ = write!(shown, "\\u{{{:x}}}", u32::from(c)),
        }
        if shown.len() > ECHO_LIMIT {
            shown.truncate(before);
            shown.push('…');
            break;
        }
    }
    shown
}

impl From<StoreError> for ErrorAnswer {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => {
                tracing::error!(error = %why, "the store did not answer");
                ErrorAnswer::new(ErrorCode::Unavailable, "the store is not available; try again")
            }
            StoreError::Unknown(why) => {
                tracing::error!(error = %why, "the store did not say whether it was done");
                ErrorAnswer::new(
                    ErrorCode::Unavailable,
                    "the store did not confirm the change; try again with the same key, or check the status",
                )
            }
            StoreError::Refused(why) => {
                tracing::error!(error = %why, "the store cannot keep what a request brings");
                ErrorAnswer::new(
                    ErrorCode::InvalidBody,
                    "the store cannot keep what this request brings, and would refuse it again; see the server's log",
                )
            }
            StoreError::Full => {
                ErrorAnswer::new(ErrorCode::DiskFull, "the server's disk is full; free some space there")
            }
            StoreError::Unusable(why) => {
                tracing::error!(error = %why, "the store cannot be used");
                ErrorAnswer::new(ErrorCode::Unavailable, "the store cannot be used; see the server's log")
            }
        }
    }
}

impl From<WatchError> for ErrorAnswer {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::NotFound => ErrorAnswer::not_found(),
            WatchError::AheadOfEnd { last } => ErrorAnswer::new(
                ErrorCode::InvalidParameter,
                format!("the cursor is ahead of the deployment's last event, which is {last}"),
            )
            .with("last", last),
            WatchError::Store(error) => error.into(),
        }
    }
}

impl From<WorkerError> for ErrorAnswer {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::NotFound => ErrorAnswer::not_found(),
            WorkerError::LeaseLost => ErrorAnswer::new(
                ErrorCode::LeaseLost,
                "the lease is not, or no longer, this deployment's; stop what runs under it",
            ),
            WorkerError::OutputsFull => {
                let (count, bytes) = (bounds::OUTPUTS, bounds::OUTPUTS_BYTES);
                ErrorAnswer::new(
                    ErrorCode::InvalidBody,
                    format!(
                        "a deployment has at most {count} outputs, whose names and values are {bytes} bytes together; \
                         keep what is larger elsewhere, and its address as an output"
                    ),
                )
            }
            WorkerError::ReportGap { last } => ErrorAnswer::new(
                ErrorCode::ReportGap,
                format!("the last report that is recorded is number {last}; send from the next one on"),
            )
            .with("last", last),
            WorkerError::Store(error) => error.into(),
        }
    }
}

impl From<Rejection> for ErrorAnswer {
    fn from(rejection: Rejection) -> Self {
        let hint = match &rejection {
            Rejection::ArtifactMissing { digest } => &format!("; upload it first: PUT /v1/artifacts/{digest}"),
            Rejection::Outdated { newer, .. } => match &**newer {
                BuildMark::Started(_) => "; deploy a newer build, or declare a rollback",
                BuildMark::Set(set) => &format!("; deploy build {} or a newer one, or declare a rollback", set.order),
            },
            Rejection::NotTheNewest { .. } => "; wait for your turn",
            Rejection::DeadlinePassed => "; submit again with a new key and a longer deadline",
            Rejection::Unmade => "; correct it",
            Rejection::Paused(_) => "; wait in line, or deploy when that is over",
            Rejection::SuccessorHeld(_) => "; wait for your turn",
            Rejection::LineFull { .. } => "; try again later",
            Rejection::KeyReused => "; use a new key for a new request",
            Rejection::PreemptionRefused => "; wait for your turn",
            Rejection::NoAgent { .. } => "; start it, or submit again when it is back",
            Rejection::NotOlder | Rejection::SuccessorGone => "; ask for your own place in line",
            Rejection::Draining => "; ask again: another server answers, or this one when it has started again",
        };
        let code = match &rejection {
            Rejection::Outdated { .. } | Rejection::NotTheNewest { .. } => ErrorCode::Outdated,
            Rejection::DeadlinePassed => ErrorCode::DeadlinePassed,
            Rejection::Unmade => ErrorCode::InvalidBody,
            Rejection::Paused(_) => ErrorCode::ProjectPaused,
            Rejection::LineFull { .. } => ErrorCode::LineFull,
            Rejection::KeyReused => ErrorCode::KeyReused,
            Rejection::PreemptionRefused | Rejection::SuccessorHeld(_) => ErrorCode::PreemptionRefused,
            Rejection::NoAgent { .. } => ErrorCode::NoAgent,
            Rejection::ArtifactMissing { .. } => ErrorCode::ArtifactMissing,
            Rejection::NotOlder => ErrorCode::NotOlder,
            Rejection::SuccessorGone => ErrorCode::SuccessorGone,
            Rejection::Draining => ErrorCode::ShuttingDown,
        };
        let answer = ErrorAnswer::new(code, format!("{rejection}{hint}"));
        match rejection {
            Rejection::Paused(hold) | Rejection::SuccessorHeld(hold) => answer.with("hold", hold),
            Rejection::Outdated { newer, .. } => answer.with("mark", MarkView::from(*newer)),
            _ => answer,
        }
    }
}
