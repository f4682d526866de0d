//! Signing in with a token, and out. A token is shown once and becomes a session of the browser: see decision 0089.

use std::{net::IpAddr, sync::Arc};

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::Response,
};
use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};

use super::{
    Frame, Viewer,
    frame::person,
    html,
    visit::{PageForm, Visit, go_to, is_sent_by_tls, sign_in_path, to_pairs, with_query},
};
use crate::{
    config::{OidcLogIn, format_duration},
    http::{
        App,
        door::{LOOK_UP_PAUSE, ended, too_many, unknown_token},
        error::{ErrorAnswer, ShownError},
        guard::Grant,
        params::Query,
        session::{PageCookie, PageSession, own_path},
        token_text::{hash_of, is_well_formed, new_token},
    },
    model::{Caller, Identity, SessionSource, TokenId, TokenRecord, bounds},
    store::tokens::{RevokeToken, TokenCreation},
    wire::ErrorCode,
};

/// How often a name is made for a session. Two of one token have the same one by chance once in millions of times.
const NAME_ATTEMPTS: usize = 3;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInScreen {
    frame: Frame,
    to: String,
    trouble: Option<String>,
    news: Option<&'static str>,
    lasts: String,
    log_ins: Vec<LogInLink>,
}

/// A link to an issuer where people log in.
struct LogInLink {
    path: String,
    name: String,
}

/// The screen where people sign in.
pub async fn show(State(app): State<Arc<App>>, viewer: Viewer, uri: Uri) -> Result<Response, ErrorAnswer> {
    let query = Query::of(&uri, &["to", "why"])?;
    let to = query.get("to").and_then(own_path).unwrap_or("/");
    if app.access.now().is_open_to_machine() {
        return Ok(go_to(to));
    }
    let news = match query.get("why") {
        Some("ended") => Some("Your session has ended."),
        Some("out") => Some("You are signed out."),
        Some(_) | None => None,
    };
    html(StatusCode::OK, &screen(&app, viewer, to, None, news))
}

/// Makes a session from a token.
pub async fn sign_in(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    visit: Visit,
    headers: HeaderMap,
    form: PageForm,
) -> Result<Response, ErrorAnswer> {
    let to = form.get("to").and_then(own_path).unwrap_or("/");
    let token = form.get("token").unwrap_or_default().trim();
    let shown_by = viewer.grant.caller.clone();
    let begun = match find(&app, shown_by.address, token).await {
        Ok(found) => {
            let caller = Caller { identity: found.grant.caller.identity.clone(), ..shown_by };
            begin(&app, &found.grant, found.source, found.expires_at, caller).await
        }
        Err(refused) => Err(refused),
    };
    let session = match begun {
        Ok(session) => session,
        Err(refused) => return refusal(&app, viewer, to, refused),
    };
    if let Some(former) = &viewer.grant.session {
        end(&app, former, viewer.grant.caller.clone()).await?;
    }
    let mut response = go_to(to);
    let is_encrypted = visit.is_encrypted || is_sent_by_tls(&headers);
    let cookie = PageCookie::Session.set(&session.token, is_encrypted, session.lasts.try_into().ok());
    response.headers_mut().extend(cookie.map(|cookie| (header::SET_COOKIE, cookie)));
    Ok(response)
}

/// Ends the session.
pub async fn sign_out(State(app): State<Arc<App>>, grant: Grant) -> Result<Response, ErrorAnswer> {
    if let Some(session) = &grant.session {
        end(&app, session, grant.caller.clone()).await?;
    }
    let to = if app.access.now().is_open_to_machine() { "/".to_owned() } else { sign_in_path("/", Some("out")) };
    let mut response = go_to(&to);
    PageCookie::Session.clear().for_each(|cookie| _ = response.headers_mut().append(header::SET_COOKIE, cookie));
    Ok(response)
}

fn screen(app: &App, viewer: Viewer, to: &str, trouble: Option<String>, news: Option<&'static str>) -> SignInScreen {
    let page = app.config().page.clone();
    let link = |log_in: &OidcLogIn| {
        let name = log_in.issuer.name.clone();
        // Names of issuers stand in a path as they are.
        LogInLink { path: with_query(&format!("/sign-in/with/{name}"), &to_pairs(to)), name }
    };
    SignInScreen {
        frame: Frame::still(viewer),
        to: to.to_owned(),
        trouble,
        news,
        lasts: format_duration(page.session),
        log_ins: page.log_ins.iter().map(link).collect(),
    }
}

/// The same screen, with what is wrong.
pub fn refusal(app: &App, viewer: Viewer, to: &str, refused: ErrorAnswer) -> Result<Response, ErrorAnswer> {
    let code = refused.code();
    if code.status() >= 500 && code != ErrorCode::IssuerUnreachable {
        return Err(refused);
    }
    let trouble = match code {
        ErrorCode::Unauthorized => "This server does not know this token. Was it copied whole?".to_owned(),
        ErrorCode::TokenRevoked => "This token was revoked. Ask for another one.".to_owned(),
        ErrorCode::TokenExpired => "This token has expired. Ask for another one.".to_owned(),
        ErrorCode::TooManyAttempts => {
            "Too many wrong tokens came from your address. Wait a minute, and try again.".to_owned()
        }
        _ => super::failure::sentence(refused.detail()),
    };
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::UNAUTHORIZED);
    let mut response = html(status, &screen(app, viewer, to, Some(trouble), None))?;
    if let Some(wait) = refused.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, wait);
    }
    response.extensions_mut().insert(ShownError(refused));
    Ok(response)
}

/// A token that was shown.
struct ShownToken {
    grant: Grant,
    source: SessionSource,
    expires_at: Option<Timestamp>,
}

/// Finds the token that was shown. A wrong one counts, as it does elsewhere.
async fn find(app: &App, address: Option<IpAddr>, token: &str) -> Result<ShownToken, ErrorAnswer> {
    if token.is_empty() {
        return Err(ErrorAnswer::new(ErrorCode::InvalidParameter, "paste a token"));
    }
    let sha256 = hash_of(token);
    let mut found = app.live_tokens.token(&sha256);
    if found.as_ref().is_none_or(|(grant, _)| grant.end().is_some()) {
        app.attempts.count(address).map_err(too_many)?;
    }
    if found.is_none() && is_well_formed(token) {
        if !app.attempts.may_look_up() {
            return Err(too_many(LOOK_UP_PAUSE));
        }
        app.live_tokens.look_up(&sha256).await?;
        found = app.live_tokens.token(&sha256);
    }
    let (grant, expires_at) = found.ok_or_else(unknown_token)?;
    match grant.end() {
        Some(end) => Err(ended(end).to(&grant.caller)),
        None => Ok(ShownToken { grant, source: SessionSource::Token(sha256), expires_at }),
    }
}

/// A session that has begun, and its token for the browser.
pub struct BegunSession {
    pub token: String,
    pub lasts: SignedDuration,
}

/// Begins a session with what this grant allows at first.
///
/// # Errors
/// There are too many, or the store does not answer.
pub async fn begin(
    app: &App,
    grant: &Grant,
    source: SessionSource,
    expires_at: Option<Timestamp>,
    caller: Caller,
) -> Result<BegunSession, ErrorAnswer> {
    let now = ms(app.now());
    let longest = SignedDuration::try_from(app.config().page.session).unwrap_or(SignedDuration::MAX);
    let latest = now.checked_add(longest).unwrap_or(Timestamp::MAX);
    let expires_at = ms(expires_at.map_or(latest, |expires_at| expires_at.min(latest)));
    for _ in 0..NAME_ATTEMPTS {
        let new = new_token().map_err(|error| {
            tracing::error!(%error, "the system gives no random bytes");
            ErrorAnswer::new(ErrorCode::Internal, "the server's system gives no random bytes")
        })?;
        let id = TokenId::generate();
        let record = TokenRecord {
            id,
            name: format!("{}~{}", holder(grant), HEXLOWER.encode(&id.as_bytes()[13..])),
            sha256: new.sha256,
            scopes: grant.scopes,
            projects: grant.projects.patterns().map(<[_]>::to_vec),
            created_at: now,
            created_by: (*grant.caller.identity).clone(),
            expires_at: Some(expires_at),
            last_used_at: None,
            revoked: None,
            session: Some(source.clone()),
        };
        let name = record.name.clone();
        match app.queue.store().tokens().create(record, caller.clone()).await? {
            TokenCreation::Created => {
                refresh(app).await;
                tracing::info!(session = %name, caller = %caller.identity, "somebody signed in to the page");
                return Ok(BegunSession { token: new.token, lasts: expires_at.duration_since(now) });
            }
            TokenCreation::NameTaken => {}
            TokenCreation::TooMany => {
                let limit = bounds::LIVE_SESSIONS;
                let detail =
                    format!("{limit} browsers are signed in, which is the most; an administrator can end some of them");
                return Err(ErrorAnswer::new(ErrorCode::TokenConflict, detail));
            }
        }
    }
    Err(ErrorAnswer::new(ErrorCode::Unavailable, "there is no name for the session; try again"))
}

/// Ends a session.
///
/// # Errors
/// The store does not answer.
pub async fn end(app: &App, session: &PageSession, caller: Caller) -> Result<(), ErrorAnswer> {
    let name = &session.name;
    tracing::info!(session = %name, caller = %caller.identity, "somebody signs out of the page");
    let wish = RevokeToken { id: session.id, caller, at: ms(app.now()), leaves_admin: false };
    app.queue.store().tokens().revoke(wish).await?;
    refresh(app).await;
    Ok(())
}

/// Makes this server know at once what it has just recorded. If that fails, a hint or the next look does it.
async fn refresh(app: &App) {
    if let Err(error) = app.live_tokens.refresh().await {
        tracing::warn!(%error, "the tokens could not be read again; trying again soon");
    }
}

/// What the names of a holder's sessions begin with.
fn holder(grant: &Grant) -> String {
    match &*grant.caller.identity {
        // What an issuer calls a person may have any form.
        Identity::Oidc { issuer, .. } => issuer.clone(),
        identity @ (Identity::Token { .. } | Identity::Local | Identity::Server) => person(identity),
    }
}

/// As stores keep it.
fn ms(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}
