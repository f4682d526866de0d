//! The rules that a project's owner may set for its slot and its line, and the time limits that leases obey. See
//! decision 0004.
//!
//! Policies come from the server's configuration and are handed to each decision as a value, so that a decision
//! can be replayed under another policy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Which deployments may wait.
    pub line: LinePolicy,
    /// How many deployments may wait at once; the next one is refused with `LINE_FULL`.
    pub line_limit: u32,
    /// Whether newcomers may cancel the running deployment.
    pub preempt: Preempt,
    /// Whether new deployments are refused. Deployments that are already in line are still served.
    pub paused: bool,
}

impl Default for Policy {
    fn default() -> Self {
        // Ten thousand waiting pipelines is the most that the load tests hold in one line.
        Policy { line: LinePolicy::All, line_limit: 10_000, preempt: Preempt::Allow, paused: false }
    }
}

/// The time limits of leases and hand-offs. Letters in brackets are those that the design uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a lease lasts after the last heartbeat that was answered (L).
    pub lease: Duration,
    /// How often a worker sends a heartbeat (H), a sixth of the lease by default.
    pub heartbeat: Duration,
    /// How long before its deadline a worker that cannot renew its lease begins to stop its child (K).
    pub kill_budget: Duration,
    /// How long the reaper waits past the lease before it frees the slot (D).
    pub lock_delay: Duration,
    /// How long a cancelled command may take to stop after SIGTERM before it is killed (G).
    pub cancel_grace: Duration,
    /// How long the slot is kept for a ticket whose turn has come (T).
    pub reserve: Duration,
    /// How long a ticket lives after its client's last poll ended.
    pub attendance: Duration,
    /// How long a deployment that holds the slot may wait for a worker.
    pub unclaimed: Duration,
    /// The slow poll that stands behind every wake-up (P).
    pub fallback_poll: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            lease: Duration::from_secs(60),
            heartbeat: Duration::from_secs(10),
            kill_budget: Duration::from_secs(10),
            lock_delay: Duration::from_secs(15),
            cancel_grace: Duration::from_secs(30),
            reserve: Duration::from_secs(10),
            attendance: Duration::from_secs(45),
            unclaimed: Duration::from_secs(60),
            fallback_poll: Duration::from_secs(1),
        }
    }
}
