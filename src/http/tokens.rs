//! `/v1/tokens`: tokens that are made, listed and revoked at run time.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::Response,
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    App, answer, body,
    error::{ErrorAnswer, echo},
    guard::Grant,
    page::{Filled, PageFilling},
    params::{NoQuery, Query, TokenTarget},
    read::page_limit,
    token_text::new_token,
};
use crate::{
    model::{Glob, Scope, Scopes, TokenId, TokenRecord, bounds, token::require_token_name},
    store::tokens::{RevokeToken, TokenCreation, TokenEnd},
    wire::{ErrorCode, RevokeRequest, TokenCreated, TokenList, TokenRequest, TokenView},
};

/// How many tokens are read at a time.
const READ_LIMIT: usize = 100;

/// The longest time for which a token can be made valid: the longest duration that the command line takes.
const LIFETIME_LIMIT: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Makes a token. Its answer is the only one that shows it.
pub async fn create(State(app): State<Arc<App>>, _: NoQuery, request: Request) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let grant = Grant::of(&parts.extensions);
    let wish: TokenRequest = body::read_json(&parts.headers, body).await?;
    let now = app.now();
    let new = new_token().map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        ErrorAnswer::new(ErrorCode::Internal, "the server's system gives no random bytes")
    })?;
    let token = record(&grant, wish, new.sha256, now)?;
    if app.access.now().is_configured_token(&token.name) {
        return Err(name_taken(&token.name, "a token of the server's configuration"));
    }
    let view = TokenView::of(&token, now);
    match app.queue.store().tokens().create(token, grant.caller.clone()).await? {
        TokenCreation::Created => {}
        TokenCreation::NameTaken => return Err(name_taken(&view.name, "a live token; revoke that one first")),
        TokenCreation::TooMany => {
            let limit = bounds::LIVE_TOKENS;
            let detail = format!("there are {limit} live tokens, which is the most; revoke those that nobody uses");
            return Err(ErrorAnswer::new(ErrorCode::TokenConflict, detail));
        }
    }
    refresh(&app).await;
    tracing::info!(token = %view.name, caller = %grant.caller.identity, "a token was made");
    let created = TokenCreated { token: new.token, is_open_to_machine: app.access.now().is_open_to_machine(), view };
    Ok(answer::json(StatusCode::CREATED, &created))
}

/// The tokens that the caller may see, the newest first.
pub async fn list(State(app): State<Arc<App>>, grant: Grant, uri: Uri) -> Result<Response, ErrorAnswer> {
    let query = Query::of(&uri, &["limit", "cursor"])?;
    let limit = page_limit(&query)?;
    let mut before = query.number("cursor", 1..=u64::MAX)?;
    let mut page = PageFilling::of(limit);
    let next = loop {
        let filled = page.fill(visible_before(&app, &grant, before, page.wanted()).await?);
        before = page.last().map(|last| last.number);
        match filled {
            Filled::NotYet => {}
            Filled::Full => break before,
            Filled::All => break None,
        }
    };
    let tokens = page.into_entries().into_iter().map(|listed| listed.view).collect();
    Ok(answer::json(StatusCode::OK, &TokenList { tokens, next_cursor: next.map(|next| next.to_string()) }))
}

/// A token of a list, and its place in it.
#[derive(Serialize)]
struct ListedToken {
    #[serde(skip)]
    number: u64,
    #[serde(flatten)]
    view: TokenView,
}

/// The next tokens that the caller may see.
async fn visible_before(
    app: &App,
    grant: &Grant,
    mut before: Option<u64>,
    wanted: usize,
) -> Result<Vec<ListedToken>, ErrorAnswer> {
    let (mut found, now) = (Vec::with_capacity(wanted), app.now());
    loop {
        let read = app.queue.store().tokens().list(before, READ_LIMIT).await?;
        let is_last = read.len() < READ_LIMIT;
        before = read.last().map(|(number, _)| *number);
        let visible = read.into_iter().filter(|(_, token)| is_visible(grant, token));
        let listed = visible.map(|(number, token)| ListedToken { number, view: TokenView::of(&token, now) });
        found.extend(listed.take(wanted - found.len()));
        if is_last || found.len() == wanted {
            return Ok(found);
        }
    }
}

/// Revokes a token. What waits under it ends, at every server.
pub async fn revoke(
    State(app): State<Arc<App>>,
    TokenTarget(target): TokenTarget,
    _: NoQuery,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let grant = Grant::of(&parts.extensions);
    let wish: RevokeRequest = {
        let bytes = body::read(&parts.headers, body).await?;
        if bytes.is_empty() { RevokeRequest::default() } else { body::parse(&bytes)? }
    };
    let found = find(&app, &target).await?.filter(|token| is_visible(&grant, token)).ok_or_else(not_found)?;
    let leaves_admin = !wish.even_if_last && !app.access.now().has_other_admin();
    let caller = grant.caller.clone();
    let wish = RevokeToken { id: found.id, caller, at: to_ms(app.now()), leaves_admin };
    let revoked = match app.queue.store().tokens().revoke(wish).await? {
        TokenEnd::Revoked(revoked) => revoked,
        TokenEnd::NotFound => return Err(not_found()),
        TokenEnd::LastAdmin => {
            let detail = format!(
                "{} is the last live token with the scope admin for every project, and the server's configuration has none; \
                 make another one first, or revoke it all the same (evenIfLast, or --even-if-last)",
                echo(&found.name)
            );
            return Err(ErrorAnswer::new(ErrorCode::TokenConflict, detail));
        }
    };
    refresh(&app).await;
    tracing::info!(token = %revoked.name, caller = %grant.caller.identity, "a token was revoked");
    Ok(answer::json(StatusCode::OK, &TokenView::of(&revoked, app.now())))
}

/// The token with this id, or the newest one of this name: the live one, if there is one.
async fn find(app: &App, name_or_id: &str) -> Result<Option<TokenRecord>, ErrorAnswer> {
    let tokens = app.queue.store().tokens();
    let found = match name_or_id.parse::<TokenId>() {
        Ok(id) => tokens.by_id(id).await?,
        Err(_) => tokens.named(name_or_id.to_owned()).await?,
    };
    if found.is_none() && app.access.now().is_configured_token(name_or_id) {
        let detail = format!(
            "'{}' is a token of the server's configuration: take it out there, and reload or restart the server",
            echo(name_or_id)
        );
        return Err(ErrorAnswer::new(ErrorCode::NotFound, detail));
    }
    Ok(found)
}

/// Makes this server know at once what it has just recorded. If that fails, a hint or the next look does it.
async fn refresh(app: &App) {
    if let Err(error) = app.live_tokens.refresh().await {
        tracing::warn!(%error, "the tokens could not be read again; trying again soon");
    }
}

/// A token as the caller wishes it, if the caller may give what it grants.
fn record(grant: &Grant, wish: TokenRequest, sha256: [u8; 32], now: Timestamp) -> Result<TokenRecord, ErrorAnswer> {
    let TokenRequest { name, scopes, projects, expires_in_seconds } = wish;
    require_token_name(&name).map_err(|error| invalid(format!("name: {error}, not '{}'", echo(&name))))?;
    let read = |scope: &String| {
        scope.parse::<Scope>().map_err(|error| invalid(format!("scopes: {error}, not '{}'", echo(scope))))
    };
    let scopes = scopes.iter().map(read).collect::<Result<Scopes, _>>()?;
    if scopes.iter().next().is_none() {
        return Err(invalid("scopes names at least one of read, submit, cancel, work, release and admin".to_owned()));
    }
    if let Some(scope) = scopes.iter().find(|scope| !grant.scopes.has(*scope)) {
        let detail = format!("a token can give no scope that its maker does not have: you do not have {scope}");
        return Err(ErrorAnswer::new(ErrorCode::MissingScope, detail));
    }
    let projects = given_projects(grant, projects)?;
    let expires_at = expires_in_seconds.map(|seconds| expiry(seconds, now)).transpose()?;
    Ok(TokenRecord {
        id: TokenId::generate(),
        name,
        sha256,
        scopes,
        projects,
        created_at: to_ms(now),
        created_by: (*grant.caller.identity).clone(),
        expires_at,
        last_used_at: None,
        revoked: None,
        session: None,
    })
}

fn given_projects(grant: &Grant, projects: Option<Vec<String>>) -> Result<Option<Vec<Glob>>, ErrorAnswer> {
    let own = grant.projects.patterns();
    let Some(wanted) = projects else { return Ok(own.map(<[Glob]>::to_vec)) };
    if wanted.is_empty() || wanted.len() > bounds::TOKEN_PROJECTS {
        let limit = bounds::TOKEN_PROJECTS;
        return Err(invalid(format!("projects has 1 to {limit} patterns; leave it out for all that you may see")));
    }
    let read = |pattern: &String| {
        Glob::of_projects(pattern).map_err(|error| invalid(format!("projects: {error}, not '{}'", echo(pattern))))
    };
    let wanted = wanted.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let covers = |pattern: &&Glob| own.is_none_or(|own| own.iter().any(|own| own.covers(pattern)));
    if let Some(foreign) = wanted.iter().find(|pattern| !covers(pattern)) {
        let detail = format!("a token can give no project that its maker may not see: '{}'", echo(foreign.as_str()));
        return Err(ErrorAnswer::new(ErrorCode::MissingScope, detail));
    }
    Ok(Some(wanted))
}

fn expiry(seconds: u64, now: Timestamp) -> Result<Timestamp, ErrorAnswer> {
    let limit = LIFETIME_LIMIT.as_secs();
    let lifetime =
        i64::try_from(seconds).ok().filter(|_| (1..=limit).contains(&seconds)).map(SignedDuration::from_secs);
    let expires_at = lifetime.and_then(|lifetime| now.checked_add(lifetime).ok()).map(to_ms);
    expires_at.ok_or_else(|| invalid(format!("expiresInSeconds is a whole number from 1 to {limit} (366 days)")))
}

/// Whether a caller may see a token: all projects that the token sees, the caller sees too.
fn is_visible(grant: &Grant, token: &TokenRecord) -> bool {
    let Some(own) = grant.projects.patterns() else { return true };
    let covers = |pattern: &Glob| own.iter().any(|own| own.covers(pattern));
    token.projects.as_ref().is_some_and(|projects| projects.iter().all(covers))
}

/// As stores keep it.
fn to_ms(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

fn invalid(detail: String) -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::InvalidBody, detail)
}

fn not_found() -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::NotFound, "there is no such token on this server, or you may not see it")
}

fn name_taken(name: &str, by: &str) -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::TokenConflict, format!("the name '{}' is taken by {by}", echo(name)))
}
