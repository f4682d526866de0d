//! The tokens that were made at run time. See decision 0073.
//!
//! A token that was revoked or has expired stays for the record. What must not happen twice at once (two tokens of one
//! name, the end of the last token that may administer) is decided in the transaction that writes it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::{BoxFuture, StoreError};
use crate::model::{AuditEntry, Caller, Glob, Scope, Scopes, TokenId, TokenRecord, TokenRevocation, bounds};

/// What became of a new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenCreation {
    /// It is there.
    Created,
    /// A live token has its name.
    NameTaken,
    /// There are too many live tokens.
    TooMany,
}

/// A wish to revoke a token.
#[derive(Clone, Debug)]
pub struct RevokeToken {
    /// Which.
    pub id: TokenId,
    /// Who revokes it.
    pub caller: Caller,
    /// When.
    pub at: Timestamp,
    /// Whether another live token must be left that may administer every project.
    pub leaves_admin: bool,
}

/// What became of a wish to revoke a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenEnd {
    /// It is revoked: now, or it was before.
    Revoked(Box<TokenRecord>),
    /// It is the last live one that may administer every project.
    LastAdmin,
    /// There is no such token.
    NotFound,
}

/// A value that changes when a token is made or revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokensMark {
    /// How many changes there were.
    pub last_change: u64,
    /// How many tokens are not revoked.
    pub count: u64,
}

/// The tokens in a store.
pub trait TokenRoom: Send + Sync {
    /// Records a new token. When it is live is decided at the moment of its creation.
    fn create(&self, token: TokenRecord, caller: Caller) -> BoxFuture<'_, Result<TokenCreation, StoreError>>;

    /// Revokes a token. One that is revoked already stays as it is.
    fn revoke(&self, wish: RevokeToken) -> BoxFuture<'_, Result<TokenEnd, StoreError>>;

    /// All tokens that are not revoked, also those that have expired.
    fn unrevoked(&self) -> BoxFuture<'_, Result<Vec<TokenRecord>, StoreError>>;

    /// A mark that tells whether [`TokenRoom::unrevoked`] has changed.
    fn mark(&self) -> BoxFuture<'_, Result<TokensMark, StoreError>>;

    /// The token with this hash, whatever became of it.
    fn by_sha256(&self, sha256: [u8; 32]) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>>;

    /// The token with this id, whatever became of it.
    fn by_id(&self, id: TokenId) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>>;

    /// The newest token of this name: one that is not revoked, if there is one.
    fn named(&self, name: String) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>>;

    /// Tokens with their numbers, the newest first, from those before `before` on, at most `limit`.
    fn list(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<(u64, TokenRecord)>, StoreError>>;

    /// Notes when tokens were last used. A time before the one that is noted changes nothing.
    fn note_use(&self, uses: Vec<(TokenId, Timestamp)>) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// The line of the audit log about a new token.
pub(super) fn created_entry(token: &TokenRecord, caller: Caller) -> AuditEntry {
    let scopes: Vec<_> = token.scopes.iter().map(Scope::as_str).collect();
    let mut detail = format!("token {} with {}", token.name, scopes.join(", "));
    if let Some(projects) = &token.projects {
        let projects: Vec<_> = projects.iter().map(Glob::as_str).collect();
        detail.push_str(&format!(", projects {}", projects.join(", ")));
    }
    if let Some(expires_at) = token.expires_at {
        detail.push_str(&format!(", until {expires_at:.0}"));
    }
    AuditEntry { at: token.created_at, action: "token_create", caller, deployment: None, detail }
}

/// The line of the audit log about the end of a token.
pub(super) fn revoked_entry(token: &TokenRecord, wish: &RevokeToken) -> AuditEntry {
    let detail = format!("token {}", token.name);
    AuditEntry { at: wish.at, action: "token_revoke", caller: wish.caller.clone(), deployment: None, detail }
}

/// How scopes stand in a column.
pub(super) fn scopes_text(scopes: Scopes) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")
}

/// The scopes of a column. A scope that this version does not know grants nothing here.
pub(super) fn scopes_of(text: &str) -> Scopes {
    text.split(' ').filter_map(|scope| scope.parse::<Scope>().ok()).collect()
}

/// How patterns stand in a column: no pattern has a space.
pub(super) fn projects_text(projects: &[Glob]) -> String {
    projects.iter().map(Glob::as_str).collect::<Vec<_>>().join(" ")
}

/// The patterns of a column.
pub(super) fn projects_of(text: &str) -> Vec<Glob> {
    text.split(' ').filter_map(|pattern| pattern.parse().ok()).collect()
}

/// Whether a token may administer every project.
pub(super) fn administers_all(token: &TokenRecord) -> bool {
    let all = |projects: &Vec<Glob>| projects.iter().any(|pattern| pattern.as_str() == "*");
    token.scopes.has(Scope::Admin) && token.projects.as_ref().is_none_or(all)
}

/// What becomes of a new token beside those that are there.
pub(super) fn decide_creation(others: &[TokenRecord], token: &TokenRecord) -> TokenCreation {
    let live = || others.iter().filter(|other| other.is_live(token.created_at));
    if live().any(|other| other.name == token.name) {
        TokenCreation::NameTaken
    } else if live().count() >= bounds::LIVE_TOKENS {
        TokenCreation::TooMany
    } else {
        TokenCreation::Created
    }
}

/// Whether a token may be revoked: whether another one of those that are not revoked is left that may administer.
pub(super) fn may_end(unrevoked: &[TokenRecord], wish: &RevokeToken) -> bool {
    let administers = |token: &&TokenRecord| token.is_live(wish.at) && administers_all(token);
    let is_last = |token: &TokenRecord| token.id == wish.id;
    !wish.leaves_admin
        || !unrevoked.iter().filter(administers).any(is_last)
        || unrevoked.iter().filter(administers).any(|token| !is_last(token))
}

/// The tokens of a store that forgets.
#[derive(Debug, Default)]
pub(super) struct TokensInMemory(Mutex<MemoryTokens>);

#[derive(Debug, Default)]
struct MemoryTokens {
    tokens: Vec<TokenRecord>,
    change_count: u64,
}

impl TokensInMemory {
    fn all(&self) -> MutexGuard<'_, MemoryTokens> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T, StoreError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl TokenRoom for TokensInMemory {
    fn create(&self, token: TokenRecord, _: Caller) -> BoxFuture<'_, Result<TokenCreation, StoreError>> {
        let mut all = self.all();
        let decided = decide_creation(&all.tokens, &token);
        if decided == TokenCreation::Created {
            all.change_count += 1;
            all.tokens.push(token);
        }
        now(decided)
    }

    fn revoke(&self, wish: RevokeToken) -> BoxFuture<'_, Result<TokenEnd, StoreError>> {
        let mut all = self.all();
        let may_end = may_end(&all.tokens, &wish);
        let Some(found) = all.tokens.iter_mut().find(|token| token.id == wish.id) else {
            return now(TokenEnd::NotFound);
        };
        if found.revoked.is_none() {
            if !may_end {
                return now(TokenEnd::LastAdmin);
            }
            found.revoked = Some(TokenRevocation { at: wish.at, by: (*wish.caller.identity).clone() });
            let revoked = found.clone();
            all.change_count += 1;
            return now(TokenEnd::Revoked(Box::new(revoked)));
        }
        now(TokenEnd::Revoked(Box::new(found.clone())))
    }

    fn unrevoked(&self) -> BoxFuture<'_, Result<Vec<TokenRecord>, StoreError>> {
        now(self.all().tokens.iter().filter(|token| token.revoked.is_none()).cloned().collect())
    }

    fn mark(&self) -> BoxFuture<'_, Result<TokensMark, StoreError>> {
        let all = self.all();
        let count = all.tokens.iter().filter(|token| token.revoked.is_none()).count() as u64;
        now(TokensMark { last_change: all.change_count, count })
    }

    fn by_sha256(&self, sha256: [u8; 32]) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        now(self.all().tokens.iter().find(|token| token.sha256 == sha256).cloned())
    }

    fn by_id(&self, id: TokenId) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        now(self.all().tokens.iter().find(|token| token.id == id).cloned())
    }

    fn named(&self, name: String) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        let all = self.all();
        let named = all.tokens.iter().filter(|token| token.name == name);
        // Of several that are as good, the last one.
        now(named.max_by_key(|token| token.revoked.is_none()).cloned())
    }

    fn list(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<(u64, TokenRecord)>, StoreError>> {
        let all = self.all();
        let numbered = all.tokens.iter().enumerate().rev().map(|(index, token)| (index as u64 + 1, token));
        let wanted = numbered.filter(|(number, _)| before.is_none_or(|before| *number < before));
        now(wanted.take(limit).map(|(number, token)| (number, token.clone())).collect())
    }

    fn note_use(&self, uses: Vec<(TokenId, Timestamp)>) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut all = self.all();
        for (id, at) in uses {
            if let Some(token) = all.tokens.iter_mut().find(|token| token.id == id) {
                token.last_used_at = token.last_used_at.max(Some(at));
            }
        }
        now(())
    }
}
