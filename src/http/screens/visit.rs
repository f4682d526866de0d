//! A browser's request for a screen: the proof that its forms carry, what a form sent, and where a browser goes that has no
//! access. Every form of every screen passes here, so no handler can forget the proof. See decision 0089.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use data_encoding::HEXLOWER;

use super::{html, is_for_browser};
use crate::{
    http::{
        App, body,
        error::ErrorAnswer,
        guard::{Grant, PeerAddress, is_foreign_visit},
        session::{PageCookie, form_proof, is_proof, own_path},
    },
    wire::ErrorCode,
};

/// The largest form.
const FORM_LIMIT: usize = 64 << 10;
/// The field that carries the proof.
const PROOF_FIELD: &str = "csrf";

/// How a browser came.
#[derive(Clone, Debug, Default)]
pub struct Visit {
    /// What its forms carry; empty where it can send none.
    pub proof: Arc<str>,
    /// Whether it surely came by TLS.
    pub is_encrypted: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Visit>().cloned().unwrap_or_default())
    }
}

/// What a form sent, with the right proof.
#[derive(Clone, Debug, Default)]
pub struct PageForm(Arc<Vec<(String, String)>>);

impl PageForm {
    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PageForm {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<PageForm>().cloned().unwrap_or_default())
    }
}

/// Answers a request for a screen that was let in.
pub async fn answer(app: &App, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_encrypted = is_encrypted(app, &request);
    let has_session = Grant::of(request.extensions()).session.is_some();
    let session = PageCookie::Session.of(headers, is_encrypted).filter(|_| has_session);
    let form = PageCookie::Form.of(headers, is_encrypted).filter(|secret| !secret.is_empty());
    let (proof, new) = match session.or(form) {
        Some(secret) => (form_proof(secret), None),
        // Only a screen can show a form.
        None if *request.method() == Method::GET && is_for_browser(headers) => match random() {
            Ok(secret) => (form_proof(&secret), PageCookie::Form.set(&secret, is_encrypted, None)),
            Err(error) => return error.into_response(),
        },
        None => (String::new(), None),
    };
    let came_again =
        PageCookie::Again.of(headers, is_encrypted).is_some() && !is_foreign_visit(request.method(), headers);
    let again = came_again.then(|| PageCookie::Again.clear()).into_iter().flatten();
    let cookies: Vec<_> = new.into_iter().chain(again).collect();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_read {
        request = match proved(request, &proof).await {
            Ok(request) => request,
            Err(refused) => return refused.into_response(),
        };
    }
    request.extensions_mut().insert(Visit { proof: proof.into(), is_encrypted });
    let mut response = next.run(request).await;
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The same request, with its form in place of its body, if that carries the proof.
async fn proved(request: Request, proof: &str) -> Result<Request, ErrorAnswer> {
    let (mut parts, body) = request.into_parts();
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
    {
        return Err(ErrorAnswer::new(ErrorCode::UnsupportedMediaType, "screens take forms, and nothing else"));
    }
    let mut body = body;
    let mut sent = Vec::new();
    while let Some(piece) = body::next_piece(&mut body).await? {
        if sent.len() + piece.len() > FORM_LIMIT {
            let detail = format!("the form is larger than {} KiB", FORM_LIMIT >> 10);
            return Err(ErrorAnswer::new(ErrorCode::BodyTooLarge, detail));
        }
        sent.extend_from_slice(&piece);
    }
    let form = PageForm(Arc::new(form_urlencoded::parse(&sent).into_owned().collect()));
    if proof.is_empty() || !is_proof(form.get(PROOF_FIELD).unwrap_or_default(), proof) {
        let detail = "this form did not come from a page of this server that is yours now, so nothing was done; load the page \
                      again, and send the form from there";
        return Err(ErrorAnswer::new(ErrorCode::ForbiddenOrigin, detail));
    }
    parts.extensions.insert(form);
    Ok(Request::from_parts(parts, Bytes::new().into()))
}

/// Where a browser without access goes instead of being refused: to the screen where people sign in, and from there back.
pub fn instead(app: &App, request: &Request, refused: &ErrorAnswer) -> Option<Response> {
    let (method, headers) = (request.method(), request.headers());
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let is_out = refused.code() == ErrorCode::Unauthorized && !headers.contains_key(header::AUTHORIZATION);
    if !is_read || !is_out || !is_for_browser(headers) {
        return None;
    }
    let is_encrypted = is_encrypted(app, request);
    let wanted = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let to = own_path(wanted).unwrap_or("/");
    if is_foreign_visit(method, headers) && PageCookie::Again.of(headers, is_encrypted).is_none() {
        return again(to, is_encrypted);
    }
    let had_session = PageCookie::Session.of(headers, is_encrypted).is_some();
    let why = if had_session { Some("ended") } else { None };
    let mut response = go_to(&sign_in_path(to, why));
    if had_session {
        PageCookie::Session.clear().for_each(|cookie| _ = response.headers_mut().append(header::SET_COOKIE, cookie));
    }
    Some(response)
}

/// The path of the screen where people sign in.
pub fn sign_in_path(to: &str, why: Option<&str>) -> String {
    let why = why.map(|why| ("why", why));
    with_query("/sign-in", &to_pairs(to).into_iter().chain(why).collect::<Vec<_>>())
}

/// The parameter that says where to go afterwards.
pub fn to_pairs(to: &str) -> Vec<(&'static str, &str)> {
    if to == "/" { Vec::new() } else { vec![("to", to)] }
}

/// A path with these parameters.
pub fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// Sends a browser on, with GET.
pub fn go_to(path: &str) -> Response {
    let mut response = (StatusCode::SEE_OTHER, [(header::CACHE_CONTROL, "no-store")]).into_response();
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}

#[derive(askama::Template)]
#[template(path = "again.html")]
struct AgainScreen<'a> {
    to: &'a str,
}

/// Leads a browser to a path of ours from a page of ours, so that it sends the session's cookie along.
pub fn lead_to(path: &str) -> Result<Response, ErrorAnswer> {
    html(StatusCode::OK, &AgainScreen { to: path })
}

/// A link of another site led here, so the browser kept the session's cookie back. It sends the cookie when our own page
/// leads to the same address.
fn again(to: &str, is_encrypted: bool) -> Option<Response> {
    let mut response = lead_to(to).ok()?;
    // If even that comes as a request of another site, the screen where people sign in is the answer.
    let cookie = PageCookie::Again.set("1", is_encrypted, Some(AGAIN_LIMIT))?;
    response.headers_mut().append(header::SET_COOKIE, cookie);
    Some(response)
}

/// How long a browser may take to load a page again.
const AGAIN_LIMIT: Duration = Duration::from_secs(10);

/// Whether a browser surely came by TLS.
fn is_encrypted(app: &App, request: &Request) -> bool {
    let peer = request.extensions().get::<PeerAddress>().map(|PeerAddress(peer)| *peer);
    app.access.now().is_encrypted(peer, request.headers())
}

/// Whether the form of a browser that says so was sent by TLS. It stands in the browser's `Origin`, which the guard compared with
/// the host.
pub fn is_sent_by_tls(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

/// A new secret.
fn random() -> Result<String, ErrorAnswer> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        ErrorAnswer::new(ErrorCode::Internal, "the server's system gives no random bytes")
    })?;
    Ok(HEXLOWER.encode(&bytes))
}
