//! The rules that a project's owner may set for its slot and its line.
//!
//! Policies come from the server's configuration and are handed to each decision as a value, so that a decision
//! can be replayed under another policy.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::freeze::Freeze;

/// Which deployments may stay in line behind the deployment that holds the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinePolicy {
    /// All, served in the order of arrival.
    #[default]
    All,
    /// All, the newest first: when a deployment starts, it supersedes every older one that still waits.
    Latest,
}

/// Whether a newcomer may cancel the running deployment to take its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preempt {
    /// Always.
    #[default]
    Allow,
    /// Never: newcomers wait.
    Never,
    /// At most this many times in a row; then one deployment must land before the next may be cancelled.
    #[serde(untagged)]
    Times {
        /// How many running deployments in a row may be superseded.
        times: u32,
    },
}

/// One project's rules for its slot and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which deployments may wait.
    pub line: LinePolicy,
    /// How many deployments may wait at once; the next one is refused with `LINE_FULL`.
    pub line_limit: u32,
    /// Whether newcomers may cancel the running deployment.
    pub preempt: Preempt,
    /// Whether the project is held for as long as the configuration says so.
    pub paused: bool,
    /// The times in which the project is held. Clones share them, because every decision has a copy of the rules.
    pub freezes: Arc<[Freeze]>,
}

impl Policy {
    /// Whether these rules ever hold the project.
    pub fn may_hold(&self) -> bool {
        self.paused || !self.freezes.is_empty()
    }
}

impl Default for Policy {
    fn default() -> Self {
        // Ten thousand waiting pipelines is the most that the load tests hold in one line.
        Policy {
            line: LinePolicy::All,
            line_limit: 10_000,
            preempt: Preempt::Allow,
            paused: false,
            freezes: Arc::default(),
        }
    }
}
