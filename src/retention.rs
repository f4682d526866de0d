//! Removes artifacts that nobody needs any more: those that were not wanted for long, and the oldest when there are too
//! many. What a deployment that is not final runs, or one of the last of each project ran, is never removed.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    artifact::{Depot, Kept},
    config::Artifacts,
    model::{ProjectName, Status},
    store::{ListQuery, Store, StoreError},
};

/// How often it looks.
const TICK: Duration = Duration::from_secs(10 * 60);
/// Of how many deployments of each project the artifacts stay, for a redeploy.
const REDEPLOY_COUNT: usize = 10;
/// How long an unfinished upload stays: a client comes back within its own time-out, which is at most a day.
const PARTIAL_KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// What was wanted within this time is not removed: a submit may be on its way.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// Projects and deployments are read in pages of so many.
const PAGE_LIMIT: usize = 100;

/// Why it could not look.
#[derive(Debug, Error)]
pub enum RetentionError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk.
    #[error("the artifacts' directory: {0}")]
    Disk(#[from] std::io::Error),
}

/// Decides which artifacts stay.
#[derive(Clone)]
pub struct Retention {
    depot: Depot,
    store: Arc<dyn Store>,
    rules: Artifacts,
}

impl Retention {
    /// The rules for a depot and the deployments that use it.
    pub fn new(depot: Depot, store: Arc<dyn Store>, rules: Artifacts) -> Self {
        Retention { depot, store, rules }
    }

    /// The depot.
    pub fn depot(&self) -> &Depot {
        &self.depot
    }

    /// The rules.
    pub fn rules(&self) -> &Artifacts {
        &self.rules
    }

    /// Looks now and then until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.tick(SystemTime::now(), 0).await {
                tracing::warn!(%error, "unneeded artifacts could not be removed");
            }
        }
    }

    /// Removes what may go, and more of it until there is `room` for so many bytes. Answers whether there is.
    ///
    /// # Errors
    /// The store or the disk; then nothing more is removed.
    pub async fn tick(&self, now: SystemTime, room: u64) -> Result<bool, RetentionError> {
        let mut kept = self.kept().await?;
        let mut total = kept.iter().map(|kept| kept.bytes).sum::<u64>();
        let fits = |total: u64| total.saturating_add(room) <= self.rules.max_total_bytes;
        let is_old = |kept: &Kept| {
            let keep = if kept.is_whole { self.rules.keep } else { PARTIAL_KEEP.min(self.rules.keep) };
            age(kept, now) > keep.max(FRESH)
        };
        if fits(total) && !kept.iter().any(is_old) {
            return Ok(true);
        }
        let needed = self.needed().await?;
        kept.sort_by_key(|kept| kept.wanted_at);
        for kept in kept {
            let may_go = is_old(&kept) || (!fits(total) && age(&kept, now) > FRESH);
            if may_go && !needed.contains(kept.digest.as_str()) {
                let (depot, gone) = (self.depot.clone(), kept.clone());
                if blocking(move || depot.remove(&gone)).await? {
                    tracing::info!(artifact = %kept.digest, bytes = kept.bytes, "removed an artifact");
                    total -= kept.bytes;
                }
            }
        }
        Ok(fits(total))
    }

    async fn kept(&self) -> Result<Vec<Kept>, RetentionError> {
        let depot = self.depot.clone();
        Ok(blocking(move || depot.kept()).await?)
    }

    /// What deployments need.
    async fn needed(&self) -> Result<HashSet<String>, StoreError> {
        let mut needed = HashSet::new();
        let mut after = None;
        loop {
            let page = self.store.projects(after, PAGE_LIMIT).await?;
            let is_last = page.len() < PAGE_LIMIT;
            after = page.last().map(|state| state.project.name.clone());
            for state in page {
                let project = state.project.name;
                self.add(&mut needed, &project, None, REDEPLOY_COUNT).await?;
                for status in [Status::Pending, Status::Running] {
                    self.add(&mut needed, &project, Some(status), usize::MAX).await?;
                }
            }
            if is_last {
                return Ok(needed);
            }
        }
    }

    /// Adds the artifacts of a project's newest deployments.
    async fn add(
        &self,
        needed: &mut HashSet<String>,
        project: &ProjectName,
        status: Option<Status>,
        mut left: usize,
    ) -> Result<(), StoreError> {
        let mut before = None;
        loop {
            let limit = left.min(PAGE_LIMIT);
            let page = self.store.list(project.clone(), ListQuery { status, before, limit }).await?;
            left -= page.len();
            before = page.last().map(|deployment| deployment.ticket);
            let is_last = page.len() < limit || left == 0;
            needed.extend(page.into_iter().filter_map(|deployment| deployment.spec.artifact));
            if is_last {
                return Ok(());
            }
        }
    }
}

fn age(kept: &Kept, now: SystemTime) -> Duration {
    now.duration_since(kept.wanted_at).unwrap_or_default()
}

/// Does what waits for the disk elsewhere.
pub async fn blocking<T: Send + 'static, E: From<std::io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(std::io::Error::other(error).into()),
    }
}
