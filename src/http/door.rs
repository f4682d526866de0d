//! The door: every request shows here who sends it, and gets what the caller may do. Tokens of the configuration and those
//! that were made at run time are known in memory, so the store is asked only about a token that nobody knows. See decisions
//! 0073 and 0074. The signed token of an OIDC issuer is verified once and then known, too: decision 0075.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, Uri, Version, header},
    response::Response,
};
use futures_util::StreamExt as _;
use http_body::Body as _;

use super::{
    Access, App,
    error::ErrorAnswer,
    guard::{Examined, Grant, PeerAddress, is_foreign_visit, shown_token},
    needs::RouteKind,
    oidc::Wanted,
    request_id::request_id,
    session::PageCookie,
    token_text::{hash_of, is_well_formed},
    validity::AccessEnd,
};
use crate::{
    model::{Identity, RequestId, Scope},
    wire::{ErrorCode, LEASE_HEADER},
};

/// How long a client waits before it shows a token again that could not be looked for now.
pub const LOOK_UP_PAUSE: Duration = Duration::from_secs(1);

/// What the door looks at.
pub struct Visitor<'a> {
    /// The address of the client.
    pub address: Option<IpAddr>,
    /// The request's id.
    pub id: RequestId,
    access: Arc<Access>,
    method: &'a Method,
    version: Version,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    kind: RouteKind,
    /// Whether the client surely came by TLS.
    is_encrypted: bool,
    needed: &'static [Scope],
    /// Whether it is a call by which a worker tells of its work under a lease.
    is_under_lease: bool,
}

impl<'a> Visitor<'a> {
    /// A request that needs one of these scopes. `is_of_lease`: its route is one of a lease.
    pub fn of(app: &App, request: &'a Request, kind: RouteKind, needed: &'static [Scope], is_of_lease: bool) -> Self {
        let access = app.access.now();
        let headers = request.headers();
        let peer = request.extensions().get::<PeerAddress>().map(|PeerAddress(address)| *address);
        Visitor {
            address: peer.map(|peer| access.client_address(peer, headers)),
            id: request_id(headers, peer.is_some_and(|peer| access.is_trusted_proxy(peer))),
            is_encrypted: access.is_encrypted(peer, headers),
            access,
            method: request.method(),
            version: request.version(),
            uri: request.uri(),
            headers,
            kind,
            needed,
            is_under_lease: is_of_lease && headers.contains_key(LEASE_HEADER),
        }
    }
}

/// What became of a visitor.
pub struct VisitorAdmission {
    /// Who it is, if that is known, also of a request that is refused.
    pub caller: Option<Arc<Identity>>,
    /// What the caller may do, or why the request is refused.
    pub admitted: Result<Grant, ErrorAnswer>,
}

/// Lets a request in, with what its caller may do.
pub async fn admit(app: &App, visitor: Visitor<'_>) -> VisitorAdmission {
    let (address, needed, id) = (visitor.address, visitor.needed, visitor.id.clone());
    let admitted = match session_token(&visitor) {
        Some(token) => Box::pin(by_session(app, &visitor, token)).await,
        None => match examine(app, &visitor) {
            Ok(Examination::Grant(grant)) => Ok(grant),
            Ok(Examination::Unknown { sha256, examined }) => Box::pin(look_up(app, &visitor, sha256, &examined)).await,
            Ok(Examination::Signed { sha256, examined }) => Box::pin(verify(app, &visitor, sha256, &examined)).await,
            Err(refused) => Err(refused),
        },
    };
    let caller = admitted.as_ref().ok().map(|grant| grant.caller.identity.clone());
    let admitted = admitted.and_then(|mut grant| {
        (grant.caller.address, grant.caller.request) = (address, Some(id));
        // A lease's secret proves the rest.
        if grant.end().is_none() {
            grant.require(needed)?;
        }
        Ok(grant)
    });
    // A browser without a session is asked to sign in, and not refused.
    if let Err(refused) = &admitted
        && !(visitor.kind == RouteKind::Screen && refused.code() == ErrorCode::Unauthorized && is_cut(visitor.method))
    {
        app.metrics.count_refused(refused.code());
    }
    VisitorAdmission { caller, admitted }
}

/// The token of a session that a browser shows for a screen. Programs call the API, which takes no cookies.
fn session_token<'a>(visitor: &Visitor<'a>) -> Option<&'a str> {
    if visitor.kind != RouteKind::Screen || visitor.headers.contains_key(header::AUTHORIZATION) {
        return None;
    }
    PageCookie::Session.of(visitor.headers, visitor.is_encrypted)
}

/// The holder of a session. One that gives no access any more counts as none.
async fn by_session(app: &App, visitor: &Visitor<'_>, token: &str) -> Result<Grant, ErrorAnswer> {
    let examined = visitor.access.examine(visitor.uri, visitor.headers)?;
    let sha256 = hash_of(token);
    let mut found = app.live_tokens.session(&sha256, wanted(visitor));
    if found.is_none()
        && is_well_formed(token)
        && app.attempts.count(visitor.address).is_ok()
        && app.attempts.may_look_up()
    {
        // Another server may have made it a moment ago.
        app.live_tokens.look_up(&sha256).await?;
        found = app.live_tokens.session(&sha256, wanted(visitor));
    }
    let Some(grant) = found.filter(|grant| grant.end().is_none()) else {
        return without_token(app, visitor, &examined);
    };
    visitor.access.require_allowed_host(&examined)?;
    require_own_page(visitor, &examined)?;
    Ok(grant)
}

enum Examination {
    Grant(Grant),
    /// A token that may have been made at another server a moment ago.
    Unknown {
        sha256: [u8; 32],
        examined: Examined,
    },
    /// The token of an OIDC issuer, which was not verified yet.
    Signed {
        sha256: [u8; 32],
        examined: Examined,
    },
}

/// Everything that needs no store.
fn examine(app: &App, visitor: &Visitor<'_>) -> Result<Examination, ErrorAnswer> {
    let examined = visitor.access.examine(visitor.uri, visitor.headers)?;
    let shown = shown_token(visitor.headers);
    let sha256 = shown.map(hash_of);
    let known = sha256.as_ref().and_then(|sha256| {
        let ours = visitor.access.configured(sha256).cloned().or_else(|| app.live_tokens.grant(sha256));
        ours.or_else(|| app.oidc.now().known(sha256, wanted(visitor)))
    });
    match (known, sha256) {
        (Some(grant), _) => let_in(app, visitor, grant, &examined).map(Examination::Grant),
        (None, Some(sha256)) if is_guarded(visitor) && shown.is_some_and(|token| app.oidc.now().is_for_us(token)) => {
            Ok(Examination::Signed { sha256, examined })
        }
        (None, Some(sha256)) if is_guarded(visitor) && shown.is_some_and(is_well_formed) => {
            Ok(Examination::Unknown { sha256, examined })
        }
        (None, _) => without_token(app, visitor, &examined).map(Examination::Grant),
    }
}

/// Looks for a token in the store that is not in memory, within limits.
async fn look_up(
    app: &App,
    visitor: &Visitor<'_>,
    sha256: [u8; 32],
    examined: &Examined,
) -> Result<Grant, ErrorAnswer> {
    if let Err(wait) = app.attempts.count(visitor.address) {
        // On an open server a token of another server is no attempt, and whoever sends it may call without it.
        return if visitor.access.is_open_to_machine() { open(visitor, examined) } else { Err(too_many(wait)) };
    }
    if !app.attempts.may_look_up() {
        return Err(too_many(LOOK_UP_PAUSE));
    }
    app.live_tokens.look_up(&sha256).await?;
    match app.live_tokens.grant(&sha256) {
        Some(grant) => let_in(app, visitor, grant, examined),
        None if visitor.access.is_open_to_machine() => open(visitor, examined),
        None => Err(unknown_token()),
    }
}

/// Verifies the token of an OIDC issuer. May wait for the issuer's keys.
async fn verify(app: &App, visitor: &Visitor<'_>, sha256: [u8; 32], examined: &Examined) -> Result<Grant, ErrorAnswer> {
    let token = shown_token(visitor.headers).unwrap_or_default();
    match app.oidc.now().admit(token, sha256, wanted(visitor), visitor.is_under_lease).await {
        Ok(grant) => let_in(app, visitor, grant, examined),
        // Nobody's fault here.
        Err(refused) if refused.code() == ErrorCode::IssuerUnreachable => Err(refused),
        Err(refused) => {
            app.attempts.count(visitor.address).map_err(too_many)?;
            Err(refused)
        }
    }
}

fn wanted<'a>(visitor: &Visitor<'a>) -> Wanted<'a> {
    Wanted { path: visitor.uri.path(), needed: visitor.needed }
}

/// The holder of a token that is known.
fn let_in(app: &App, visitor: &Visitor<'_>, grant: Grant, examined: &Examined) -> Result<Grant, ErrorAnswer> {
    if !is_guarded(visitor) {
        return match grant.end() {
            Some(_) => without_token(app, visitor, examined),
            None => require_own_page(visitor, examined).map(|()| grant),
        };
    }
    if let Some(end) = grant.end().filter(|_| !visitor.is_under_lease) {
        app.attempts.count(visitor.address).map_err(too_many)?;
        return Err(ended(end).to(&grant.caller));
    }
    visitor.access.require_allowed_host(examined)?;
    require_own_page(visitor, examined)?;
    Ok(grant)
}

/// Whoever shows no token, or none that can be one of ours.
fn without_token(app: &App, visitor: &Visitor<'_>, examined: &Examined) -> Result<Grant, ErrorAnswer> {
    if visitor.access.is_open_to_machine() {
        return open(visitor, examined);
    }
    if visitor.kind == RouteKind::Screen && !visitor.headers.contains_key(header::AUTHORIZATION) {
        visitor.access.require_allowed_host(examined)?;
        require_own_page(visitor, examined)?;
        if !visitor.needed.is_empty() {
            let detail = "you are not signed in, or your session has ended; sign in, and try again";
            return Err(ErrorAnswer::new(ErrorCode::Unauthorized, detail));
        }
        return Ok(Grant::nothing());
    }
    if is_guarded(visitor) {
        if !visitor.headers.contains_key(header::AUTHORIZATION) {
            let detail =
                "this server wants a token: Authorization: Bearer …, or SINGLETRACK_TOKEN for the command line";
            return Err(ErrorAnswer::new(ErrorCode::Unauthorized, detail));
        }
        app.attempts.count(visitor.address).map_err(too_many)?;
        return Err(unknown_token());
    }
    require_own_page(visitor, examined)?;
    Ok(Grant::nothing())
}

/// A program of this machine, on a server that needs no token.
fn open(visitor: &Visitor<'_>, examined: &Examined) -> Result<Grant, ErrorAnswer> {
    examined.require_this_machine(visitor.version, visitor.headers)?;
    require_own_page(visitor, examined)?;
    Ok(Grant::local())
}

/// Fails for a request that a browser sent for a page of another site. A link of another site may lead to a screen.
fn require_own_page(visitor: &Visitor<'_>, examined: &Examined) -> Result<(), ErrorAnswer> {
    if visitor.kind == RouteKind::Screen && is_foreign_visit(visitor.method, visitor.headers) {
        return Ok(());
    }
    examined.require_own_page(visitor.headers)
}

/// Whether it asks for what only those get who have access.
fn is_guarded(visitor: &Visitor<'_>) -> bool {
    visitor.kind != RouteKind::Open
}

/// The refusal of a token that nobody knows.
pub fn unknown_token() -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::Unauthorized, "this server does not know this token")
}

/// The refusal of a token that gave access once.
pub fn ended(end: AccessEnd) -> ErrorAnswer {
    match end {
        AccessEnd::Revoked => ErrorAnswer::new(ErrorCode::TokenRevoked, "this token was revoked; ask for another one"),
        AccessEnd::Expired => ErrorAnswer::new(ErrorCode::TokenExpired, "this token has expired; ask for another one"),
    }
}

/// The refusal of a further wrong token.
pub fn too_many(wait: Duration) -> ErrorAnswer {
    let seconds = wait.as_secs() + 1;
    ErrorAnswer::new(
        ErrorCode::TooManyAttempts,
        format!(
            "too many wrong tokens came from this address, so this server does not look at another one for {seconds} s; \
             tokens that are valid work meanwhile"
        ),
    )
    .with("retryAfterSeconds", seconds)
}

/// Whether a request of this method waits or streams, so that it ends when its caller's access does. What changes something
/// goes on to its end, and claims and heartbeats look by themselves.
pub fn is_cut(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::PUT)
}

/// The same answer, whose body ends when the caller's access does, if it is a stream.
pub fn cut_stream(response: Response, grant: Grant) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response
        .map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(async move { grant.ended().await }))))
}
