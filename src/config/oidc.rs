//! `[[oidc]]`: the issuers whose tokens are accepted, and what each of their tokens may do. See decision 0075.
//!
//! A rule that anybody's job could meet would open the server to everybody who has an account at the issuer, so a rule
//! must name a claim that only the owner's jobs have.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use super::{
    Config,
    claims::{ClaimPattern, KnownIssuer},
    read_scopes,
    reader::ConfigTable,
    require,
};
use crate::model::{Glob, Scopes};

/// The audience that tokens are made for, where nothing else is said.
pub const DEFAULT_AUDIENCE: &str = "singletrack";
/// The longest name of an issuer.
const NAME_LIMIT: usize = 63;
/// The events of GitHub that a pull request causes; others begin so as well.
const PULL_REQUEST_EVENTS: &str = "pull_request";

/// An issuer whose tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcIssuer {
    /// Its name in the audit log.
    pub name: String,
    /// Its address, as tokens name it in `iss`.
    pub issuer: String,
    /// For whom tokens must be made, as they say it in `aud`.
    pub audience: String,
    /// Where its keys are, if that is not asked of the issuer itself.
    pub jwks_uri: Option<String>,
    /// A certificate authority to trust beside the system's, in PEM.
    pub ca_cert: Option<PathBuf>,
    /// What its tokens may do; a token may do what all rules together say that it meets.
    pub rules: Vec<OidcRule>,
}

/// What tokens with these claims may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcRule {
    /// What each of these claims must be: one of the patterns.
    pub claims: BTreeMap<String, Vec<ClaimPattern>>,
    /// Where.
    pub projects: Vec<Glob>,
    /// What.
    pub scopes: Scopes,
    /// Whether tokens of pull and merge requests are meant, too.
    pub pull_requests: bool,
}

pub(super) fn read_all(root: &mut ConfigTable<'_>) -> Vec<OidcIssuer> {
    let mut issuers: Vec<OidcIssuer> = Vec::new();
    for section in root.sections("oidc") {
        issuers.extend(read(section, &issuers));
    }
    issuers
}

fn read(mut section: ConfigTable<'_>, others: &[OidcIssuer]) -> Option<OidcIssuer> {
    let name = section.parsed("name", parse_name);
    let issuer = section.parsed("issuer", |text| parse_address(text).map(|()| text.to_owned()));
    for (key, absent) in [("name", name.is_none()), ("issuer", issuer.is_none())] {
        require(&section, key, absent);
    }
    for (key, twice) in [
        ("name", others.iter().any(|other| Some(&other.name) == name.as_ref())),
        ("issuer", others.iter().any(|other| Some(&other.issuer) == issuer.as_ref())),
    ] {
        if twice {
            let message = format!("`{}` is the {key} of another [[oidc]] table", section.path_of(key));
            section.document.problem(section.span_of(key), message);
        }
    }
    let audience = section.parsed("audience", parse_audience).unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned());
    let jwks_uri = section.parsed("jwks_uri", |text| parse_address(text).map(|()| text.to_owned()));
    let ca_cert = section.parsed("ca_cert", |text| match text {
        "" => Err("must name a PEM file".to_owned()),
        path => Ok(PathBuf::from(path)),
    });
    let known = issuer.as_deref().map_or(KnownIssuer::Other, KnownIssuer::of);
    let rules = read_rules(&mut section, known);
    section.finish();
    Some(OidcIssuer { name: name?, issuer: issuer?, audience, jwks_uri, ca_cert, rules })
}

/// Reads what the tokens of an issuer may do.
pub(super) fn read_rules(section: &mut ConfigTable<'_>, known: KnownIssuer) -> Vec<OidcRule> {
    let rules = section.sections("rules").into_iter().map(|rule| read_rule(rule, known)).collect();
    if !section.has("rules") || section.is_empty_array("rules") {
        let path = section.path_of("rules");
        let message = format!("`{path}` is missing: without a rule no token of this issuer may do anything");
        section.document.problem(section.span_of("rules"), message);
    }
    rules
}

fn read_rule(mut section: ConfigTable<'_>, known: KnownIssuer) -> OidcRule {
    let mut claims = BTreeMap::new();
    let mut is_pinned = false;
    for (name, texts) in section.named_texts("claims") {
        let patterns: Vec<_> = texts.iter().map(|text| ClaimPattern::from(text.get_ref().clone())).collect();
        if patterns.is_empty() {
            let path = section.path_of("claims");
            section.document.problem(name.span(), format!("`{path}.{}` names no value", name.get_ref()));
        }
        is_pinned |= !patterns.is_empty() && patterns.iter().all(|pattern| known.pins_owner(name.get_ref(), pattern));
        claims.insert(name.into_inner(), patterns);
    }
    if !is_pinned {
        let (path, wanted) = (section.path_of("claims"), wanted_claims(known));
        let message = format!("`{path}` must say whose jobs are meant, or everybody's would be let in: {wanted}");
        section.document.problem(section.span_of("claims"), message);
    }
    let pull_requests = section.boolean("pull_requests").unwrap_or(false);
    let events = claims.get("event_name").map_or(&[][..], Vec::as_slice);
    if !pull_requests
        && !events.is_empty()
        && events.iter().all(|event| event.as_str().starts_with(PULL_REQUEST_EVENTS))
    {
        let message = format!(
            "`{}` names only events of pull requests, whose tokens meet a rule only with `pull_requests = true`",
            section.path_of("claims")
        );
        section.document.problem(section.span_of("claims"), message);
    }
    let (projects, scopes) = (read_projects(&mut section), read_scopes(&mut section));
    for (key, example) in
        [("projects", "[\"web\"], or [\"*\"] for all"), ("scopes", "[\"read\", \"submit\", \"cancel\"]")]
    {
        if !section.has(key) {
            let message = format!("`{}` is missing: {key} = {example}", section.path_of(key));
            section.document.problem(section.span.clone(), message);
        }
    }
    section.finish();
    OidcRule { claims, projects, scopes, pull_requests }
}

fn read_projects(section: &mut ConfigTable<'_>) -> Vec<Glob> {
    let names = section.strings("projects");
    if section.is_empty_array("projects") {
        let message = format!("`{}` is empty, so the rule is for nothing", section.path_of("projects"));
        section.document.problem(section.span_of("projects"), message);
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

fn wanted_claims(known: KnownIssuer) -> String {
    match known {
        KnownIssuer::GitHub => {
            "name `repository` (\"OWNER/NAME\" or \"OWNER/*\"), `repository_owner`, their `_id`s, or \
                                `sub`, with the owner in full"
                .to_owned()
        }
        KnownIssuer::GitLab => {
            "name `project_path` (\"GROUP/NAME\" or \"GROUP/**\"), `namespace_path`, their `_id`s, or \
                                `sub`, with the group in full"
                .to_owned()
        }
        KnownIssuer::Other => "name a claim that only your jobs have, without `*`".to_owned(),
    }
}

pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.is_empty() || text.len() > NAME_LIMIT || !text.bytes().all(fits) {
        return Err(format!("must be 1 to {NAME_LIMIT} letters, digits, '.', '_' or '-'"));
    }
    Ok(text.to_owned())
}

fn parse_audience(text: &str) -> Result<String, String> {
    parse_word(text).map_err(|_| "must be a text without spaces, as tokens say it in `aud`".to_owned())
}

pub(super) fn parse_word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("must be a text without spaces".to_owned());
    }
    Ok(text.to_owned())
}

/// Checks the address of an issuer or of its keys. Keys that come over plain HTTP could be anybody's, except from this
/// machine.
pub(super) fn parse_address(text: &str) -> Result<(), String> {
    let form = || "must be an address such as https://gitlab.example.com".to_owned();
    let (scheme, rest) = text.split_once("://").ok_or_else(form)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || authority.contains('@') || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(form());
    }
    if text.contains('#') {
        return Err("must have no '#'".to_owned());
    }
    match scheme {
        "https" => Ok(()),
        "http" if is_loopback(authority) => Ok(()),
        "http" => Err("must begin with https://, because keys that come unencrypted could be anybody's".to_owned()),
        _ => Err(form()),
    }
}

/// Whether this host, with or without a port, is this machine.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The projects of rules that no project of the configuration fits, each as a sentence. They are no mistake where `run`
/// is used, whose projects need no configuration.
pub(super) fn unmatched_projects(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let log_ins = config.page.log_ins.iter().map(|log_in| ("[[page.oidc]]", &log_in.issuer));
    for (table, issuer) in config.oidc.iter().map(|issuer| ("[[oidc]]", issuer)).chain(log_ins) {
        for (index, rule) in issuer.rules.iter().enumerate() {
            let fits_none = |glob: &&Glob| !config.projects.keys().any(|project| glob.matches(project.as_str()));
            found.extend(rule.projects.iter().filter(fits_none).map(|glob| {
                format!(
                    "rule {} of {table} {:?}: no configured project fits {:?}",
                    index + 1,
                    issuer.name,
                    glob.as_str()
                )
            }));
        }
    }
    found
}
