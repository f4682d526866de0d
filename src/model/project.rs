//! The counters of a project, beside its deployments: every decision about its slot needs them.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    hold::Pause,
    ids::{DeploymentId, ProjectName, Revision},
    mark::{BuildMark, SetMark, StartedOrder},
};

/// How many durations of past runs are remembered: enough for a steady p90, little enough to load with every decision.
pub const RECENT_RUNS_LIMIT: usize = 20;

/// The highest build number: every JSON reader reads it exactly.
pub const ORDER_LIMIT: u64 = (1 << 53) - 1;

/// A project's counters. They change only together with its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its name.
    pub name: ProjectName,
    /// The last revision that was given out.
    pub revision: Revision,
    /// How many deployments it ever had: the number of the last one. No number is given twice.
    pub deployment_count: u64,
    /// How many deployments wait in line.
    pub waiting_count: u64,
    /// The highest build number that was started since the mark was last set or removed, and the deployment that started
    /// with it. Nothing while `set_mark` is the mark.
    pub last_started: Option<StartedOrder>,
    /// The mark that somebody set, until an ordinary deployment starts that is as new.
    pub set_mark: Option<SetMark>,
    /// How many running deployments in a row were superseded before they could land.
    pub preempted_count: u32,
    /// Durations of the last successes, oldest first. Every decision about the slot copies them and few change them, so the
    /// copies are shared.
    pub recent_runs: Arc<Vec<RecentRun>>,
    /// The deployment that became final last, after having run.
    pub last_outcome: Option<DeploymentId>,
    /// The deployment that succeeded last: what is live.
    pub last_success: Option<DeploymentId>,
    /// The pause that somebody has set. One whose end has come does not hold any more, and is removed soon.
    pub pause: Option<Pause>,
}

/// How long one success took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentRun {
    /// The pipeline.
    pub pipeline: Arc<str>,
    /// From its start to its end, in milliseconds.
    pub duration_ms: u64,
}

/// How long something may still take, from the durations of past successes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Eta {
    /// 50 % of the runs take no longer.
    pub p50_seconds: u64,
    /// 90 % of the runs take no longer.
    pub p90_seconds: u64,
}

impl Project {
    /// A project without any history.
    pub fn new(name: ProjectName) -> Self {
        Project {
            name,
            revision: Revision(0),
            deployment_count: 0,
            waiting_count: 0,
            last_started: None,
            set_mark: None,
            preempted_count: 0,
            recent_runs: Arc::default(),
            last_outcome: None,
            last_success: None,
            pause: None,
        }
    }

    /// The build number of its mark.
    pub fn mark_order(&self) -> Option<u64> {
        let started = || self.last_started.as_ref().map(|started| started.order);
        self.set_mark.as_ref().map(|set| set.order).or_else(started)
    }

    /// Its mark: the one that somebody set, until an ordinary deployment starts that is as new.
    pub fn mark(&self) -> Option<BuildMark> {
        let started = || self.last_started.clone().map(BuildMark::Started);
        self.set_mark.clone().map(BuildMark::Set).or_else(started)
    }

    pub(super) fn remember_success(&mut self, pipeline: &str, started: Timestamp, ended: Timestamp) {
        let duration_ms = u64::try_from(ended.as_millisecond() - started.as_millisecond()).unwrap_or(0);
        let runs = Arc::make_mut(&mut self.recent_runs);
        if runs.len() == RECENT_RUNS_LIMIT {
            runs.remove(0);
        }
        let known = runs.iter().find(|run| *run.pipeline == *pipeline).map(|run| run.pipeline.clone());
        runs.push(RecentRun { pipeline: known.unwrap_or_else(|| pipeline.into()), duration_ms });
    }
}
