//! Tokens that were made at run time, in the database. Whoever makes or revokes one has the table's lock meanwhile, so that
//! what must not happen twice is decided one by one. Every server is told by a hint.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    PostgresStore,
    fault::DatabaseFault,
    rows, schema,
    session::{self, BoundStatement, DatabaseSession, call},
    statements::Sql,
    text,
};
use crate::{
    model::{AuditEntry, Caller, Hint, Identity, TokenId, TokenRecord, TokenRevocation},
    store::{
        BoxFuture, StoreError,
        tokens::{
            RevokeToken, TokenCreation, TokenEnd, TokenRoom, TokensMark, created_entry, decide_creation, displaced,
            displaced_entry, kept_since, may_end, projects_of, projects_text, revoked_entry, scopes_of, scopes_text,
            sessions_of,
        },
    },
};

impl TokenRoom for PostgresStore {
    fn create(&self, token: TokenRecord, caller: Caller) -> BoxFuture<'_, Result<TokenCreation, StoreError>> {
        Box::pin(async move {
            let (token, caller) = (&token, &caller);
            let created: BoxFuture<'_, _> = super::read!(self, session => create(&mut session, token, caller));
            let created = created.await?;
            self.engine.wakes.tell_hints([Hint::Tokens]);
            Ok(created)
        })
    }

    fn revoke(&self, wish: RevokeToken) -> BoxFuture<'_, Result<TokenEnd, StoreError>> {
        Box::pin(async move {
            let wish = &wish;
            let ended: BoxFuture<'_, _> = super::read!(self, session => revoke(&mut session, wish));
            let ended = ended.await?;
            self.engine.wakes.tell_hints([Hint::Tokens]);
            Ok(ended)
        })
    }

    fn unrevoked(&self) -> BoxFuture<'_, Result<Vec<TokenRecord>, StoreError>> {
        super::read!(self, session => async {
            session.ask(call!(Sql::UnrevokedTokens)).await?.iter().map(token).collect()
        })
    }

    fn mark(&self) -> BoxFuture<'_, Result<TokensMark, StoreError>> {
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::TokensMark)).await?;
            let row = found.first().ok_or(DatabaseFault::Mistaken("the database tells nothing of tokens"))?;
            Ok(TokensMark { last_change: rows::number(row, 0)?, count: rows::number(row, 1)? })
        })
    }

    fn by_sha256(&self, sha256: [u8; 32]) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::TokenBySha256, sha256.to_vec())).await?;
            found.first().map(token).transpose()
        })
    }

    fn by_id(&self, id: TokenId) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::TokenById, uuid(id))).await?;
            found.first().map(token).transpose()
        })
    }

    fn named(&self, name: String) -> BoxFuture<'_, Result<Option<TokenRecord>, StoreError>> {
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::TokenNamed, name.clone())).await?;
            found.first().map(token).transpose()
        })
    }

    fn list(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<(u64, TokenRecord)>, StoreError>> {
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::Tokens, before, limit)).await?;
            found.iter().map(|row| Ok((rows::number(row, 12)?, token(row)?))).collect()
        })
    }

    fn note_use(&self, uses: Vec<(TokenId, Timestamp)>) -> BoxFuture<'_, Result<(), StoreError>> {
        let (ids, at): (Vec<_>, Vec<_>) = uses.into_iter().map(|(id, at)| (uuid(id), at.as_millisecond())).unzip();
        super::read!(self, session => async {
            session.write(call!(Sql::NoteTokenUse, ids.clone(), at.clone())).await.map(|_| ())
        })
    }
}

async fn create(
    session: &mut DatabaseSession,
    token: &TokenRecord,
    caller: &Caller,
) -> Result<TokenCreation, DatabaseFault> {
    within_lock(session, |unrevoked| {
        let decided = decide_creation(&unrevoked, token);
        // A first attempt may have been recorded although its answer was lost.
        let is_there = unrevoked.iter().any(|other| other.id == token.id);
        let calls = match decided {
            _ if is_there => return Ok((Vec::new(), TokenCreation::Created)),
            TokenCreation::Created => creation(&unrevoked, token, caller),
            TokenCreation::NameTaken | TokenCreation::TooMany => Vec::new(),
        };
        Ok((calls, decided))
    })
    .await
}

fn creation(unrevoked: &[TokenRecord], token: &TokenRecord, caller: &Caller) -> Vec<BoundStatement> {
    let mut calls = vec![insert(token), note(&created_entry(token, caller.clone()))];
    for session in displaced(unrevoked, token) {
        calls.push(end(session.id, token.created_at, caller));
        calls.push(note(&displaced_entry(session, token, caller.clone())));
    }
    if token.session.is_some() {
        // After the insertion, so that the last change stays the last one.
        calls.push(call!(Sql::RemoveSessions, kept_since(token).as_millisecond()));
    }
    calls
}

async fn revoke(session: &mut DatabaseSession, wish: &RevokeToken) -> Result<TokenEnd, DatabaseFault> {
    let refused = within_lock(session, |unrevoked| {
        let found = unrevoked.iter().find(|token| token.id == wish.id);
        Ok(match found {
            Some(_) if !may_end(&unrevoked, wish) => (Vec::new(), true),
            Some(found) => {
                let with_it = sessions_of(&unrevoked, found);
                let mut calls: Vec<_> =
                    with_it.into_iter().map(|session| end(session.id, wish.at, &wish.caller)).collect();
                calls.extend([end(wish.id, wish.at, &wish.caller), note(&revoked_entry(found, wish))]);
                (calls, false)
            }
            None => (Vec::new(), false),
        })
    })
    .await?;
    if refused {
        return Ok(TokenEnd::LastAdmin);
    }
    let found = session.ask(call!(Sql::TokenById, uuid(wish.id))).await?;
    let found = found.first().map(token).transpose()?;
    Ok(found.map_or(TokenEnd::NotFound, |token| TokenEnd::Revoked(Box::new(token))))
}

/// Decides with the table's lock, by all tokens that are not revoked, and writes what was decided.
async fn within_lock<T>(
    session: &mut DatabaseSession,
    decide: impl FnOnce(Vec<TokenRecord>) -> Result<(Vec<BoundStatement>, T), DatabaseFault>,
) -> Result<T, DatabaseFault> {
    let locked = async {
        let looked = session
            .begin(&[
                call!(Sql::Begin),
                call!(Sql::HoldSchema),
                call!(Sql::TransactionNumber),
                call!(Sql::LockTokens),
                call!(Sql::UnrevokedTokens),
            ])
            .await?;
        let looked = session::rows(looked)?;
        let [_, _, version, _, unrevoked] = looked.as_slice() else {
            return Err(DatabaseFault::Mistaken("answers are missing"));
        };
        let version = version.first().ok_or(DatabaseFault::Mistaken("the database tells nothing"))?;
        schema::require_version(rows::get(version, 0)?)?;
        let (mut calls, decided) = decide(unrevoked.iter().map(token).collect::<Result<_, _>>()?)?;
        calls.push(call!(Sql::Commit));
        session::rows(session.end(&calls).await?)?;
        Ok(decided)
    };
    match locked.await {
        Err(fault) if !fault.breaks_connection() => {
            session.end(&[call!(Sql::Rollback)]).await?;
            Err(fault)
        }
        decided => decided,
    }
}

fn token(row: &Row) -> Result<TokenRecord, DatabaseFault> {
    let identity = |column: usize| -> Result<Option<Identity>, DatabaseFault> {
        let text = rows::text_or_none(row, column)?;
        text.map(|text| text.parse()).transpose().map_err(|error| rows::broken(column, error))
    };
    let revoked = match (rows::instant_or_none(row, 9)?, identity(10)?) {
        (Some(at), Some(by)) => Some(TokenRevocation { at, by }),
        (Some(_), None) => return Err(rows::broken(10, "it is missing")),
        (None, _) => None,
    };
    let sha256 = rows::get::<&[u8]>(row, 2)?.try_into().map_err(|error| rows::broken(2, error))?;
    let session = rows::text_or_none(row, 11)?.map(|text| text.parse());
    Ok(TokenRecord {
        id: TokenId::from_bytes(rows::get::<Uuid>(row, 0)?.into_bytes()),
        name: rows::get(row, 1)?,
        sha256,
        scopes: scopes_of(rows::get(row, 3)?),
        projects: rows::get::<Option<&str>>(row, 4)?.map(projects_of),
        created_at: rows::instant(row, 5)?,
        created_by: identity(6)?.ok_or_else(|| rows::broken(6, "it is missing"))?,
        expires_at: rows::instant_or_none(row, 7)?,
        last_used_at: rows::instant_or_none(row, 8)?,
        revoked,
        session: session.transpose().map_err(|error| rows::broken(11, error))?,
    })
}

fn insert(token: &TokenRecord) -> BoundStatement {
    // A new token is neither used nor revoked.
    #[rustfmt::skip]
    let TokenRecord { id, name, sha256, scopes, projects, created_at, created_by, expires_at, last_used_at: _, revoked: _, session } = token;
    call!(
        Sql::InsertToken,
        uuid(*id),
        name.clone(),
        sha256.to_vec(),
        scopes_text(*scopes),
        projects.as_deref().map(projects_text),
        created_at.as_millisecond(),
        text::escaped(&created_by.to_string()),
        expires_at.map(Timestamp::as_millisecond),
        session.as_ref().map(ToString::to_string),
    )
}

fn end(id: TokenId, at: Timestamp, caller: &Caller) -> BoundStatement {
    call!(Sql::RevokeToken, uuid(id), at.as_millisecond(), text::escaped(&caller.identity.to_string()))
}

fn note(AuditEntry { at, action, caller, deployment: _, detail }: &AuditEntry) -> BoundStatement {
    let who = text::escaped(&caller.identity.to_string());
    let address = caller.address.map(|address| address.to_string());
    let (detail, request) = (text::escaped(detail), caller.request.as_ref().map(ToString::to_string));
    let (project, deployment) = (None::<String>, None::<Uuid>);
    call!(Sql::InsertAudit, at.as_millisecond(), project, *action, deployment, detail, who, address, request)
}

fn uuid(id: TokenId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}
