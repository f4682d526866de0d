//! Tokens that are made at run time, on the wire.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::time;
use crate::model::{Glob, Scope, TokenRecord};

/// A wish for a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// Its name.
    pub name: String,
    /// What its holder may do.
    pub scopes: Vec<String>,
    /// The only projects that its holder may see, as names and patterns; the caller's own if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projects: Option<Vec<String>>,
    /// After how many seconds it is not valid any more; never if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
}

/// How a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenStatus {
    /// It gives access.
    Live,
    /// Its time is over.
    Expired,
    /// Somebody has revoked it.
    Revoked,
}

impl TokenStatus {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenStatus::Live => "live",
            TokenStatus::Expired => "expired",
            TokenStatus::Revoked => "revoked",
        }
    }
}

/// A token as it is shown: never the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How it stands.
    pub status: TokenStatus,
    /// What its holder may do.
    pub scopes: Vec<String>,
    /// The only projects that its holder may see; null for all of them.
    pub projects: Option<Vec<String>>,
    /// When it was made.
    #[serde(with = "time")]
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// From when on it is not valid; null for never.
    #[serde(with = "time::option")]
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to about a minute; null if never.
    #[serde(with = "time::option")]
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    #[serde(with = "time::option")]
    pub revoked_at: Option<Timestamp>,
    /// Who revoked it.
    pub revoked_by: Option<String>,
    /// Whether it is the session of a browser, which serves on the page alone and ends with the token that it was made from.
    #[serde(default)]
    pub is_session: bool,
}

impl TokenView {
    /// How a token stands at this moment.
    pub fn of(token: &TokenRecord, now: Timestamp) -> Self {
        let status = match &token.revoked {
            Some(_) => TokenStatus::Revoked,
            None if token.has_expired(now) => TokenStatus::Expired,
            None => TokenStatus::Live,
        };
        TokenView {
            id: token.id.to_string(),
            name: token.name.clone(),
            status,
            scopes: token.scopes.iter().map(Scope::as_str).map(str::to_owned).collect(),
            projects: token.projects.as_ref().map(|all| all.iter().map(Glob::to_string).collect()),
            created_at: token.created_at,
            created_by: token.created_by.to_string(),
            expires_at: token.expires_at,
            last_used_at: token.last_used_at,
            revoked_at: token.revoked.as_ref().map(|revoked| revoked.at),
            revoked_by: token.revoked.as_ref().map(|revoked| revoked.by.to_string()),
            is_session: token.session.is_some(),
        }
    }
}

/// A new token: the only answer that holds the token itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenCreated {
    /// The token itself.
    pub token: String,
    /// Whether programs of the server's own machine need no token. Then every one of them may do everything, as before.
    pub is_open_to_machine: bool,
    /// All else.
    #[serde(flatten)]
    pub view: TokenView,
}

impl fmt::Debug for TokenCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCreated").field("view", &self.view).finish_non_exhaustive()
    }
}

/// A page of tokens, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenList {
    /// The tokens.
    pub tokens: Vec<TokenView>,
    /// Where the next page begins; null after the last one.
    pub next_cursor: Option<String>,
}

/// A wish to revoke a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevokeRequest {
    /// Also the last one that may administer every project.
    #[serde(default)]
    pub even_if_last: bool,
}
