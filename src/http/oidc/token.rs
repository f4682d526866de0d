//! One token: taken apart, its times, its audience, its signature.

use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::rejection::TokenRejection;
use crate::clock::span;

/// How far the clocks of the issuer and of this server may differ.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// How much of a text that somebody sent is repeated in an answer, in characters.
const SHOWN_LIMIT: usize = 200;
/// The longest subject, in bytes. It stands in each line of the audit log.
const SUBJECT_LIMIT: usize = 1024;

/// The header of a token: how it is signed, and with which key.
pub(super) struct TokenHeader {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
}

/// A token that anybody may have made.
pub(super) struct Unverified {
    pub header: TokenHeader,
    /// Who says that it made the token.
    pub issuer: String,
    claims: Map<String, Value>,
}

/// Whether this is a signed token, and not a secret that the server knows.
pub(super) fn looks_like_one(token: &str) -> bool {
    // Every header is a JSON object, and `{"` in base64 is `eyJ`.
    token.starts_with("eyJ") && token.split('.').count() == 3
}

impl Unverified {
    pub fn parse(token: &str) -> Result<Self, TokenRejection> {
        let not_one = || TokenRejection::NotAccepted("this is not a signed token (JWT) that can be read".to_owned());
        let mut parts = token.split('.');
        let (Some(header), Some(claims)) = (parts.next(), parts.next()) else { return Err(not_one()) };
        let header = object(header).ok_or_else(not_one)?;
        let claims = object(claims).ok_or_else(not_one)?;
        let named = header.get("alg").and_then(Value::as_str).unwrap_or("none");
        let algorithm = named.parse().ok().filter(|algorithm| is_public(*algorithm));
        let algorithm = algorithm.ok_or_else(|| {
            TokenRejection::NotAccepted(format!(
                "the token is signed with '{}', and this server takes only signatures that a public key can check (RS256, \
                 ES256, EdDSA and their like)",
                shown(named)
            ))
        })?;
        // RFC 7515: what it demands must be understood.
        if header.contains_key("crit") || decode_header(token).is_err() {
            return Err(TokenRejection::NotAccepted(
                "the token's header asks for what this server does not know".to_owned(),
            ));
        }
        let issuer = claims.get("iss").and_then(Value::as_str).ok_or_else(not_one)?.to_owned();
        let key_id = header.get("kid").and_then(Value::as_str).map(str::to_owned);
        Ok(Unverified { header: TokenHeader { algorithm, key_id }, issuer, claims })
    }

    /// Checks `exp`, `nbf` and `iat`; returns when the token stops to count.
    pub fn check_times(&self, now: Timestamp) -> Result<Timestamp, TokenRejection> {
        let expires = self
            .time("exp")?
            .ok_or_else(|| TokenRejection::NotAccepted("the token does not say when it expires (`exp`)".to_owned()))?;
        let issued = self.time("iat")?;
        let until = expires.checked_add(LEEWAY).unwrap_or(Timestamp::MAX);
        if now >= until {
            let age = match issued {
                Some(issued) => format!(
                    "; it was issued {} ago. If the token is fresh, this server's clock is ahead of the issuer's: it says {}",
                    ago(now, issued),
                    second(now)
                ),
                None => String::new(),
            };
            return Err(TokenRejection::Expired(format!("the token expired {} ago{age}", ago(now, expires))));
        }
        let from = [("issued", issued), ("valid", self.time("nbf")?)];
        for (what, from) in from {
            let Some(from) = from.filter(|from| from.checked_sub(LEEWAY).is_ok_and(|from| from > now)) else {
                continue;
            };
            let begins = if what == "issued" { "it was issued" } else { "it becomes valid" };
            return Err(TokenRejection::NotAccepted(format!(
                "the token is not valid yet: {begins} {} after the time of this server's clock, which says {}. The clocks \
                 of the issuer and of this server may differ by 60s; set this server's clock",
                ago(from, now),
                second(now)
            )));
        }
        Ok(until)
    }

    pub fn check_audience(&self, wanted: &str) -> Result<(), TokenRejection> {
        if is_for(&self.claims, wanted) {
            return Ok(());
        }
        let named = audience(&self.claims);
        let named = if named.is_empty() { "nobody".to_owned() } else { format!("'{}'", shown(&named.join("', '"))) };
        Err(TokenRejection::NotAccepted(format!(
            "the token is made for {named}, and this server takes tokens that are made for '{wanted}': ask the CI for that \
             audience (SINGLETRACK_OIDC_AUDIENCE, or `aud` of GitLab's id_tokens)"
        )))
    }

    fn time(&self, claim: &str) -> Result<Option<Timestamp>, TokenRejection> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        // Whole seconds most often, but RFC 7519 allows fractions.
        #[expect(clippy::cast_possible_truncation, reason = "a float that does not fit becomes the largest number")]
        let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
        let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
        time.map(Some).ok_or_else(|| TokenRejection::NotAccepted(format!("the token's `{claim}` is not a time")))
    }
}

/// Checks the signature, and returns the claims, which are the issuer's from here on.
pub(super) fn verify(
    token: &str,
    header: &TokenHeader,
    key: &DecodingKey,
) -> Result<Map<String, Value>, TokenRejection> {
    let mut validation = Validation::new(header.algorithm);
    // The times and the audience are checked with this server's own words.
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    validation.required_spec_claims.clear();
    decode(token, key, &validation)
        .map(|data| data.claims)
        .map_err(|_| TokenRejection::NotAccepted("the token's signature does not match the issuer's key".to_owned()))
}

/// Whether a token is made for this audience, perhaps among others.
pub(super) fn is_for(claims: &Map<String, Value>, wanted: &str) -> bool {
    audience(claims).contains(&wanted)
}

/// Who it is, by this claim.
pub(super) fn person_of(claims: &Map<String, Value>, claim: &str) -> Result<String, String> {
    let subject = claims.get(claim).and_then(Value::as_str).unwrap_or_default();
    if subject.is_empty() || subject.len() > SUBJECT_LIMIT || subject.chars().any(char::is_control) {
        return Err(format!(
            "the token must name its subject (`{claim}`) in 1 to {SUBJECT_LIMIT} bytes without control characters"
        ));
    }
    Ok(subject.to_owned())
}

fn audience(claims: &Map<String, Value>) -> Vec<&str> {
    match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => Vec::new(),
    }
}

/// Whether a public key can check it. With any other, the public key would be the secret to sign with.
fn is_public(algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512 | ES256 | ES384 | EdDSA)
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).ok()?).ok()
}

/// How much later `now` is.
fn ago(now: Timestamp, then: Timestamp) -> String {
    span(now.duration_since(then).unsigned_abs())
}

fn second(time: Timestamp) -> impl std::fmt::Display {
    time.strftime("%Y-%m-%d %H:%M:%S UTC")
}

/// A text that somebody sent, in a form and length that can be repeated.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(SHOWN_LIMIT).collect()
}
