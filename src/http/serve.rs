//! The accept loop, and a shutdown in a stated order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustix::process::{Resource, getrlimit};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    App, Metrics,
    access_log::AccessLog,
    agents::Agents,
    attempts::Attempts,
    connection::{self, ConnectionShared},
    live_tokens::LiveTokens,
    metrics::Scrape,
    oidc::LiveOidc,
    phase_times::PhaseTimes,
    rarely::Rarely,
    refusals::{self, RefusalLog},
    router::router,
    screens::{DayCharts, DeploymentParts, Rows},
    uploads::Uploads,
};
use crate::{
    artifacts::retention::Retention,
    config::Config,
    health::{Health, Pulse, Task},
    queue::{Queue, Unheard},
    watch::Watch,
};

/// How long connections may take to end at HTTP's shutdown.
pub const END_LIMIT: Duration = Duration::from_secs(10);
/// How the accept loop is supervised.
const ACCEPT_LOOP: Task = Task::new("accept", Duration::from_secs(30));
/// The pause after the system ran out of file descriptors, so that other connections can close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many file descriptors connections never use, if there are at least twice as many.
const RESERVED_DESCRIPTORS: usize = 512;

/// Why the server does not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Every machine on the network could deploy.
    #[error(
        "refusing to listen on {0}, which other machines can reach, without tokens\n\
         hint: make one with `singletrack token new` and put it into the configuration, or listen on 127.0.0.1"
    )]
    Unprotected(SocketAddr),
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {error}\nhint: choose another address with --listen")]
    Bind { address: SocketAddr, error: std::io::Error },
}

/// A server that listens.
pub struct HttpServer {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has stopped after `shutdown`: every request that arrived is answered.
    pub async fn stopped(self) {
        // A panic of the accept loop has been reported already.
        let _ = self.accepting.await;
    }
}

/// Listens and serves until `shutdown`.
///
/// # Errors
/// The address cannot be bound, or is refused.
pub async fn serve(
    queue: Queue,
    watch: Watch,
    metrics: Arc<Metrics>,
    health: Health,
    artifacts: Retention,
    live_tokens: Arc<LiveTokens>,
    shutdown: CancellationToken,
) -> Result<HttpServer, ServeError> {
    let config = queue.config().now();
    let address = config.listen;
    require_tokens(&config, &live_tokens)?;
    let listener = TcpListener::bind(address).await.map_err(|error| ServeError::Bind { address, error })?;
    let address = listener.local_addr().map_err(|error| ServeError::Bind { address, error })?;
    let live = queue.config().clone();
    let oidc = Arc::new(LiveOidc::new(queue.config().clone(), queue.clock().clone()));
    tokio::spawn(oidc.clone().follow(shutdown.clone()));
    let agents = Agents::new(queue.store().clone(), queue.clock().clone(), watch.clone());
    let (clock, ending) = (queue.clock().clone(), shutdown.clone());
    let refusals = RefusalWriter { log: Arc::default(), queue: queue.clone() };
    let door = TurnedAway { unheard: queue.unheard().clone(), metrics: metrics.clone(), health: health.clone() };
    let scrape = Scrape::new(metrics.clone(), &**queue.store());
    let app = App {
        scrape,
        queue,
        watch,
        access: live_tokens.access().clone(),
        attempts: Attempts::default(),
        oidc,
        live_tokens,
        agents,
        metrics,
        health: health.clone(),
        artifacts,
        uploads: Uploads::default(),
        phase_times: PhaseTimes::default(),
        access_log: AccessLog::default(),
        refusals: refusals.log.clone(),
        rows: Rows::default(),
        day_charts: DayCharts::default(),
        deployment_parts: DeploymentParts::default(),
        shutdown: ending,
    };
    let router = router(Arc::new(app));
    let shared = Arc::new(ConnectionShared { router, clock, shutdown, config: live });
    let accepting = tokio::spawn(accept_until_told(listener, shared, door, refusals));
    Ok(HttpServer { address, accepting })
}

/// Refuses a configuration under which every machine on the network could deploy without a token.
pub fn require_protection(config: &Config) -> Result<(), ServeError> {
    if config.listen.ip().is_loopback() || config.names_somebody() {
        return Ok(());
    }
    Err(ServeError::Unprotected(config.listen))
}

/// The same, where a token that was made at run time protects as well.
fn require_tokens(config: &Config, live_tokens: &LiveTokens) -> Result<(), ServeError> {
    if live_tokens.has_any() { Ok(()) } else { require_protection(config) }
}

/// Accepts until shutdown, and then ends in order.
async fn accept_until_told(
    listener: TcpListener,
    shared: Arc<ConnectionShared>,
    door: TurnedAway,
    refusals: RefusalWriter,
) {
    let (listener, connections) = (Arc::new(listener), TaskTracker::new());
    let (listening, serving, serve) = (listener.clone(), shared.clone(), connections.clone());
    let health = door.health.clone();
    let RefusalWriter { log, queue } = refusals;
    let (writing, through, ending) = (log.clone(), queue.clone(), shared.shutdown.clone());
    let writing = health.supervise(refusals::TASK, shared.shutdown.clone(), move |pulse| {
        writing.clone().write(through.clone(), pulse, ending.clone())
    });
    let accepting = health.supervise(ACCEPT_LOOP, shared.shutdown.clone(), move |pulse| {
        accept(listening.clone(), serving.clone(), serve.clone(), door.clone(), pulse)
    });
    // It does not fail. If it did, the next steps would be the same.
    let _ = accepting.await;
    for stream in take_waiting(listener) {
        connections.spawn(connection::serve(stream, shared.clone()));
    }
    connections.close();
    if timeout(END_LIMIT, connections.wait()).await.is_err() {
        tracing::warn!(connection_count = connections.len(), "connections did not end in time and are cut");
    }
    let _ = writing.await;
    log.flush(queue.store(), queue.clock().wall()).await;
}

/// The refused attempts, and where they are written.
struct RefusalWriter {
    log: Arc<RefusalLog>,
    queue: Queue,
}

/// How many connections there may be. The other descriptors are left for the store, for uploads and for the worker's
/// commands.
fn connection_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    limit - RESERVED_DESCRIPTORS.min(limit / 2)
}

async fn accept(
    listener: Arc<TcpListener>,
    shared: Arc<ConnectionShared>,
    connections: TaskTracker,
    door: TurnedAway,
    pulse: Pulse,
) {
    let limit = connection_limit();
    let (mut excess, mut failures) = (Rarely::default(), Rarely::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => return,
            accepted = pulse.resting(listener.accept()) => accepted,
        };
        match accepted {
            // Closed at once: a client with many connections must not cost the worker its pipes or the store its files.
            Ok((stream, _)) if connections.len() >= limit => {
                drop(stream);
                door.turned_away();
                if let Some(count) = excess.note() {
                    tracing::warn!(limit, count, "too many connections; new ones are closed (raise LimitNOFILE)");
                }
            }
            Ok((stream, _)) => _ = connections.spawn(connection::serve(stream, shared.clone())),
            Err(error) => {
                door.turned_away();
                if let Some(count) = failures.note() {
                    tracing::warn!(%error, count, "a connection could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Counts and logs the connections that were turned away.
#[derive(Clone)]
struct TurnedAway {
    unheard: Unheard,
    metrics: Arc<Metrics>,
    health: Health,
}

impl TurnedAway {
    fn turned_away(&self) {
        self.unheard.note_turned_away();
        self.metrics.count_turned_away();
    }
}

/// The connections that the system has established and nobody has accepted yet. Closing the listener would reset them.
fn take_waiting(listener: Arc<TcpListener>) -> Vec<TcpStream> {
    let Some(Ok(listener)) = Arc::into_inner(listener).map(TcpListener::into_std) else { return Vec::new() };
    let accepted = std::iter::from_fn(|| listener.accept().ok());
    accepted
        .filter_map(|(stream, _)| {
            stream.set_nonblocking(true).ok()?;
            TcpStream::from_std(stream).ok()
        })
        .collect()
}
