//! Redaction in the file. What is overwritten or deleted is zeroed (`secure_delete`); what the log still has of it is
//! emptied by [`RedactRoom::scrub`].

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{SqliteStore, reads, upkeep::with_permit};
use crate::{
    model::DeploymentId,
    store::{
        BoxFuture, StoreError,
        blocks::{Block, StoredBlock, StoredEvent},
        redact::{RedactRoom, RewriteRow, RowTexts},
    },
};

const EVENT_ROWS: &str = "SELECT seq, at, body FROM events \
     WHERE deployment = (SELECT number FROM deployments WHERE id = ?1) AND seq > ?2 ORDER BY seq LIMIT ?3";

impl RedactRoom for SqliteStore {
    fn event_rows(
        &self,
        id: DeploymentId,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredEvent>, StoreError>> {
        Box::pin(self.readers.read(move |db| {
            let event = |row: &Row<'_>| Ok(StoredEvent { seq: row.get(0)?, at: row.get(1)?, body: row.get(2)? });
            db.prepare_cached(EVENT_ROWS)?.query_map(params![id.as_bytes(), after, limit], event)?.collect()
        }))
    }

    fn rewrite_events(&self, id: DeploymentId, events: Vec<StoredEvent>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.writer.act(move |db| {
            with_permit(db, "redact", |db| {
                let write = "UPDATE events SET body = ?3 \
                    WHERE deployment = (SELECT number FROM deployments WHERE id = ?1) AND seq = ?2";
                let mut write = db.prepare_cached(write)?;
                for StoredEvent { seq, body, .. } in &events {
                    write.execute(params![id.as_bytes(), seq, body])?;
                }
                Ok(())
            })
        }))
    }

    fn block_after(&self, id: DeploymentId, after: u64) -> BoxFuture<'_, Result<Option<StoredBlock>, StoreError>> {
        Box::pin(self.readers.read(move |db| {
            let read =
                |row: &Row<'_>| Ok(StoredBlock { first_seq: row.get(0)?, last_seq: row.get(1)?, body: row.get(2)? });
            db.prepare_cached(reads::BLOCK_AFTER)?.query_row(params![id.as_bytes(), after], read).optional()
        }))
    }

    fn rewrite_block(&self, id: DeploymentId, block: Block) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.writer.act(move |db| {
            with_permit(db, "redact", |db| {
                let Block { first_seq, last_seq, raw_bytes, body, .. } = &block;
                let write = "UPDATE output_blocks SET raw_bytes = ?4, body = ?5 \
                    WHERE deployment = (SELECT number FROM deployments WHERE id = ?1) AND first_seq = ?2 AND last_seq = ?3";
                db.prepare_cached(write)?.execute(params![id.as_bytes(), first_seq, last_seq, raw_bytes, body])?;
                Ok(())
            })
        }))
    }

    fn rewrite_row(&self, id: DeploymentId, rewrite: RewriteRow) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(self.writer.act(move |db| with_permit(db, "redact", |db| rewrite_row(db, id, &rewrite))))
    }

    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(self.writer.scrub())
    }
}

fn rewrite_row(db: &Connection, id: DeploymentId, rewrite: &RewriteRow) -> rusqlite::Result<bool> {
    let texts = "SELECT spec, outputs, rollbacks, message, cause_message, cancel_reason FROM deployments WHERE id = ?1";
    let read = |row: &Row<'_>| {
        Ok(RowTexts {
            spec: row.get(0)?,
            outputs: row.get(1)?,
            rollbacks: row.get(2)?,
            message: row.get(3)?,
            cause_message: row.get(4)?,
            cancel_reason: row.get(5)?,
        })
    };
    let found = db.prepare_cached(texts)?.query_row([id.as_bytes()], read).optional()?;
    let Some(RowTexts { spec, outputs, rollbacks, message, cause_message, cancel_reason }) =
        found.and_then(|found| rewrite(&found))
    else {
        return Ok(false);
    };
    let write = "UPDATE deployments SET spec = ?2, outputs = ?3, rollbacks = ?4, message = ?5, cause_message = ?6, \
        cancel_reason = ?7 WHERE id = ?1";
    let values = params![id.as_bytes(), spec, outputs, rollbacks, message, cause_message, cancel_reason];
    db.prepare_cached(write)?.execute(values)?;
    Ok(true)
}
