//! Gets a connection: decides which host to use, and whether the database there is usable and the newest.

use std::{
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use futures_util::future::join_all;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout},
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection,
    config::{Host, TargetSessionAttrs},
    tls::TlsStream,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

use super::{
    branch::{Branch, Kinship},
    facts::{self, Facts, Refusals},
    fault::{DatabaseFault, told},
    lineage::{self},
    link::{Link, Room, Wire, one_of},
    password,
    session::{DatabaseSession, Origin},
    tls,
};
use crate::{
    config::{PostgresUrl, TlsMode},
    store::StoreError,
};

/// How long connecting to one host may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to a host with several addresses, including TLS and log-in.
const SETUP_LIMIT: Duration = Duration::from_secs(15);
/// How long sent data may stay unconfirmed.
const UNCONFIRMED_LIMIT: Duration = Duration::from_secs(10);
/// After how long a silent connection is probed.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// One of this many connections of the pool, and at least one, is reserved for reads. Commits may hang, and people then
/// want to know why.
const READ_SHARE: usize = 8;
/// How often the same refusal is logged.
const REFUSAL_PAUSE: Duration = Duration::from_secs(30);

/// Called with each message that a connection brings unasked.
pub(super) type Hear = Arc<dyn Fn(&AsyncMessage) + Send + Sync>;

/// Makes connections.
pub(super) struct Connector {
    url: PostgresUrl,
    /// One for each host.
    drivers: Vec<Config>,
    tls: MakeRustlsConnect,
    /// Whether sessions are shared: then a pooler gives each transaction another session.
    shares_sessions: AtomicBool,
    refusals: Refusals,
    /// The newest known branch, and its host.
    known: watch::Sender<Option<Known>>,
    /// The last logged refusal of a database, and when it was logged.
    refused: Mutex<Option<(Uuid, Instant)>>,
    /// Room for the connections of the pool, including those that are being closed.
    room: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

/// The branch that this server works on.
#[derive(Clone, Debug)]
struct Known {
    branch: Branch,
    host: usize,
}

impl Connector {
    /// Reads the files and environment variables that it needs. The pool has at most `connection_limit` connections.
    pub(super) fn new(url: &PostgresUrl, connection_limit: usize) -> Result<Self, StoreError> {
        let environment = |name: &str| std::env::var(name).ok();
        let url = &url.clone().with_environment(environment).map_err(StoreError::Unusable)?;
        let mut driver = url.driver().clone();
        if driver.get_password().is_none()
            && let Some(password) = password::from_environment(&driver)
        {
            driver.password(password);
        }
        if driver.get_connect_timeout().is_none() {
            driver.connect_timeout(CONNECT_LIMIT);
        }
        if driver.get_tcp_user_timeout().is_none() {
            driver.tcp_user_timeout(UNCONFIRMED_LIMIT);
        }
        driver.keepalives_idle(KEEPALIVE_AFTER).keepalives_interval(KEEPALIVE_AFTER / 2).keepalives_retries(3);
        let tls = MakeRustlsConnect::new(tls::config(url)?);
        let host_count = driver.get_hosts().len().max(driver.get_hostaddrs().len());
        Ok(Connector {
            url: url.clone(),
            drivers: (0..host_count).map(|at| one_host(&driver, at)).collect(),
            tls,
            shares_sessions: AtomicBool::new(false),
            refusals: Refusals::default(),
            known: watch::Sender::new(None),
            refused: Mutex::default(),
            room: Arc::new(Semaphore::new(connection_limit)),
            writes: Arc::new(Semaphore::new(connection_limit - (connection_limit / READ_SHARE).max(1))),
        })
    }

    /// The schema that our tables live in.
    pub(super) fn schema(&self) -> &str {
        self.url.schema()
    }

    /// How many hosts the URL names.
    pub(super) fn host_count(&self) -> usize {
        self.drivers.len()
    }

    /// Logs a warning if passwords or deployments may be read on the way to the database.
    pub(super) fn warn_of_open_wires(&self) {
        let why = match self.url.tls() {
            TlsMode::Disable => "connections to the database are not encrypted; use sslmode=verify-full",
            TlsMode::Prefer => "nothing proves that the database is the one that is meant; use sslmode=verify-full",
            TlsMode::VerifyCa | TlsMode::VerifyFull => return,
        };
        if self.url.leaves_the_machine() {
            tracing::warn!("{why}");
        }
    }

    /// Whether a pooler gives each transaction another session.
    pub(super) fn shares_sessions(&self) -> bool {
        self.shares_sessions.load(Ordering::Relaxed)
    }

    /// From now on every session counts as shared.
    pub(super) fn share_sessions(&self) {
        if !self.shares_sessions.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a connection pooler shares sessions between transactions: statements are sent unprepared and wake-ups \
                 between replicas come from the slow poll; give a URL that leads to PostgreSQL itself, or to a pool in \
                 session mode, for the full speed"
            );
        }
    }

    /// Whether this server works on this branch.
    pub(super) fn is_current(&self, branch: Uuid) -> bool {
        self.known.borrow().as_ref().is_some_and(|known| known.branch.name == branch)
    }

    /// The branch that this server works on.
    pub(super) fn current_branch(&self) -> Option<Uuid> {
        self.known.borrow().as_ref().map(|known| known.branch.name)
    }

    /// The host that this server works with.
    pub(super) fn current_host(&self) -> Option<usize> {
        self.known.borrow().as_ref().map(|known| known.host)
    }

    /// Resolves once this server works on another branch.
    pub(super) async fn moved_from(&self, branch: Uuid) {
        let mut known = self.known.subscribe();
        // The sender lives as long as `self`.
        let _ = known.wait_for(|known| known.as_ref().is_none_or(|known| known.branch.name != branch)).await;
    }

    /// A connection to the host with the newest primary, before anything is known. All hosts are asked, because a
    /// former primary that was started again looks like the primary.
    pub(super) async fn first(&self) -> Result<(usize, Link), DatabaseFault> {
        let reached = join_all((0..self.host_count()).map(|host| self.reach(host, None, None))).await;
        let mut best: Option<(usize, Link, Option<Branch>)> = None;
        let mut refused = Vec::new();
        for (host, reached) in reached.into_iter().enumerate() {
            let mut link = match reached {
                Ok(link) => link,
                Err(fault) => {
                    refused.push(fault);
                    continue;
                }
            };
            // If the tables do not exist, or are older than branches, the caller makes them or brings them up to date.
            let branch = match link.facts.lineage {
                Some(_) => Some(self.settle(&mut link).await?),
                None => None,
            };
            let is_better = match (&best, &branch) {
                (None, _) | (Some((_, _, None)), Some(_)) => true,
                (Some(_), None) => false,
                (Some((_, _, Some(known))), Some(branch)) => match known.kinship(branch) {
                    Kinship::Newer => true,
                    Kinship::Same | Kinship::Older | Kinship::Stranger => {
                        tracing::warn!("{}", lineage::refusal(known, branch, known.kinship(branch)));
                        false
                    }
                },
            };
            if is_better {
                best = Some((host, link, branch));
            }
        }
        match best {
            Some((host, link, _)) => Ok((host, link)),
            None => Err(most_telling(refused)),
        }
    }

    /// Returns the branch of a connection, and makes it the branch to work on, unless a newer one is known.
    pub(super) async fn admit(&self, host: usize, link: &mut Link) -> Result<Branch, DatabaseFault> {
        let branch = self.settle(link).await?;
        let kinship = {
            let known = self.known.borrow();
            known.as_ref().map(|known| (known.branch.kinship(&branch), known.branch.clone()))
        };
        if let Some((kinship @ (Kinship::Older | Kinship::Stranger), known)) = kinship {
            let refusal = lineage::refusal(&known, &branch, kinship);
            self.log_refusal(branch.name, host, &refusal);
            return Err(DatabaseFault::Refused(refusal));
        }
        self.known.send_if_modified(|known| {
            // Another connection may have found a newer branch meanwhile.
            let is_news = match known {
                None => true,
                Some(known) => match known.branch.kinship(&branch) {
                    Kinship::Newer => {
                        tracing::warn!(
                            before = known.branch.in_words(),
                            now = branch.in_words(),
                            host = self.host_name(host),
                            "the database was failed over; sessions of before are dropped"
                        );
                        true
                    }
                    Kinship::Same => {
                        known.host = host;
                        false
                    }
                    Kinship::Older | Kinship::Stranger => false,
                },
            };
            if is_news {
                *known = Some(Known { branch: branch.clone(), host });
            }
            is_news
        });
        if self.is_current(branch.name) { Ok(branch) } else { Err(DatabaseFault::Moved) }
    }

    async fn settle(&self, link: &mut Link) -> Result<Branch, DatabaseFault> {
        let settling = lineage::settle(&mut link.client, self.schema(), &mut link.facts);
        timeout(SETUP_LIMIT, settling).await.map_err(|_| DatabaseFault::Silent)?
    }

    fn log_refusal(&self, branch: Uuid, host: usize, refusal: &StoreError) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = refused.is_none_or(|(before, at)| before != branch || at.elapsed() > REFUSAL_PAUSE);
        if is_news {
            *refused = Some((branch, Instant::now()));
            tracing::error!(host = self.host_name(host), "a database is not worked with: {refusal}");
        }
    }

    fn host_name(&self, host: usize) -> String {
        let Some(driver) = self.drivers.get(host) else { return String::new() };
        let mut name = match (driver.get_hosts().first(), driver.get_hostaddrs().first()) {
            (Some(Host::Tcp(name)), _) => name.clone(),
            (Some(Host::Unix(directory)), _) => directory.display().to_string(),
            (None, Some(address)) => address.to_string(),
            (None, None) => String::new(),
        };
        if let Some(port) = driver.get_ports().first() {
            // Writing to a string cannot fail.
            let _ = write!(name, ":{port}");
        }
        name
    }

    /// A connection to the branch that this server works on, or to a newer one.
    pub(super) async fn connect(
        &self,
        hear: Option<Hear>,
        room: Option<Room>,
    ) -> Result<(Link, Branch), DatabaseFault> {
        let first = self.current_host().unwrap_or(0);
        let others = (0..self.host_count()).filter(|host| *host != first);
        let mut refused = Vec::new();
        for host in [first].into_iter().chain(others) {
            let admitted = async {
                let mut link = self.reach(host, hear.clone(), room.clone()).await?;
                let branch = self.admit(host, &mut link).await?;
                Ok((link, branch))
            };
            match admitted.await {
                Ok(admitted) => return Ok(admitted),
                Err(fault) => {
                    tracing::debug!(host = self.host_name(host), ?fault, "this host is passed over");
                    refused.push(fault);
                }
            }
        }
        Err(most_telling(refused))
    }

    /// Room for one more connection of the pool.
    async fn take_room(&self) -> Result<Option<Room>, DatabaseFault> {
        Ok(Some(Arc::new(one_of(&self.room).await?)))
    }

    /// A connection to this host, if the database there is usable.
    pub(super) async fn reach(
        &self,
        host: usize,
        hear: Option<Hear>,
        room: Option<Room>,
    ) -> Result<Link, DatabaseFault> {
        let Some(driver) = self.drivers.get(host) else { return Err(DatabaseFault::Mistaken("there is no such host")) };
        let wire = self.wire(room);
        let connecting = async {
            let (client, connection) = driver.connect(self.tls.clone()).await?;
            drive(connection, hear, wire.clone());
            let facts = facts::read(&client, self.schema(), &self.refusals).await?;
            Ok::<_, DatabaseFault>((client, facts))
        };
        let (client, facts) = timeout(SETUP_LIMIT, connecting).await.map_err(|_| DatabaseFault::Silent)??;
        facts.require_fit()?;
        Ok(Link { client, facts, wire })
    }

    /// Waits until one more connection may write. The caller has no connection yet while it waits, so reads find one.
    pub(super) async fn leave_to_write(&self) -> Result<OwnedSemaphorePermit, DatabaseFault> {
        one_of(&self.writes).await
    }

    fn wire(&self, room: Option<Room>) -> Arc<Wire> {
        let (writes, writing) = (self.writes.clone(), Mutex::default());
        Arc::new(Wire::new(room, writes, writing))
    }

    /// A connection to this host, without checks.
    pub(super) async fn bare(&self, host: usize) -> Result<Client, DatabaseFault> {
        let Some(driver) = self.drivers.get(host) else { return Err(DatabaseFault::Mistaken("there is no such host")) };
        let connecting = driver.connect(self.tls.clone());
        let (client, connection) = timeout(SETUP_LIMIT, connecting).await.map_err(|_| DatabaseFault::Silent)??;
        drive(connection, None, self.wire(None));
        Ok(client)
    }

    /// Examines a database again after its tables were made.
    pub(super) async fn look_again(&self, link: &mut Link) -> Result<(), DatabaseFault> {
        link.facts = facts::read(&link.client, self.schema(), &self.refusals).await?;
        Ok(())
    }

    /// The timeline that each transaction of a shared session must find, if the database tells it.
    fn expected_timeline(&self, facts: &Facts) -> Option<i64> {
        facts.timeline.filter(|_| self.refusals.tells_timeline())
    }
}

/// The driver's configuration for one of several hosts.
fn one_host(driver: &Config, at: usize) -> Config {
    let mut one = Config::new();
    if let Some(host) = driver.get_hosts().get(at) {
        match host {
            Host::Tcp(name) => one.host(name),
            Host::Unix(directory) => one.host_path(directory),
        };
    }
    if let Some(address) = driver.get_hostaddrs().get(at) {
        one.hostaddr(*address);
    }
    let ports = driver.get_ports();
    if let Some(port) = ports.get(at).or(ports.first()) {
        one.port(*port);
    }
    if let Some(user) = driver.get_user() {
        one.user(user);
    }
    if let Some(password) = driver.get_password() {
        one.password(password);
    }
    if let Some(database) = driver.get_dbname() {
        one.dbname(database);
    }
    if let Some(options) = driver.get_options() {
        one.options(options);
    }
    if let Some(name) = driver.get_application_name() {
        one.application_name(name);
    }
    if let Some(limit) = driver.get_connect_timeout() {
        one.connect_timeout(*limit);
    }
    if let Some(limit) = driver.get_tcp_user_timeout() {
        one.tcp_user_timeout(*limit);
    }
    if let Some(interval) = driver.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = driver.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one.keepalives(driver.get_keepalives()).keepalives_idle(driver.get_keepalives_idle());
    one.ssl_mode(driver.get_ssl_mode()).ssl_negotiation(driver.get_ssl_negotiation());
    one.channel_binding(driver.get_channel_binding());
    // With several hosts, more is examined than this setting tells to find the primary.
    one.target_session_attrs(match driver.get_hosts().len() {
        0 | 1 => driver.get_target_session_attrs(),
        _ => TargetSessionAttrs::Any,
    });
    one
}

/// The refusal that says most, of the refusals of several hosts: an answer of a host says more than no answer.
fn most_telling(refused: Vec<DatabaseFault>) -> DatabaseFault {
    let weight = |fault: &DatabaseFault| match fault {
        DatabaseFault::Refused(StoreError::Unusable(_)) => 4,
        DatabaseFault::Driver(error) if error.as_db_error().is_some() => 3,
        DatabaseFault::Refused(_) | DatabaseFault::Row(_) | DatabaseFault::Mistaken(_) | DatabaseFault::Moved => 2,
        DatabaseFault::Driver(_) => 1,
        DatabaseFault::Silent | DatabaseFault::Exhausted => 0,
    };
    // Of equal ones the last in this order, because the first host is usually the one that is meant.
    let telling = refused.into_iter().rev().max_by_key(weight);
    telling.unwrap_or(DatabaseFault::Mistaken("the database's URL names no host"))
}

/// Makes the sessions of the pool.
pub(super) struct Sessions(pub(super) Arc<Connector>);

impl Manager for Sessions {
    type Type = DatabaseSession;
    type Error = DatabaseFault;

    async fn create(&self) -> Result<DatabaseSession, DatabaseFault> {
        let connector = &self.0;
        let room = connector.take_room().await?;
        let (link, branch) = connector.connect(None, room.clone()).await?;
        let origin = Origin { branch: branch.name, life: link.facts.life.clone() };
        if !connector.shares_sessions() {
            match DatabaseSession::own(link, connector.schema(), origin).await {
                Err(fault) if fault.is_lost_statement() => connector.share_sessions(),
                made => return made,
            }
            let (link, branch) = connector.connect(None, room).await?;
            let origin = Origin { branch: branch.name, life: link.facts.life.clone() };
            return Ok(connector.shared(link, origin));
        }
        Ok(connector.shared(link, origin))
    }

    async fn recycle(&self, session: &mut DatabaseSession, _: &Metrics) -> RecycleResult<DatabaseFault> {
        if !session.is_usable() {
            return Err(RecycleError::message("the connection is broken"));
        }
        if !self.0.is_current(session.origin().branch) {
            return Err(RecycleError::message("the database was failed over"));
        }
        Ok(())
    }
}

impl Connector {
    fn shared(&self, link: Link, origin: Origin) -> DatabaseSession {
        let timeline = self.expected_timeline(&link.facts);
        DatabaseSession::shared(link, self.schema(), origin, timeline)
    }
}

/// Moves a connection's data until it ends. It ends when the client was dropped and the database has answered
/// everything. So a commit that waits for a standby keeps its place until then.
fn drive<S, T>(mut connection: Connection<S, T>, hear: Option<Hear>, wire: Arc<Wire>)
where
    Connection<S, T>: Send + 'static,
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: TlsStream + Unpin,
{
    tokio::spawn(async move {
        loop {
            match std::future::poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(message)) => {
                    wire.hear(&message);
                    if let Some(hear) = &hear {
                        hear(&message);
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(error = %told(&error), "a connection to the database broke");
                    return;
                }
                None => return,
            }
        }
    });
}
