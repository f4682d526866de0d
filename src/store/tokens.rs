//! The tokens that were made at run time. See decision 0073.
//!
//! A token that was revoked or has expired stays for the record; a session of a browser is removed some time after its end,
//! because there are many, and the audit log tells of each. See decision 0089. What must not happen twice at once (two tokens of one
//! name, the end of the last token that may administer) is decided in the transaction that writes it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::{BoxFuture, StoreError};
use crate::model::{
    AuditEntry, Caller, Glob, Scope, Scopes, SessionSource, TokenId, TokenRecord, TokenRevocation, bounds,
};

/// How long a session stays in the store after its time is over. Long enough for a clock that is set back to find it again.
const SESSION_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// What became of a new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenCreation {
    /// It is there.
    Created,
    /// A live token has its name.
    NameTaken,
    /// There are too many live tokens, or too many live sessions.
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
    /// Records a new token or session. What is live is decided at the moment of its creation. A session ends the oldest
    /// one of the same source where that has too many.
    fn create(&self, token: TokenRecord, caller: Caller) -> BoxFuture<'_, Result<TokenCreation, StoreError>>;

    /// Revokes a token, and with it the sessions that were made from it. One that is revoked already stays as it is.
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

/// The line of the audit log about a new token or session.
pub(super) fn created_entry(token: &TokenRecord, caller: Caller) -> AuditEntry {
    if let (Some(_), Some(expires_at)) = (&token.session, token.expires_at) {
        let detail = format!("session {}, until {expires_at:.0}", token.name);
        return AuditEntry { at: token.created_at, action: "sign_in", caller, deployment: None, detail };
    }
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

/// The line of the audit log about the end of a token or session. Whoever ends a session of its own signs out.
pub(super) fn revoked_entry(token: &TokenRecord, wish: &RevokeToken) -> AuditEntry {
    let (action, what) = match &token.session {
        Some(_) if token.created_by == *wish.caller.identity => ("sign_out", "session"),
        Some(_) => ("token_revoke", "session"),
        None => ("token_revoke", "token"),
    };
    let detail = format!("{what} {}", token.name);
    AuditEntry { at: wish.at, action, caller: wish.caller.clone(), deployment: None, detail }
}

/// The line of the audit log about a session that made room for another one.
pub(super) fn displaced_entry(session: &TokenRecord, by: &TokenRecord, caller: Caller) -> AuditEntry {
    let detail = format!("session {}, the oldest one, made room for {}", session.name, by.name);
    AuditEntry { at: by.created_at, action: "sign_out", caller, deployment: None, detail }
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
    let limit = if token.session.is_some() { bounds::LIVE_SESSIONS } else { bounds::LIVE_TOKENS };
    if live().any(|other| other.name == token.name) {
        TokenCreation::NameTaken
    } else if live().filter(|other| other.session.is_some() == token.session.is_some()).count() >= limit {
        TokenCreation::TooMany
    } else {
        TokenCreation::Created
    }
}

/// The sessions that end because a new one is recorded: the oldest of the same token or person, where there are
/// too many.
pub(super) fn displaced<'a>(others: &'a [TokenRecord], new: &TokenRecord) -> Vec<&'a TokenRecord> {
    if new.session.is_none() {
        return Vec::new();
    }
    let is_like = |other: &&TokenRecord| match (&other.session, &new.session) {
        (Some(SessionSource::Token(own)), Some(SessionSource::Token(other))) => own == other,
        (Some(SessionSource::LogIn(_)), Some(SessionSource::LogIn(_))) => other.created_by == new.created_by,
        (_, _) => false,
    };
    let mut alike: Vec<_> = others.iter().filter(is_like).filter(|other| other.is_live(new.created_at)).collect();
    alike.sort_by_key(|session| (session.created_at, session.id));
    let too_many = (alike.len() + 1).saturating_sub(bounds::SESSIONS_OF_ONE);
    alike.truncate(too_many);
    alike
}

/// The sessions that end with a token.
pub(super) fn sessions_of<'a>(unrevoked: &'a [TokenRecord], token: &TokenRecord) -> Vec<&'a TokenRecord> {
    let source = Some(SessionSource::Token(token.sha256));
    unrevoked.iter().filter(|session| session.session == source).collect()
}

/// Sessions whose time was over before this are removed when a new one is recorded at that moment.
pub(super) fn kept_since(new: &TokenRecord) -> Timestamp {
    new.created_at.checked_sub(SESSION_KEPT).unwrap_or(Timestamp::MIN)
}

/// Whether a token may be revoked: whether another one of those that are not revoked is left that may administer.
pub(super) fn may_end(unrevoked: &[TokenRecord], wish: &RevokeToken) -> bool {
    let administers =
        |token: &&TokenRecord| token.is_live(wish.at) && token.session.is_none() && administers_all(token);
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
    /// In the order of their numbers, which stand beside them.
    tokens: Vec<(u64, TokenRecord)>,
    last_number: u64,
    change_count: u64,
}

impl MemoryTokens {
    fn records(&self) -> Vec<TokenRecord> {
        self.tokens.iter().map(|(_, token)| token.clone()).collect()
    }

    fn revoke(&mut self, id: TokenId, revocation: &TokenRevocation) -> Option<TokenRecord> {
        let (_, found) = self.tokens.iter_mut().find(|(_, token)| token.id == id)?;
        if found.revoked.is_none() {
            found.revoked = Some(revocation.clone());
            self.change_count += 1;
        }
        Some(found.clone())
    }
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
    fn create(&self, token: TokenRecord, caller: Caller) -> BoxFuture<'_, Result<TokenCreation, StoreError>> {
        let mut all = self.all();
        let others = all.records();
        let decided = decide_creation(&others, &token);
        if decided == TokenCreation::Created {
            let revocation = TokenRevocation { at: token.created_at, by: (*caller.identity).clone() };
            for session in displaced(&others, &token) {
                all.revoke(session.id, &revocation);
            }
            if token.session.is_some() {
                let since = kept_since(&token);
                all.tokens.retain(|(_, other)| other.session.is_none() || !other.has_expired(since));
            }
            all.change_count += 1;
            all.last_number += 1;
            let number = all.last_number;
            all.tokens.push((number, token));
        }
        now(decided)
    }

    fn revoke(&self, wish: RevokeToken) -> BoxFuture<'_, Result<TokenEnd, StoreError>> {
        let mut all = self.all();
        let mut unrevoked = all.records();
        unrevoked.retain(|token| token.revoked.is_none());
        if let Some(found) = unrevoked.iter().find(|token| token.id == wish.id) {
            if !may_end(&unrevoked, &wish) {
                return now(TokenEnd::LastAdmin);
            }
            let revocation = TokenRevocation { at: wish.at, by: (*wish.caller.identity).clone() };
            for session in sessions_of(&unrevoked, found) {
                all.revoke(session.id, &revocation);
            }
            all.revoke(wish.id, &revocation);
        }
        let found = all.tokens.iter().find(|(_, token)| token.id == wish.id);
        now(found.map_or(TokenEnd::NotFound, |(_, token)| TokenEnd::Revoked(Box::new(token.clone()))))
    }

    fn unrevoked(&self) -> BoxFuture<'_, Result<Vec<TokenRecord>, StoreError>> {
        let mut records = self.all().records();
        records.retain(|token| token.revoked.is_none());
        now(records)
    }

    fn mark(&self) -> BoxFuture<'_, Result<TokensMark, StoreError>> {
        let all = self.all();
        let count = all.tokens.iter().filter(|(_, token)| token.revoked.is_none()).count() as u64;
        now(TokensMark { last_change: all.change_count, count })
    }

    fn by_sha256(&self, sha256: [u8; 32]) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        now(self.all().records().into_iter().find(|token| token.sha256 == sha256))
    }

    fn by_id(&self, id: TokenId) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        now(self.all().records().into_iter().find(|token| token.id == id))
    }

    fn named(&self, name: String) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        let all = self.all();
        let named = all.tokens.iter().map(|(_, token)| token).filter(|token| token.name == name);
        // Of several that are as good, the last one.
        now(named.max_by_key(|token| token.revoked.is_none()).cloned())
    }

    fn list(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<(u64, TokenRecord)>, StoreError>> {
        let all = self.all();
        let wanted = all.tokens.iter().rev().filter(|(number, _)| before.is_none_or(|before| *number < before));
        now(wanted.take(limit).cloned().collect())
    }

    fn note_use(&self, uses: Vec<(TokenId, Timestamp)>) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut all = self.all();
        for (id, at) in uses {
            if let Some((_, token)) = all.tokens.iter_mut().find(|(_, token)| token.id == id) {
                token.last_used_at = token.last_used_at.max(Some(at));
            }
        }
        now(())
    }
}
