//! Logging in at an OIDC issuer: the way there, and the way back. See decision 0090.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    http::{HeaderMap, Uri, header},
    response::Response,
};

use super::{
    Viewer, sign_in,
    visit::{Visit, go_to, lead_to},
};
use crate::{
    http::{
        App,
        door::too_many,
        error::{ErrorAnswer, echo},
        oidc::{Licence, LogInSecret, LoggedIn, Wanted, cookie_text, from_cookie_text},
        params::Query,
        session::{PageCookie, own_path},
    },
    model::{Caller, Scope, SessionSource},
    wire::ErrorCode,
};

/// How long a person may take to log in.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// Where an issuer sends a browser back, below `public_url`.
const BACK: &str = "/sign-in/back";

/// Sends a browser to an issuer.
pub async fn begin(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    viewer: Viewer,
    visit: Visit,
    uri: Uri,
) -> Result<Response, ErrorAnswer> {
    let query = Query::of(&uri, &["to"])?;
    let to = query.get("to").and_then(own_path).unwrap_or("/").to_owned();
    let known = app.oidc.now().log_in(&name);
    let (Some(log_in), Some(public_url)) = (known, app.config().public_url.clone()) else {
        let detail = format!("nobody logs in with '{}' here", echo(&name));
        return Err(ErrorAnswer::new(ErrorCode::NotFound, detail));
    };
    let secret = LogInSecret::generate().map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        ErrorAnswer::new(ErrorCode::Internal, "the server's system gives no random bytes")
    })?;
    let there = match log_in.begin(&secret, &format!("{public_url}{BACK}")).await {
        Ok(there) => there,
        Err(refused) => return sign_in::refusal(&app, viewer, &to, refused),
    };
    let mut response = go_to(&there);
    let kept = format!("{}.{}.{name}", secret.as_str(), cookie_text(&to));
    let cookie = PageCookie::LogIn.set(&kept, is_encrypted(&visit, &public_url), Some(LIMIT));
    response.headers_mut().extend(cookie.map(|cookie| (header::SET_COOKIE, cookie)));
    Ok(response)
}

/// A browser comes back from an issuer.
pub async fn back(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    visit: Visit,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ErrorAnswer> {
    let kept = PageCookie::LogIn.of(&headers, visit.is_encrypted).and_then(KeptLogIn::read);
    let to = kept.as_ref().map_or("/", |kept| kept.to.as_str()).to_owned();
    let told: HashMap<_, _> = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let mut response = match finish(&app, &viewer, kept, &told).await {
        Ok(session) => {
            if let Some(former) = &viewer.grant.session {
                sign_in::end(&app, former, viewer.grant.caller.clone()).await?;
            }
            // The issuer led the browser here, so a redirect would not carry the session's cookie.
            let mut response = lead_to(&to)?;
            let is_encrypted = app.config().public_url.as_ref().is_some_and(|url| is_encrypted(&visit, url));
            let cookie = PageCookie::Session.set(&session.token, is_encrypted, session.lasts.try_into().ok());
            response.headers_mut().extend(cookie.map(|cookie| (header::SET_COOKIE, cookie)));
            response
        }
        Err(refused) => sign_in::refusal(&app, viewer, &to, refused)?,
    };
    PageCookie::LogIn.clear().for_each(|cookie| _ = response.headers_mut().append(header::SET_COOKIE, cookie));
    Ok(response)
}

/// What a browser kept while its person logged in.
struct KeptLogIn {
    secret: LogInSecret,
    to: String,
    issuer: String,
}

impl KeptLogIn {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let (secret, to, issuer) = (parts.next()?, parts.next()?, parts.next()?);
        let to = from_cookie_text(to).as_deref().and_then(own_path).unwrap_or("/").to_owned();
        Some(KeptLogIn { secret: LogInSecret::shown(secret), to, issuer: issuer.to_owned() })
    }
}

async fn finish(
    app: &App,
    viewer: &Viewer,
    kept: Option<KeptLogIn>,
    told: &HashMap<String, String>,
) -> Result<sign_in::BegunSession, ErrorAnswer> {
    let unknown = || {
        let url = app.config().public_url.clone().unwrap_or_default();
        let detail = format!(
            "this log-in was begun in another browser, at another address than {url}, or more than 10 minutes ago; begin again"
        );
        ErrorAnswer::new(ErrorCode::InvalidParameter, detail)
    };
    let text = |name: &str| told.get(name).map(String::as_str);
    let kept = kept.filter(|kept| kept.secret.is_state(text("state").unwrap_or_default())).ok_or_else(unknown)?;
    let log_in = app.oidc.now().log_in(&kept.issuer).ok_or_else(unknown)?;
    let public_url = app.config().public_url.clone().ok_or_else(unknown)?;
    // RFC 9207: an answer of another issuer is none for this log-in.
    if text("iss").is_some_and(|issuer| !log_in.is_issuer(issuer)) {
        return Err(unknown());
    }
    if let Some(error) = text("error") {
        return Err(log_in.issuer_says(error, text("error_description")));
    }
    let code = text("code").ok_or_else(unknown)?;
    // Whoever makes up codes makes the server ask the issuer.
    app.attempts.count(viewer.grant.caller.address).map_err(too_many)?;
    let LoggedIn { identity, claims } = log_in.finish(&kept.secret, &format!("{public_url}{BACK}"), code).await?;
    let caller = Caller { identity: Arc::new(identity), ..viewer.grant.caller.clone() };
    let wanted = Wanted { path: "/", needed: &Scope::ALL };
    let grant = Licence::default().grant(&app.config(), &caller.identity, &claims, wanted);
    if grant.end().is_some() {
        let who = echo(&super::frame::person(&caller.identity));
        let detail = format!("{} knows you as {who}, and no rule of this server lets you in", kept.issuer);
        return Err(ErrorAnswer::new(ErrorCode::NoOidcRule, detail).to(&caller));
    }
    sign_in::begin(app, &grant, SessionSource::LogIn(claims), None, caller).await
}

/// Whether a browser that is at the server's public address came by TLS.
fn is_encrypted(visit: &Visit, public_url: &str) -> bool {
    visit.is_encrypted || public_url.starts_with("https://")
}
