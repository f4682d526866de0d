//! The places in which the server's worker runs pipelines: a fixed number at once, however many are submitted. See
//! decision 0040.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::model::DeploymentId;

/// The pause between two looks at the deployments that wait for a place. Wake-ups of many new deployments share one
/// look.
const LOOK_REST: Duration = Duration::from_secs(1);

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    limit: Arc<AtomicUsize>,
    taken: Arc<Mutex<HashSet<DeploymentId>>>,
    /// Notified when a place becomes free.
    pub(super) freed: Arc<Notify>,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Places { limit: Arc::new(AtomicUsize::new(limit)), taken: Arc::default(), freed: Arc::default() }
    }

    /// How many there are.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets how many there are. If more are taken, each one stays taken until its pipeline has ended.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// How many are free.
    pub(super) fn free(&self) -> usize {
        self.limit().saturating_sub(taken(&self.taken).len())
    }

    /// Whether this deployment has one.
    pub(super) fn has(&self, id: DeploymentId) -> bool {
        taken(&self.taken).contains(&id)
    }

    /// Takes a place for this deployment, which has none yet.
    pub(super) fn take(&self, id: DeploymentId) -> Option<TakenPlace> {
        let mut all = taken(&self.taken);
        let is_taken = all.len() < self.limit() && all.insert(id);
        is_taken.then(|| TakenPlace {
            id,
            limit: self.limit.clone(),
            taken: self.taken.clone(),
            freed: self.freed.clone(),
        })
    }
}

fn taken(all: &Mutex<HashSet<DeploymentId>>) -> MutexGuard<'_, HashSet<DeploymentId>> {
    // Nothing in here panics half-way.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct TakenPlace {
    id: DeploymentId,
    limit: Arc<AtomicUsize>,
    taken: Arc<Mutex<HashSet<DeploymentId>>>,
    freed: Arc<Notify>,
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        let mut all = taken(&self.taken);
        let was_full = all.len() >= self.limit.load(Ordering::Relaxed);
        all.remove(&self.id);
        drop(all);
        // If several places are free, nobody waits for one.
        if was_full {
            self.freed.notify_one();
        }
    }
}

/// Which deployments were postponed, and when.
#[derive(Debug, Default)]
pub(super) struct Postponed {
    pub(super) told: HashMap<DeploymentId, Instant>,
    pub(super) looked_at: Option<Instant>,
    /// How often each is postponed.
    period: Duration,
}

impl Postponed {
    /// From now on each is postponed often enough that two times may be missed before `unclaimed` is over.
    pub(super) fn set_limit(&mut self, unclaimed: Duration) {
        self.period = unclaimed / 3;
    }

    /// How long until the next look is useful.
    pub(super) fn rest(&self) -> Duration {
        self.looked_at.map_or(Duration::ZERO, |at| LOOK_REST.min(self.period).saturating_sub(at.elapsed()))
    }

    /// Whether this deployment is to be postponed now.
    pub(super) fn is_due(&self, id: DeploymentId) -> bool {
        self.told.get(&id).is_none_or(|at| at.elapsed() >= self.period)
    }
}
