//! The wire: the messages between server and client. JSON in camelCase, times in RFC 3339 UTC with milliseconds.

#![warn(missing_docs)]

pub mod artifact;
pub mod ascii;
mod audit;
pub mod deployment;
pub mod event;
mod forget;
mod mark;
mod notification;
mod pause;
pub mod problem;
pub mod project;
mod redact;
pub mod reload;
pub mod rollback;
pub mod submit;
pub mod time;
pub mod token;
pub mod worker;

pub use artifact::ArtifactRef;
pub use audit::{AuditList, AuditRecord};
pub use deployment::{
    Deployment, DeploymentError, DeploymentList, DeploymentResult, FailedRollback, Rollback, mention, name, parts,
};
pub use event::{Event, EventData, EventsPage};
pub use forget::ForgetAnswer;
pub use mark::{MarkView, OrderAnswer, OrderRequest};
pub use notification::{NotificationList, NotificationView};
pub use pause::{PauseAnswer, PauseOutcome, PauseRequest, ResumeRequest};
pub use problem::{ErrorCode, Problem};
pub use project::{
    Plan, PlanChange, PlanOutcome, PlanPhase, PlanRefusal, ProjectList, ProjectSummary, ProjectView, ReleaseAnswer,
    ReleaseRequest,
};
pub use redact::{RedactAnswer, RedactRequest};
pub use reload::{ReloadAnswer, ReloadedProjects};
pub use rollback::RollbackRequest;
pub use submit::{Blocker, Blocking, CancelBody, Conflict, Liveness, OnConflict, Relation, SubmitRequest, Takes};
pub use token::{RevokeRequest, TokenCreated, TokenList, TokenRequest, TokenStatus, TokenView};
pub use worker::{
    Accepted, AgentView, ClaimRequest, Claimed, FinishError, FinishRequest, HeartbeatAnswer, LEASE_HEADER, Lease,
    ReportsAnswer, ReportsRequest,
};

/// The header that carries the status with a 408.
pub const STATUS_HEADER: &str = "singletrack-status";
/// The header that carries the request's id.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// The header that says that the answer was given before.
pub const REPLAYED_HEADER: &str = "idempotency-replayed";
/// The header that tells at which byte an upload goes on.
pub const OFFSET_HEADER: &str = "singletrack-upload-offset";
/// The header that carries a client's own name for a submit.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// The longest window of a long-poll, in seconds.
pub const MAX_WAIT_LIMIT_SECONDS: u64 = 60;
/// The window of a long-poll that names none, in seconds.
pub const MAX_WAIT_DEFAULT_SECONDS: u64 = 30;
