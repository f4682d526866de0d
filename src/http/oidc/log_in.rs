//! A person logs in at an issuer: the authorization code flow of OpenID Connect, with PKCE. See decision 0090.
//!
//! One random secret stays in the person's browser, in a cookie, until the person is back. What goes to the issuer is made of
//! it: the state, the nonce and the challenge. So no server keeps anything meanwhile, and any server of a store can go on.

use std::{sync::Arc, time::Duration};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;

use super::{
    fetch::{self, Endpoints},
    keys::Keys,
    rejection::TokenRejection,
    token::{self, Unverified, shown},
};
use crate::{
    clock::{BootInstant, Clock},
    config::OidcLogIn,
    http::error::ErrorAnswer,
    model::Identity,
    wire::ErrorCode,
};

/// How long is known where an issuer lets people log in.
const FRESH: Duration = Duration::from_secs(15 * 60);
/// The least time between two questions that failed.
const PAUSE: Duration = Duration::from_secs(10);
/// The largest claims that a session keeps, in bytes of JSON: only those that rules look at.
const CLAIMS_LIMIT: usize = 16 << 10;

/// What a browser keeps while its person logs in.
pub struct LogInSecret(String);

impl LogInSecret {
    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(LogInSecret(HEXLOWER.encode(&bytes)))
    }

    /// One that a browser shows.
    pub fn shown(text: &str) -> Self {
        LogInSecret(text.to_owned())
    }

    /// The secret itself, for the browser.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the issuer sent this browser back.
    pub fn is_state(&self, state: &str) -> bool {
        self.state().as_bytes().ct_eq(state.as_bytes()).into()
    }

    fn state(&self) -> String {
        self.part("state")
    }

    fn nonce(&self) -> String {
        self.part("nonce")
    }

    fn verifier(&self) -> String {
        self.part("verifier")
    }

    fn challenge(&self) -> String {
        BASE64URL_NOPAD.encode(&Sha256::digest(self.verifier()))
    }

    /// None tells anything of the others.
    fn part(&self, what: &str) -> String {
        BASE64URL_NOPAD.encode(&Sha256::new_with_prefix(what).chain_update(&self.0).finalize())
    }
}

/// An issuer where people log in.
pub struct LogIn {
    pub(super) settings: OidcLogIn,
    pub(super) keys: Arc<Keys>,
    clock: Arc<dyn Clock>,
    endpoints: Mutex<Option<(BootInstant, Result<Endpoints, String>)>>,
}

/// Who logged in, and what the issuer claims of that person.
pub struct LoggedIn {
    /// Who it is.
    pub identity: Identity,
    /// The claims that count.
    pub claims: Map<String, Value>,
}

impl LogIn {
    pub(super) fn new(settings: OidcLogIn, keys: Arc<Keys>, clock: Arc<dyn Clock>) -> Self {
        LogIn { settings, keys, clock, endpoints: Mutex::default() }
    }

    /// Where a browser with this secret is sent. The issuer sends it to `back`.
    ///
    /// # Errors
    /// The issuer does not say where people log in.
    pub async fn begin(&self, secret: &LogInSecret, back: &str) -> Result<String, ErrorAnswer> {
        let endpoints = self.endpoints().await?;
        let mut url = Url::parse(&endpoints.authorization).map_err(|error| self.unreachable(&error.to_string()))?;
        let asked = std::iter::once("openid").chain(self.settings.request_scopes.iter().map(String::as_str));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.settings.issuer.audience)
            .append_pair("redirect_uri", back)
            .append_pair("scope", &asked.collect::<Vec<_>>().join(" "))
            .append_pair("state", &secret.state())
            .append_pair("nonce", &secret.nonce())
            .append_pair("code_challenge", &secret.challenge())
            .append_pair("code_challenge_method", "S256");
        Ok(url.into())
    }

    /// Exchanges the code that the issuer gave to a browser with this secret.
    ///
    /// # Errors
    /// The issuer does not give a token for it, or the token is not for this log-in.
    pub async fn finish(&self, secret: &LogInSecret, back: &str, code: &str) -> Result<LoggedIn, ErrorAnswer> {
        let token = self.exchange(secret, back, code).await?;
        let claims = self.verify(&token, &secret.nonce()).await.map_err(|rejection| self.told(rejection))?;
        let OidcLogIn { issuer, person_claim, .. } = &self.settings;
        let named =
            |claim: &str| person_claim == claim || issuer.rules.iter().any(|rule| rule.claims.contains_key(claim));
        let is_unproven = claims
            .get("email_verified")
            .is_some_and(|is_verified| *is_verified == Value::Bool(false) || is_verified.as_str() == Some("false"));
        if is_unproven && named("email") {
            return Err(self.refused("it has not verified your address of e-mail, by which this server knows people"));
        }
        let subject = token::person_of(&claims, person_claim).map_err(|why| self.refused(&why))?;
        let identity = Identity::Oidc { issuer: issuer.name.clone(), subject };
        let counts = |claim: &str| ["iss", "sub", "aud"].contains(&claim) || named(claim);
        let kept: Map<_, _> = claims.into_iter().filter(|(claim, _)| counts(claim)).collect();
        if Value::Object(kept.clone()).to_string().len() > CLAIMS_LIMIT {
            let limit = CLAIMS_LIMIT >> 10;
            return Err(self.refused(&format!("the claims that rules look at are larger than {limit} KiB")));
        }
        Ok(LoggedIn { identity, claims: kept })
    }

    /// The error that the issuer told to the browser.
    pub fn issuer_says(&self, error: &str, description: Option<&str>) -> ErrorAnswer {
        let description = description.map(|text| format!(" ({})", shown(text))).unwrap_or_default();
        self.refused(&format!("it says {}{description}", shown(error)))
    }

    /// Whether this is the issuer's own address.
    pub fn is_issuer(&self, address: &str) -> bool {
        self.settings.issuer.issuer == address
    }

    async fn endpoints(&self) -> Result<Endpoints, ErrorAnswer> {
        // Whoever comes meanwhile waits for the same answer.
        let mut known = self.endpoints.lock().await;
        let now = self.clock.boot();
        if let Some((at, found)) = &*known {
            let limit = if found.is_ok() { FRESH } else { PAUSE };
            if now.since(*at) < limit {
                return found.clone().map_err(|why| self.unreachable(&why));
            }
        }
        let found = fetch::endpoints(self.keys.source()).await;
        *known = Some((self.clock.boot(), found.clone()));
        found.map_err(|why| {
            tracing::warn!(
                issuer = self.settings.issuer.name,
                error = why,
                "an OIDC issuer does not let people log in"
            );
            self.unreachable(&why)
        })
    }

    async fn exchange(&self, secret: &LogInSecret, back: &str, code: &str) -> Result<String, ErrorAnswer> {
        #[derive(Deserialize)]
        struct Exchanged {
            id_token: Option<String>,
            error: Option<String>,
            error_description: Option<String>,
        }
        let endpoints = self.endpoints().await?;
        let client = &self.settings.issuer.audience;
        let own = match self.settings.client_secret.clone() {
            Some(source) => Some(read_secret(source).await.map_err(|why| {
                tracing::error!(
                    issuer = self.settings.issuer.name,
                    error = why,
                    "the secret of a client cannot be read"
                );
                ErrorAnswer::new(
                    ErrorCode::Internal,
                    "the server cannot read its own secret for this issuer; see its log",
                )
            })?),
            None => None,
        };
        let verifier = secret.verifier();
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", back),
            ("code_verifier", &verifier),
        ];
        let mut basic = None;
        match &own {
            Some(own) if !endpoints.takes_secret_in_form => basic = Some((encoded(client), encoded(own))),
            Some(own) => fields.extend([("client_id", client.as_str()), ("client_secret", own.as_str())]),
            None => fields.push(("client_id", client)),
        }
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let sent = fetch::send_form(self.keys.source(), &endpoints.token, form, basic).await;
        let (status, text) = sent.map_err(|why| self.unreachable(&why))?;
        let answer: Exchanged = serde_json::from_slice(&text)
            .map_err(|_| self.unreachable(&format!("{} answers {status} and no JSON", shown(&endpoints.token))))?;
        if let Some(error) = answer.error {
            tracing::warn!(issuer = self.settings.issuer.name, error, "an OIDC issuer refused a code");
            return Err(self.issuer_says(&error, answer.error_description.as_deref()));
        }
        answer.id_token.ok_or_else(|| self.unreachable(&format!("it answers {status} and gives no ID token")))
    }

    async fn verify(&self, token: &str, nonce: &str) -> Result<Map<String, Value>, TokenRejection> {
        let refused = |why: &str| TokenRejection::NotAccepted(why.to_owned());
        let client = &self.settings.issuer.audience;
        let unverified = Unverified::parse(token)?;
        if !self.is_issuer(&unverified.issuer) {
            return Err(refused("the token names another issuer"));
        }
        unverified.check_times(self.clock.wall())?;
        let (key, _) = self.keys.find(&unverified.header).await?;
        let claims = token::verify(token, &unverified.header, &key)?;
        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        let is_of_several = claims.get("aud").and_then(Value::as_array).is_some_and(|audience| audience.len() > 1);
        // OpenID Connect Core 3.1.3.7: of several audiences, one is the party that the token was made for.
        let is_for_us = match text("azp") {
            Some(party) => party == client,
            None => !is_of_several,
        };
        if !token::is_for(&claims, client) || !is_for_us {
            return Err(refused("the token is made for another client"));
        }
        if !bool::from(text("nonce").unwrap_or_default().as_bytes().ct_eq(nonce.as_bytes())) {
            return Err(refused("the token is of another log-in"));
        }
        Ok(claims)
    }

    fn told(&self, rejection: TokenRejection) -> ErrorAnswer {
        match rejection {
            TokenRejection::NoKeys(why) => self.unreachable(&why),
            TokenRejection::Expired(why) | TokenRejection::NotAccepted(why) | TokenRejection::NoRule(why) => {
                self.refused(&why)
            }
        }
    }

    fn refused(&self, why: &str) -> ErrorAnswer {
        let detail = format!("the log-in at {} did not work: {why}", self.settings.issuer.name);
        ErrorAnswer::new(ErrorCode::TokenNotAccepted, detail)
    }

    fn unreachable(&self, why: &str) -> ErrorAnswer {
        let detail = format!("{} cannot be asked at the moment: {why}", self.settings.issuer.name);
        ErrorAnswer::new(ErrorCode::IssuerUnreachable, detail)
    }
}

async fn read_secret(source: crate::config::SecretSource) -> Result<String, String> {
    let read = tokio::task::spawn_blocking(move || source.read()).await;
    read.unwrap_or_else(|_| Err("it could not be read".to_owned()))
}

/// As RFC 6749 wants a client's credentials before they are put together.
fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A text for a cookie, and back.
pub fn cookie_text(text: &str) -> String {
    BASE64URL_NOPAD.encode(text.as_bytes())
}

/// What [`cookie_text`] was made of.
pub fn from_cookie_text(text: &str) -> Option<String> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_the_issuer_is_made_of_one_secret_and_tells_nothing_of_it() {
        let secret = LogInSecret::generate().expect("there is randomness");
        let parts = [secret.state(), secret.nonce(), secret.verifier(), secret.challenge()];
        for (at, part) in parts.iter().enumerate() {
            assert_eq!(part.len(), 43, "RFC 7636 wants 43 characters at least");
            assert!(parts[at + 1..].iter().all(|other| other != part) && !part.contains(secret.as_str()));
        }
        assert!(secret.is_state(&secret.state()) && !secret.is_state(&secret.nonce()) && !secret.is_state(""));
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(verifier));
        assert_eq!(challenge, "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert_eq!(from_cookie_text(&cookie_text("/a?b=ü")).as_deref(), Some("/a?b=ü"));
    }
}
