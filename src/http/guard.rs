//! Access: which requests are let in, and what their callers may see. With tokens, a request needs one; without tokens,
//! only programs and pages of this machine may call. See decision 0045.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use axum::http::{Extensions, HeaderMap, Uri, Version, header};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::error::{ErrorAnswer, echo};
use crate::{
    config::TokenHash,
    model::{Caller, Identity, ProjectName, Scope, Scopes},
    wire::ErrorCode,
};

/// The longest address that is examined.
const URI_LIMIT: usize = 8 << 10;

/// The largest headers that are examined.
const HEADERS_LIMIT: usize = 16 << 10;

/// Headers that proxies add. `X-Forwarded-Host` and all others with the same prefix count, too.
const FORWARDING: [&str; 7] =
    ["forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"];
/// The common prefix of most of them.
const FORWARDING_PREFIX: &str = "x-forwarded";

/// The rules that requests must meet.
#[derive(Clone, Debug)]
pub struct Access {
    /// The SHA-256 of each token, and what its holder may do; empty if no token is needed.
    tokens: Vec<([u8; 32], Grant)>,
    /// With tokens: the only names that `Host` may carry besides the loopback ones, in lower case. Empty allows every
    /// name.
    allowed_hosts: Vec<String>,
}

/// The address of a connection's other end, as its requests carry it to the guard.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub IpAddr);

/// Who calls, what the caller may do, and where. Each request that was let in carries it.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Who calls.
    pub caller: Caller,
    /// What the caller may do.
    pub scopes: Scopes,
    /// Which projects the caller may see.
    pub projects: VisibleProjects,
}

impl Grant {
    /// The grant of a request that was let in.
    pub fn of(extensions: &Extensions) -> Grant {
        extensions.get::<Grant>().cloned().unwrap_or_else(Grant::nothing)
    }

    /// What a caller gets of whom nothing is known: only what needs no scope.
    fn nothing() -> Grant {
        Grant { scopes: Scopes::default(), ..Grant::local() }
    }

    /// What every program of this machine gets from a server that needs no token.
    fn local() -> Grant {
        let projects = VisibleProjects::default();
        Grant { caller: Caller::new(Identity::Local), scopes: Scopes::all(), projects }
    }

    fn of_token(token: &TokenHash) -> Grant {
        let caller = Caller::new(Identity::Token { name: token.name.clone() });
        Grant { caller, scopes: token.scopes, projects: VisibleProjects(token.projects.clone().map(Arc::new)) }
    }

    /// Fails where the caller has none of these scopes, and one is needed.
    ///
    /// # Errors
    /// The scope that is missing.
    pub fn require(&self, needed: &[Scope]) -> Result<(), ErrorAnswer> {
        let Some(first) = needed.first().filter(|_| !self.scopes.has_any(needed)) else { return Ok(()) };
        let own: Vec<_> = self.scopes.iter().map(Scope::as_str).collect();
        let own = if own.is_empty() { "no scope".to_owned() } else { own.join(", ") };
        let detail = format!("this needs the scope {first}; {} has {own}", echo(&self.caller.identity.to_string()));
        Err(ErrorAnswer::new(ErrorCode::MissingScope, detail))
    }
}

/// The projects that a caller may see. Any other project is answered as if it did not exist.
#[derive(Clone, Debug, Default)]
pub struct VisibleProjects(Option<Arc<BTreeSet<ProjectName>>>);

impl VisibleProjects {
    /// Whether the caller may see this project.
    pub fn sees(&self, project: &ProjectName) -> bool {
        self.0.as_ref().is_none_or(|projects| projects.contains(project))
    }

    /// Whether the caller may see every project.
    pub fn sees_all(&self) -> bool {
        self.0.is_none()
    }

    /// The only projects that the caller may see, in order; `None` if it may see all.
    pub fn only(&self) -> Option<impl Iterator<Item = ProjectName>> {
        self.0.as_ref().map(|projects| projects.iter().cloned())
    }
}

impl Access {
    /// The rules of this configuration.
    pub fn new(tokens: &[TokenHash], allowed_hosts: Vec<String>) -> Self {
        Access { tokens: tokens.iter().map(|token| (token.sha256, Grant::of_token(token))).collect(), allowed_hosts }
    }

    /// Checks a request, and returns who calls and what the caller may do.
    ///
    /// # Errors
    /// The request is refused; the error says why.
    pub fn check(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<Grant, ErrorAnswer> {
        if uri.path().len() + uri.query().map_or(0, str::len) > URI_LIMIT {
            return Err(ErrorAnswer::new(ErrorCode::UriTooLong, "the address is longer than 8 KiB"));
        }
        let head_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if head_bytes > HEADERS_LIMIT {
            return Err(ErrorAnswer::new(ErrorCode::HeadersTooLarge, "the headers are larger than 16 KiB"));
        }
        let host = host(uri, headers)?;
        let name = without_port(&host).0;
        let mut grant = Grant::nothing();
        if self.tokens.is_empty() {
            // Without tokens only this machine may call, and a proxy on this machine would call for other machines. A
            // page of another site can reach us through a browser on this machine in two ways: by a name that resolves
            // to this machine, which then stands in `Host`; or directly, with the site's `Origin`.
            refuse_forwarded(version, headers)?;
            grant = Grant::local();
            if !is_loopback_name(name) {
                return Err(host_not_allowed(
                    name,
                    "without tokens this server answers only under names of this machine",
                ));
            }
        } else if uri.path().starts_with("/v1") {
            grant = self.bearer(headers).cloned().ok_or_else(|| {
                let detail = if headers.contains_key(header::AUTHORIZATION) {
                    "this server does not know this token"
                } else {
                    "this server wants a token: Authorization: Bearer …, or SINGLETRACK_TOKEN for the command line"
                };
                ErrorAnswer::new(ErrorCode::Unauthorized, detail)
            })?;
            let is_named = self.allowed_hosts.is_empty() || self.allowed_hosts.iter().any(|allowed| allowed == name);
            if !is_named && !is_loopback_name(name) {
                return Err(host_not_allowed(name, "it is not in allowed_hosts"));
            }
        }
        if is_foreign(headers, &host) {
            return Err(ErrorAnswer::new(ErrorCode::ForbiddenOrigin, "pages of other sites may not call this server"));
        }
        Ok(grant)
    }

    /// What the token in the headers grants; `None` if it is not one of ours.
    fn bearer(&self, headers: &HeaderMap) -> Option<&Grant> {
        self.tokens.get(self.token(headers)?).map(|(_, grant)| grant)
    }

    /// The index of the token in the headers.
    pub fn token(&self, headers: &HeaderMap) -> Option<usize> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let shown: [u8; 32] = Sha256::digest(token.trim().as_bytes()).into();
        // All tokens are compared, in constant time, so that the delay does not reveal which one matched.
        let mut found = u64::MAX;
        for (index, (known, _)) in (0..).zip(&self.tokens) {
            found.conditional_assign(&index, known.ct_eq(&shown));
        }
        usize::try_from(found).ok().filter(|found| *found < self.tokens.len())
    }
}

/// Fails for a request that came through a proxy, as far as that is visible: by the headers that the proxy adds, or by
/// HTTP/1.0. nginx uses HTTP/1.0 by default, and adds no headers.
fn refuse_forwarded(version: Version, headers: &HeaderMap) -> Result<(), ErrorAnswer> {
    let is_forwarding = |name: &&str| name.starts_with(FORWARDING_PREFIX) || FORWARDING.contains(name);
    let sign = match headers.keys().map(header::HeaderName::as_str).find(is_forwarding) {
        Some(name) => format!("it carries the header '{}'", echo(name)),
        None if version < Version::HTTP_11 => "it is HTTP/1.0, which proxies speak".to_owned(),
        None => return Ok(()),
    };
    Err(ErrorAnswer::new(
        ErrorCode::ProxyNeedsTokens,
        format!(
            "this request came through a proxy ({sign}), and a server without tokens answers only programs of its own \
             machine; make a token with `singletrack token new` and put it into the server's configuration"
        ),
    ))
}

fn host_not_allowed(name: &str, why: &str) -> ErrorAnswer {
    ErrorAnswer::new(
        ErrorCode::HostNotAllowed,
        format!(
            "this server does not answer under the host name '{}': {why}; behind a proxy, let it pass on the name that \
             was asked for (nginx: proxy_set_header Host $http_host)",
            echo(name)
        ),
    )
}

fn host(uri: &Uri, headers: &HeaderMap) -> Result<String, ErrorAnswer> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next(), uri.authority()) {
        (Some(host), None, _) => host.to_str().unwrap_or_default(),
        (None, _, Some(authority)) => authority.as_str(),
        (None, _, None) => return Err(ErrorAnswer::new(ErrorCode::BadRequest, "the request names no Host")),
        (Some(_), Some(_), _) => return Err(ErrorAnswer::new(ErrorCode::BadRequest, "the request names two Hosts")),
    };
    Ok(host.to_ascii_lowercase())
}

/// The name, and the port if there is one.
fn without_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        // The colons inside [::1] do not begin a port.
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() => (name, port.parse().ok()),
        Some(_) | None => (host, None),
    }
}

fn is_loopback_name(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a browser sent this request for a page of another site.
fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    let value = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if matches!(value("sec-fetch-site"), Some("cross-site" | "same-site" | "?")) {
        return true;
    }
    value("origin").is_some_and(|origin| !is_own_origin(origin, host))
}

/// Whether a page of this origin came from this host. Another port is another program. A host without a port was called
/// at the default port of its scheme, and only a proxy in between knows that scheme.
fn is_own_origin(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let (origin_name, origin_port) = without_port(authority);
    let (host_name, host_port) = without_port(host);
    let default_port = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
    let origin_port = origin_port.unwrap_or(default_port);
    origin_name.eq_ignore_ascii_case(host_name)
        && host_port.map_or(matches!(origin_port, 80 | 443), |host_port| host_port == origin_port)
}
