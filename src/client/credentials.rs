//! What a client shows to prove who it is: nothing, a token that it was given, or an ID token that GitHub Actions makes for
//! its job. An ID token lives for minutes and a deploy may wait for an hour, so it is fetched anew before it expires. When
//! the server refuses a token, another one is fetched or read once more from its file. A token is never printed, also not
//! as `::add-mask::`. See decision 0075.

use std::{
    fmt,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use reqwest::{
    Client, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue},
    redirect::Policy,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    dial::{is_loopback, root_cause},
    token::Token,
};
use crate::clock::{BootInstant, Clock};

/// How long GitHub may take to make an ID token.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long before its end an ID token is replaced, if it lives for more than twice as long.
const RENEWED_BEFORE: Duration = Duration::from_secs(60);
/// How long an ID token is used that does not tell its times.
const SHORTEST_LIFE: Duration = Duration::from_secs(120);
/// The largest answer of GitHub that is read.
const SIZE_LIMIT: usize = 64 << 10;

/// What a client shows.
#[derive(Default)]
pub struct Credentials {
    source: TokenSource,
    current: Mutex<Option<CurrentToken>>,
    /// Held while a token is asked for, so that two calls do not ask at once.
    asking: tokio::sync::Mutex<()>,
}

/// Where the next token comes from.
#[derive(Default)]
enum TokenSource {
    /// There is none but the current one, if any.
    #[default]
    Nowhere,
    File(PathBuf),
    GitHub(IdTokenRequest),
}

/// How a job in GitHub Actions gets ID tokens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdTokenRequest {
    /// `ACTIONS_ID_TOKEN_REQUEST_URL`.
    pub url: String,
    /// `ACTIONS_ID_TOKEN_REQUEST_TOKEN`.
    pub bearer: String,
    /// For whom the token is made.
    pub audience: String,
}

impl fmt::Debug for IdTokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdTokenRequest({} …)", self.audience)
    }
}

/// A token, and when it is replaced, if it is.
struct CurrentToken {
    token: Token,
    renewed_at: Option<BootInstant>,
}

/// Why there is no ID token.
#[derive(Debug)]
pub(super) struct NoToken {
    pub why: String,
    /// Whether the next attempt may bring one.
    pub may_pass: bool,
}

impl From<Option<Token>> for Credentials {
    fn from(token: Option<Token>) -> Self {
        let current = token.map(|token| CurrentToken { token, renewed_at: None });
        Credentials { current: Mutex::new(current), ..Credentials::default() }
    }
}

impl Credentials {
    /// The token that was read from this file. Whoever exchanges the file need not start the client anew.
    pub fn from_file(path: PathBuf, token: Token) -> Self {
        Credentials { source: TokenSource::File(path), ..Credentials::from(Some(token)) }
    }

    /// ID tokens of GitHub Actions.
    pub fn from_github(request: IdTokenRequest) -> Self {
        Credentials { source: TokenSource::GitHub(request), ..Credentials::default() }
    }

    /// Whether a token is sent.
    pub(super) fn has_token(&self) -> bool {
        matches!(self.source, TokenSource::GitHub(_)) || self.lock().is_some()
    }

    /// The token that is shown, or how to get one, for a process that goes on in this one's place.
    pub(super) fn testament(&self) -> (Option<String>, Option<IdTokenRequest>) {
        match &self.source {
            TokenSource::GitHub(request) => (None, Some(request.clone())),
            TokenSource::Nowhere | TokenSource::File(_) => {
                (self.lock().as_ref().and_then(|current| current.token.shown().map(str::to_owned)), None)
            }
        }
    }

    /// The header that shows the token; `None` without one.
    pub(super) async fn header(&self, clock: &dyn Clock) -> Result<Option<HeaderValue>, NoToken> {
        let is_good = |current: &&CurrentToken| current.renewed_at.is_none_or(|at| clock.boot() < at);
        let good = || self.lock().as_ref().filter(is_good).map(|current| current.token.header());
        let (known, TokenSource::GitHub(request)) = (good(), &self.source) else { return Ok(good()) };
        if known.is_some() {
            return Ok(known);
        }
        let _asking = self.asking.lock().await;
        if let Some(meanwhile) = good() {
            return Ok(Some(meanwhile));
        }
        let asked_at = clock.boot();
        match ask(request).await {
            Ok((text, token)) => {
                let header = token.header();
                *self.lock() = Some(CurrentToken { token, renewed_at: Some(asked_at.after(used_for(&text))) });
                Ok(Some(header))
            }
            // The token that should have been replaced may still count for a minute.
            Err(error) => self.lock().as_ref().map(|old| Some(old.token.header())).ok_or(error),
        }
    }

    /// Whether there may be another token after the server has refused the one that was shown; the next call shows it.
    pub(super) fn renew(&self) -> bool {
        match &self.source {
            TokenSource::Nowhere => false,
            TokenSource::GitHub(_) => {
                *self.lock() = None;
                true
            }
            TokenSource::File(path) => {
                let Ok(Some(token)) = Token::read(path) else { return false };
                let mut current = self.lock();
                let is_new = current.as_ref().is_none_or(|current| current.token.shown() != token.shown());
                *current = Some(CurrentToken { token, renewed_at: None });
                is_new
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<CurrentToken>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks GitHub for an ID token: https://docs.github.com/actions/reference/security/oidc.
async fn ask(request: &IdTokenRequest) -> Result<(String, Token), NoToken> {
    let hopeless = |why: String| NoToken { why, may_pass: false };
    let mut url = Url::parse(&request.url)
        .map_err(|error| hopeless(format!("ACTIONS_ID_TOKEN_REQUEST_URL is not an address: {error}")))?;
    url.query_pairs_mut().append_pair("audience", &request.audience);
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", request.bearer))
        .map_err(|_| hopeless("ACTIONS_ID_TOKEN_REQUEST_TOKEN is not a token".to_owned()))?;
    bearer.set_sensitive(true);
    let mut builder = Client::builder().redirect(Policy::none()).timeout(ANSWER_LIMIT).pool_max_idle_per_host(0);
    if is_loopback(&url) {
        builder = builder.no_proxy();
    }
    if url.scheme() == "http" {
        builder = builder.tls_certs_only([]);
    }
    let client = builder.build().map_err(|error| hopeless(root_cause(&error)))?;
    let passing = |error: reqwest::Error| NoToken {
        why: if error.is_timeout() { "no answer in time".to_owned() } else { root_cause(&error) },
        may_pass: true,
    };
    let get = client.get(url).header(AUTHORIZATION, bearer).header(ACCEPT, "application/json");
    let mut response = get.send().await.map_err(passing)?;
    let status = response.status();
    if !status.is_success() {
        let may_pass = status.is_server_error() || [408, 429].contains(&status.as_u16());
        return Err(NoToken { why: format!("HTTP {status}"), may_pass });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(passing)? {
        body.extend_from_slice(&chunk);
        if body.len() > SIZE_LIMIT {
            return Err(hopeless("its answer is too large".to_owned()));
        }
    }
    let value = serde_json::from_slice::<Value>(&body).ok();
    let text = value.as_ref().and_then(|body| body["value"].as_str()).unwrap_or_default().trim().to_owned();
    match Token::parse(&text) {
        Ok(Some(token)) => Ok((text, token)),
        Ok(None) | Err(_) => Err(hopeless("its answer has no token".to_owned())),
    }
}

/// How long after it was asked for an ID token is used. Only the token's own times count, because the clock of the job's
/// machine may be wrong.
fn used_for(token: &str) -> Duration {
    let claims = token.split('.').nth(1).and_then(|claims| BASE64URL_NOPAD.decode(claims.as_bytes()).ok());
    let claims = claims.and_then(|claims| serde_json::from_slice::<Value>(&claims).ok()).unwrap_or_default();
    let life = match (claims["iat"].as_u64(), claims["exp"].as_u64()) {
        (Some(issued), Some(expires)) => Duration::from_secs(expires.saturating_sub(issued)),
        (None, _) | (_, None) => SHORTEST_LIFE,
    };
    life - RENEWED_BEFORE.min(life / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_token_is_used_until_shortly_before_its_end() {
        for (claims, seconds) in [
            (r#"{"iat":1000,"exp":1300}"#, 240),
            (r#"{"iat":1000,"exp":1060}"#, 30),
            (r#"{"iat":1000,"exp":1000}"#, 0),
            (r#"{"iat":1000,"exp":900}"#, 0),
            (r#"{"exp":900}"#, 60),
            ("[]", 60),
        ] {
            let token = format!("eyJ.{}.x", BASE64URL_NOPAD.encode(claims.as_bytes()));
            assert_eq!(used_for(&token), Duration::from_secs(seconds), "{claims}");
        }
        assert_eq!(used_for("no token"), Duration::from_secs(60));
    }
}
