//! What the configuration says about access: tokens, host names, proxies; and what a caller may do. With tokens, a request needs
//! one; without tokens, only programs and pages of this machine may call. See decision 0045. Requests pass through the
//! door (`door.rs`), which asks here.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use axum::http::{Extensions, HeaderMap, Method, Uri, Version, header};
use ipnet::IpNet;
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::{
    address::client_address,
    error::{ErrorAnswer, echo},
    session::PageSession,
    validity::{AccessEnd, Validity},
};
use crate::{
    config::{Config, TokenHash},
    model::{Caller, Glob, Identity, ProjectName, Scope, Scopes, TokenRecord},
    wire::ErrorCode,
};

/// The longest address that is examined.
const URI_LIMIT: usize = 8 << 10;

/// The largest headers that are examined.
const HEADERS_LIMIT: usize = 16 << 10;

/// How many tokens that left the configuration are remembered.
const FORMER_LIMIT: usize = 1_000;

/// Headers that proxies add. `X-Forwarded-Host` and all others with the same prefix count, too.
const FORWARDING: [&str; 7] =
    ["forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"];
/// The common prefix of most of them.
const FORWARDING_PREFIX: &str = "x-forwarded";

/// The rules of the configuration that requests must meet.
#[derive(Clone, Debug)]
pub struct Access {
    /// The SHA-256 of each token of the configuration, and what its holder may do.
    tokens: Vec<([u8; 32], Grant)>,
    /// The tokens that the configuration had before: they are known as revoked until the server's end.
    former: Vec<([u8; 32], Grant)>,
    /// With tokens: the only names that `Host` may carry besides the loopback ones, in lower case. Empty allows every
    /// name.
    allowed_hosts: Vec<String>,
    /// The proxies that are believed for whom they ask.
    trusted_proxies: Vec<IpNet>,
    /// Whether only programs of this machine can reach the server without a proxy.
    is_on_loopback: bool,
    /// Whether this server speaks TLS itself.
    has_tls: bool,
    /// Whether OIDC issuers are configured, so that callers must show who they are.
    has_issuers: bool,
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
    /// Until when all of it holds; always, if there is none.
    validity: Option<Validity>,
    /// The session that a browser showed for it, which may end earlier.
    pub session: Option<Arc<PageSession>>,
}

impl Grant {
    /// The grant of a request that was let in.
    pub fn of(extensions: &Extensions) -> Grant {
        extensions.get::<Grant>().cloned().unwrap_or_else(Grant::nothing)
    }

    /// What a caller gets of whom nothing is known: only what needs no scope.
    pub fn nothing() -> Grant {
        Grant { scopes: Scopes::default(), ..Grant::local() }
    }

    /// What every program of this machine gets from a server that needs no token.
    pub fn local() -> Grant {
        let projects = VisibleProjects::default();
        Grant { caller: Caller::new(Identity::Local), scopes: Scopes::all(), projects, validity: None, session: None }
    }

    fn of_token(token: &TokenHash) -> Grant {
        let caller = Caller::new(Identity::Token { name: token.name.clone() });
        let projects = VisibleProjects::of(token.projects.as_deref());
        Grant { caller, scopes: token.scopes, projects, validity: Some(Validity::default()), session: None }
    }

    /// What a token that was made at run time grants, as long as it is valid.
    pub fn of_record(token: &TokenRecord, validity: Validity) -> Grant {
        let caller = Caller::new(Identity::Token { name: token.name.clone() });
        let projects = VisibleProjects::of(token.projects.as_deref());
        Grant { caller, scopes: token.scopes, projects, validity: Some(validity), session: None }
    }

    /// What a verified token of an OIDC issuer grants, as long as it is valid.
    pub fn of_signed(caller: Caller, scopes: Scopes, projects: VisibleProjects, validity: Validity) -> Grant {
        Grant { caller, scopes, projects, validity: Some(validity), session: None }
    }

    /// The same for the holder of a session, as long as that holds, too.
    #[must_use]
    pub fn in_session(self, session: Arc<PageSession>) -> Grant {
        Grant { session: Some(session), ..self }
    }

    /// What a session grants whose token is gone: nothing.
    pub fn gone() -> Grant {
        let validity = Validity::default();
        validity.end(AccessEnd::Revoked);
        Grant { validity: Some(validity), ..Grant::nothing() }
    }

    fn validities(&self) -> impl Iterator<Item = &Validity> {
        self.session.iter().map(|session| &session.validity).chain(&self.validity)
    }

    /// Why it does not hold any more. Then its holder may only end what runs under a lease.
    pub fn end(&self) -> Option<AccessEnd> {
        self.validities().find_map(Validity::how_ended)
    }

    /// Ends it for good.
    fn revoke(&self) {
        self.validity.iter().for_each(|validity| validity.end(AccessEnd::Revoked));
    }

    /// Whether the other one lets the same caller do the same.
    fn is_like(&self, other: &Grant) -> bool {
        let of = |grant: &Grant| (grant.caller.identity.clone(), grant.scopes, grant.projects.clone());
        of(self) == of(other)
    }

    /// Waits until it does not hold any more.
    pub async fn ended(&self) {
        let of = async |validity: Option<&Validity>| match validity {
            Some(validity) => validity.ended().await,
            None => std::future::pending().await,
        };
        tokio::select! {
            () = of(self.validity.as_ref()) => {}
            () = of(self.session.as_ref().map(|session| &session.validity)) => {}
        }
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VisibleProjects(Option<Arc<[Glob]>>);

impl VisibleProjects {
    /// Those that one of these patterns stands for; all, if there are none.
    pub fn of(patterns: Option<&[Glob]>) -> Self {
        VisibleProjects(patterns.map(Arc::from))
    }

    /// Whether the caller may see every project.
    pub fn sees_all(&self) -> bool {
        self.0.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.as_str() == "*"))
    }

    /// Whether the caller may see this project.
    pub fn sees(&self, project: &ProjectName) -> bool {
        self.0.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(project.as_str())))
    }

    /// The patterns of the only projects that the caller may see; `None` if it may see all.
    pub fn patterns(&self) -> Option<&[Glob]> {
        self.0.as_deref()
    }

    /// The only projects that the caller may see, in order, where no pattern stands for more than one.
    pub fn only(&self) -> Option<BTreeSet<ProjectName>> {
        self.0.as_ref()?.iter().map(|pattern| pattern.literal()?.parse().ok()).collect()
    }
}

/// The host that a request names, in lower case, and its size checked.
pub struct Examined {
    host: String,
}

impl Access {
    /// The rules of this configuration.
    pub fn new(config: &Config) -> Self {
        Access {
            tokens: config.tokens.iter().map(|token| (token.sha256, Grant::of_token(token))).collect(),
            former: Vec::new(),
            allowed_hosts: config.allowed_hosts.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            is_on_loopback: config.listen.ip().is_loopback(),
            has_tls: config.tls.is_some(),
            has_issuers: !config.oidc.is_empty() || !config.page.log_ins.is_empty(),
        }
    }

    /// The same rules, in place of former ones: a token that stays as it was goes on, and one that is gone is revoked.
    pub fn after(mut self, before: &Access) -> Self {
        for (sha256, grant) in &mut self.tokens {
            let same = before.tokens.iter().find(|(known, old)| known == sha256 && old.is_like(grant));
            if let Some((_, old)) = same {
                *grant = old.clone();
            }
        }
        let is_here = |sha256: &[u8; 32]| self.tokens.iter().any(|(known, _)| known == sha256);
        let gone = before.tokens.iter().chain(&before.former).filter(|(sha256, _)| !is_here(sha256));
        self.former = gone.take(FORMER_LIMIT).cloned().collect();
        for (_, grant) in &self.former {
            grant.revoke();
        }
        self
    }

    /// Whether programs of this machine need no token: on a loopback address, as long as the configuration has none. A token
    /// that is made at run time does not shut them out.
    pub fn is_open_to_machine(&self) -> bool {
        self.tokens.is_empty() && !self.has_issuers && self.is_on_loopback
    }

    /// Whether the configuration has a token of this name.
    pub fn is_configured_token(&self, name: &str) -> bool {
        let is_named = |grant: &Grant| matches!(&*grant.caller.identity, Identity::Token { name: own } if own == name);
        self.tokens.iter().any(|(_, grant)| is_named(grant))
    }

    /// Whether the server can be administered, in every project, without a token that was made at run time.
    pub fn has_other_admin(&self) -> bool {
        let administers = |grant: &Grant| grant.scopes.has(Scope::Admin) && grant.projects.sees_all();
        self.is_open_to_machine() || self.tokens.iter().any(|(_, grant)| administers(grant))
    }

    /// Whether this is the address of a proxy that is trusted to tell of its clients.
    pub fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer.to_canonical()))
    }

    /// Whether a client surely came by TLS: to this server, or to a proxy that is trusted to tell it.
    pub fn is_encrypted(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> bool {
        let told = headers.get("x-forwarded-proto").and_then(|told| told.to_str().ok()).unwrap_or_default();
        let scheme = told.split(',').next().unwrap_or_default().trim();
        self.has_tls || (peer.is_some_and(|peer| self.is_trusted_proxy(peer)) && scheme.eq_ignore_ascii_case("https"))
    }

    /// The address of the client.
    pub fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        client_address(peer, headers, &self.trusted_proxies)
    }

    /// What a token of the configuration grants, also one that it had before; `None` if it has no token with this hash.
    pub fn configured(&self, sha256: &[u8; 32]) -> Option<&Grant> {
        // All tokens are compared, in constant time, so that the delay does not reveal which one matched.
        let mut found = u64::MAX;
        for (index, (known, _)) in (0..).zip(&self.tokens) {
            found.conditional_assign(&index, known.ct_eq(sha256));
        }
        let known = usize::try_from(found).ok().and_then(|index| self.tokens.get(index));
        known.or_else(|| self.former.iter().find(|(former, _)| former == sha256)).map(|(_, grant)| grant)
    }

    /// Checks what has nothing to do with who calls.
    ///
    /// # Errors
    /// The request is refused; the error says why.
    pub fn examine(&self, uri: &Uri, headers: &HeaderMap) -> Result<Examined, ErrorAnswer> {
        if uri.path().len() + uri.query().map_or(0, str::len) > URI_LIMIT {
            return Err(ErrorAnswer::new(ErrorCode::UriTooLong, "the address is longer than 8 KiB"));
        }
        let head_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if head_bytes > HEADERS_LIMIT {
            return Err(ErrorAnswer::new(ErrorCode::HeadersTooLarge, "the headers are larger than 16 KiB"));
        }
        Ok(Examined { host: host(uri, headers)? })
    }

    /// Checks how the holder of a token came here.
    ///
    /// # Errors
    /// The request is refused; the error says why.
    pub fn require_allowed_host(&self, examined: &Examined) -> Result<(), ErrorAnswer> {
        let name = without_port(&examined.host).0;
        let is_named = self.allowed_hosts.is_empty() || self.allowed_hosts.iter().any(|allowed| allowed == name);
        if is_named || is_loopback_name(name) {
            return Ok(());
        }
        Err(host_not_allowed(name, "it is not in allowed_hosts"))
    }
}

impl Examined {
    /// Fails for a request without a token that did not come from a program of this machine.
    ///
    /// A proxy on this machine would call for other machines. A page of another site can reach us through a browser on this
    /// machine in two ways: by a name that resolves to this machine, which then stands in `Host`; or directly, with the
    /// site's `Origin`.
    ///
    /// # Errors
    /// The request is refused; the error says why.
    pub fn require_this_machine(&self, version: Version, headers: &HeaderMap) -> Result<(), ErrorAnswer> {
        refuse_forwarded(version, headers)?;
        let name = without_port(&self.host).0;
        if is_loopback_name(name) {
            return Ok(());
        }
        Err(host_not_allowed(name, "without tokens this server answers only under names of this machine"))
    }

    /// Fails for a request that a browser sent for a page of another site.
    ///
    /// # Errors
    /// The request is refused.
    pub fn require_own_page(&self, headers: &HeaderMap) -> Result<(), ErrorAnswer> {
        if is_foreign(headers, &self.host) {
            return Err(ErrorAnswer::new(ErrorCode::ForbiddenOrigin, "pages of other sites may not call this server"));
        }
        Ok(())
    }
}

/// The token that a request shows.
pub fn shown_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
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

/// Whether a person came here by a link of another site: the browser's window loads a page of ours, and no page of another site
/// sees the answer.
pub fn is_foreign_visit(method: &Method, headers: &HeaderMap) -> bool {
    let is = |name: &str, wanted: &str| headers.get(name).is_some_and(|value| value == wanted);
    let is_foreign = is("sec-fetch-site", "cross-site") || is("sec-fetch-site", "same-site");
    let is_load = is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document");
    is_foreign && is_load && matches!(*method, Method::GET | Method::HEAD) && !headers.contains_key(header::ORIGIN)
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
