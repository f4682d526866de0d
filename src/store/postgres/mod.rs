//! The shared store: a PostgreSQL database on which several servers work at once.
//!
//! ```text
//! transact ─▶ turn ─▶ pool: BEGIN · lock the project · load ─▶ decide ─▶ write · COMMIT ─▶ answer
//! reads    ─▶ pool: one flight, one snapshot
//! ```
//!
//! The row of a project is its lock, and a transaction takes it first. An answered deployment is as durable as the
//! database; the database's settings for that are logged at the start. A commit whose answer was lost is looked up by its
//! number.

mod agents;
mod artifacts;
mod audit;
mod branch;
mod connect;
mod durability;
mod facts;
mod fault;
mod figures;
mod forget;
mod import;
mod lineage;
mod link;
mod notifications;
mod outbox;
mod password;
mod primaries;
mod reads;
mod record;
mod redact;
mod rows;
mod schema;
mod session;
mod statements;
mod text;
mod tls;
mod tokens;
mod transact;
mod turns;
mod upkeep;
mod wakes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::{Runtime, managed::Pool};
use tokio::{sync::oneshot, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    AgentCall, AuditRoom, BoxFuture, Claimable, CommitCounter, CommitTimes, Commits, Decide, ForgetRoom, HeldProject,
    KnownAgent, ListQuery, Mark, NotificationRoom, Offers, OnCommit, OnHint, Placed, ProjectPage, ProjectState,
    Readiness, RedactRoom, SharedArtifacts, Store, StoreError, StoreFigures, Upkeep, Watched, tokens::TokenRoom,
    unreadable::Unreadable,
};
use crate::{
    clock::Now,
    config::PostgresUrl,
    health::Health,
    model::{Deployment, DeploymentId, Digest, Event, Hint, LeaseHolder, Load, Pepper, ProjectName},
};

pub use import::Import;

use connect::{Connector, Sessions};
use fault::DatabaseFault;
use session::call;
use statements::Sql;
use transact::Engine;
use wakes::Wakes;

/// How long to wait for a free connection: longer than any transaction takes that is not stuck.
const CONNECTION_WAIT_LIMIT: Duration = Duration::from_secs(5);
/// How long closing waits for work that is under way.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// A store in a PostgreSQL database.
pub struct PostgresStore {
    engine: Arc<Engine>,
    connector: Arc<Connector>,
    under_way: TaskTracker,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    pepper: Pepper,
    unreadable: Unreadable,
    readiness: Readiness,
    /// Whether the disk was full at a write, and no room has been found since.
    was_full: Arc<AtomicBool>,
}

impl PostgresStore {
    /// Connects to the database, and brings it to the schema of this version. `connection_limit` is how many
    /// connections it may use at most, besides the one for the wake-ups between servers, which go to `on_hint`.
    /// `health` supervises its tasks.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] with what to do about it; [`StoreError::Unavailable`] if the database does not answer,
    /// or is a standby.
    pub async fn open(
        url: &PostgresUrl,
        connection_limit: usize,
        on_commit: OnCommit,
        on_hint: OnHint,
        health: &Health,
    ) -> Result<PostgresStore, StoreError> {
        PostgresStore::connect(url, connection_limit, on_commit, on_hint, health, ConnectAs::Server).await
    }

    /// Connects to a database that servers of this version use, or used last, to look after it. The schema stays as it is.
    ///
    /// # Errors
    /// As [`PostgresStore::open`]; also where the schema is of another version, or there is none.
    pub async fn visit(url: &PostgresUrl, connection_limit: usize) -> Result<PostgresStore, StoreError> {
        let health = Health::default();
        let (on_commit, on_hint): (OnCommit, OnHint) = (Arc::new(|_, _| {}), Arc::new(|_| {}));
        PostgresStore::connect(url, connection_limit, on_commit, on_hint, &health, ConnectAs::Visitor).await
    }

    async fn connect(
        url: &PostgresUrl,
        connection_limit: usize,
        on_commit: OnCommit,
        on_hint: OnHint,
        health: &Health,
        access: ConnectAs,
    ) -> Result<PostgresStore, StoreError> {
        let connector = Arc::new(Connector::new(url, connection_limit)?);
        let pepper = prepare(&connector, access).await.map_err(DatabaseFault::into_store_error)?;
        let pool = Pool::builder(Sessions(connector.clone()))
            .max_size(connection_limit)
            .wait_timeout(Some(CONNECTION_WAIT_LIMIT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Unusable(format!("cannot make a pool of connections: {error}")))?;
        let wakes = Wakes::new(connector.schema(), on_hint);
        let commits = CommitCounter::default();
        let under_way = TaskTracker::new();
        let engine = Arc::new(Engine { pool, turns: Arc::default(), on_commit, commits, wakes: wakes.clone() });
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (through, ending, mut is_first) = (connector.clone(), shutdown.clone(), true);
        tasks.spawn(health.supervise(wakes::TASK, shutdown.clone(), move |pulse| {
            let is_first = std::mem::take(&mut is_first);
            wakes.clone().run(through.clone(), is_first, pulse, ending.clone())
        }));
        let (through, pool, ending) = (connector.clone(), engine.pool.clone(), shutdown.clone());
        tasks.spawn(health.supervise(primaries::TASK, shutdown.clone(), move |pulse| {
            primaries::watch(through.clone(), pool.clone(), pulse, ending.clone())
        }));
        Ok(PostgresStore {
            engine,
            connector,
            under_way,
            tasks,
            shutdown,
            pepper,
            unreadable: Unreadable::default(),
            readiness: Readiness::default(),
            was_full: Arc::default(),
        })
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Who connects.
#[derive(Clone, Copy)]
enum ConnectAs {
    /// A server, which brings the schema up to date.
    Server,
    /// A command that looks after the store beside its servers.
    Visitor,
}

/// Examines the database, and brings it up to date where a server comes.
async fn prepare(connector: &Connector, access: ConnectAs) -> Result<Pepper, DatabaseFault> {
    let (host, mut link) = connector.first().await?;
    durability::report(&link.facts);
    connector.warn_of_open_wires();
    // If two connections lead to one session, a pooler gives each transaction any session.
    let other = connector.reach(host, None, None).await?;
    if link.facts.backend == other.facts.backend {
        connector.share_sessions();
    }
    drop(other);
    let pepper = match access {
        ConnectAs::Server => schema::migrate(&mut link.client, connector.schema()).await?,
        ConnectAs::Visitor => schema::require_present(&link.client, connector.schema()).await?,
    };
    connector.look_again(&mut link).await?;
    connector.admit(host, &mut link).await?;
    Ok(pepper)
}

/// Writes a value that is there already, and commits it. So it tests every right that work needs, and reports the
/// missing ones. This write needs no room on the disk, so if the disk was full, it tests for room as well.
async fn try_write(engine: Arc<Engine>, was_full: Arc<AtomicBool>) -> Result<(), StoreError> {
    let mut attempt = 1;
    loop {
        let written = async {
            let mut session = engine.session().await?;
            let rows = session.write(call!(Sql::TryWrite, schema::VERSION)).await?;
            let row = rows.first().ok_or_else(|| DatabaseFault::Row("a trial write answered nothing".to_owned()))?;
            schema::require_version(rows::get(row, 0)?)?;
            match rows::get::<Option<String>>(row, 1)? {
                None if was_full.load(Ordering::Relaxed) => {
                    session.write(call!(Sql::TakeRoom)).await?;
                    was_full.store(false, Ordering::Relaxed);
                    Ok(())
                }
                None => Ok(()),
                Some(missing) => Err(DatabaseFault::Refused(StoreError::Unusable(format!(
                    "the database's user lacks rights: {missing}; grant them, or let it own the schema"
                )))),
            }
        };
        match written.await {
            Ok(()) => return Ok(()),
            // It writes the present value, so it may be written twice.
            Err(fault) if engine.may_retry(&fault, attempt) => attempt += 1,
            Err(fault) => return Err(DatabaseFault::into_store_error(fault)),
        }
    }
}

/// Asks on a connection of the pool, and once more on another one if the first was broken. So the question must be safe
/// to ask twice.
macro_rules! read {
    ($store:expr, $session:ident => $read:expr) => {
        Box::pin(async move {
            let mut attempt = 1;
            loop {
                let answer = async {
                    let mut $session = $store.engine.session().await?;
                    let branch = $session.origin().branch;
                    let answer: Result<_, DatabaseFault> = $read.await;
                    // The data of a former primary must not be answered as the present data.
                    if $store.engine.connector().is_current(branch) { answer } else { Err(DatabaseFault::Moved) }
                };
                match answer.await {
                    Ok(answer) => return Ok(answer),
                    Err(fault) if $store.engine.may_retry(&fault, attempt) => attempt += 1,
                    Err(fault) => return Err(DatabaseFault::into_store_error(fault)),
                }
            }
        })
    };
}

use read;

impl Store for PostgresStore {
    fn pepper(&self) -> Pepper {
        self.pepper
    }

    fn commits(&self) -> Commits {
        self.engine.commits.read()
    }

    fn transact(&self, project: ProjectName, load: Load, decide: Decide) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            // Detached, so that a client that hangs up cannot stop it between commit and wake.
            self.under_way.spawn(self.engine.clone().transact(project, load, decide, answer));
            let answer =
                answered.await.map_err(|_| StoreError::Unknown("the store was closed meanwhile".to_owned()))?;
            if answer == Err(StoreError::Full) {
                self.was_full.store(true, Ordering::Relaxed);
            }
            answer
        })
    }

    fn deployment(&self, project: ProjectName, id: DeploymentId) -> BoxFuture<'_, Result<Option<Placed>, StoreError>> {
        read!(self, session => reads::deployment(&mut session, &project, id))
    }

    fn numbered(&self, project: ProjectName, number: u64) -> BoxFuture<'_, Result<Option<DeploymentId>, StoreError>> {
        read!(self, session => reads::numbered(&mut session, &project, number))
    }

    fn sealed_inputs(&self, id: DeploymentId) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        read!(self, session => reads::sealed_inputs(&mut session, id))
    }

    fn events(&self, id: DeploymentId, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        read!(self, session => reads::events(&mut session, id, after, limit, &self.unreadable))
    }

    fn events_before(
        &self,
        id: DeploymentId,
        before: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        read!(self, session => reads::events_before(&mut session, id, before, limit, &self.unreadable))
    }

    fn course(&self, id: DeploymentId, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        read!(self, session => reads::course(&mut session, id, after, limit))
    }

    fn list(&self, project: ProjectName, query: ListQuery) -> BoxFuture<'_, Result<Vec<Deployment>, StoreError>> {
        read!(self, session => reads::list(&mut session, &project, &query))
    }

    fn project(&self, name: ProjectName, line: usize) -> BoxFuture<'_, Result<Option<ProjectState>, StoreError>> {
        read!(self, session => reads::project(&mut session, &name, line))
    }

    fn projects(&self, after: Option<ProjectName>, limit: usize) -> BoxFuture<'_, Result<ProjectPage, StoreError>> {
        read!(self, session => reads::projects(&mut session, after.as_ref(), limit, &self.unreadable))
    }

    fn held_projects(&self) -> BoxFuture<'_, Result<Vec<HeldProject>, StoreError>> {
        read!(self, session => reads::held_projects(&mut session, &self.unreadable))
    }

    fn artifacts_of(&self, project: ProjectName, recent: usize) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        read!(self, session => reads::artifacts_of(&mut session, &project, recent, &self.unreadable))
    }

    fn watched(&self) -> BoxFuture<'_, Result<Vec<Watched>, StoreError>> {
        read!(self, session => reads::watched(&mut session, &self.unreadable))
    }

    fn claimable(&self, offers: Arc<Offers>, limit: usize) -> BoxFuture<'_, Result<Vec<Claimable>, StoreError>> {
        read!(self, session => reads::claimable(&mut session, &offers, limit, &self.unreadable))
    }

    fn marks(&self, ids: Vec<DeploymentId>) -> BoxFuture<'_, Result<Vec<(DeploymentId, Mark)>, StoreError>> {
        read!(self, session => reads::marks(&mut session, ids.clone()))
    }

    fn held(&self, holder: LeaseHolder) -> BoxFuture<'_, Result<Option<Deployment>, StoreError>> {
        read!(self, session => reads::held(&mut session, &holder))
    }

    fn agent_came(&self, call: AgentCall, _: Now) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let call = &call;
            let noted: BoxFuture<'_, _> = read!(self, session => agents::came(&mut session, call));
            if noted.await? {
                self.engine.wakes.tell_hints([Hint::Agents]);
            }
            Ok(())
        })
    }

    fn agent_left(&self, call: AgentCall, _: Now) {
        let engine = self.engine.clone();
        // The client of the parked call is gone, so no request waits for this; but the store's end waits for it.
        self.under_way.spawn(async move {
            let left = async { agents::left(&mut *engine.session().await?, &call).await };
            if let Err(fault) = left.await {
                // On a failure it counts as parked until its window is over.
                tracing::debug!(?fault, "could not note that an agent's call ended");
            }
        });
    }

    fn agents(&self, project: ProjectName, _: Now) -> BoxFuture<'_, Result<Vec<KnownAgent>, StoreError>> {
        read!(self, session => agents::of(&mut session, &project))
    }

    fn figures(&self, _: Now) -> BoxFuture<'_, Result<StoreFigures, StoreError>> {
        read!(self, session => figures::figures(&mut session, &self.unreadable))
    }

    fn commit_times(&self) -> CommitTimes {
        self.engine.commits.times()
    }

    fn unreadable_count(&self) -> u64 {
        self.unreadable.count()
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.readiness.ask(try_write(self.engine.clone(), self.was_full.clone())))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn artifacts(&self) -> Option<&dyn SharedArtifacts> {
        Some(self)
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
            self.under_way.close();
            if timeout(CLOSE_LIMIT, self.under_way.wait()).await.is_err() {
                tracing::error!("the store was closed while transactions were under way");
            }
            self.shutdown.cancel();
            self.tasks.close();
            self.tasks.wait().await;
            self.engine.wakes.last_words(&self.connector).await;
            self.engine.pool.close();
        })
    }
}
