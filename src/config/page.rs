//! `[page]`: how people sign in to the page. See decisions 0089 and 0090.

use std::{path::PathBuf, time::Duration};

use super::{
    claims::KnownIssuer,
    notify::{SecretSource, read_secret},
    oidc::{OidcIssuer, parse_address, parse_name, parse_word, read_rules},
    reader::ConfigTable,
    require,
};

/// How long a session lasts when the configuration is silent: a working day, and the hours around it.
const DEFAULT_SESSION: Duration = Duration::from_secs(12 * 60 * 60);
/// A longer session would outlive the person's job; a token is for that.
const SESSION_LIMIT: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// The claim that names a person where the configuration is silent: the only one that an issuer never gives to somebody else.
const DEFAULT_PERSON: &str = "sub";

/// How people sign in to the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSettings {
    /// How long a session lasts at most.
    pub session: Duration,
    /// Where people can log in.
    pub log_ins: Vec<OidcLogIn>,
}

/// An OIDC issuer where people log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcLogIn {
    /// The issuer. Its tokens are made for the client that this server is there; its rules say what people may do.
    pub issuer: OidcIssuer,
    /// The secret of that client, if it has one.
    pub client_secret: Option<SecretSource>,
    /// What is asked of the issuer besides `openid`.
    pub request_scopes: Vec<String>,
    /// The claim that names a person.
    pub person_claim: String,
}

impl Default for PageSettings {
    fn default() -> Self {
        PageSettings { session: DEFAULT_SESSION, log_ins: Vec::new() }
    }
}

pub(super) fn read(mut section: ConfigTable<'_>) -> PageSettings {
    let session = section.parsed("session", |text| match super::parse_duration(text)? {
        session if session < Duration::from_secs(1) => Err("must be a second at least".to_owned()),
        session if session > SESSION_LIMIT => Err("must be 31d at most".to_owned()),
        session => Ok(session),
    });
    let mut log_ins: Vec<OidcLogIn> = Vec::new();
    for log_in in section.sections("oidc") {
        log_ins.extend(read_log_in(log_in, &log_ins));
    }
    section.finish();
    PageSettings { session: session.unwrap_or(DEFAULT_SESSION), log_ins }
}

fn read_log_in(mut section: ConfigTable<'_>, others: &[OidcLogIn]) -> Option<OidcLogIn> {
    let name = section.parsed("name", parse_name);
    let issuer = section.parsed("issuer", |text| parse_address(text).map(|()| text.to_owned()));
    let client_id = section.parsed("client_id", parse_word);
    for (key, absent) in [("name", name.is_none()), ("issuer", issuer.is_none()), ("client_id", client_id.is_none())] {
        require(&section, key, absent && !section.has(key));
    }
    if others.iter().any(|other| Some(&other.issuer.name) == name.as_ref()) {
        let message = format!("`{}` is the name of another [[page.oidc]] table", section.path_of("name"));
        section.document.problem(section.span_of("name"), message);
    }
    let client_secret = read_secret(&mut section, "client_secret_env", "client_secret_file");
    let request_scopes = section.strings("request_scopes");
    if let Some(wrong) = request_scopes.iter().find(|scope| parse_word(scope.get_ref()).is_err()) {
        let message =
            format!("`{}` lists words that the issuer knows, such as \"email\"", section.path_of("request_scopes"));
        section.document.problem(wrong.span(), message);
    }
    let person_claim = section.parsed("person_claim", parse_word).unwrap_or_else(|| DEFAULT_PERSON.to_owned());
    let ca_cert = section.parsed("ca_cert", |text| match text {
        "" => Err("must name a PEM file".to_owned()),
        path => Ok(PathBuf::from(path)),
    });
    // A person is no job, whatever the claims say.
    let mut rules = read_rules(&mut section, KnownIssuer::Other);
    rules.iter_mut().for_each(|rule| rule.pull_requests = true);
    section.finish();
    let issuer = OidcIssuer { name: name?, issuer: issuer?, audience: client_id?, jwks_uri: None, ca_cert, rules };
    let request_scopes = request_scopes.into_iter().map(toml::Spanned::into_inner).collect();
    Some(OidcLogIn { issuer, client_secret, request_scopes, person_claim })
}
