//! The `[[notify]]` tables: who is told of what, and where. See decision 0086.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use reqwest::Url;

use super::{AllowedNetworks, Config, reader::ConfigTable, require};
use crate::model::{Glob, NotificationEvent, NotificationRule};

/// How many rules there may be: every decision about a slot looks at all of them.
const LIMIT: usize = 100;
/// The longest name of a rule: it stands in each row of the outbox.
const NAME_LIMIT: usize = 63;
/// How often a notification is tried when the configuration is silent: for some 4 hours.
const DEFAULT_ATTEMPTS: u32 = 12;
/// A longer wait is taken for a typing mistake.
const WAIT_LIMIT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A rule, and where to send what it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyTarget {
    /// Which changes are told.
    pub rule: NotificationRule,
    /// In which form.
    pub kind: TargetKind,
    /// Where.
    pub url: TargetUrl,
    /// What signs a webhook, or the token for a service; each line of it is one.
    pub secret: Option<SecretSource>,
    /// The repository at GitHub or GitLab.
    pub repository: Option<String>,
    /// The environment there; the project's name if unset.
    pub environment: Option<String>,
    /// Where the environment can be seen; the deployment's output `url` if unset.
    pub environment_url: Option<String>,
    /// How often a notification is tried at most.
    pub attempts: u32,
    /// Where requests may go.
    pub allowed: AllowedNetworks,
    /// A certificate authority to trust beside the system's, in PEM.
    pub ca_cert: Option<PathBuf>,
}

/// Whose form a notification has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetKind {
    /// JSON with a signature.
    Webhook,
    /// A text as Slack and those compatible with it take it.
    Slack,
    /// A card as Teams takes it.
    Teams,
    /// A deployment and its status at GitHub.
    Github,
    /// A deployment of an environment at GitLab.
    Gitlab,
}

/// Where a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetUrl {
    /// There.
    Url(String),
    /// The place where it is written: the address of a chat's channel is a secret.
    Kept(SecretSource),
}

/// Where a secret is written. It is read for each use, so that one that was exchanged counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In this variable of the server's environment.
    Env(String),
    /// In this file.
    File(PathBuf),
}

impl TargetKind {
    /// All of them.
    pub const ALL: [TargetKind; 5] =
        [TargetKind::Webhook, TargetKind::Slack, TargetKind::Teams, TargetKind::Github, TargetKind::Gitlab];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            TargetKind::Webhook => "webhook",
            TargetKind::Slack => "slack",
            TargetKind::Teams => "teams",
            TargetKind::Github => "github",
            TargetKind::Gitlab => "gitlab",
        }
    }

    /// Whether it keeps deployments, and takes nothing else.
    pub fn is_forge(self) -> bool {
        matches!(self, TargetKind::Github | TargetKind::Gitlab)
    }

    fn default_url(self) -> Option<&'static str> {
        match self {
            TargetKind::Github => Some("https://api.github.com"),
            TargetKind::Gitlab => Some("https://gitlab.com/api/v4"),
            TargetKind::Webhook | TargetKind::Slack | TargetKind::Teams => None,
        }
    }
}

impl SecretSource {
    /// Reads it. Blocks.
    ///
    /// # Errors
    /// It is not there, or empty: what to do about it, without the secret.
    pub fn read(&self) -> Result<String, String> {
        let text = match self {
            SecretSource::Env(name) => {
                std::env::var(name).map_err(|_| format!("the server's environment has no variable {name}"))?
            }
            SecretSource::File(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?
            }
        };
        match text.trim() {
            "" => Err(match self {
                SecretSource::Env(name) => format!("the variable {name} of the server's environment is empty"),
                SecretSource::File(path) => format!("{} is empty", path.display()),
            }),
            text => Ok(text.to_owned()),
        }
    }
}

/// Reads the rules.
pub(super) fn read_all(root: &mut ConfigTable<'_>) -> Vec<Arc<NotifyTarget>> {
    let span = root.span_of("notify");
    let sections = root.sections("notify");
    if sections.len() > LIMIT {
        root.document.problem(span, format!("there are more than {LIMIT} [[notify]] tables"));
    }
    let mut targets: Vec<Arc<NotifyTarget>> = Vec::new();
    for section in sections {
        targets.extend(read(section, &targets).map(Arc::new));
    }
    targets
}

/// Reads `public_url`: where people reach this server.
pub(super) fn read_public_url(root: &mut ConfigTable<'_>) -> Option<String> {
    root.parsed("public_url", |text| {
        let url = parse_url(text)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must be an address without a query, such as https://deploys.example.com".to_owned());
        }
        Ok(text.trim_end_matches('/').to_owned())
    })
}

/// What is valid and may be a mistake: a rule for projects that the configuration does not have.
pub(super) fn warnings(config: &Config) -> impl Iterator<Item = String> + '_ {
    config.notify.iter().flat_map(|target| {
        let unknown = target.rule.projects.iter().filter(|pattern| {
            !config.projects.is_empty() && !config.projects.keys().any(|project| pattern.matches(project.as_str()))
        });
        unknown.filter(|pattern| pattern.literal().is_some() || config.known_projects_only).map(|pattern| {
            format!(
                "the notification rule {:?} is for projects {pattern:?}, and no project of this configuration has such a name",
                target.rule.name
            )
        })
    })
}

fn read(mut section: ConfigTable<'_>, others: &[Arc<NotifyTarget>]) -> Option<NotifyTarget> {
    let name = section.parsed("name", parse_name);
    let kind = section.parsed("kind", |word| {
        let known = TargetKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        known.ok_or_else(|| "must be \"webhook\", \"slack\", \"teams\", \"github\" or \"gitlab\"".to_owned())
    });
    for (key, absent) in [("name", name.is_none()), ("kind", kind.is_none())] {
        require(&section, key, absent && !section.has(key));
    }
    if others.iter().any(|other| Some(&*other.rule.name) == name.as_deref()) {
        problem(&section, "name", "is the name of another [[notify]] table");
    }
    let allowed = read_allowed(&mut section);
    let url = read_url(&mut section, kind, &allowed);
    let secret = read_secret(&mut section, "secret_env", "secret_file");
    let projects = read_projects(&mut section);
    let waits_longer_than = section.parsed("waits_longer_than", |text| match super::parse_duration(text)? {
        wait if wait < Duration::from_secs(1) => Err("must be a second at least".to_owned()),
        wait if wait > WAIT_LIMIT => Err("must be 30d at most".to_owned()),
        wait => Ok(wait),
    });
    let mut events = read_events(&mut section, kind, waits_longer_than.is_some());
    if waits_longer_than.is_some() {
        events.insert(NotificationEvent::Waiting);
    }
    let repository = section.parsed("repository", |text| parse_repository(text, kind));
    let environment = section.parsed("environment", |text| parse_line(text, 255));
    let environment_url = section.parsed("environment_url", |text| parse_url(text).map(|_| text.to_owned()));
    let attempts = section.number("attempts", 1..=30).unwrap_or(DEFAULT_ATTEMPTS);
    let ca_cert = section.parsed("ca_cert", |text| match text {
        "" => Err("must name a PEM file".to_owned()),
        path => Ok(PathBuf::from(path)),
    });
    if let Some(kind) = kind {
        require_fit(&section, kind, waits_longer_than.is_some(), secret.is_some());
    }
    section.finish();
    let (name, kind) = (name?, kind?);
    let rule = NotificationRule {
        name: name.as_str().into(),
        projects,
        events,
        waits_longer_than,
        only_started: kind.is_forge(),
    };
    Some(NotifyTarget {
        rule,
        kind,
        url: url?,
        secret,
        repository,
        environment,
        environment_url,
        attempts,
        allowed,
        ca_cert,
    })
}

/// Which keys a kind needs, and which ones mean nothing to it.
fn require_fit(section: &ConfigTable<'_>, kind: TargetKind, waits: bool, has_secret: bool) {
    let word = kind.as_str();
    if kind.is_forge() {
        if !section.has("repository") {
            let example = if kind == TargetKind::Github { "\"acme/web\"" } else { "\"acme/web\" or \"1234\"" };
            let message = format!("`{}` is missing: repository = {example}", section.path_of("repository"));
            section.document.problem(section.span.clone(), message);
        }
        if !has_secret && !section.has("secret_env") && !section.has("secret_file") {
            let message = format!(
                "`{}` is missing: {word} needs a token; name the variable or the file that has it, with secret_env or secret_file",
                section.path_of("secret_env")
            );
            section.document.problem(section.span.clone(), message);
        }
        if waits {
            problem(
                section,
                "waits_longer_than",
                &format!("means nothing to {word}, which keeps deployments that started"),
            );
        }
        return;
    }
    for key in ["repository", "environment", "environment_url"] {
        if section.has(key) {
            problem(section, key, &format!("means nothing to {word}; it is for github and gitlab"));
        }
    }
    if kind == TargetKind::Webhook {
        if !has_secret && !section.has("secret_env") && !section.has("secret_file") {
            let message = format!(
                "`{}` is missing: a webhook is signed; name the variable or the file that has the secret, with secret_env or secret_file",
                section.path_of("secret_env")
            );
            section.document.problem(section.span.clone(), message);
        }
    } else {
        for key in ["secret_env", "secret_file"] {
            if section.has(key) {
                problem(
                    section,
                    key,
                    &format!("means nothing to {word}, whose secret is its address: use url_env or url_file"),
                );
            }
        }
    }
}

fn read_allowed(section: &mut ConfigTable<'_>) -> AllowedNetworks {
    let private = section.boolean("allow_private").unwrap_or(false);
    let mut networks = Vec::new();
    for network in section.strings("allow_networks") {
        let text = network.get_ref();
        // An address is a network of one.
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(network) => networks.push(network),
            Err(_) => section.document.problem(
                network.span(),
                format!(
                    "`{}` takes addresses and networks such as 10.0.0.0/8, 192.0.2.7 or fd00::/8",
                    section.path_of("allow_networks")
                ),
            ),
        }
    }
    AllowedNetworks { private, networks }
}

fn read_url(section: &mut ConfigTable<'_>, kind: Option<TargetKind>, allowed: &AllowedNetworks) -> Option<TargetUrl> {
    let url = section.parsed("url", |text| require_allowed(text, allowed).map(|()| TargetUrl::Url(text.to_owned())));
    let kept = read_secret(section, "url_env", "url_file").map(TargetUrl::Kept);
    let given = ["url", "url_env", "url_file"].into_iter().filter(|key| section.has(key)).count();
    if given > 1 {
        problem(section, "url", "must be given once: as url, url_env or url_file");
    }
    let usual = || kind?.default_url().map(|url| TargetUrl::Url(url.to_owned()));
    if given == 0 && kind.is_some_and(|kind| kind.default_url().is_none()) {
        section.document.problem(section.span.clone(), format!("`{}` is missing", section.path_of("url")));
    }
    url.or(kept).or_else(|| (given == 0).then(usual).flatten())
}

/// Fails for an address to which no request may go. A name is looked up when a request is made.
///
/// # Errors
/// What is wrong with it, and what to do about it.
pub fn require_allowed(text: &str, allowed: &AllowedNetworks) -> Result<(), String> {
    let url = parse_url(text)?;
    if url.scheme() != "https" && !allowed.is_wider() {
        return Err("must begin with https://; http:// needs `allow_networks` or `allow_private = true`".to_owned());
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>().ok().and_then(|address| Some((address, allowed.refuses(address)?))) {
        Some((address, what)) => Err(refused(&address, what)),
        None => Ok(()),
    }
}

/// Why no request goes to an address, and what would allow it.
pub fn refused(address: &IpAddr, what: &str) -> String {
    format!(
        "{address} is {what}, where no notification goes unless `allow_networks` or `allow_private` of the rule allows it"
    )
}

pub(super) fn read_secret(
    section: &mut ConfigTable<'_>,
    env: &'static str,
    file: &'static str,
) -> Option<SecretSource> {
    let variable = section.parsed(env, |text| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if text.is_empty() || !text.bytes().all(fits) {
            return Err(
                "must be the name of a variable of the server's environment; never write the secret itself".to_owned()
            );
        }
        Ok(SecretSource::Env(text.to_owned()))
    });
    let path = section.parsed(file, |text| match text {
        text if text.is_empty() || text.contains('\0') => Err("must name a file".to_owned()),
        path => Ok(SecretSource::File(PathBuf::from(path))),
    });
    if section.has(env) && section.has(file) {
        let message = format!("stands beside `{}`; give one of them", section.path_of(env));
        problem(section, file, &message);
    }
    variable.or(path)
}

fn read_projects(section: &mut ConfigTable<'_>) -> Vec<Glob> {
    let names = section.strings("projects");
    if section.is_empty_array("projects") {
        problem(section, "projects", "is empty, so the rule is for nothing; leave it out for all projects");
    }
    if !section.has("projects") {
        return Glob::of_projects("*").into_iter().collect();
    }
    let path = section.path_of("projects");
    let mut projects = Vec::new();
    for name in names {
        match Glob::of_projects(name.get_ref()) {
            Ok(glob) => projects.push(glob),
            Err(error) => section.document.problem(name.span(), format!("`{path}`: {error}")),
        }
    }
    projects
}

fn read_events(section: &mut ConfigTable<'_>, kind: Option<TargetKind>, waits: bool) -> BTreeSet<NotificationEvent> {
    let takes = |event: NotificationEvent| {
        let is_forge = kind.is_some_and(TargetKind::is_forge);
        !is_forge || (event != NotificationEvent::Waiting && !event.is_of_project())
    };
    let words = section.strings("events");
    if section.is_empty_array("events") {
        problem(section, "events", "is empty, so the rule is for nothing; leave it out for all events");
    }
    if !section.has("events") {
        return NotificationEvent::ALL
            .into_iter()
            .filter(|it| takes(*it) && *it != NotificationEvent::Waiting)
            .collect();
    }
    let path = section.path_of("events");
    let mut events = BTreeSet::new();
    for word in words {
        let found = NotificationEvent::of(word.get_ref());
        let why = match found {
            None => {
                let all: Vec<_> = NotificationEvent::ALL.iter().map(|event| event.as_str()).collect();
                Some(format!("`{path}` takes {}", all.join(", ")))
            }
            Some(event) if !takes(event) => Some(format!(
                "`{path}`: {} keeps deployments that started, and has no place for {}",
                kind.map_or("", TargetKind::as_str),
                event.as_str()
            )),
            Some(NotificationEvent::Waiting) if !waits => {
                Some(format!("`{path}`: waiting needs a time: waits_longer_than = \"30m\""))
            }
            Some(_) => None,
        };
        match why {
            Some(why) => section.document.problem(word.span(), why),
            None => events.extend(found),
        }
    }
    events
}

fn problem(section: &ConfigTable<'_>, key: &str, why: &str) {
    section.document.problem(section.span_of(key), format!("`{}` {why}", section.path_of(key)));
}

fn parse_name(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=NAME_LIMIT).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("must be 1 to {NAME_LIMIT} letters, digits, `-`, `_` or `.`"))
}

fn parse_line(text: &str, limit: usize) -> Result<String, String> {
    match text.trim() {
        "" => Err("must not be empty".to_owned()),
        text if text.chars().count() > limit => Err(format!("is longer than {limit} characters")),
        text if text.chars().any(char::is_control) => Err("must be one line, without control characters".to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    let wrong = || "must be an address that begins with https://, such as https://hooks.example.com/deploys".to_owned();
    let url = Url::parse(text).map_err(|_| wrong())?;
    if !["https", "http"].contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a user name or a password in it".to_owned());
    }
    Ok(url)
}

fn parse_repository(text: &str, kind: Option<TargetKind>) -> Result<String, String> {
    let fits = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let count = text.split('/').count();
    let is_right = text.len() <= 255
        && text.split('/').all(fits)
        && match kind {
            Some(TargetKind::Gitlab) => count >= 2 || text.bytes().all(|byte| byte.is_ascii_digit()),
            _ => count == 2,
        };
    if is_right { Ok(text.to_owned()) } else { Err("must be the repository's path, such as acme/web".to_owned()) }
}
