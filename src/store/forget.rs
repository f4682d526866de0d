//! Forgetting a project. See decision 0082.
//!
//! One small transaction takes the name away from the project's row and raises the floor of revisions above its own.
//! From then on, nobody finds the project, and one of that name begins anew. The upkeep removes the history, step by
//! step, and the row last.

use super::{BoxFuture, StoreError, audit::NewAuditLine};
use crate::model::{Changes, Project, ProjectName};

/// What became of a wish to forget a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgetOutcome {
    /// It is forgotten.
    Forgotten {
        /// How many deployments it had.
        deployment_count: u64,
    },
    /// A deployment has its slot, or waits.
    InUse,
    /// There is no such project.
    Unknown,
}

/// The call that forgets a project.
pub trait ForgetRoom: Send + Sync {
    /// Forgets a project, unless a deployment has its slot or waits. `line` goes into the audit log with it; the lines that
    /// are there stay.
    fn forget(&self, project: ProjectName, line: NewAuditLine) -> BoxFuture<'_, Result<ForgetOutcome, StoreError>>;
}

/// Sorts behind the rows of forgotten projects and before every name of a project.
pub(super) const BEFORE_ALL_NAMES: &str = "/~";

/// The changes by which those who watch learn that a project is gone.
pub(super) fn told(project: &ProjectName) -> Changes {
    Changes { project: Some(Project::new(project.clone())), is_pause_changed: true, ..Changes::default() }
}
