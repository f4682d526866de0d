//! A store on trial: any engine, filled by the same verbs as in production.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use singletrack::{
    clock::{BootInstant, Clock},
    config::{Config, LiveConfig, ProjectConfig},
    model::{
        Caller, Changes, Deployment, DeploymentId, Event, LeaseHolder, Load, Policy, ProjectName, Revision, SecretHash,
        Slot, Spec, Verdict,
        admission::{Admission, OnConflict, Submission},
    },
    queue::Queue,
    store::{OnCommit, Store, StoreError, memory::MemoryStore, postgres::PostgresStore, sqlite::SqliteStore, transact},
};
use tempfile::TempDir;

use crate::harness::postgres;

/// Tests of each engine that is named: each function is a promise, and each engine keeps it.
macro_rules! kept_by {
    ($engine:ident, $trial:expr; $($promise:ident),*) => {
        mod $engine {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise($trial).await;
            })*
        }
    };
}

/// The same for the engines that keep their history on a disk.
macro_rules! kept_on_disk {
    ($($promise:ident),* $(,)?) => {
        $crate::store_trial::kept_by!(sqlite, $crate::store_trial::Trial::sqlite(); $($promise),*);
        $crate::store_trial::kept_by!(postgres, $crate::store_trial::Trial::postgres().await; $($promise),*);
    };
}

/// The same for all engines.
macro_rules! kept_by_all {
    ($($promise:ident),* $(,)?) => {
        $crate::store_trial::kept_on_disk!($($promise),*);
        $crate::store_trial::kept_by!(memory, $crate::store_trial::Trial::memory(); $($promise),*);
    };
}

pub(crate) use {kept_by, kept_by_all, kept_on_disk};

/// A clock that only moves when it is told to. It begins on a whole millisecond, as the real one always is.
#[derive(Debug)]
pub struct HandClock(AtomicI64);

impl HandClock {
    pub fn start() -> Arc<Self> {
        Arc::new(HandClock(AtomicI64::new(1_800_000_000_123)))
    }

    /// Sets it to this instant.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.as_millisecond(), Ordering::SeqCst);
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn wall(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap()
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_start(Duration::from_millis(self.0.load(Ordering::SeqCst).unsigned_abs()))
    }
}

/// What was told of one commit: the project, and its deployments' revisions and numbers of events.
pub type Heard = (ProjectName, Vec<(DeploymentId, Revision, u64)>);

/// A store under test, and what it told of its commits.
pub struct Trial {
    pub store: Arc<dyn Store>,
    pub queue: Queue,
    pub clock: Arc<HandClock>,
    heard: Arc<Mutex<Vec<Heard>>>,
    place: Option<Place>,
}

struct Place {
    directory: TempDir,
    sqlite: Arc<SqliteStore>,
}

impl Trial {
    /// A fresh SQLite store in a directory of its own.
    pub fn sqlite() -> Trial {
        let directory = tempfile::tempdir().unwrap();
        Trial::open_sqlite(directory, HashMap::new())
    }

    pub fn open_sqlite(directory: TempDir, policies: HashMap<ProjectName, Policy>) -> Trial {
        let (heard, on_commit) = ear();
        let sqlite = Arc::new(SqliteStore::open(&directory.path().join("singletrack.db"), on_commit).unwrap());
        let place = Place { directory, sqlite: sqlite.clone() };
        Trial::of(sqlite, heard, Some(place), policies)
    }

    /// A fresh SQLite store in a directory that outlives it.
    pub fn sqlite_at(directory: &Path) -> Trial {
        let (heard, on_commit) = ear();
        let sqlite = SqliteStore::open(&directory.join("singletrack.db"), on_commit).unwrap();
        Trial::of(Arc::new(sqlite), heard, None, HashMap::new())
    }

    /// A fresh PostgreSQL store in a database of its own.
    pub async fn postgres() -> Trial {
        let cluster = postgres::shared();
        Trial::postgres_at(&cluster.url(&cluster.database().await)).await
    }

    /// One of the servers of a PostgreSQL database.
    pub async fn postgres_at(url: &str) -> Trial {
        let (heard, on_commit) = ear();
        let store = PostgresStore::open(
            &url.parse().unwrap(),
            8,
            on_commit,
            Arc::new(|_| {}),
            &singletrack::health::Health::default(),
        )
        .await
        .unwrap();
        Trial::of(Arc::new(store), heard, None, HashMap::new())
    }

    /// A fresh memory store.
    pub fn memory() -> Trial {
        Trial::memory_with(HashMap::new())
    }

    pub fn memory_with(policies: HashMap<ProjectName, Policy>) -> Trial {
        let (heard, on_commit) = ear();
        Trial::of(Arc::new(MemoryStore::new(on_commit)), heard, None, policies)
    }

    fn of(
        store: Arc<dyn Store>,
        heard: Arc<Mutex<Vec<Heard>>>,
        place: Option<Place>,
        policies: HashMap<ProjectName, Policy>,
    ) -> Trial {
        let clock = HandClock::start();
        let queue = Queue::new(store.clone(), clock.clone(), with_policies(policies));
        Trial { store, queue, clock, heard, place }
    }

    /// The same verbs under a project's own rules.
    pub fn queue_with(&self, project: &str, policy: Policy) -> Queue {
        let policies = HashMap::from([(name(project), policy)]);
        Queue::new(self.store.clone(), self.clock.clone(), with_policies(policies))
    }

    /// The database file of an engine that has one.
    pub fn path(&self) -> PathBuf {
        self.place.as_ref().expect("an engine with a file").directory.path().join("singletrack.db")
    }

    /// Closes the store, where it can be, and opens what it left behind.
    pub fn reopened(self) -> Trial {
        self.reopened_after(|_| {})
    }

    /// The same, with something done to its file in between.
    pub fn reopened_after(self, change: impl FnOnce(&std::path::Path)) -> Trial {
        let path = self.path();
        let Trial { store, queue, place, .. } = self;
        drop((store, queue));
        let Place { directory, sqlite } = place.expect("an engine with a file");
        sqlite.close();
        drop(sqlite);
        change(&path);
        Trial::open_sqlite(directory, HashMap::new())
    }

    /// What was told of commits since the last call.
    pub fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }

    /// Decides something under a project's lock.
    pub async fn decide<T: Send + 'static>(
        &self,
        project: &str,
        load: Load,
        decide: impl FnOnce(&mut Slot) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let now = self.clock.wall();
        transact(&*self.store, name(project), load, move |loaded| {
            let mut slot = Slot::of(loaded, now, &Policy::default());
            let value = decide(&mut slot);
            (slot.into_changes(), value)
        })
        .await
    }

    /// Submits; the deployment's id is `id(number)`.
    pub async fn submit(&self, project: &str, number: u64, on_conflict: OnConflict) -> Admission {
        self.submit_spec(project, number, on_conflict, spec()).await
    }

    pub async fn submit_spec(&self, project: &str, number: u64, on_conflict: OnConflict, spec: Spec) -> Admission {
        let wish = Submission {
            id: id(number),
            project: name(project),
            spec,
            key: None,
            on_conflict,
            refusal: None,
            sealed: None,
            claim: None,
        };
        self.queue.submit(&Caller::server(), wish).await.unwrap().admission
    }

    /// A worker takes a deployment. Answers its proof.
    pub async fn claim(&self, project: &str, number: u64) -> SecretHash {
        let claimed = self.queue.claim(name(project), id(number), LeaseHolder::worker("worker-1")).await.unwrap();
        claimed.expect("it can be claimed").secret.hash()
    }

    pub async fn finish(&self, project: &str, number: u64, secret: SecretHash) -> Deployment {
        let verdict = Verdict::Succeeded { outputs: Default::default() };
        self.queue.finish(name(project), id(number), secret, verdict).await.unwrap()
    }

    pub async fn deployment(&self, project: &str, number: u64) -> Deployment {
        self.store.deployment(name(project), id(number)).await.unwrap().expect("it is there").deployment
    }

    pub async fn position(&self, project: &str, number: u64) -> u64 {
        self.store.deployment(name(project), id(number)).await.unwrap().expect("it is there").position
    }

    pub async fn events(&self, number: u64) -> Vec<Event> {
        self.store.events(id(number), 0, usize::MAX).await.unwrap()
    }
}

fn ear() -> (Arc<Mutex<Vec<Heard>>>, OnCommit) {
    let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
    let ear = heard.clone();
    let on_commit: OnCommit = Arc::new(move |project: &ProjectName, changes: &Changes| {
        let steps = changes.steps.iter().map(|step| step.deployment());
        let told = steps.map(|deployment| (deployment.id, deployment.revision, deployment.event_count)).collect();
        ear.lock().unwrap().push((project.clone(), told));
    });
    (heard, on_commit)
}

/// Hears nothing.
pub fn deaf() -> OnCommit {
    Arc::new(|_, _| {})
}

/// Tries to open a store.
pub fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, deaf())
}

/// The id with this number in it.
pub fn id(number: u64) -> DeploymentId {
    DeploymentId::from_bytes((u128::from(number) | 7 << 76).to_be_bytes())
}

pub fn name(text: &str) -> ProjectName {
    text.parse().unwrap()
}

/// The simplest wish.
pub fn spec() -> Spec {
    Spec { pipeline: "deploy".to_owned(), ..Spec::default() }
}

/// A configuration in which these projects have these rules.
pub fn with_policies(policies: HashMap<ProjectName, Policy>) -> LiveConfig {
    let project = |policy| ProjectConfig { policy, ..ProjectConfig::default() };
    let projects = policies.into_iter().map(|(name, policy)| (name, project(policy))).collect();
    LiveConfig::fixed(Config { projects, ..Config::default() })
}
