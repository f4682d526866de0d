//! The phases of a deployment, as its events name them.

use serde::{Deserialize, Serialize};

/// The state of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PhaseState {
    /// It runs.
    Started,
    /// Its work succeeded.
    Succeeded,
    /// It did not.
    Failed,
    /// It was not run, since an earlier one failed or was cancelled.
    Skipped,
    /// The phase's rollback runs.
    RollingBack,
    /// The phase's rollback succeeded.
    RolledBack,
    /// The phase's rollback failed.
    RollbackFailed,
}

/// Which output of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
