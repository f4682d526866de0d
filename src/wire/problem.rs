//! Errors on the wire: one body that speaks RFC 9457 and the stock client's dialect.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::RequestId;

/// The kind of an error, for programs. The code decides whether the same request may succeed later. `retryable` tells
/// that to clients that do not know the code; our own client goes by the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "each code's sentence is `title`")]
pub enum ErrorCode {
    BadRequest,
    UnknownParameter,
    InvalidParameter,
    InvalidBody,
    InvalidProject,
    UnknownPipeline,
    UnknownProject,
    Unauthorized,
    TokenRevoked,
    TokenExpired,
    TooManyAttempts,
    TokenNotAccepted,
    NoOidcRule,
    IssuerUnreachable,
    HostNotAllowed,
    ProxyNeedsTokens,
    ForbiddenOrigin,
    MissingScope,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    StillRunning,
    StillWaiting,
    NothingToDo,
    RequestTimeout,
    DeploymentInProgress,
    Outdated,
    DeadlinePassed,
    ProjectPaused,
    LineFull,
    PreemptionRefused,
    NotOlder,
    SuccessorGone,
    HolderChanged,
    HolderAlive,
    ProjectInUse,
    NoAgent,
    LeaseLost,
    TokenConflict,
    UploadOffset,
    UploadInProgress,
    ReportGap,
    ConfigInvalid,
    RollbackImpossible,
    SecretInputsGone,
    BodyTooLarge,
    UriTooLong,
    UnsupportedMediaType,
    KeyReused,
    ArtifactMissing,
    ArtifactMismatch,
    HeadersTooLarge,
    Internal,
    Unavailable,
    ShuttingDown,
    DiskFull,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [ErrorCode; 56] = [
        ErrorCode::BadRequest,
        ErrorCode::UnknownParameter,
        ErrorCode::InvalidParameter,
        ErrorCode::InvalidBody,
        ErrorCode::InvalidProject,
        ErrorCode::UnknownPipeline,
        ErrorCode::UnknownProject,
        ErrorCode::Unauthorized,
        ErrorCode::TokenRevoked,
        ErrorCode::TokenExpired,
        ErrorCode::TooManyAttempts,
        ErrorCode::TokenNotAccepted,
        ErrorCode::NoOidcRule,
        ErrorCode::IssuerUnreachable,
        ErrorCode::HostNotAllowed,
        ErrorCode::ProxyNeedsTokens,
        ErrorCode::ForbiddenOrigin,
        ErrorCode::MissingScope,
        ErrorCode::NotFound,
        ErrorCode::MethodNotAllowed,
        ErrorCode::NotAcceptable,
        ErrorCode::StillRunning,
        ErrorCode::StillWaiting,
        ErrorCode::NothingToDo,
        ErrorCode::RequestTimeout,
        ErrorCode::DeploymentInProgress,
        ErrorCode::Outdated,
        ErrorCode::DeadlinePassed,
        ErrorCode::ProjectPaused,
        ErrorCode::LineFull,
        ErrorCode::PreemptionRefused,
        ErrorCode::NotOlder,
        ErrorCode::SuccessorGone,
        ErrorCode::HolderChanged,
        ErrorCode::HolderAlive,
        ErrorCode::ProjectInUse,
        ErrorCode::NoAgent,
        ErrorCode::LeaseLost,
        ErrorCode::TokenConflict,
        ErrorCode::UploadOffset,
        ErrorCode::UploadInProgress,
        ErrorCode::ReportGap,
        ErrorCode::ConfigInvalid,
        ErrorCode::RollbackImpossible,
        ErrorCode::SecretInputsGone,
        ErrorCode::BodyTooLarge,
        ErrorCode::UriTooLong,
        ErrorCode::UnsupportedMediaType,
        ErrorCode::KeyReused,
        ErrorCode::ArtifactMissing,
        ErrorCode::ArtifactMismatch,
        ErrorCode::HeadersTooLarge,
        ErrorCode::Internal,
        ErrorCode::Unavailable,
        ErrorCode::ShuttingDown,
        ErrorCode::DiskFull,
    ];

    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::BadRequest
            | ErrorCode::UnknownParameter
            | ErrorCode::InvalidParameter
            | ErrorCode::InvalidBody
            | ErrorCode::InvalidProject
            | ErrorCode::UnknownPipeline => 400,
            ErrorCode::Unauthorized
            | ErrorCode::TokenRevoked
            | ErrorCode::TokenExpired
            | ErrorCode::TokenNotAccepted => 401,
            ErrorCode::TooManyAttempts => 429,
            ErrorCode::HostNotAllowed
            | ErrorCode::ProxyNeedsTokens
            | ErrorCode::ForbiddenOrigin
            | ErrorCode::NoOidcRule
            | ErrorCode::MissingScope => 403,
            ErrorCode::NotFound | ErrorCode::UnknownProject => 404,
            ErrorCode::MethodNotAllowed => 405,
            ErrorCode::NotAcceptable => 406,
            ErrorCode::StillRunning | ErrorCode::StillWaiting | ErrorCode::NothingToDo | ErrorCode::RequestTimeout => {
                408
            }
            ErrorCode::DeploymentInProgress
            | ErrorCode::Outdated
            | ErrorCode::DeadlinePassed
            | ErrorCode::ProjectPaused
            | ErrorCode::LineFull
            | ErrorCode::PreemptionRefused
            | ErrorCode::NotOlder
            | ErrorCode::SuccessorGone
            | ErrorCode::HolderChanged
            | ErrorCode::HolderAlive
            | ErrorCode::ProjectInUse
            | ErrorCode::NoAgent
            | ErrorCode::LeaseLost
            | ErrorCode::TokenConflict
            | ErrorCode::UploadOffset
            | ErrorCode::UploadInProgress
            | ErrorCode::ReportGap
            | ErrorCode::ConfigInvalid
            | ErrorCode::RollbackImpossible => 409,
            ErrorCode::BodyTooLarge => 413,
            ErrorCode::UriTooLong => 414,
            ErrorCode::UnsupportedMediaType => 415,
            ErrorCode::KeyReused
            | ErrorCode::ArtifactMissing
            | ErrorCode::ArtifactMismatch
            | ErrorCode::SecretInputsGone => 422,
            ErrorCode::HeadersTooLarge => 431,
            ErrorCode::Internal => 500,
            ErrorCode::Unavailable | ErrorCode::IssuerUnreachable | ErrorCode::ShuttingDown | ErrorCode::DiskFull => {
                503
            }
        }
    }

    /// The meaning of the code, the same for every occurrence.
    pub fn title(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "The request is malformed",
            ErrorCode::UnknownParameter => "The request has a parameter or field that is not known here",
            ErrorCode::InvalidParameter => "A parameter or header has a value that it cannot have",
            ErrorCode::InvalidBody => "The body is not what this route takes",
            ErrorCode::InvalidProject => "The project's name is not valid",
            ErrorCode::UnknownPipeline => "The project has no such pipeline",
            ErrorCode::UnknownProject => "The configuration has no such project, and no others are taken",
            ErrorCode::Unauthorized => "A valid token is needed",
            ErrorCode::TokenRevoked => "The token was revoked",
            ErrorCode::TokenExpired => "The token has expired",
            ErrorCode::TooManyAttempts => "Too many wrong tokens came from this address",
            ErrorCode::TokenNotAccepted => "The signed token is not one that this server takes",
            ErrorCode::NoOidcRule => "No rule lets this job in",
            ErrorCode::IssuerUnreachable => "The token cannot be checked now",
            ErrorCode::HostNotAllowed => "This server does not answer under that host name",
            ErrorCode::ProxyNeedsTokens => "A server without tokens takes nothing from a proxy",
            ErrorCode::MissingScope => "This token may not do that",
            ErrorCode::ForbiddenOrigin => "Pages of other sites may not call this server",
            ErrorCode::NotFound => "There is no such project, deployment or address",
            ErrorCode::MethodNotAllowed => "The route does not take this method",
            ErrorCode::NotAcceptable => "The route cannot answer in a form that was asked for",
            ErrorCode::StillRunning => "The deployment is not final yet",
            ErrorCode::StillWaiting => "The deployment is still in line",
            ErrorCode::NothingToDo => "There is no work for this agent yet",
            ErrorCode::RequestTimeout => "The request did not arrive in time",
            ErrorCode::DeploymentInProgress => "Another deployment holds the project's slot",
            ErrorCode::Outdated => "A newer build was deployed already",
            ErrorCode::DeadlinePassed => "The deadline passed while the deployment waited in line",
            ErrorCode::ProjectPaused => "The project takes no new deployments for now",
            ErrorCode::LineFull => "The project's line is full",
            ErrorCode::PreemptionRefused => "The project lets the running deployment finish",
            ErrorCode::NotOlder => "A deployment can only supersede older ones",
            ErrorCode::SuccessorGone => "The superseding deployment is not in line",
            ErrorCode::HolderChanged => "Another deployment holds the slot now",
            ErrorCode::HolderAlive => "The worker that holds the slot is alive",
            ErrorCode::ProjectInUse => "A deployment of the project runs or waits",
            ErrorCode::NoAgent => "No agent is connected that could run it",
            ErrorCode::LeaseLost => "The lease is not valid, or no longer valid",
            ErrorCode::TokenConflict => "The tokens that there are do not allow this",
            ErrorCode::UploadOffset => "The upload continues at another offset",
            ErrorCode::UploadInProgress => "The artifact is being uploaded at this moment",
            ErrorCode::ReportGap => "Reports before these are missing",
            ErrorCode::ConfigInvalid => "The configuration's file is wrong, and nothing has changed",
            ErrorCode::SecretInputsGone => "The values of secret inputs are not kept",
            ErrorCode::RollbackImpossible => "There is no such success to go back to",
            ErrorCode::BodyTooLarge => "The body is larger than this route takes",
            ErrorCode::UriTooLong => "The address is longer than 8 KiB",
            ErrorCode::UnsupportedMediaType => "The body's type or encoding is not one that this route takes",
            ErrorCode::KeyReused => "The idempotency key was used for another request",
            ErrorCode::ArtifactMissing => "The artifact is not on this server",
            ErrorCode::ArtifactMismatch => "The content does not match the artifact's digest",
            ErrorCode::HeadersTooLarge => "The headers are larger than 16 KiB",
            ErrorCode::Internal => "The server has a fault",
            ErrorCode::Unavailable => "The store is not available",
            ErrorCode::ShuttingDown => "The server is shutting down",
            ErrorCode::DiskFull => "The server's disk is full",
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(self) -> bool {
        match self {
            ErrorCode::StillRunning
            | ErrorCode::StillWaiting
            | ErrorCode::NothingToDo
            | ErrorCode::RequestTimeout
            | ErrorCode::DeploymentInProgress
            | ErrorCode::NoAgent
            | ErrorCode::TooManyAttempts
            | ErrorCode::LineFull
            | ErrorCode::ProjectPaused
            | ErrorCode::UploadInProgress
            | ErrorCode::IssuerUnreachable
            | ErrorCode::Unavailable
            | ErrorCode::ShuttingDown
            | ErrorCode::DiskFull => true,
            ErrorCode::BadRequest
            | ErrorCode::UnknownParameter
            | ErrorCode::InvalidParameter
            | ErrorCode::InvalidBody
            | ErrorCode::InvalidProject
            | ErrorCode::UnknownPipeline
            | ErrorCode::UnknownProject
            | ErrorCode::Unauthorized
            | ErrorCode::TokenRevoked
            | ErrorCode::TokenExpired
            | ErrorCode::TokenNotAccepted
            | ErrorCode::NoOidcRule
            | ErrorCode::HostNotAllowed
            | ErrorCode::ProxyNeedsTokens
            | ErrorCode::ForbiddenOrigin
            | ErrorCode::MissingScope
            | ErrorCode::NotFound
            | ErrorCode::MethodNotAllowed
            | ErrorCode::NotAcceptable
            | ErrorCode::Outdated
            | ErrorCode::DeadlinePassed
            | ErrorCode::PreemptionRefused
            | ErrorCode::NotOlder
            | ErrorCode::SuccessorGone
            | ErrorCode::HolderChanged
            | ErrorCode::HolderAlive
            | ErrorCode::ProjectInUse
            | ErrorCode::LeaseLost
            | ErrorCode::TokenConflict
            | ErrorCode::UploadOffset
            | ErrorCode::ReportGap
            | ErrorCode::ConfigInvalid
            | ErrorCode::RollbackImpossible
            | ErrorCode::SecretInputsGone
            | ErrorCode::BodyTooLarge
            | ErrorCode::UriTooLong
            | ErrorCode::UnsupportedMediaType
            | ErrorCode::KeyReused
            | ErrorCode::ArtifactMissing
            | ErrorCode::ArtifactMismatch
            | ErrorCode::HeadersTooLarge
            | ErrorCode::Internal => false,
        }
    }

    /// The code as it stands on the wire.
    pub fn as_text(self) -> String {
        // Unit variants serialize to a string, always.
        match serde_json::to_value(self) {
            Ok(Value::String(code)) => code,
            Ok(_) | Err(_) => String::new(),
        }
    }
}

/// An error body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// RFC 9457: names the kind of problem.
    pub r#type: String,
    /// RFC 9457: the meaning of the kind.
    pub title: Cow<'static, str>,
    /// RFC 9457: the HTTP status.
    pub status: u16,
    /// RFC 9457: what happened this time, and what to do.
    pub detail: String,
    /// RFC 9457: the path that was asked for.
    pub instance: String,
    /// The stock client's dialect: the HTTP status.
    pub status_code: u16,
    /// The stock client's dialect: the status in words.
    pub error: Cow<'static, str>,
    /// The stock client's dialect: `detail` again.
    pub message: String,
    /// The kind of the error, for programs.
    pub error_code: ErrorCode,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// By which the server's log names the request; `None` from an older server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// More members, by code.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Problem {
    /// A problem of this kind that reads `detail`, for the path `instance`.
    pub fn new(code: ErrorCode, detail: impl Into<String>, instance: impl Into<String>) -> Self {
        let detail = detail.into();
        let kind = code.as_text().to_ascii_lowercase().replace('_', "-");
        Problem {
            r#type: format!("urn:singletrack:problem:{kind}"),
            title: Cow::Borrowed(code.title()),
            status: code.status(),
            message: detail.clone(),
            detail,
            instance: instance.into(),
            status_code: code.status(),
            error: Cow::Borrowed(reason(code.status())),
            error_code: code,
            retryable: code.is_retryable(),
            request_id: None,
            extra: Map::new(),
        }
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        // The members that we add have our own types, which always have a JSON form.
        self.extra.insert(name.to_owned(), serde_json::to_value(value).unwrap_or(Value::Null));
        self
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}
