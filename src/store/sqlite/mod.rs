//! The embedded store: one SQLite file, one server.
//!
//! ```text
//! transact ─▶ queue ─▶ writer thread: load, decide, record, for all that is ready ─▶ one COMMIT (one fsync) ─▶ answers
//! reads    ─▶ queue ─▶ reader threads: one snapshot each, never in the writer's way
//! a long log        ─▶ mover thread: into the file, beside the commits
//! ```
//!
//! A durable commit costs an fsync, so all waiting callers share the next one. Every answered change survives
//! `kill -9`, and power loss where the disk honours fsync (`synchronous=FULL`; SQLite uses `fdatasync` on Linux, where
//! `fullfsync` is unknown).

mod acts;
mod aged;
mod audit;
mod awaiting;
mod backup;
mod ballast;
mod checkpoints;
mod compact;
mod emergency;
mod export;
mod fault;
mod figures;
mod forget;
mod lineage;
mod lock;
mod notifications;
mod open;
mod place;
mod queue;
mod readers;
mod reads;
mod record;
mod redact;
mod rows;
mod schema;
mod tokens;
mod upkeep;
mod writer;

use std::{path::Path, sync::Arc};

use super::{
    AgentCall, AuditRoom, BoxFuture, Claimable, CommitTimes, Commits, Decide, ForgetRoom, HeldProject, KnownAgent,
    ListQuery, Mark, NotificationRoom, Offers, OnCommit, Placed, ProjectPage, ProjectState, Readiness, RedactRoom,
    Store, StoreError, StoreFigures, Upkeep, Watched, agents::Presence, tokens::TokenRoom, unreadable::Unreadable,
};
use crate::{
    clock::Now,
    model::{Deployment, DeploymentId, Digest, Event, LeaseHolder, Load, Pepper, ProjectName},
};

pub use aged::FileHistory;
pub use backup::{Progress, backup, restore};
pub use compact::{Compacted, compact};
pub use emergency::survive_full_disks;
pub use export::Export;

use ballast::Ballast;
use lineage::Lineage;
use lock::Lock;
use place::OwnFile;
use readers::Readers;
use writer::Writer;

/// A store in one SQLite file. Dropping it closes it.
pub struct SqliteStore {
    writer: Writer,
    readers: Readers,
    pepper: Pepper,
    readiness: Readiness,
    on_commit: OnCommit,
    /// Not in the file, because agents ask again within seconds of a server's start.
    presence: Presence,
    unreadable: Arc<Unreadable>,
    // Closed after all connections.
    _file: Arc<OwnFile>,
    // Last, so that the file is free for another server only when nothing of this one touches it any more.
    _lock: Lock,
}

impl SqliteStore {
    /// Opens the file, or makes it, and keeps every other server out of it.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] with what to do about it; then nothing in the file was changed.
    pub fn open(path: &Path, on_commit: OnCommit) -> Result<SqliteStore, StoreError> {
        let path = open::locate(path)?;
        place::require_fit_file_system(path.parent().unwrap_or(Path::new("/")))?;
        let lock = Lock::take(&path)?;
        open::make(&path)?;
        SqliteStore::open_locked(&path, lock, on_commit)
    }

    /// Opens a file that exists and that no server has, to look after it. `advice` says what to do where a server has it.
    ///
    /// # Errors
    /// [`StoreError`] with what to do about it.
    pub fn open_unserved(path: &Path, advice: &str) -> Result<SqliteStore, StoreError> {
        let path = backup::existing(path)?;
        place::require_fit_file_system(path.parent().unwrap_or(Path::new("/")))?;
        let lock = Lock::take_or(&path, advice)?;
        SqliteStore::open_locked(&path, lock, Arc::new(|_, _| {}))
    }

    fn open_locked(path: &Path, lock: Lock, on_commit: OnCommit) -> Result<SqliteStore, StoreError> {
        let file = Arc::new(OwnFile::take(path)?);
        compact::forget_interrupted(path);
        let ballast = Ballast::found(path);
        lineage::require_own_log(path)?;
        let mut connection = open::writer_connection(path)?;
        let lineage = Lineage::settle(&mut connection, path)?;
        let pepper = open::pepper(&connection, path)?;
        let pause = Arc::default();
        let readers = Readers::start(path, Arc::clone(&pause))?;
        let writer = Writer::start(connection, path, Arc::clone(&file), lineage, ballast, pause, on_commit.clone())?;
        let (readiness, presence, unreadable) = Default::default();
        Ok(SqliteStore {
            writer,
            readers,
            pepper,
            readiness,
            on_commit,
            presence,
            unreadable,
            _file: file,
            _lock: lock,
        })
    }

    /// Carries out a small administrative write in a transaction of its own, between two batches of decisions, and
    /// answers after the commit is durable; with an error, nothing is left of it. `write` must take some ms at most. It
    /// is called again where the disk was full and room that was kept back could be given up. Nobody is woken.
    pub fn act<T, W>(&self, write: W) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnMut(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.act(write)
    }

    /// Finishes the queued requests, moves everything into the one file and waits for the threads. Later calls are told
    /// that the store is not available. Blocks.
    pub fn close(&self) {
        // The readers end first, because the writer's last checkpoint can only empty the log when nobody reads from it.
        self.readers.stop();
        self.writer.stop();
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for SqliteStore {
    fn pepper(&self) -> Pepper {
        self.pepper
    }

    fn commits(&self) -> Commits {
        self.writer.commits.read()
    }

    fn log_bytes(&self) -> Option<u64> {
        Some(self.writer.log_bytes())
    }

    fn transact(&self, project: ProjectName, load: Load, decide: Decide) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.writer.transact(project, load, decide))
    }

    fn deployment(&self, project: ProjectName, id: DeploymentId) -> BoxFuture<'_, Result<Option<Placed>, StoreError>> {
        Box::pin(self.readers.read(move |db| reads::deployment(db, &project, id)))
    }

    fn numbered(&self, project: ProjectName, number: u64) -> BoxFuture<'_, Result<Option<DeploymentId>, StoreError>> {
        Box::pin(self.readers.read(move |db| reads::numbered(db, &project, number)))
    }

    fn sealed_inputs(&self, id: DeploymentId) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        Box::pin(self.readers.read(move |db| reads::sealed_inputs(db, id)))
    }

    fn events(&self, id: DeploymentId, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        let unreadable = self.unreadable.clone();
        Box::pin(self.readers.read(move |db| reads::events(db, id, after, limit, &unreadable)))
    }

    fn events_before(
        &self,
        id: DeploymentId,
        before: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        let unreadable = self.unreadable.clone();
        Box::pin(self.readers.read(move |db| reads::events_before(db, id, before, limit, &unreadable)))
    }

    fn course(&self, id: DeploymentId, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        Box::pin(self.readers.read(move |db| reads::course(db, id, after, limit)))
    }

    fn list(&self, project: ProjectName, query: ListQuery) -> BoxFuture<'_, Result<Vec<Deployment>, StoreError>> {
        Box::pin(self.readers.read(move |db| reads::list(db, &project, &query)))
    }

    fn project(&self, name: ProjectName, line: usize) -> BoxFuture<'_, Result<Option<ProjectState>, StoreError>> {
        Box::pin(self.readers.read(move |db| reads::project(db, &name, line)))
    }

    fn projects(&self, after: Option<ProjectName>, limit: usize) -> BoxFuture<'_, Result<ProjectPage, StoreError>> {
        let unreadable = self.unreadable.clone();
        Box::pin(self.readers.read(move |db| reads::projects(db, after.as_ref(), limit, &unreadable)))
    }

    fn held_projects(&self) -> BoxFuture<'_, Result<Vec<HeldProject>, StoreError>> {
        let unreadable = self.unreadable.clone();
        Box::pin(self.readers.read(move |db| reads::held_projects(db, &unreadable)))
    }

    fn artifacts_of(&self, project: ProjectName, recent: usize) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        let unreadable = self.unreadable.clone();
        Box::pin(self.readers.read(move |db| reads::artifacts_of(db, &project, recent, &unreadable)))
    }

    fn watched(&self) -> BoxFuture<'_, Result<Vec<Watched>, StoreError>> {
        let unreadable = self.unreadable.clone();
        Box::pin(self.readers.read(move |db| reads::watched(db, &unreadable)))
    }

    fn claimable(&self, offers: Arc<Offers>, limit: usize) -> BoxFuture<'_, Result<Vec<Claimable>, StoreError>> {
        let unreadable = self.unreadable.clone();
        Box::pin(self.readers.read(move |db| reads::claimable(db, &offers, limit, &unreadable)))
    }

    fn marks(&self, ids: Vec<DeploymentId>) -> BoxFuture<'_, Result<Vec<(DeploymentId, Mark)>, StoreError>> {
        Box::pin(self.readers.read(move |db| reads::marks(db, &ids)))
    }

    fn held(&self, holder: LeaseHolder) -> BoxFuture<'_, Result<Option<Deployment>, StoreError>> {
        Box::pin(self.readers.read(move |db| reads::held(db, &holder)))
    }

    fn agent_came(&self, call: AgentCall, now: Now) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.presence.came(&call, now);
            Ok(())
        })
    }

    fn agent_left(&self, call: AgentCall, now: Now) {
        self.presence.left(&call, now);
    }

    fn agents(&self, project: ProjectName, now: Now) -> BoxFuture<'_, Result<Vec<KnownAgent>, StoreError>> {
        Box::pin(async move { Ok(self.presence.of(&project, now)) })
    }

    fn figures(&self, now: Now) -> BoxFuture<'_, Result<StoreFigures, StoreError>> {
        let unreadable = self.unreadable.clone();
        Box::pin(async move {
            let mut figures = self.readers.read(move |db| figures::figures(db, &unreadable)).await?;
            self.presence.counts(now, &mut figures);
            Ok(figures)
        })
    }

    fn commit_times(&self) -> CommitTimes {
        self.writer.commits.times()
    }

    fn unreadable_count(&self) -> u64 {
        self.unreadable.count()
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.readiness.ask(self.writer.try_write()))
    }

    fn audit(&self) -> &dyn AuditRoom {
        self
    }

    fn forget(&self) -> &dyn ForgetRoom {
        self
    }

    fn tokens(&self) -> &dyn TokenRoom {
        self
    }

    fn notifications(&self) -> &dyn NotificationRoom {
        self
    }

    fn redact(&self) -> Option<&dyn RedactRoom> {
        Some(self)
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(self)
    }

    fn shut_down(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Err(error) = tokio::task::spawn_blocking(move || self.close()).await {
                tracing::error!(%error, "the store was not closed in order");
            }
        })
    }
}
