//! Starts and stops store, queue, reaper, worker and HTTP, each in a stated order. See decision 0033.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use thiserror::Error;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    artifacts::{
        Depot,
        retention::{self, Retention},
    },
    clock::{Clock as _, SystemClock},
    config::{Config, LiveConfig, StoreLocation},
    exec::ShimProgram,
    health::Health,
    http::{Early, HttpServer, LiveTokens, Metrics, ServeError, TOKENS_TASK, route_table, serve},
    notify::{self, Dispatcher, OnFigure},
    queue::Queue,
    reaper::{self, HoldTimer, Reaper},
    store::{OnCommit, OnHint, Store, StoreError, memory::MemoryStore, postgres::PostgresStore, sqlite::SqliteStore},
    upkeep::{self, Caretaker, Interval, RulesOf},
    watch::{self, Notifier, Watch},
    worker::Embedded,
};

/// How long to wait between two attempts to reach a database that is not there yet, at first and at most.
const FIRST_START_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_START_PAUSE: Duration = Duration::from_secs(2);

/// Why a server does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// HTTP cannot listen.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The work directory cannot be used.
    #[error("cannot use the work directory {path}: {error}")]
    WorkDir {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

/// A running server.
pub struct Node {
    server: HttpServer,
    queue: Queue,
    worker: JoinHandle<()>,
    reaper: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
    health: Health,
    end: ShutdownOrder,
}

/// The tokens that end the parts of a server, in this order.
#[derive(Default)]
struct ShutdownOrder {
    /// From then on no new work is taken.
    drain: CancellationToken,
    /// Running pipelines are stopped, even if some of their grace is left.
    hurry: CancellationToken,
    /// The reaper stops judging.
    reaper: CancellationToken,
    /// HTTP ends.
    http: CancellationToken,
    /// Everything else ends.
    background: CancellationToken,
}

impl Node {
    /// Starts a server. When this returns, it listens.
    ///
    /// # Errors
    /// The store cannot be opened, or the server cannot listen on the address.
    pub async fn start(live: LiveConfig, shim: ShimProgram) -> Result<Node, StartError> {
        let config = live.now();
        if let Some(why) = config.tls.as_ref().and_then(|tls| tls.outdated(SystemClock.wall())) {
            tracing::warn!("clients refuse this server: {why}");
        }
        super::restart::warnings(&config).iter().for_each(|warning| tracing::warn!("{warning}"));
        let notifier = Arc::new(Notifier::default());
        let metrics = Arc::new(Metrics::new(live.clone(), route_table()));
        let health = Health::default();
        let store = await_store(&live, &notifier, &on_commit(&notifier, &metrics), &health).await?;
        let queue = Queue::new(store.clone(), Arc::new(SystemClock), live.clone());
        let end = ShutdownOrder::default();
        let watch = Watch::new(store, notifier.clone(), end.drain.clone(), end.http.clone());
        let depot = Depot::new(queue.store().clone(), &config.work_dir());
        let mut worker = Embedded::new(queue.clone(), notifier.clone(), depot.clone(), shim)
            .map_err(|error| StartError::WorkDir { path: config.work_dir().display().to_string(), error })?;
        let artifacts = Retention::new(depot, queue.store().clone(), live.clone());
        let (seen, ending) = (health.clone(), end.http.clone());
        let tokens = LiveTokens::load(queue.store().clone(), queue.clock().clone(), live.clone()).await?;
        let (known, kept) = (tokens.clone(), artifacts.clone());
        let figures = metrics.clone();
        let on_figure: OnFigure = Arc::new(move |figure| figures.note_notification(figure));
        let server = serve(queue.clone(), watch.clone(), metrics, seen, kept, known, ending).await?;
        // A port 0 has been replaced by a real one by now.
        worker.listens_on(server.address());
        let worker = tokio::spawn(worker.run(health.clone(), end.drain.clone(), end.hurry.clone()));
        let reaper = supervise_reaper(&health, &queue, &notifier, &end);
        let mut background = supervise(live, &health, &queue, watch, artifacts, tokens, &end.background);
        background.push(supervise_holds(&health, &queue, &notifier, &end.background));
        background.push(supervise_notifications(&health, &queue, notifier.clone(), on_figure, &end.background));
        background.push(tokio::spawn(tell_reloads(queue.config().clone(), notifier, end.background.clone())));
        Ok(Node { server, queue, worker, reaper, background, health, end })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The queue, for observing the server.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Once cancelled, [`Node::stop`] gives running pipelines no more time.
    pub fn hurry(&self) -> CancellationToken {
        self.end.hurry.clone()
    }

    /// Stops. New work is refused at once. Pipelines that run here continue for the configured grace, and are stopped
    /// then. As long as one runs, every client is served. HTTP ends after the last pipeline, and the reaper before
    /// HTTP, because a server that cannot be reached must not judge silence. The store is closed last.
    pub async fn stop(self) {
        self.health.drain();
        self.end.drain.cancel();
        // Panics of these tasks have been reported already.
        let _ = self.worker.await;
        self.end.reaper.cancel();
        let _ = self.reaper.await;
        self.end.http.cancel();
        self.server.stopped().await;
        self.end.background.cancel();
        for task in self.background {
            let _ = task.await;
        }
        self.queue.store().clone().shut_down().await;
    }
}

/// Starts the tasks that run beside requests and pipelines, each under supervision.
fn supervise(
    live: LiveConfig,
    health: &Health,
    queue: &Queue,
    watch: Watch,
    artifacts: Retention,
    tokens: Arc<LiveTokens>,
    shutdown: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    let hints = watch.tokens();
    let fallback = tokio::spawn(poll_slowly(live.clone(), health.clone(), watch, shutdown.clone()));
    let ending = shutdown.clone();
    let retention =
        health.supervise(retention::TASK, shutdown.clone(), move |pulse| artifacts.clone().run(pulse, ending.clone()));
    let ending = shutdown.clone();
    let tokens = health.supervise(TOKENS_TASK, shutdown.clone(), move |pulse| {
        tokens.clone().run(hints.clone(), pulse, ending.clone())
    });
    let mut tasks = vec![fallback, retention, tokens];
    let store = queue.store().clone();
    if store.upkeep().is_some() {
        let (by, every, ending) = (live.clone(), live.clone(), shutdown.clone());
        let rules: RulesOf = Arc::new(move |project| by.now().retention_of(project));
        let interval: Interval = Arc::new(move || every.now().retention.interval);
        tasks.push(health.supervise(upkeep::TASK, shutdown.clone(), move |pulse| {
            let (rules, interval) = (rules.clone(), interval.clone());
            Caretaker::new(store.clone(), Arc::new(SystemClock), rules, interval).run(pulse, ending.clone())
        }));
    }
    tasks
}

/// Starts the timer of holds.
fn supervise_holds(
    health: &Health,
    queue: &Queue,
    notifier: &Arc<Notifier>,
    shutdown: &CancellationToken,
) -> JoinHandle<()> {
    let (queue, notifier, ending) = (queue.clone(), notifier.clone(), shutdown.clone());
    health.supervise(reaper::HOLDS_TASK, shutdown.clone(), move |pulse| {
        HoldTimer::new(queue.clone(), notifier.clone()).run(pulse, ending.clone())
    })
}

/// Tells those who watch projects of each reload, which may have changed any of them.
async fn tell_reloads(live: LiveConfig, notifier: Arc<Notifier>, shutdown: CancellationToken) {
    let mut changes = live.changes();
    while shutdown.run_until_cancelled(changes.changed()).await.is_some_and(|changed| changed.is_ok()) {
        notifier.board().touch_all();
    }
}

/// Starts the task that sends notifications.
fn supervise_notifications(
    health: &Health,
    queue: &Queue,
    notifier: Arc<Notifier>,
    on_figure: OnFigure,
    shutdown: &CancellationToken,
) -> JoinHandle<()> {
    let (queue, ending) = (queue.clone(), shutdown.clone());
    health.supervise(notify::TASK, shutdown.clone(), move |pulse| {
        let (store, clock, live) = (queue.store().clone(), queue.clock().clone(), queue.config().clone());
        let wakes = notifier.notifications();
        Dispatcher::new(store, clock, live, wakes, on_figure.clone()).run(pulse, ending.clone())
    })
}

/// Runs the slow poll, with the present period, until `shutdown`.
async fn poll_slowly(live: LiveConfig, health: Health, watch: Watch, shutdown: CancellationToken) {
    let mut changes = live.changes();
    while !shutdown.is_cancelled() {
        let period = changes.borrow_and_update().limits.fallback_poll;
        let ending = shutdown.child_token();
        let (watch, ended) = (watch.clone(), ending.clone());
        let polling = health.supervise(watch::fallback_task(period), ending.clone(), move |pulse| {
            watch.clone().fallback(period, pulse, ended.clone())
        });
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = changes.wait_for(|config| config.limits.fallback_poll != period) => ending.cancel(),
        }
        // Its panics have been reported already.
        let _ = polling.await;
    }
}

/// Starts the reaper, which ends before HTTP does.
fn supervise_reaper(health: &Health, queue: &Queue, notifier: &Arc<Notifier>, end: &ShutdownOrder) -> JoinHandle<()> {
    let (queue, notifier, drain, ending) = (queue.clone(), notifier.clone(), end.drain.clone(), end.reaper.clone());
    health.supervise(reaper::TASK, end.reaper.clone(), move |pulse| {
        Reaper::new(queue.clone(), notifier.clone(), drain.clone()).run(pulse, ending.clone())
    })
}

fn on_commit(notifier: &Arc<Notifier>, metrics: &Arc<Metrics>) -> OnCommit {
    let (notifier, metrics) = (notifier.clone(), metrics.clone());
    Arc::new(move |project, changes| {
        // First, so that whoever is told of a change finds it counted. It only counts, in memory.
        metrics.note(project, changes);
        notifier.publish(changes);
    })
}

/// Opens the store. If the database is not there yet, waits for it; meanwhile requests are answered that the server is
/// not ready.
async fn await_store(
    live: &LiveConfig,
    notifier: &Arc<Notifier>,
    on_commit: &OnCommit,
    health: &Health,
) -> Result<Arc<dyn Store>, StartError> {
    let config = &*live.now();
    let gives_up_at = Instant::now() + config.postgres.start_timeout;
    let mut early = None;
    let pauses = ExponentialBuilder::new().with_min_delay(FIRST_START_PAUSE).with_max_delay(LONGEST_START_PAUSE);
    let mut pauses = pauses.without_max_times().build();
    loop {
        let why = match open_store(config, notifier, on_commit.clone(), health).await {
            // Another process holds a file as long as it lives, so waiting is useless; but a database may come up.
            Err(StoreError::Unavailable(why) | StoreError::Unknown(why))
                if matches!(config.store, StoreLocation::Postgres(_)) && Instant::now() < gives_up_at =>
            {
                why
            }
            opened => return Ok(opened?),
        };
        if early.is_none() {
            health.set("store", Err("the database does not answer yet".into()));
            let listening = Early::listen(live, health.clone()).await?;
            tracing::warn!(
                address = %listening.address(),
                error = %why,
                start_timeout_seconds = config.postgres.start_timeout.as_secs(),
                "the database is not there yet; waiting for it"
            );
            early = Some(listening);
        }
        tracing::debug!(error = %why, "the database is not there yet");
        let left = gives_up_at.saturating_duration_since(Instant::now());
        sleep(pauses.next().unwrap_or(LONGEST_START_PAUSE).min(left)).await;
    }
}

async fn open_store(
    config: &Config,
    notifier: &Arc<Notifier>,
    on_commit: OnCommit,
    health: &Health,
) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match &config.store {
        StoreLocation::Sqlite(path) => Arc::new(SqliteStore::open(path, on_commit)?),
        StoreLocation::Postgres(url) => {
            let notifier = notifier.clone();
            let on_hint: OnHint = Arc::new(move |hint| notifier.hear(hint));
            Arc::new(PostgresStore::open(url, config.postgres.connections, on_commit, on_hint, health).await?)
        }
        StoreLocation::Memory => Arc::new(MemoryStore::new(on_commit)),
    })
}
