//! Where deployments are kept: one trait, and its engines. See decision 0003.
//!
//! An engine promises: a decision sees everything that was committed before it, and nothing else changes its project
//! meanwhile; its changes are recorded whole or not at all; `transact` answers after the commit is durable; and the
//! committed changes are passed to [`OnCommit`] even when the caller has gone away by then, so that a client that hangs
//! up cannot come between commit and wake. All rules are in the model; an engine knows none.

mod agents;
pub mod artifacts;
pub mod audit;
pub mod blocks;
mod columns;
mod copy;
mod error;
pub mod figures;
pub mod forget;
pub mod memory;
pub mod notifications;
pub mod postgres;
mod ready;
pub mod redact;
pub mod sqlite;
pub mod tokens;
mod unreadable;
pub mod upkeep;

pub use error::StoreError;
pub use figures::{HeldSlot, ProjectFigures, SlotStage, StoreFigures};
pub use forget::{ForgetOutcome, ForgetRoom};

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::histogram::Histogram;

pub use agents::{ABSENCE_LIMIT, AgentCall, KnownAgent};
pub use artifacts::SharedArtifacts;
pub use audit::{AuditLine, AuditPage, AuditQuery, AuditRoom, NewAuditLine};
pub use copy::Progress;
pub use notifications::{
    NextDue, Notification, NotificationCounts, NotificationQuery, NotificationRoom, NotificationState, Settlement,
};
use ready::Readiness;
pub use redact::RedactRoom;
pub use tokens::TokenRoom;
pub use upkeep::{AgedHistory, Upkeep};

use crate::{
    clock::Now,
    model::{
        Changes, Deployment, DeploymentId, Digest, Event, Hint, LeaseHolder, Limits, Load, Loaded, Pause, Pepper,
        Project, ProjectName, Revision, RunBy, Spec, State, Status, Vital,
    },
};

/// A boxed future, so that the trait can be held as an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The decision of a transaction: pure, called once, on whatever thread the engine likes.
pub type Decide = Box<dyn FnOnce(Loaded) -> Changes + Send>;

/// Is told of every commit that changed something, after the commit is durable. Must not block.
pub type OnCommit = Arc<dyn Fn(&ProjectName, &Changes) + Send + Sync>;

/// Is told of the commits of other servers of the same store. Must not block.
pub type OnHint = Arc<dyn Fn(Hint) + Send + Sync>;

/// A deployment and its place in line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The deployment.
    pub deployment: Deployment,
    /// How many are served before it, itself included; 0 when it does not wait.
    pub position: u64,
}

/// A project with its slot and line, as `why` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectState {
    /// The counters.
    pub project: Project,
    /// The deployment that holds the slot.
    pub holder: Option<Deployment>,
    /// The front of the line, at most as long as was asked for.
    pub line: Vec<Deployment>,
    /// The deployment that ran last and is final.
    pub last_outcome: Option<Deployment>,
    /// The deployment that succeeded last: what is live.
    pub last_success: Option<Deployment>,
}

impl ProjectState {
    /// A project of which nothing but the counters is known.
    pub fn of(project: Project) -> Self {
        ProjectState { project, holder: None, line: Vec::new(), last_outcome: None, last_success: None }
    }
}

/// Projects by name. A project that cannot be read has its name alone.
pub type ProjectPage = Vec<(ProjectName, Option<ProjectState>)>;

/// A project that is or was held: it has a pause, or its slot is free although somebody waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldProject {
    /// Its name.
    pub project: ProjectName,
    /// Its pause.
    pub pause: Option<Pause>,
}

/// Which deployments of a project to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only those with this status.
    pub status: Option<Status>,
    /// Only those admitted before this ticket.
    pub before: Option<Revision>,
    /// How many at most.
    pub limit: usize,
}

/// A deployment whose state requires a sign of life, or has a deadline: the fields by which the reaper judges, and no
/// others. Its inputs and outputs may be large, and it is read once a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Its project.
    pub project: ProjectName,
    /// Its id.
    pub id: DeploymentId,
    /// The values that change with each sign of life.
    pub vital: Vital,
    /// Where it stands.
    pub state: State,
    /// Which side runs it.
    pub executor: RunBy,
    /// How long it may wait in line; read only while it waits.
    pub deadline: Option<Duration>,
    /// How long it may hold the slot without a worker, where that is not the usual time; read only while it is ready.
    pub claim_within: Option<Duration>,
}

impl Watched {
    /// How long the sign of life that its state requires may be missing; `None` where its state requires none.
    pub fn patience(&self, limits: &Limits) -> Option<Duration> {
        self.state.patience(self.claim_within, limits)
    }
}

/// A deployment that waits for a worker of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimable {
    /// Its project.
    pub project: ProjectName,
    /// Its id.
    pub id: DeploymentId,
    /// Its spec.
    pub spec: Spec,
}

/// The pipelines that workers offer, by project.
pub type Offers = BTreeMap<ProjectName, Vec<String>>;

/// The values that tell whether something was committed to a deployment since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its last slot change.
    pub revision: Revision,
    /// Its last event.
    pub event_count: u64,
    /// Whether its worker is asked to stop, which is no slot change.
    pub is_cancel_requested: bool,
}

/// How often a store made something durable, and how many transactions that changed something shared these commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    /// How many commits there were.
    pub commit_count: u64,
    /// How many transactions were in them.
    pub transaction_count: u64,
}

/// How long commits took until they were durable, in seconds. Clones share it.
pub type CommitTimes = Histogram;

/// From an SSD's flush to a disk that hangs.
const COMMIT_SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Counts and times commits, and counts transactions, since the store was opened.
#[derive(Debug)]
struct CommitCounter {
    commit_count: AtomicU64,
    transaction_count: AtomicU64,
    times: CommitTimes,
}

impl Default for CommitCounter {
    fn default() -> Self {
        let (commit_count, transaction_count) = Default::default();
        CommitCounter { commit_count, transaction_count, times: Histogram::new(COMMIT_SECONDS) }
    }
}

impl CommitCounter {
    /// Counts a commit of so many transactions that changed something, and notes how long it took; a commit of none is not
    /// counted.
    fn count(&self, transaction_count: usize, took: Duration) {
        if transaction_count > 0 {
            self.times.observe(took.as_secs_f64());
            self.commit_count.fetch_add(1, Ordering::Relaxed);
            self.transaction_count.fetch_add(transaction_count as u64, Ordering::Relaxed);
        }
    }

    fn times(&self) -> CommitTimes {
        self.times.clone()
    }

    fn read(&self) -> Commits {
        Commits {
            commit_count: self.commit_count.load(Ordering::Relaxed),
            transaction_count: self.transaction_count.load(Ordering::Relaxed),
        }
    }
}

/// The calls that every engine answers.
pub trait Store: Send + Sync + 'static {
    /// Loads under the project's lock, decides, records.
    ///
    /// A decision without changes is answered all the same, after everything that it saw is durable.
    fn transact(&self, project: ProjectName, load: Load, decide: Decide) -> BoxFuture<'_, Result<(), StoreError>>;

    /// One deployment of a project.
    fn deployment(&self, project: ProjectName, id: DeploymentId) -> BoxFuture<'_, Result<Option<Placed>, StoreError>>;

    /// The id of the deployment of a project that has this number.
    fn numbered(&self, project: ProjectName, number: u64) -> BoxFuture<'_, Result<Option<DeploymentId>, StoreError>>;

    /// A deployment's events after `after`, at most `limit`, in order. Retention leaves holes.
    fn events(&self, id: DeploymentId, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>, StoreError>>;

    /// A deployment's events before `before`, at most `limit`, the last one first.
    fn events_before(
        &self,
        id: DeploymentId,
        before: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Event>, StoreError>>;

    /// A deployment's events after `after` that tell its course: where it stood, its phases, requests to stop it, its end.
    /// Output, progress and results are left out. At most `limit`, in order.
    fn course(&self, id: DeploymentId, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>, StoreError>>;

    /// Deployments of a project, newest first.
    fn list(&self, project: ProjectName, query: ListQuery) -> BoxFuture<'_, Result<Vec<Deployment>, StoreError>>;

    /// A project that has ever been deployed.
    fn project(&self, name: ProjectName, line: usize) -> BoxFuture<'_, Result<Option<ProjectState>, StoreError>>;

    /// Projects by name, after `after`, at most `limit`; their lines are left out. A project that cannot be read is
    /// listed by its name.
    fn projects(&self, after: Option<ProjectName>, limit: usize) -> BoxFuture<'_, Result<ProjectPage, StoreError>>;

    /// The projects that have a pause, and those whose slot is free although somebody waits in line. A row that cannot be
    /// read is left out. It looks at all projects, so it is asked rarely.
    fn held_projects(&self) -> BoxFuture<'_, Result<Vec<HeldProject>, StoreError>>;

    /// The artifacts of a project's `recent` newest deployments, and of all that are not final. Nothing else of them is read.
    fn artifacts_of(&self, project: ProjectName, recent: usize) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>>;

    /// Everything that can fall silent or miss a deadline: tickets, waiting deployments with a deadline, and holders of
    /// slots. A row that cannot be read is left out.
    fn watched(&self) -> BoxFuture<'_, Result<Vec<Watched>, StoreError>>;

    /// Deployments that hold their slot, wait for a worker of the server, and want a pipeline that is offered: the
    /// oldest ones, at most `limit`.
    fn claimable(&self, offers: Arc<Offers>, limit: usize) -> BoxFuture<'_, Result<Vec<Claimable>, StoreError>>;

    /// The marks of those of these deployments that exist.
    fn marks(&self, ids: Vec<DeploymentId>) -> BoxFuture<'_, Result<Vec<(DeploymentId, Mark)>, StoreError>>;

    /// The deployment that runs under a lease of this holder, if there is one; any of them, if the holder has several.
    fn held(&self, holder: LeaseHolder) -> BoxFuture<'_, Result<Option<Deployment>, StoreError>>;

    /// Notes that an agent asks for work. `now` is the caller's; a store of several servers goes by its own clock.
    fn agent_came(&self, call: AgentCall, now: Now) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Notes that a call of an agent ended before its window did; soon, where a shared store keeps it. Must not block.
    fn agent_left(&self, call: AgentCall, now: Now);

    /// A project's agents, at whichever server they ask, those that were heard of last first.
    fn agents(&self, project: ProjectName, now: Now) -> BoxFuture<'_, Result<Vec<KnownAgent>, StoreError>>;

    /// The sealed values of a deployment's secret inputs; `None` where it has none, or is final.
    fn sealed_inputs(&self, id: DeploymentId) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>>;

    /// The secret that the servers of this store share: the secrets of leases are made from it.
    fn pepper(&self) -> Pepper;

    /// How many commits were made since the store was opened.
    fn commits(&self) -> Commits;

    /// How long these commits took.
    fn commit_times(&self) -> CommitTimes;

    /// How the slots and lines of all projects stand, and how large the store is. It looks at all projects, so it is asked
    /// rarely.
    fn figures(&self, now: Now) -> BoxFuture<'_, Result<StoreFigures, StoreError>>;

    /// How many rows could not be read since the store was opened, and were left out of lists.
    fn unreadable_count(&self) -> u64 {
        0
    }

    /// The length in bytes of the log of commits that are not in the store's file yet; `None` where the engine keeps no
    /// such log.
    fn log_bytes(&self) -> Option<u64> {
        None
    }

    /// Whether the store can be written to: it was, a moment ago.
    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Whether other servers may work on it at the same time.
    fn is_shared(&self) -> bool {
        false
    }

    /// The artifacts in the store, where other servers must have them, too; else each server has a folder for them.
    fn artifacts(&self) -> Option<&dyn SharedArtifacts> {
        None
    }

    /// The audit log.
    fn audit(&self) -> &dyn AuditRoom;

    /// Forgetting projects.
    fn forget(&self) -> &dyn ForgetRoom;

    /// The tokens that were made at run time.
    fn tokens(&self) -> &dyn TokenRoom;

    /// The outbox of notifications.
    fn notifications(&self) -> &dyn NotificationRoom;

    /// Redaction in a store that keeps its history on a disk.
    fn redact(&self) -> Option<&dyn RedactRoom> {
        None
    }

    /// The upkeep of a store that keeps its history on a disk.
    fn upkeep(&self) -> Option<&dyn Upkeep> {
        None
    }

    /// Finishes all work under way, and leaves everything in order. Later calls are told that the store is not
    /// available.
    fn shut_down(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

/// Runs a decision that answers something.
///
/// # Errors
/// The error of the store. Then nothing was recorded; with [`StoreError::Unknown`], nobody knows whether it was.
pub async fn transact<T: Send + 'static>(
    store: &dyn Store,
    project: ProjectName,
    load: Load,
    decide: impl FnOnce(Loaded) -> (Changes, T) + Send + 'static,
) -> Result<T, StoreError> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let decide: Decide = Box::new(move |loaded| {
        let (changes, value) = decide(loaded);
        // The caller may be gone; the changes are recorded all the same.
        let _ = answer.send(value);
        changes
    });
    store.transact(project, load, decide).await?;
    answered.await.map_err(|_| StoreError::Unavailable("the decision was not made".to_owned()))
}
