//! Redaction in the database. Former versions of rows stay in the tables' pages until PostgreSQL's vacuum, and in its
//! write-ahead log and archives; the documentation says what to do about those.

use super::{
    PostgresStore,
    fault::DatabaseFault,
    rows,
    session::{self, call},
    statements::Sql,
    text::{escaped, unescaped},
    upkeep::{begin_permitted, permitted},
};
use crate::{
    model::DeploymentId,
    store::{
        BoxFuture, StoreError,
        blocks::{Block, StoredBlock, StoredEvent},
        redact::{RedactRoom, RewriteRow, RowTexts},
    },
};

impl RedactRoom for PostgresStore {
    fn event_rows(
        &self,
        id: DeploymentId,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredEvent>, StoreError>> {
        super::read!(self, session => async {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let found = session.ask(call!(Sql::Events, rows::uuid(id), rows::signed(after)?, limit)).await?;
            let event = |row: &_| {
                Ok(StoredEvent { seq: rows::number(row, 0)?, at: rows::get(row, 1)?, body: rows::get(row, 2)? })
            };
            found.iter().map(event).collect()
        })
    }

    fn rewrite_events(&self, id: DeploymentId, events: Vec<StoredEvent>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let calls = || {
                let seqs: Vec<_> = events.iter().map(|event| event.seq.cast_signed()).collect();
                let bodies: Vec<_> = events.iter().map(|event| event.body.clone()).collect();
                vec![call!(Sql::RewriteEvents, rows::uuid(id), seqs, bodies)]
            };
            permitted(&self.engine, "redact", calls).await.map(|_| ()).map_err(DatabaseFault::into_store_error)
        })
    }

    fn block_after(&self, id: DeploymentId, after: u64) -> BoxFuture<'_, Result<Option<StoredBlock>, StoreError>> {
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::BlockAfter, rows::uuid(id), rows::signed(after)?)).await?;
            found.first().map(rows::block).transpose()
        })
    }

    fn rewrite_block(&self, id: DeploymentId, block: Block) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let calls = || {
                let Block { first_seq, last_seq, raw_bytes, body, .. } = &block;
                let [first, last, raw] = [*first_seq, *last_seq, *raw_bytes].map(u64::cast_signed);
                vec![call!(Sql::RewriteBlock, rows::uuid(id), first, last, raw, body.clone())]
            };
            permitted(&self.engine, "redact", calls).await.map(|_| ()).map_err(DatabaseFault::into_store_error)
        })
    }

    fn rewrite_row(&self, id: DeploymentId, rewrite: RewriteRow) -> BoxFuture<'_, Result<bool, StoreError>> {
        super::read!(self, session => async {
            begin_permitted(&mut session, "redact").await?;
            let done = async {
                let found = session::rows(session.go_on(&[call!(Sql::LockTexts, rows::uuid(id))]).await?)?;
                let Some(row) = found.first().and_then(|rows| rows.first()) else { return Ok(None) };
                let free = |column| rows::get::<Option<&str>>(row, column).map(|text| text.map(unescaped));
                let texts = RowTexts {
                    spec: rows::get(row, 0)?,
                    outputs: rows::get(row, 1)?,
                    rollbacks: rows::get(row, 2)?,
                    message: free(3)?,
                    cause_message: free(4)?,
                    cancel_reason: free(5)?,
                };
                Ok::<_, DatabaseFault>(rewrite(&texts))
            }
            .await;
            let Ok(Some(RowTexts { spec, outputs, rollbacks, message, cause_message, cancel_reason })) = done else {
                session.end(&[call!(Sql::Rollback)]).await?;
                return done.map(|_| false);
            };
            let free = |text: Option<String>| text.map(|text| escaped(&text));
            let write = call!(
                Sql::WriteTexts, rows::uuid(id), spec, outputs, rollbacks, free(message), free(cause_message),
                free(cancel_reason),
            );
            session::rows(session.end(&[write, call!(Sql::Commit)]).await?)?;
            Ok(true)
        })
    }

    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async { Ok(true) })
    }
}
