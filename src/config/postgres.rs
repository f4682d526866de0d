//! The place of a PostgreSQL database and the way to it, as one URL. Its secret parts are never shown.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use super::reader::ConfigTable;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// The schema of our tables, unless another is named, because the database may also be used by other programs.
const DEFAULT_SCHEMA: &str = "singletrack";

/// The socket directory of a local database when no host is named: the usual one of Debian and most others.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// The `[postgres]` table: how a PostgreSQL database is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Postgres {
    /// How many connections are opened at most. Two more serve the wake-ups between replicas.
    pub connections: usize,
    /// How long the server waits at its start for a database that is not there yet.
    pub start_timeout: Duration,
}

impl Default for Postgres {
    fn default() -> Self {
        // Commits share their fsync, so this many keep a usual disk busy; and a database that allows a hundred
        // connections has room for several replicas.
        Postgres { connections: 16, start_timeout: Duration::from_secs(300) }
    }
}

pub(super) fn read(mut section: ConfigTable<'_>) -> Postgres {
    let default = Postgres::default();
    let connections = section.number("connections", 2..=1000).map_or(default.connections, |number| number as usize);
    let start_timeout = section.duration("start_timeout").unwrap_or(default.start_timeout);
    section.finish();
    Postgres { connections, start_timeout }
}

/// A PostgreSQL database: `postgres://user:password@host:5432/database?sslmode=verify-full`.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    driver: tokio_postgres::Config,
    tls: Option<TlsMode>,
    root_certificates: Option<RootCertificates>,
    schema: String,
}

/// The authorities that vouch for the database: `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RootCertificates {
    /// The authorities that the system trusts.
    System,
    /// The certificates in this file.
    File(PathBuf),
}

impl RootCertificates {
    fn named(value: &str) -> Self {
        if value == "system" { RootCertificates::System } else { RootCertificates::File(PathBuf::from(value)) }
    }
}

/// How a connection is protected: `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Not at all.
    Disable,
    /// Encrypted where the database offers it, without a proof of its identity; the default, as everywhere.
    Prefer,
    /// Encrypted, and the database's certificate is issued by an authority that we trust; the name in the certificate
    /// is not checked.
    VerifyCa,
    /// Encrypted, and the certificate is for the host that was asked for. `require` means this, too.
    VerifyFull,
}

impl PostgresUrl {
    /// The settings of the driver, without TLS and time limits, because the driver does not handle these.
    pub fn driver(&self) -> &tokio_postgres::Config {
        &self.driver
    }

    /// How a connection is protected.
    pub fn tls(&self) -> TlsMode {
        self.tls.unwrap_or(TlsMode::Prefer)
    }

    /// The same, with the values of `PGSSLMODE` and `PGSSLROOTCERT` where the URL has none. The database's place and
    /// user come from the URL alone, because the place to which a deploy's data goes must not depend on the shell that
    /// started the server.
    ///
    /// # Errors
    /// `PGSSLMODE` is not a known mode.
    pub fn with_environment(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        if self.tls.is_none()
            && let Some(mode) = set("PGSSLMODE")
        {
            let tls = parse_tls(&mode).map_err(|why| format!("PGSSLMODE: {why}"))?;
            self.tls = Some(tls);
            self.driver.ssl_mode(ssl_mode(tls));
        }
        if self.root_certificates.is_none() {
            self.root_certificates = set("PGSSLROOTCERT").map(|value| RootCertificates::named(&value));
        }
        Ok(self)
    }

    /// The file of the authorities that are trusted; the system's where it is not named.
    pub fn root_certificates(&self) -> Option<&std::path::Path> {
        match self.root_certificates.as_ref()? {
            RootCertificates::System => None,
            RootCertificates::File(file) => Some(file),
        }
    }

    /// The schema that our tables live in.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Whether any host is reached over a network.
    pub fn leaves_the_machine(&self) -> bool {
        self.driver.get_hosts().iter().any(|host| match host {
            Host::Tcp(name) => !matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
            Host::Unix(_) => false,
        })
    }
}

impl FromStr for PostgresUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let mut tls = None;
        let mut root_certificates = None;
        let mut schema = DEFAULT_SCHEMA.to_owned();
        // Parameters that the driver does not know are ours; the rest is handed on.
        let mut rest = form_urlencoded::Serializer::new(String::new());
        let mut has_rest = false;
        for (key, value) in form_urlencoded::parse(query.replace('+', "%2B").as_bytes()) {
            match &*key {
                "sslmode" => tls = Some(parse_tls(&value)?),
                "sslrootcert" => root_certificates = Some(RootCertificates::named(&value)),
                "sslcert" | "sslkey" | "sslcrl" | "service" | "passfile" => {
                    return Err(format!("`{key}` is not supported"));
                }
                "schema" => schema = parse_schema(&value)?,
                _ => {
                    rest.append_pair(&key, &value);
                    has_rest = true;
                }
            }
        }
        let driver_url =
            if has_rest { format!("{place}?{}", rest.finish().replace('+', "%20")) } else { place.to_owned() };
        // The driver names the parameter that is wrong, and never its value.
        let mut driver: tokio_postgres::Config = driver_url.parse().map_err(|error: tokio_postgres::Error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("is not a PostgreSQL URL ({})", source.unwrap_or_else(|| error.to_string()))
        })?;
        if driver.get_hosts().is_empty() && driver.get_hostaddrs().is_empty() {
            if std::path::Path::new(SOCKET_DIRECTORY).is_dir() {
                driver.host_path(SOCKET_DIRECTORY);
            } else {
                driver.host("localhost");
            }
        }
        if driver.get_target_session_attrs() == TargetSessionAttrs::ReadOnly {
            return Err("`target_session_attrs` must be read-write: a standby cannot be written to".to_owned());
        }
        driver.ssl_mode(ssl_mode(tls.unwrap_or(TlsMode::Prefer)));
        if driver.get_application_name().is_none() {
            driver.application_name("singletrack");
        }
        Ok(PostgresUrl { driver, tls, root_certificates, schema })
    }
}

fn ssl_mode(tls: TlsMode) -> SslMode {
    match tls {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
    }
}

fn parse_tls(mode: &str) -> Result<TlsMode, String> {
    match mode {
        "disable" => Ok(TlsMode::Disable),
        "prefer" => Ok(TlsMode::Prefer),
        "verify-ca" => Ok(TlsMode::VerifyCa),
        "require" | "verify-full" => Ok(TlsMode::VerifyFull),
        _ => Err("`sslmode` must be disable, prefer, require, verify-ca or verify-full".to_owned()),
    }
}

fn parse_schema(name: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if begins && name.len() <= 63 && name.bytes().all(plain) && !name.starts_with("pg_") {
        Ok(name.to_owned())
    } else {
        Err("`schema` must be lower-case letters, digits and '_', at most 63".to_owned())
    }
}

impl fmt::Display for PostgresUrl {
    /// Without any secret, and without most other parts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = self.driver.get_user() {
            write!(f, "{user}@")?;
        }
        let hosts = self.driver.get_hosts().iter().enumerate().map(|(at, host)| {
            let ports = self.driver.get_ports();
            let port = ports.get(at).or(ports.first()).map_or_else(String::new, |port| format!(":{port}"));
            match host {
                Host::Tcp(name) => format!("{name}{port}"),
                Host::Unix(directory) => format!("{}{port}", directory.display()),
            }
        });
        f.write_str(&hosts.collect::<Vec<_>>().join(","))?;
        match self.driver.get_dbname() {
            Some(database) => write!(f, "/{database}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> PostgresUrl {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_secret_is_never_shown() {
        let url = url("postgres://singletrack:hunter2@db1:6432,db2:6433/deploys?sslmode=verify-full&password=hunter3");
        for shown in [url.to_string(), format!("{url:?}")] {
            assert!(!shown.contains("hunter"), "{shown}");
            assert!(shown.contains("postgres://singletrack@db1:6432,db2:6433/deploys"), "{shown}");
        }
        for wrong in [
            "postgres://u:hunter2@h/d?sslmode=hunter2",
            "postgres://u:hunter2@h:x/d",
            "postgres://u:hunter2@h/d?nope=hunter2",
        ] {
            let error = wrong.parse::<PostgresUrl>().expect_err("it is wrong");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_the_url_leaves_open_the_environment_says() {
        let environment = |name: &str| match name {
            "PGSSLMODE" => Some("verify-ca".to_owned()),
            "PGSSLROOTCERT" => Some("/etc/authority.pem".to_owned()),
            _ => None,
        };
        let said = url("postgres://h/d").with_environment(environment).unwrap();
        assert_eq!((said.tls(), said.driver().get_ssl_mode()), (TlsMode::VerifyCa, SslMode::Require));
        assert_eq!(said.root_certificates(), Some(std::path::Path::new("/etc/authority.pem")));
        let said = url("postgres://h/d?sslmode=disable&sslrootcert=system").with_environment(environment).unwrap();
        assert_eq!((said.tls(), said.root_certificates()), (TlsMode::Disable, None));
        assert!(url("postgres://h/d").with_environment(|_| Some("allow".to_owned())).is_err());
    }

    #[test]
    fn every_sslmode_of_libpq_but_the_useless_one_is_known() {
        for (mode, tls) in [
            ("disable", TlsMode::Disable),
            ("prefer", TlsMode::Prefer),
            ("require", TlsMode::VerifyFull),
            ("verify-ca", TlsMode::VerifyCa),
            ("verify-full", TlsMode::VerifyFull),
        ] {
            assert_eq!(url(&format!("postgres://h/d?sslmode={mode}")).tls(), tls);
        }
        assert!("postgres://h/d?sslmode=allow".parse::<PostgresUrl>().is_err());
    }

    #[test]
    fn a_socket_directory_is_a_host() {
        let url = url("postgres:///deploys?host=%2Ftmp%2Fa+b&port=5433&schema=web");
        assert_eq!(url.driver().get_hosts(), [Host::Unix("/tmp/a+b".into())]);
        assert_eq!((url.schema(), url.driver().get_ports()), ("web", &[5433][..]));
        assert!(!url.leaves_the_machine());
        assert!("postgres:///d?schema=Web;drop".parse::<PostgresUrl>().is_err());
    }
}
