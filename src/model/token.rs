//! Tokens that are made at run time, as they are recorded: never the token itself.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;

use super::{
    bounds,
    glob::Glob,
    identity::{Identity, Scopes},
};

/// A token's id. Ids made later sort later on one machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(Uuid);

impl TokenId {
    /// A new id, unlike any other.
    pub fn generate() -> Self {
        TokenId(Uuid::now_v7())
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        TokenId(Uuid::from_bytes(bytes))
    }

    /// The id's bytes, as stores keep them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl FromStr for TokenId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(TokenId)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A text that no token may be named.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a token's name is 1 to 64 letters, digits, '.', '_', '-', '@', '+' or ':', and begins with a letter or a digit"
)]
pub struct InvalidTokenName;

/// Whether a token may be named so: a name that fits into a path, a log line and a shell command as it is, and that is no
/// id.
///
/// # Errors
/// It may not.
pub fn require_token_name(name: &str) -> Result<(), InvalidTokenName> {
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@+:".contains(&byte));
    let is_name = begins && fits && name.len() <= bounds::TOKEN_NAME && name.parse::<TokenId>().is_err();
    if is_name { Ok(()) } else { Err(InvalidTokenName) }
}

/// A token as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its id.
    pub id: TokenId,
    /// Its name. Of the tokens that are neither revoked nor expired, no two have the same one.
    pub name: String,
    /// The SHA-256 of the token.
    pub sha256: [u8; 32],
    /// What its holder may do.
    pub scopes: Scopes,
    /// The only projects that its holder may see; all of them if there are none here.
    pub projects: Option<Vec<Glob>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: Identity,
    /// From when on it is not valid.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked, and by whom.
    pub revoked: Option<TokenRevocation>,
    /// What it was made from, if it is the session of a browser: then it serves on the page alone.
    pub session: Option<SessionSource>,
}

/// What a session was made from. Its holder may do what that allows at the moment of each request, so the scopes and projects
/// of its record only tell what it could do at first.
///
/// Its one form in words is stored: `token:SHA256`, or `oidc:` and the claims in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionSource {
    /// A token with this SHA-256, of the configuration or made at run time.
    Token([u8; 32]),
    /// What an OIDC issuer claimed of a person at the log-in.
    LogIn(Map<String, Value>),
}

/// A text that names no source of a session.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a session was made from token:SHA256, or oidc: and claims")]
pub struct InvalidSessionSource;

impl fmt::Display for SessionSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionSource::Token(sha256) => write!(f, "token:{}", HEXLOWER.encode(sha256)),
            SessionSource::LogIn(claims) => write!(f, "oidc:{}", Value::Object(claims.clone())),
        }
    }
}

impl FromStr for SessionSource {
    type Err = InvalidSessionSource;

    fn from_str(text: &str) -> Result<Self, InvalidSessionSource> {
        match text.split_once(':') {
            Some(("token", digits)) => {
                let sha256 = HEXLOWER.decode(digits.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
                sha256.map(SessionSource::Token).ok_or(InvalidSessionSource)
            }
            Some(("oidc", claims)) => {
                serde_json::from_str(claims).map(SessionSource::LogIn).map_err(|_| InvalidSessionSource)
            }
            Some(_) | None => Err(InvalidSessionSource),
        }
    }
}

/// When a token was revoked, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRevocation {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Identity,
}

impl TokenRecord {
    /// Whether it gives access at this moment.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && !self.has_expired(now)
    }

    /// Whether its time is over.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_session_is_read_back_from_its_words() {
        let claims = serde_json::json!({ "iss": "https://a:1", "sub": "a\0\u{2028}", "groups": ["x", 1, null] });
        let claims = claims.as_object().expect("an object").clone();
        for source in [SessionSource::Token([0xab; 32]), SessionSource::LogIn(claims)] {
            assert!(!source.to_string().contains('\0'));
            assert_eq!(source.to_string().parse(), Ok(source));
        }
        for text in ["", "token:", "token:00", "tokens:", "oidc:", "oidc:[]", &"ab".repeat(32)] {
            assert_eq!(text.parse::<SessionSource>(), Err(InvalidSessionSource), "{text}");
        }
    }

    #[test]
    fn a_tokens_name_fits_into_a_path_and_is_no_id() {
        let long = "x".repeat(65);
        for name in ["ci", "0", "web.deploy-1_a@b+c:d", &long[1..]] {
            assert_eq!(require_token_name(name), Ok(()), "{name}");
        }
        let id = TokenId::generate().to_string();
        for name in ["", " ci", "a b", "a/b", "-a", "a\nb", "ü", "\u{202e}ic", "%41", "a'b", &long, &id] {
            assert_eq!(require_token_name(name), Err(InvalidTokenName), "{name}");
        }
    }
}
