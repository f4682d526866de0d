//! The settings of an operator in `singletrack.toml`, read at the start and at each reload into types that hold only valid
//! values.
//!
//! A configuration that contradicts itself is refused before anything starts: all its problems are listed, each with
//! its line, and an unknown key names the nearest known one. Flags and environment variables override the file, the
//! file overrides the defaults.

mod artifacts;
mod claims;
mod duration;
mod freeze;
mod limits;
mod live;
mod location;
mod networks;
mod notify;
mod oidc;
mod page;
mod pass_env;
mod postgres;
mod project;
mod reader;
mod reload;
mod retention;
mod secret_inputs;
mod since;
mod tls;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeTable;

pub use artifacts::Artifacts;
pub use claims::ClaimPattern;
pub use duration::{format_duration, parse_duration};
pub use live::{LastReload, LiveConfig};
pub use location::StoreLocation;
pub use networks::AllowedNetworks;
pub use notify::{NotifyTarget, SecretSource, TargetKind, TargetUrl, refused, require_allowed};
pub use oidc::{DEFAULT_AUDIENCE, OidcIssuer, OidcRule};
pub use page::{OidcLogIn, PageSettings};
pub use pass_env::PassEnv;
pub use postgres::{Postgres, PostgresUrl, TlsMode};
pub use project::{ByAgents, Check, Phase, PhaseAction, Pipeline, ProjectConfig, WithoutAgent, is_pipeline_name};
pub use reader::{ConfigProblem, nearest};
pub use reload::{ChangedProjects, ConfigOrigin, Reload, reload_in_words};
pub use retention::{KEY_PROTECTION, RetentionRules, RetentionSettings};
pub use secret_inputs::SecretInputs;
pub use since::Since;
pub use tls::Tls;

use crate::model::{Glob, Limits, ProjectName, Scope, Scopes};
use reader::{ConfigTable, Document};

/// The file that is read when none is named, if it is there.
pub const DEFAULT_FILE: &str = "singletrack.toml";

/// The settings of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The address that the server listens on.
    pub listen: SocketAddr,
    /// Where deployments are kept.
    pub store: StoreLocation,
    /// How a PostgreSQL database is used.
    pub postgres: Postgres,
    /// Where workspaces are made; see [`Config::work_dir`].
    pub work_dir: Option<PathBuf>,
    /// The only host names, besides loopback ones, that a request's `Host` may carry, in lower case. They need tokens.
    pub allowed_hosts: Vec<String>,
    /// The proxies that are believed when they say for whom they ask.
    pub trusted_proxies: Vec<IpNet>,
    /// How long running pipelines may go on after the server was told to stop.
    pub shutdown_grace: Duration,
    /// How many pipelines the server itself runs at once.
    pub max_running: usize,
    /// The variables of the server's own environment that phases get, besides those that they always get.
    pub pass_env: PassEnv,
    /// Which inputs are secret, in every project.
    pub secret_inputs: SecretInputs,
    /// The limits of leases and hand-offs.
    pub limits: Limits,
    /// How artifacts are kept.
    pub artifacts: Artifacts,
    /// How long deployments and their output are kept.
    pub retention: RetentionSettings,
    /// The server's own certificate, if it speaks TLS itself.
    pub tls: Option<Tls>,
    /// The tokens that give access; without any, only programs and pages of this machine may call.
    pub tokens: Vec<TokenHash>,
    /// Whether only projects of this configuration may be deployed.
    pub known_projects_only: bool,
    /// The issuers whose OIDC tokens give access.
    pub oidc: Vec<OidcIssuer>,
    /// Who is told of what.
    pub notify: Vec<Arc<NotifyTarget>>,
    /// How people sign in to the page.
    pub page: PageSettings,
    /// Where people reach this server, for links in messages.
    pub public_url: Option<String>,
    /// The projects, by name.
    pub projects: BTreeMap<ProjectName, ProjectConfig>,
}

/// A token as the server knows it: never the token itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHash {
    /// The holder's name.
    pub name: String,
    /// The SHA-256 of the token.
    pub sha256: [u8; 32],
    /// The only projects that its holder may see, as names and patterns; all of them if unset.
    pub projects: Option<Vec<Glob>>,
    /// What its holder may do.
    pub scopes: Scopes,
}

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {file}: {source}; name another file with --config")]
    Unreadable {
        /// The file's name.
        file: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The file was read, and is wrong. Shown as one line per problem.
    #[error("{}", in_lines(file, problems))]
    Wrong {
        /// The file's name.
        file: String,
        /// The problems, in the order of the file; never empty.
        problems: Vec<ConfigProblem>,
    },
    /// The file is right by itself, and does not fit to the process.
    #[error("{0}")]
    Unfit(String),
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 7878)),
            store: StoreLocation::Sqlite(PathBuf::from("singletrack.db")),
            postgres: Postgres::default(),
            work_dir: None,
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            shutdown_grace: Duration::from_secs(30),
            max_running: default_max_running(),
            pass_env: PassEnv::default(),
            secret_inputs: SecretInputs::default(),
            limits: Limits::default(),
            artifacts: Artifacts::default(),
            retention: RetentionSettings::default(),
            tls: None,
            tokens: Vec::new(),
            known_projects_only: false,
            oidc: Vec::new(),
            notify: Vec::new(),
            page: PageSettings::default(),
            public_url: None,
            projects: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the named file, or `singletrack.toml` if it is there, or takes the defaults.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(file) {
            Ok(text) => Config::parse(&text, file),
            Err(missing) if path.is_none() && missing.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
            Err(source) => Err(ConfigError::Unreadable { file: file.display().to_string(), source }),
        }
    }

    /// Reads a configuration from its text; the path is only for messages.
    pub fn parse(text: &str, path_for_messages: &Path) -> Result<Config, ConfigError> {
        let document = Document::new(text);
        let (root, syntax_errors) = DeTable::parse_recoverable(text);
        for error in &syntax_errors {
            document.problem(error.span().unwrap_or(0..0), error.message());
        }
        let mut config = Config::default();
        // The rest of a broken file would only repeat the same mistake as further problems.
        if syntax_errors.is_empty() {
            config = read_config(ConfigTable::new(&document, String::new(), root.span(), root.get_ref()));
        }
        match document.into_problems() {
            problems if problems.is_empty() => Ok(config),
            problems => Err(ConfigError::Wrong { file: path_for_messages.display().to_string(), problems }),
        }
    }

    /// The same configuration, with the values of flags or the environment in place of its own.
    #[must_use]
    pub fn overriding(mut self, listen: Option<SocketAddr>, store: Option<StoreLocation>) -> Config {
        self.listen = listen.unwrap_or(self.listen);
        self.store = store.unwrap_or(self.store);
        self
    }

    /// What is valid and may be a mistake, each in a sentence: a token or a rule for projects that the configuration does not
    /// have.
    pub fn warnings(&self) -> Vec<String> {
        let mut found = Vec::new();
        for token in &self.tokens {
            for pattern in token.projects.iter().flatten() {
                // A server that has no projects at all has them by `run`, whose names it cannot know.
                let is_known = self.projects.keys().any(|project| pattern.matches(project.as_str()))
                    || (self.projects.is_empty() && pattern.literal().is_some());
                if !is_known {
                    found.push(format!("the token {:?} is for projects {pattern:?}, and no project of this configuration has such a name", token.name));
                }
            }
        }
        found.extend(oidc::unmatched_projects(self));
        found.extend(notify::warnings(self));
        found
    }

    /// Whether the configuration names somebody who gets in, so that all others stay out.
    pub fn names_somebody(&self) -> bool {
        !self.tokens.is_empty() || !self.oidc.is_empty() || !self.page.log_ins.is_empty()
    }

    /// What is kept of a project's deployments.
    pub fn retention_of(&self, project: &ProjectName) -> RetentionRules {
        self.projects.get(project).map_or(self.retention.rules, |project| project.retention)
    }

    /// Where workspaces are made: as configured, else `singletrack-work` next to the database file.
    pub fn work_dir(&self) -> PathBuf {
        let default = || match &self.store {
            StoreLocation::Sqlite(file) => file.with_file_name("singletrack-work"),
            StoreLocation::Postgres(_) | StoreLocation::Memory => PathBuf::from("singletrack-work"),
        };
        self.work_dir.clone().unwrap_or_else(default)
    }
}

fn read_config(mut root: ConfigTable<'_>) -> Config {
    let default = Config::default();
    let pass_env = pass_env::read(&mut root);
    let retention = root.section("retention").map_or(default.retention, retention::read);
    let secret_inputs = secret_inputs::read(&mut root);
    let config = Config {
        listen: root.parsed("listen", parse_listen).unwrap_or(default.listen),
        store: root.parsed("store", str::parse).unwrap_or(default.store),
        postgres: root.section("postgres").map_or(default.postgres, postgres::read),
        work_dir: root.parsed("work_dir", parse_path),
        allowed_hosts: read_hosts(&mut root),
        trusted_proxies: read_proxies(&mut root),
        shutdown_grace: root.duration("shutdown_grace").unwrap_or(default.shutdown_grace),
        max_running: read_max_running(&mut root).unwrap_or(default.max_running),
        limits: root.section("limits").map_or(default.limits, limits::read),
        artifacts: root.section("artifacts").map_or(default.artifacts, artifacts::read),
        tls: root.section("tls").and_then(tls::read),
        tokens: read_tokens(&mut root),
        known_projects_only: root.boolean("known_projects_only").unwrap_or(default.known_projects_only),
        oidc: oidc::read_all(&mut root),
        notify: notify::read_all(&mut root),
        page: root.section("page").map_or(default.page, page::read),
        public_url: notify::read_public_url(&mut root),
        projects: project::read_all(&mut root, &pass_env, &secret_inputs, retention.rules),
        retention,
        pass_env,
        secret_inputs,
    };
    let names_somebody = root.has("tokens") || root.has("oidc") || !config.page.log_ins.is_empty();
    if !config.allowed_hosts.is_empty() && !names_somebody {
        root.document.problem(
            root.span_of("allowed_hosts"),
            "`allowed_hosts` lets a proxy in, and with it everybody whom the proxy serves: it needs `[[tokens]]`; make one \
             with `singletrack token new`",
        );
    }
    require_addresses(&root, &config);
    if config.known_projects_only && config.projects.is_empty() && !root.has("projects") {
        root.document.problem(
            root.span_of("known_projects_only"),
            "`known_projects_only` refuses every deployment here, since there is no project; write one as [projects.NAME]",
        );
    }
    root.finish();
    config
}

/// Fails for log-ins that could not work, or whose people could be taken for jobs.
fn require_addresses(root: &ConfigTable<'_>, config: &Config) {
    if !config.page.log_ins.is_empty() && config.public_url.is_none() && !root.has("public_url") {
        root.document.problem(
            root.span_of("page"),
            "`[[page.oidc]]` needs `public_url`: the issuer sends people back there after they logged in",
        );
    }
    for log_in in &config.page.log_ins {
        let is_same = |issuer: &OidcIssuer| issuer.name == log_in.issuer.name;
        if config.oidc.iter().any(is_same) {
            let message = format!(
                "`page.oidc.name`: {:?} is the name of an [[oidc]] table; the audit log could not tell people from jobs",
                log_in.issuer.name
            );
            root.document.problem(root.span_of("page"), message);
        }
    }
}

/// Pipelines mostly wait for the network, so a core has room for several of them. A machine whose number of cores is
/// not known counts as a machine with two.
fn default_max_running() -> usize {
    4 * std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

fn read_max_running(root: &mut ConfigTable<'_>) -> Option<usize> {
    root.number("max_running", 1..=10_000).and_then(|count| usize::try_from(count).ok())
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an address and a port, such as 127.0.0.1:7878 or [::1]:7878".to_owned())
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') { Err("must name a directory".to_owned()) } else { Ok(text.into()) }
}

fn read_hosts(root: &mut ConfigTable<'_>) -> Vec<String> {
    let mut hosts = Vec::new();
    for host in root.strings("allowed_hosts") {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.get_ref().is_empty() || !host.get_ref().bytes().all(fits) {
            root.document.problem(
                host.span(),
                "`allowed_hosts` takes bare host names such as deploys.example.com, without a scheme or a port",
            );
        } else {
            hosts.push(host.get_ref().to_ascii_lowercase());
        }
    }
    hosts
}

fn read_proxies(root: &mut ConfigTable<'_>) -> Vec<IpNet> {
    let mut proxies = Vec::new();
    for proxy in root.strings("trusted_proxies") {
        let text = proxy.get_ref();
        // An address is a network of one.
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) => proxies.push(network),
            Err(_) => root.document.problem(
                proxy.span(),
                "`trusted_proxies` takes addresses and networks such as 10.0.0.0/8, 192.0.2.7 or fd00::/8",
            ),
        }
    }
    proxies
}

fn read_tokens(root: &mut ConfigTable<'_>) -> Vec<TokenHash> {
    let mut tokens: Vec<TokenHash> = Vec::new();
    for mut section in root.sections("tokens") {
        let name = section.string("name");
        let sha256 = section.parsed("sha256", parse_sha256);
        for (key, absent) in [("name", name.is_none()), ("sha256", sha256.is_none())] {
            require(&section, key, absent);
        }
        if let Some(name) = &name {
            let unusable = name.is_empty() || name.chars().any(char::is_control);
            let why = if unusable { Some("must be a printable name") } else { None };
            let twice = tokens.iter().any(|token| token.name == *name).then_some("is the name of another token");
            if let Some(why) = why.or(twice) {
                section.document.problem(section.span_of("name"), format!("`{}` {why}", section.path_of("name")));
            }
        }
        let projects = read_token_projects(&mut section);
        let scopes = read_scopes(&mut section);
        if let (Some(name), Some(sha256)) = (name, sha256) {
            tokens.push(TokenHash { name, sha256, projects, scopes });
        }
        section.finish();
    }
    tokens
}

fn read_token_projects(section: &mut ConfigTable<'_>) -> Option<Vec<Glob>> {
    let names = section.strings("projects");
    if !section.has("projects") {
        return None;
    }
    if section.is_empty_array("projects") {
        let message = format!("`{}` is empty: leave it out for a token that sees all", section.path_of("projects"));
        section.document.problem(section.span_of("projects"), message);
    }
    Some(names.iter().filter_map(|name| section.document.project_pattern(name)).collect())
}

/// What a caller may do: everything, where nothing is said.
fn read_scopes(section: &mut ConfigTable<'_>) -> Scopes {
    let named = section.strings("scopes");
    if !section.has("scopes") {
        return Scopes::all();
    }
    let path = section.path_of("scopes");
    if section.is_empty_array("scopes") {
        let message = format!("`{path}` is empty: leave it out for a token that may do everything");
        section.document.problem(section.span_of("scopes"), message);
    }
    let read = |name: &Spanned<String>| match name.get_ref().parse::<Scope>() {
        Ok(scope) => Some(scope),
        Err(error) => {
            section.document.problem(name.span(), format!("`{path}`: {error}"));
            None
        }
    };
    named.iter().filter_map(read).collect()
}

/// Reports that a key is missing, unless it is there and was already found wrong.
fn require(section: &ConfigTable<'_>, key: &str, absent: bool) {
    if absent && !section.has(key) {
        section.document.problem(section.span.clone(), format!("`{}` is missing", section.path_of(key)));
    }
}

fn parse_sha256(text: &str) -> Result<[u8; 32], String> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| "must be the SHA-256 of the token as 64 hexadecimal digits".to_owned())
}

fn in_lines(file: &str, problems: &[ConfigProblem]) -> String {
    let lines =
        problems.iter().map(|ConfigProblem { line, column, message }| format!("{file}:{line}:{column}: {message}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a name a user chose (of a token, a phase or a pipeline) was given twice.
fn first_repeated(names: &[Spanned<String>]) -> Option<&Spanned<String>> {
    names
        .iter()
        .enumerate()
        .find(|(at, name)| names[..*at].iter().any(|n| n.get_ref() == name.get_ref()))
        .map(|(_, n)| n)
}
