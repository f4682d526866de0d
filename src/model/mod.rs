//! The slot, the line, the lease and the deployment, and every rule about them: pure, without a store, a network or a
//! clock.

#![warn(missing_docs)]

pub mod admission;
pub mod bounds;
pub mod command;
pub mod deployment;
pub mod digest;
pub mod event;
pub mod forecast;
pub mod freeze;
pub mod glob;
pub mod go_back;
pub mod hint;
pub mod hold;
pub mod identity;
pub mod ids;
pub mod lease;
pub mod lifecycle;
pub mod limits;
pub mod mark;
pub mod mention;
mod notices;
pub mod notification;
pub mod order;
pub mod phase;
pub mod policy;
pub mod project;
pub mod request_id;
pub mod rollbacks;
pub mod slot;
pub mod token;

pub use command::{Command, Lapse, Refusal, Report, Verdict, Vital};
pub use deployment::{
    CancelCause, CancelRequest, Deployment, FailureCause, LogAccount, Outcome, Place, RunBy, Spec, State, Status,
    outcome_codes,
};
pub use digest::{Digest, InvalidDigest};
pub use event::{CANCEL_WAITS, CANNOT_BE_ENDED, Event, EventBody};
pub use glob::{Glob, InvalidGlob};
pub use hint::Hint;
pub use hold::{Hold, HoldKind, Pause, reason_of_all};
pub use identity::{Caller, Identity, InvalidScope, Party, Scope, Scopes};
pub use ids::{DeploymentId, IdempotencyKey, InvalidId, ProjectName, Revision};
pub use lease::{Lease, LeaseHolder, LeaseSecret, Pepper, SecretHash};
pub use lifecycle::Step;
pub use limits::Limits;
pub use mark::{BuildMark, SetMark, StartedOrder};
pub use mention::{DeploymentName, Mention, Named, Which};
pub use notices::notifications;
pub use notification::{NewNotification, NotificationEvent, NotificationId, NotificationRule, PauseDetail};
pub use phase::{PhaseState, Stream};
pub use policy::{LinePolicy, Policy, Preempt};
pub use project::{Eta, ORDER_LIMIT, Project, RecentRun};
pub use request_id::RequestId;
pub use rollbacks::{FailedRollback, Rollbacks, rollback_of};
pub use slot::{AuditEntry, Changes, Edges, LineLoad, Load, Loaded, Slot};
pub use token::{SessionSource, TokenId, TokenRecord, TokenRevocation};
