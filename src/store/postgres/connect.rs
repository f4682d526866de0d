//! Getting a connection: where to, protected how, and whether the database is one that we can work with.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::time::timeout;
use tokio_postgres::{
    AsyncMessage, Client, Connection, SimpleQueryMessage,
    config::{Host, TargetSessionAttrs},
    tls::TlsStream,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    fault::{Fault, told},
    session::{Origin, Session},
};
use crate::{
    config::{PostgresUrl, TlsMode},
    store::StoreError,
};

/// How long connecting may take, to one host.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long to one that answers with several addresses, and through TLS and log-in.
const SETUP_LIMIT: Duration = Duration::from_secs(15);
/// How long data that nobody confirms may be under way.
const UNCONFIRMED_LIMIT: Duration = Duration::from_secs(10);
/// When a silent connection is asked whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// The oldest PostgreSQL that is good enough: `pg_xact_status` and all our statements are older, but nobody mends those
/// before it.
const OLDEST_VERSION: u32 = 140_000;

/// Makes connections.
pub(super) struct Connector {
    url: PostgresUrl,
    driver: tokio_postgres::Config,
    tls: MakeRustlsConnect,
    /// Whether sessions are shared: a pooler in between gives each transaction another one.
    shares_sessions: AtomicBool,
}

/// How the database presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) version: u32,
    pub(super) is_standby: bool,
    pub(super) backend: i64,
    pub(super) origin: Origin,
    pub(super) fsync: String,
    pub(super) synchronous_commit: String,
    pub(super) full_page_writes: String,
    pub(super) synchronous_standbys: String,
    /// How many standbys stream from it, where we may see that.
    pub(super) standby_count: i64,
    pub(super) synchronous_standby_count: i64,
}

const FACTS: &str = "SELECT current_setting('server_version_num'), pg_is_in_recovery()::int, pg_backend_pid(), \
    current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes'), \
    current_setting('synchronous_standby_names'), (SELECT count(*) FROM pg_stat_replication), \
    (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')), \
    CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END, \
    extract(epoch FROM pg_postmaster_start_time()) || ' ' \
        || coalesce(extract(epoch FROM (SELECT stats_reset FROM pg_stat_bgwriter))::text, '')";

impl Connector {
    /// Reads what is needed of files and the environment.
    pub(super) fn new(url: &PostgresUrl) -> Result<Self, StoreError> {
        let mut driver = url.driver().clone();
        if driver.get_password().is_none()
            && let Some(password) = password_from_environment(&driver)
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
        if driver.get_hosts().len() > 1 {
            // Of several the one that can be written to is meant.
            driver.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let tls = MakeRustlsConnect::new(tls_config(url)?);
        Ok(Connector { url: url.clone(), driver, tls, shares_sessions: AtomicBool::new(false) })
    }

    /// The schema that our tables live in.
    pub(super) fn schema(&self) -> &str {
        self.url.schema()
    }

    /// Says so where passwords or deployments may be read on the way.
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

    /// From now on no session is believed to be ours alone.
    pub(super) fn share_sessions(&self) {
        if !self.shares_sessions.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a connection pooler shares sessions between transactions: statements are sent unprepared and wake-ups \
                 between replicas come from the slow poll; give a URL that leads to PostgreSQL itself, or to a pool in \
                 session mode, for the full speed"
            );
        }
    }

    /// A bare connection to a database that we can work with.
    pub(super) async fn connect(&self) -> Result<(Client, Facts), Fault> {
        self.connect_listening(|_| {}).await
    }

    /// The same, and `hear` is told of what comes unasked.
    pub(super) async fn connect_listening(
        &self,
        hear: impl FnMut(AsyncMessage) + Send + 'static,
    ) -> Result<(Client, Facts), Fault> {
        let connecting = async {
            let (client, connection) = self.driver.connect(self.tls.clone()).await?;
            drive(connection, hear);
            let facts = facts(&client).await?;
            Ok::<_, Fault>((client, facts))
        };
        let (client, facts) = timeout(SETUP_LIMIT, connecting).await.map_err(|_| Fault::Silent)??;
        if facts.version < OLDEST_VERSION {
            let version = facts.version / 10_000;
            return refuse(format!("the database is PostgreSQL {version}; singletrack needs version 14 or later"));
        }
        if facts.is_standby {
            // It may be promoted, or the URL name another host, so this is no reason to give up.
            return Err(Fault::Refused(StoreError::Unavailable(
                "the database is a standby, which cannot be written to; name the primary, or all hosts".to_owned(),
            )));
        }
        Ok((client, facts))
    }
}

/// Makes the sessions of the pool.
pub(super) struct Sessions(pub(super) Arc<Connector>);

impl Manager for Sessions {
    type Type = Session;
    type Error = Fault;

    async fn create(&self) -> Result<Session, Fault> {
        let connector = &self.0;
        let (client, facts) = connector.connect().await?;
        if !connector.shares_sessions() {
            match Session::own(client, connector.schema(), facts.origin).await {
                Err(fault) if fault.is_lost_statement() => connector.share_sessions(),
                made => return made,
            }
            let (client, facts) = connector.connect().await?;
            return Ok(Session::shared(client, connector.schema(), facts.origin));
        }
        Ok(Session::shared(client, connector.schema(), facts.origin))
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Fault> {
        if session.is_usable() { Ok(()) } else { Err(RecycleError::message("the connection is broken")) }
    }
}

/// Moves a connection's data until it ends.
fn drive<S, T>(mut connection: Connection<S, T>, mut hear: impl FnMut(AsyncMessage) + Send + 'static)
where
    Connection<S, T>: Send + 'static,
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: TlsStream + Unpin,
{
    tokio::spawn(async move {
        loop {
            match std::future::poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(message)) => hear(message),
                Some(Err(error)) => {
                    tracing::debug!(error = %told(&error), "a connection to the database broke");
                    return;
                }
                None => return,
            }
        }
    });
}

async fn facts(client: &Client) -> Result<Facts, Fault> {
    let answer = client.simple_query(FACTS).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or_else(|| Fault::Row("the database tells nothing of itself".to_owned()))?;
    let text = |at: usize| row.get(at).unwrap_or_default().to_owned();
    let number = |at: usize| row.get(at).and_then(|text| text.parse().ok()).unwrap_or(0_i64);
    Ok(Facts {
        version: u32::try_from(number(0)).unwrap_or(0),
        is_standby: number(1) != 0,
        backend: number(2),
        fsync: text(3),
        synchronous_commit: text(4),
        full_page_writes: text(5),
        synchronous_standbys: text(6),
        standby_count: number(7),
        synchronous_standby_count: number(8),
        // The second is another one even after a crash that the first process survived: it resets the statistics.
        origin: Origin { timeline: text(9), life: text(10) },
    })
}

fn refuse<T>(why: String) -> Result<T, Fault> {
    Err(Fault::Refused(StoreError::Unusable(why)))
}

/// A password that is not in the URL: `PGPASSWORD`, else the first line that fits of `PGPASSFILE` or `~/.pgpass`.
fn password_from_environment(driver: &tokio_postgres::Config) -> Option<String> {
    if let Ok(password) = env::var("PGPASSWORD") {
        return Some(password);
    }
    let file = env::var_os("PGPASSFILE")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".pgpass")))?;
    let lines = fs::read_to_string(file).ok()?;
    let user = driver.get_user()?;
    let database = driver.get_dbname().unwrap_or(user);
    // All hosts get one password, so the first of them that has a line tells.
    driver.get_hosts().iter().enumerate().find_map(|(at, host)| {
        let ports = driver.get_ports();
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432).to_string();
        let host = match host {
            Host::Tcp(name) => name.clone(),
            // As libpq has it: a socket is the local host.
            Host::Unix(_) => "localhost".to_owned(),
        };
        let wanted = [host.as_str(), port.as_str(), database, user];
        lines.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
            let fields = split_pgpass(line);
            let [.., password] = fields.as_slice() else { return None };
            let fits =
                fields.len() == 5 && fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
            fits.then(|| password.clone())
        })
    })
}

/// `host:port:database:user:password`, where a backslash takes the meaning from ':' and '\'.
fn split_pgpass(line: &str) -> Vec<String> {
    let (mut fields, mut field) = (Vec::new(), String::new());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => field.extend(characters.next()),
            ':' if fields.len() < 4 => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    fields
}

/// The rules of TLS, by `sslmode`.
fn tls_config(url: &PostgresUrl) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let unusable = |what: &dyn std::fmt::Display| StoreError::Unusable(format!("cannot set up TLS: {what}"));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let verifier: Arc<dyn ServerCertVerifier> = match url.tls() {
        TlsMode::Disable | TlsMode::Prefer => Arc::new(AnyName { strict: None, provider }),
        TlsMode::VerifyCa | TlsMode::VerifyFull => {
            let roots = Arc::new(roots(url.root_certificates())?);
            let strict = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            let strict = strict.build().map_err(|error| unusable(&error))?;
            if url.tls() == TlsMode::VerifyFull { strict } else { Arc::new(AnyName { strict: Some(strict), provider }) }
        }
    };
    // Whom to believe is decided by the verifiers below; each of them says what it leaves out.
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            let shown = file.display();
            let unusable = |error: &dyn std::fmt::Display| {
                StoreError::Unusable(format!("cannot read the certificates in {shown}: {error}"))
            };
            let certificates = CertificateDer::pem_file_iter(file).map_err(|error| unusable(&error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unusable(&error))?;
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
            if roots.is_empty() {
                return Err(StoreError::Unusable(format!("there is no certificate in {shown}")));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(StoreError::Unusable(
                    "this system trusts no certificate authority; name a file of them with sslrootcert=".to_owned(),
                ));
            }
        }
    }
    Ok(roots)
}

/// Believes whom an authority vouches for, whatever the name (`sslmode=verify-ca`); without authorities everyone, which
/// keeps out who only listens (`sslmode=prefer`).
#[derive(Debug)]
struct AnyName {
    strict: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(strict) = &self.strict else { return Ok(ServerCertVerified::assertion()) };
        // The name is looked at last, so this says that all else is well.
        match strict.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
