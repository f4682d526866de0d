//! Tokens that were made at run time, in the store's file. Each write is an act of its own beside the decisions.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use super::{
    SqliteStore,
    rows::{broken, instant_at},
};
use crate::{
    model::{AuditEntry, Caller, TokenId, TokenRecord, TokenRevocation},
    store::{
        BoxFuture, StoreError,
        tokens::{
            RevokeToken, TokenCreation, TokenEnd, TokenRoom, TokensMark, created_entry, decide_creation, displaced,
            displaced_entry, kept_since, may_end, projects_of, projects_text, revoked_entry, scopes_of, scopes_text,
            sessions_of,
        },
    },
};

/// The columns in the order that [`token`] reads them. What a query adds stands behind them.
macro_rules! token {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, sha256, scopes, projects, created_at, created_by, expires_at, last_used_at, revoked_at, \
             revoked_by, session, number FROM tokens ",
            $rest
        )
    };
}

pub(super) const UNREVOKED: &str = token!("WHERE revoked_at IS NULL");
pub(super) const BY_SHA256: &str = token!("WHERE sha256 = ?1");
pub(super) const BY_ID: &str = token!("WHERE id = ?1");
pub(super) const NAMED: &str = token!("WHERE name = ?1 ORDER BY revoked_at IS NULL DESC, number DESC LIMIT 1");
pub(super) const LIST: &str = token!("WHERE number < ?1 ORDER BY number DESC LIMIT ?2");
pub(super) const MARK: &str = "SELECT coalesce((SELECT max(change) FROM tokens), 0), \
     (SELECT count(*) FROM tokens WHERE revoked_at IS NULL)";
const INSERT: &str = "INSERT INTO tokens (id, name, sha256, scopes, projects, created_at, created_by, expires_at, session, \
        change) \
     VALUES (:id, :name, :sha256, :scopes, :projects, :created_at, :created_by, :expires_at, :session, \
        (SELECT coalesce(max(change), 0) + 1 FROM tokens))";
const REVOKE: &str = "UPDATE tokens SET revoked_at = ?2, revoked_by = ?3, \
     change = (SELECT max(change) + 1 FROM tokens) WHERE id = ?1 AND revoked_at IS NULL";
pub(super) const REMOVE_SESSIONS: &str = "DELETE FROM tokens WHERE session IS NOT NULL AND expires_at <= ?1";
const NOTE_USE: &str = "UPDATE tokens SET last_used_at = max(coalesce(last_used_at, 0), ?2) WHERE id = ?1";
const INSERT_AUDIT: &str =
    "INSERT INTO audit (at, action, detail, caller, address, request) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

impl TokenRoom for SqliteStore {
    fn create(&self, token: TokenRecord, caller: Caller) -> BoxFuture<'_, Result<TokenCreation, StoreError>> {
        Box::pin(self.act(move |db| {
            let others = all(db, UNREVOKED)?;
            let decided = decide_creation(&others, &token);
            if decided == TokenCreation::Created {
                insert(db, &token)?;
                note(db, &created_entry(&token, caller.clone()))?;
                for session in displaced(&others, &token) {
                    end(db, session.id, token.created_at, &caller)?;
                    note(db, &displaced_entry(session, &token, caller.clone()))?;
                }
                if token.session.is_some() {
                    // After the insertion, so that the last change stays the last one.
                    db.execute(REMOVE_SESSIONS, [kept_since(&token).as_millisecond()])?;
                }
            }
            Ok(decided)
        }))
    }

    fn revoke(&self, wish: RevokeToken) -> BoxFuture<'_, Result<TokenEnd, StoreError>> {
        Box::pin(self.act(move |db| {
            let Some(found) = by_id(db, wish.id)? else { return Ok(TokenEnd::NotFound) };
            if found.revoked.is_some() {
                return Ok(TokenEnd::Revoked(Box::new(found)));
            }
            let unrevoked = all(db, UNREVOKED)?;
            if !may_end(&unrevoked, &wish) {
                return Ok(TokenEnd::LastAdmin);
            }
            for session in sessions_of(&unrevoked, &found) {
                end(db, session.id, wish.at, &wish.caller)?;
            }
            end(db, wish.id, wish.at, &wish.caller)?;
            note(db, &revoked_entry(&found, &wish))?;
            let revoked = by_id(db, wish.id)?;
            Ok(revoked.map_or(TokenEnd::NotFound, |revoked| TokenEnd::Revoked(Box::new(revoked))))
        }))
    }

    fn unrevoked(&self) -> BoxFuture<'_, Result<Vec<TokenRecord>, StoreError>> {
        Box::pin(self.readers.read(|db| all(db, UNREVOKED)))
    }

    fn mark(&self) -> BoxFuture<'_, Result<TokensMark, StoreError>> {
        Box::pin(
            self.readers.read(|db| {
                db.query_row(MARK, [], |row| Ok(TokensMark { last_change: row.get(0)?, count: row.get(1)? }))
            }),
        )
    }

    fn by_sha256(&self, sha256: [u8; 32]) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        Box::pin(self.readers.read(move |db| db.prepare_cached(BY_SHA256)?.query_row([sha256], token).optional()))
    }

    fn by_id(&self, id: TokenId) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        Box::pin(self.readers.read(move |db| by_id(db, id)))
    }

    fn named(&self, name: String) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        Box::pin(self.readers.read(move |db| db.prepare_cached(NAMED)?.query_row([name], token).optional()))
    }

    fn list(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<(u64, TokenRecord)>, StoreError>> {
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        Box::pin(self.readers.read(move |db| {
            let numbered = |row: &Row<'_>| Ok((row.get(12)?, token(row)?));
            db.prepare_cached(LIST)?.query_map(params![before, limit], numbered)?.collect()
        }))
    }

    fn note_use(&self, uses: Vec<(TokenId, Timestamp)>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.act(move |db| {
            let mut statement = db.prepare_cached(NOTE_USE)?;
            for (id, at) in &uses {
                statement.execute(params![id.as_bytes(), at.as_millisecond()])?;
            }
            Ok(())
        }))
    }
}

fn all(db: &Connection, query: &str) -> rusqlite::Result<Vec<TokenRecord>> {
    db.prepare_cached(query)?.query_map([], token)?.collect()
}

fn by_id(db: &Connection, id: TokenId) -> rusqlite::Result<Option<TokenRecord>> {
    db.prepare_cached(BY_ID)?.query_row([id.as_bytes()], token).optional()
}

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRecord> {
    let identity = |column: usize| {
        let text: Option<String> = row.get(column)?;
        text.map(|text| text.parse()).transpose().map_err(|error| broken(column, error))
    };
    let needed = |column: usize| broken(column, "it is missing");
    let revoked = match (instant_at(row, 9)?, identity(10)?) {
        (Some(at), Some(by)) => Some(TokenRevocation { at, by }),
        (Some(_), None) => return Err(needed(10)),
        (None, _) => None,
    };
    let session: Option<String> = row.get(11)?;
    let session = session.map(|text| text.parse());
    Ok(TokenRecord {
        id: TokenId::from_bytes(row.get(0)?),
        name: row.get(1)?,
        sha256: row.get(2)?,
        scopes: scopes_of(&row.get::<_, String>(3)?),
        projects: row.get::<_, Option<String>>(4)?.as_deref().map(projects_of),
        created_at: instant_at(row, 5)?.ok_or_else(|| needed(5))?,
        created_by: identity(6)?.ok_or_else(|| needed(6))?,
        expires_at: instant_at(row, 7)?,
        last_used_at: instant_at(row, 8)?,
        revoked,
        session: session.transpose().map_err(|error| broken(11, error))?,
    })
}

fn insert(db: &Connection, token: &TokenRecord) -> rusqlite::Result<()> {
    // A new token is neither used nor revoked.
    #[rustfmt::skip]
    let TokenRecord { id, name, sha256, scopes, projects, created_at, created_by, expires_at, last_used_at: _, revoked: _, session } = token;
    db.execute(
        INSERT,
        named_params! {
            ":id": id.as_bytes(), ":name": name, ":sha256": sha256, ":scopes": scopes_text(*scopes),
            ":projects": projects.as_deref().map(projects_text), ":created_at": created_at.as_millisecond(),
            ":created_by": created_by.to_string(), ":expires_at": expires_at.map(Timestamp::as_millisecond),
            ":session": session.as_ref().map(ToString::to_string),
        },
    )?;
    Ok(())
}

fn end(db: &Connection, id: TokenId, at: Timestamp, caller: &Caller) -> rusqlite::Result<()> {
    db.execute(REVOKE, params![id.as_bytes(), at.as_millisecond(), caller.identity.to_string()])?;
    Ok(())
}

fn note(
    db: &Connection,
    AuditEntry { at, action, caller, deployment: _, detail }: &AuditEntry,
) -> rusqlite::Result<()> {
    let address = caller.address.map(|address| address.to_string());
    let (who, request) = (caller.identity.to_string(), caller.request.as_ref().map(ToString::to_string));
    db.execute(INSERT_AUDIT, params![at.as_millisecond(), action, detail, who, address, request])?;
    Ok(())
}
