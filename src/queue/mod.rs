//! The operations on a project's slot and line: one verb, one file. Each loads under the project's lock, lets the model
//! decide, and records; then the store wakes the waiters.

pub mod absence;
pub mod cancel;
pub mod claim;
pub mod finish;
pub mod go_back;
pub mod heartbeat;
mod locked;
pub mod mark;
mod note;
pub mod pause;
pub mod plan;
pub mod postpone;
pub mod reap;
pub mod release;
pub mod report;
pub mod sealed;
pub mod submit;
pub mod turn;
mod unheard;

use std::sync::Arc;

use thiserror::Error;

pub use plan::Planned;
pub use submit::SubmitOutcome;
pub use unheard::{Hearing, Unheard};

use locked::LockedProjects;

use crate::{
    clock::Clock,
    config::LiveConfig,
    model::{Changes, Deployment, LeaseSecret, Limits, Load, Loaded, Policy, ProjectName, notifications},
    store::{self, Store, StoreError},
};

/// The verbs, with all that they need.
#[derive(Clone)]
pub struct Queue {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    config: LiveConfig,
    unheard: Unheard,
    locked: LockedProjects,
}

/// Why a worker's call changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WorkerError {
    /// The project has no such deployment.
    #[error("the project has no such deployment")]
    NotFound,
    /// The lease is not, or no longer, this deployment's.
    #[error("the lease is not, or no longer, this deployment's")]
    LeaseLost,
    /// The deployment's outputs would be too many, or too large together.
    #[error("the deployment's outputs would be too many, or too large together")]
    OutputsFull,
    /// Reports before these are missing.
    #[error("reports are missing: the last one that is recorded is number {last}")]
    ReportGap {
        /// The number of the last one that is recorded.
        last: u64,
    },
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Queue {
    /// The verbs on `store`, by the rules and limits of the present configuration.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, config: LiveConfig) -> Self {
        let unheard = Unheard::new(clock.clone());
        Queue { store, clock, config, unheard, locked: LockedProjects::default() }
    }

    /// Runs a decision that answers something. What the rules want told of its changes is recorded with them. See decision
    /// 0086.
    ///
    /// # Errors
    /// The store did not do it.
    async fn transact<T: Send + 'static>(
        &self,
        project: ProjectName,
        load: Load,
        decide: impl FnOnce(Loaded) -> (Changes, T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let config = self.config.now();
        let told = (!config.notify.is_empty()).then(|| (config, project.clone()));
        store::transact(&*self.store, project, load, move |loaded| {
            let (mut changes, value) = decide(loaded);
            if let Some((config, name)) = told.filter(|_| !changes.is_empty()) {
                let rules = config.notify.iter().map(|target| &target.rule);
                changes.notifications = notifications(rules, &name, &changes);
            }
            (changes, value)
        })
        .await
    }

    /// The store, for reading.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The signs of life that could not be recorded.
    pub fn unheard(&self) -> &Unheard {
        &self.unheard
    }

    /// The configuration.
    pub fn config(&self) -> &LiveConfig {
        &self.config
    }

    /// The present time limits.
    pub fn limits(&self) -> Limits {
        self.config.now().limits
    }

    /// The secret of a deployment's lease, to be told to its holder; `None` for a deployment that was never claimed.
    pub fn lease_secret(&self, deployment: &Deployment) -> Option<LeaseSecret> {
        Some(LeaseSecret::of(&self.store.pepper(), deployment.id, deployment.lease()?))
    }

    /// A project's present rules; the default ones for a project that is not configured.
    pub fn policy(&self, project: &ProjectName) -> Policy {
        self.config.now().projects.get(project).map(|project| project.policy.clone()).unwrap_or_default()
    }
}
