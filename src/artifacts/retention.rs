//! Removes artifacts that are not needed any more: those that were not wanted for long, and the oldest when there are
//! too many. An artifact is never removed while a deployment that is not final runs it, or one of the last deployments
//! of each project ran it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Depot, DepotError, KeptArtifact};
use crate::{
    config::{Artifacts, LiveConfig},
    health::{Pulse, Task},
    model::Digest,
    store::{Store, StoreError},
};

/// How often it looks.
const TICK: Duration = Duration::from_secs(10 * 60);
/// How its task is supervised: a look may have many files to remove.
pub const TASK: Task = Task::new("retention", Duration::from_secs(10 * 60));
/// Where servers share their artifacts, the next look is this long after the last one, at whichever server.
const SHARED_PAUSE: Duration = Duration::from_secs(9 * 60);
/// How long a copy of a stored artifact stays: a pipeline that runs often needs it often.
const COPY_KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// For how many deployments of each project the artifacts stay, for a redeploy.
const REDEPLOY_COUNT: usize = 10;
/// How long an unfinished upload stays: a client comes back within its own time-out, which is at most a day.
const PARTIAL_KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// An artifact that was wanted within this time is not removed, because a submit may be on its way.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// How long the set of needed artifacts is reused for uploads: shorter than [`FRESH`] by far.
const NEEDED_KEEP: Duration = Duration::from_secs(60);
/// Projects are read in pages of so many.
const PAGE_LIMIT: usize = 100;

/// The artifacts that deployments needed at one moment.
struct NeededArtifacts {
    at: Instant,
    digests: Arc<HashSet<Digest>>,
}

/// Decides which artifacts stay.
#[derive(Clone)]
pub struct Retention {
    depot: Depot,
    store: Arc<dyn Store>,
    config: LiveConfig,
    /// The set of needed artifacts that was read last.
    last_needed: Arc<tokio::sync::Mutex<Option<NeededArtifacts>>>,
}

impl Retention {
    /// The rules for a depot and the deployments that use it.
    pub fn new(depot: Depot, store: Arc<dyn Store>, config: LiveConfig) -> Self {
        Retention { depot, store, config, last_needed: Arc::default() }
    }

    /// The depot.
    pub fn depot(&self) -> &Depot {
        &self.depot
    }

    /// The present rules.
    pub fn rules(&self) -> Artifacts {
        self.config.now().artifacts
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
            let is_too_much = total > self.rules().max_total_bytes && copy.unwanted_for > FRESH;
            let bytes = copy.bytes;
            if (is_too_much || copy.unwanted_for > COPY_KEEP) && self.depot.remove(copy).await? {
                total -= bytes;
            }
        }
        Ok(())
    }

    /// Removes old artifacts, and the oldest where there is too much.
    async fn remove_unneeded(&self) -> Result<(), DepotError> {
        let kept = self.depot.kept().await?;
        let total = kept.iter().map(|kept| kept.bytes).sum::<u64>();
        if total <= self.rules().max_total_bytes && !kept.iter().any(|kept| self.is_old(kept)) {
            return Ok(());
        }
        let needed = self.needed(Duration::ZERO).await?;
        self.remove(kept, total, 0, &needed).await?;
        Ok(())
    }

    /// Removes artifacts that may go until there is `room` for so many bytes. Answers whether there is.
    ///
    /// Each upload asks for it, so it must cost little: it looks for nothing where there is room, nor where all
    /// artifacts that may go would not be enough; and it reads which artifacts deployments need at most once a minute.
    ///
    /// # Errors
    /// The store or the disk; then nothing more is removed.
    pub async fn make_room(&self, room: u64) -> Result<bool, DepotError> {
        let kept = self.depot.kept().await?;
        let total = kept.iter().map(|kept| kept.bytes).sum::<u64>();
        if total.saturating_add(room) <= self.rules().max_total_bytes {
            return Ok(true);
        }
        let stays = kept.iter().filter(|kept| kept.unwanted_for <= FRESH).map(|kept| kept.bytes).sum::<u64>();
        if stays.saturating_add(room) > self.rules().max_total_bytes {
            return Ok(false);
        }
        let needed = self.needed(NEEDED_KEEP).await?;
        let total = self.remove(kept, total, room, &needed).await?;
        Ok(total.saturating_add(room) <= self.rules().max_total_bytes)
    }

    fn is_old(&self, kept: &KeptArtifact) -> bool {
        let keep = if kept.is_whole { self.rules().keep } else { PARTIAL_KEEP.min(self.rules().keep) };
        kept.unwanted_for > keep.max(FRESH)
    }

    /// Removes old artifacts, and more until there is `room`. Answers how many bytes there are then.
    async fn remove(
        &self,
        mut kept: Vec<KeptArtifact>,
        mut total: u64,
        room: u64,
        needed: &HashSet<Digest>,
    ) -> Result<u64, DepotError> {
        let fits = |total: u64| total.saturating_add(room) <= self.rules().max_total_bytes;
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.unwanted_for));
        for kept in kept {
            let may_go = self.is_old(&kept) || (!fits(total) && kept.unwanted_for > FRESH);
            if may_go && !needed.contains(&kept.digest) && self.depot.remove(kept.clone()).await? {
                tracing::info!(artifact = %kept.digest, bytes = kept.bytes, "removed an artifact");
                total -= kept.bytes;
            }
        }
        Ok(total)
    }

    /// The artifacts that deployments need, or needed at most so long ago. A later deployment has wanted its artifact
    /// since then, so that artifact is too fresh to be removed.
    async fn needed(&self, at_most_ago: Duration) -> Result<Arc<HashSet<Digest>>, StoreError> {
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

    async fn look_for_needed(&self) -> Result<HashSet<Digest>, StoreError> {
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
