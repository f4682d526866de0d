//! Removes artifacts that nobody needs any more: those that were not wanted for long, and the oldest when there are too
//! many. What a deployment that is not final runs, or one of the last of each project ran, is never removed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Depot, DepotError, KeptArtifact};
use crate::{
    config::Artifacts,
    health::{Pulse, Task},
    store::{Store, StoreError},
};

/// How often it looks.
const TICK: Duration = Duration::from_secs(10 * 60);
/// How it is supervised: a look may have many files to remove.
pub const TASK: Task = Task::new("retention", Duration::from_secs(10 * 60));
/// Of servers that share their artifacts, the next one to look does so this long after the last one.
const SHARED_PAUSE: Duration = Duration::from_secs(9 * 60);
/// How long a copy of what the store has stays: a pipeline that runs often needs it often.
const COPY_KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// Of how many deployments of each project the artifacts stay, for a redeploy.
const REDEPLOY_COUNT: usize = 10;
/// How long an unfinished upload stays: a client comes back within its own time-out, which is at most a day.
const PARTIAL_KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// What was wanted within this time is not removed: a submit may be on its way.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// How long what deployments need is known for uploads: shorter than [`FRESH`] by far.
const NEEDED_KEEP: Duration = Duration::from_secs(60);
/// Projects are read in pages of so many.
const PAGE_LIMIT: usize = 100;

/// What deployments needed at a moment.
struct NeededArtifacts {
    at: Instant,
    digests: Arc<HashSet<String>>,
}

/// Decides which artifacts stay.
#[derive(Clone)]
pub struct Retention {
    depot: Depot,
    store: Arc<dyn Store>,
    rules: Artifacts,
    /// What deployments needed when that was looked for last.
    last_needed: Arc<tokio::sync::Mutex<Option<NeededArtifacts>>>,
}

impl Retention {
    /// The rules for a depot and the deployments that use it.
    pub fn new(depot: Depot, store: Arc<dyn Store>, rules: Artifacts) -> Self {
        Retention { depot, store, rules, last_needed: Arc::default() }
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
    pub async fn run(self, pulse: Pulse, shutdown: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = pulse.resting(ticks.tick()) => {}
            }
            pulse.beat();
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "unneeded artifacts could not be removed");
            }
        }
    }

    async fn look(&self) -> Result<(), DepotError> {
        self.remove_copies().await?;
        if self.depot.is_retention_due(SHARED_PAUSE).await? {
            self.remove_unneeded().await?;
            self.depot.sweep().await?;
        }
        Ok(())
    }

    /// Removes copies that were not needed for long, and the oldest where there are too many.
    async fn remove_copies(&self) -> Result<(), DepotError> {
        let mut copies = self.depot.copies().await?;
        let mut total = copies.iter().map(|copy| copy.bytes).sum::<u64>();
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.unwanted_for));
        for copy in copies {
            let is_too_much = total > self.rules.max_total_bytes && copy.unwanted_for > FRESH;
            let bytes = copy.bytes;
            if (is_too_much || copy.unwanted_for > COPY_KEEP) && self.depot.remove(copy).await? {
                total -= bytes;
            }
        }
        Ok(())
    }

    /// Removes what is old, and the oldest where there is too much.
    async fn remove_unneeded(&self) -> Result<(), DepotError> {
        let kept = self.depot.kept().await?;
        let total = kept.iter().map(|kept| kept.bytes).sum::<u64>();
        if total <= self.rules.max_total_bytes && !kept.iter().any(|kept| self.is_old(kept)) {
            return Ok(());
        }
        let needed = self.needed(Duration::ZERO).await?;
        self.remove(kept, total, 0, &needed).await?;
        Ok(())
    }

    /// Removes what may go until there is `room` for so many bytes. Answers whether there is.
    ///
    /// Each upload asks for it, so it costs little: nothing is looked for where there is room, nor where all that may go
    /// would not be enough, and what deployments need is looked for once a minute at most.
    ///
    /// # Errors
    /// The store or the disk; then nothing more is removed.
    pub async fn make_room(&self, room: u64) -> Result<bool, DepotError> {
        let kept = self.depot.kept().await?;
        let total = kept.iter().map(|kept| kept.bytes).sum::<u64>();
        if total.saturating_add(room) <= self.rules.max_total_bytes {
            return Ok(true);
        }
        let stays = kept.iter().filter(|kept| kept.unwanted_for <= FRESH).map(|kept| kept.bytes).sum::<u64>();
        if stays.saturating_add(room) > self.rules.max_total_bytes {
            return Ok(false);
        }
        let needed = self.needed(NEEDED_KEEP).await?;
        let total = self.remove(kept, total, room, &needed).await?;
        Ok(total.saturating_add(room) <= self.rules.max_total_bytes)
    }

    fn is_old(&self, kept: &KeptArtifact) -> bool {
        let keep = if kept.is_whole { self.rules.keep } else { PARTIAL_KEEP.min(self.rules.keep) };
        kept.unwanted_for > keep.max(FRESH)
    }

    /// Removes what is old, and more until there is `room`. Answers how much there is then.
    async fn remove(
        &self,
        mut kept: Vec<KeptArtifact>,
        mut total: u64,
        room: u64,
        needed: &HashSet<String>,
    ) -> Result<u64, DepotError> {
        let fits = |total: u64| total.saturating_add(room) <= self.rules.max_total_bytes;
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.unwanted_for));
        for kept in kept {
            let may_go = self.is_old(&kept) || (!fits(total) && kept.unwanted_for > FRESH);
            if may_go && !needed.contains(kept.digest.as_str()) && self.depot.remove(kept.clone()).await? {
                tracing::info!(artifact = %kept.digest, bytes = kept.bytes, "removed an artifact");
                total -= kept.bytes;
            }
        }
        Ok(total)
    }

    /// What deployments need, or needed at most so long ago. A deployment that came since has wanted its artifact since,
    /// which is too fresh to be removed then.
    async fn needed(&self, at_most_ago: Duration) -> Result<Arc<HashSet<String>>, StoreError> {
        let mut last = self.last_needed.lock().await;
        if let Some(needed) = &*last
            && needed.at.elapsed() < at_most_ago
        {
            return Ok(needed.digests.clone());
        }
        let at = Instant::now();
        let digests = Arc::new(self.look_for_needed().await?);
        *last = Some(NeededArtifacts { at, digests: digests.clone() });
        Ok(digests)
    }

    async fn look_for_needed(&self) -> Result<HashSet<String>, StoreError> {
        let mut needed = HashSet::new();
        let mut after = None;
        loop {
            let page = self.store.projects(after, PAGE_LIMIT).await?;
            let is_last = page.len() < PAGE_LIMIT;
            after = page.last().map(|(name, _)| name.clone());
            for (project, _) in page {
                needed.extend(self.store.artifacts_of(project, REDEPLOY_COUNT).await?);
            }
            if is_last {
                return Ok(needed);
            }
        }
    }
}
