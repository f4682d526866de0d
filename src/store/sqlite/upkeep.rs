//! The upkeep of the file: finished output goes into blocks, old deployments go, and free pages go back to the disk.
//!
//! Each write is an act of its own on the writer's connection (see `acts.rs`): between two of them the decisions go on.

use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::SqliteStore;
use crate::store::{
    BoxFuture, StoreError,
    blocks::{BLOCK_BYTES, BLOCK_EVENTS, Block, StoredEvent},
    upkeep::{AgedHistory, Arrival, Upkeep, UpkeepMark},
};

/// How many blocks, and how many rows of output, one act removes at most.
const BLOCKS_AT_ONCE: i64 = 8;
const ROWS_AT_ONCE: i64 = 500;
/// How many pages one act gives back at most: half a MiB.
const PAGES_AT_ONCE: u32 = 128;
/// Free pages are used again by what comes next, so a part of the file stays free: what is given back today is taken
/// tomorrow. Pages are given back from one such part on, until half of it is left.
const FREE_PART: i64 = 8;
/// So many free pages are never worth the work: 1 MiB.
const FREE_PAGES_MIN: i64 = 256;

pub(super) const ARRIVALS: &str = "SELECT d.number, d.ended_at IS NOT NULL, \
     d.ended_at IS NOT NULL AND d.log_total_bytes > 0 \
     AND NOT EXISTS (SELECT 1 FROM packed_outputs WHERE deployment = d.number) \
     FROM deployments AS d WHERE d.number > ?1 ORDER BY d.number LIMIT ?2";

pub(super) const UNPACKED: &str =
    "SELECT seq, at, body FROM events WHERE deployment = ?1 AND type = 'log' ORDER BY seq LIMIT ?2";

impl Upkeep for SqliteStore {
    fn history(&self) -> &dyn AgedHistory {
        &self.readers
    }

    fn take_turn(&self, _: Duration) -> BoxFuture<'_, Result<bool, StoreError>> {
        // One server has the file.
        Box::pin(async { Ok(true) })
    }

    fn set_mark(&self, mark: UpkeepMark, value: i64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.writer.act(move |db| {
            let write = "INSERT INTO upkeep (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2";
            db.execute(write, params![mark.as_str(), value]).map(|_| ())
        }))
    }

    fn arrivals(&self, after: i64, limit: usize) -> BoxFuture<'_, Result<Vec<Arrival>, StoreError>> {
        Box::pin(self.readers.read(move |db| {
            let arrival =
                |row: &Row<'_>| Ok(Arrival { row: row.get(0)?, is_final: row.get(1)?, is_unpacked: row.get(2)? });
            db.prepare_cached(ARRIVALS)?.query_map(params![after, limit], arrival)?.collect()
        }))
    }

    fn unpacked(&self, row: i64) -> BoxFuture<'_, Result<Vec<StoredEvent>, StoreError>> {
        Box::pin(self.readers.read(move |db| {
            let event = |row: &Row<'_>| Ok(StoredEvent { seq: row.get(0)?, at: row.get(1)?, body: row.get(2)? });
            let mut statement = db.prepare_cached(UNPACKED)?;
            let (mut events, mut bytes) = (Vec::new(), 0);
            for event in statement.query_map(params![row, BLOCK_EVENTS], event)? {
                let event = event?;
                bytes += event.body.len();
                events.push(event);
                if bytes >= BLOCK_BYTES {
                    break;
                }
            }
            Ok(events)
        }))
    }

    fn pack(&self, row: i64, block: Block) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(self.writer.act(move |db| pack(db, row, &block)))
    }

    fn finish_packing(&self, row: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(self.writer.act(move |db| {
            let is_unpacked = "SELECT EXISTS (SELECT 1 FROM events WHERE deployment = ?1 AND type = 'log')";
            if db.prepare_cached(is_unpacked)?.query_row([row], |row| row.get(0))? {
                return Ok(false);
            }
            let note = "INSERT INTO packed_outputs (deployment, project, ticket, ended_at, raw_bytes, packed_bytes) \
                SELECT d.number, d.project, d.ticket, d.ended_at, sum(b.raw_bytes), sum(length(b.body)) \
                FROM output_blocks AS b JOIN deployments AS d ON d.number = b.deployment \
                WHERE b.deployment = ?1 AND d.ended_at IS NOT NULL GROUP BY d.number ON CONFLICT DO NOTHING";
            db.prepare_cached(note)?.execute([row])?;
            Ok(true)
        }))
    }

    fn remove_output(&self, row: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(self.writer.act(move |db| with_permit(db, "remove", |db| remove_output(db, row))))
    }

    fn remove(&self, rows: Vec<i64>) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.writer.act(move |db| with_permit(db, "remove", |db| remove(db, &rows))))
    }

    fn drop_forgotten(&self, project: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        let drop = "DELETE FROM projects WHERE number = ?1 AND name < '/~' \
            AND NOT EXISTS (SELECT 1 FROM deployments WHERE project = ?1)";
        let drop = move |db: &Connection| with_permit(db, "forget", |db| db.execute(drop, [project]));
        let dropped = self.writer.act(drop);
        Box::pin(async move { Ok(dropped.await? > 0) })
    }

    fn give_back(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            let free = self.readers.read(pages_to_give_back).await?;
            if free == 0 {
                return Ok(false);
            }
            let count = free.min(PAGES_AT_ONCE);
            let step = move |db: &Connection| {
                // Each step of the statement gives one page back.
                let mut statement = db.prepare(&format!("PRAGMA incremental_vacuum({count})"))?;
                let mut steps = statement.query([])?;
                while steps.next()?.is_some() {}
                Ok(())
            };
            self.writer.act(step).await?;
            Ok(free > count)
        })
    }
}

/// Carries out `work` with a permit for the transaction under way (see the table `permits`).
pub(super) fn with_permit<T>(
    db: &Connection,
    what: &str,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    db.prepare_cached("INSERT INTO permits (what) VALUES (?1)")?.execute([what])?;
    // After an error, the whole transaction is taken back, and the permit with it.
    let done = work(db)?;
    db.prepare_cached("DELETE FROM permits")?.execute([])?;
    Ok(done)
}

fn pack(db: &Connection, row: i64, block: &Block) -> rusqlite::Result<bool> {
    let Block { first_seq, last_seq, event_count, raw_bytes, body } = block;
    let found = "SELECT count(*) FROM events AS e JOIN deployments AS d ON d.number = e.deployment \
        WHERE e.deployment = ?1 AND e.seq BETWEEN ?2 AND ?3 AND e.type = 'log' AND d.ended_at IS NOT NULL";
    let found: u64 = db.prepare_cached(found)?.query_row(params![row, first_seq, last_seq], |row| row.get(0))?;
    if found != *event_count {
        return Ok(false);
    }
    let write =
        "INSERT INTO output_blocks (deployment, first_seq, last_seq, raw_bytes, body) VALUES (?1, ?2, ?3, ?4, ?5)";
    db.prepare_cached(write)?.execute(params![row, first_seq, last_seq, raw_bytes, body])?;
    let drop = "DELETE FROM events WHERE deployment = ?1 AND seq BETWEEN ?2 AND ?3 AND type = 'log'";
    db.prepare_cached(drop)?.execute(params![row, first_seq, last_seq])?;
    Ok(true)
}

fn remove_output(db: &Connection, row: i64) -> rusqlite::Result<bool> {
    let is_final = "SELECT EXISTS (SELECT 1 FROM deployments WHERE number = ?1 AND ended_at IS NOT NULL)";
    if !db.prepare_cached(is_final)?.query_row([row], |row| row.get(0))? {
        return Ok(false);
    }
    let blocks = "DELETE FROM output_blocks WHERE deployment = ?1 AND first_seq IN \
        (SELECT first_seq FROM output_blocks WHERE deployment = ?1 ORDER BY first_seq LIMIT ?2)";
    let blocks = db.prepare_cached(blocks)?.execute(params![row, BLOCKS_AT_ONCE])?;
    let lines = "DELETE FROM events WHERE deployment = ?1 AND type = 'log' AND seq IN \
        (SELECT seq FROM events WHERE deployment = ?1 AND type = 'log' ORDER BY seq LIMIT ?2)";
    let lines = db.prepare_cached(lines)?.execute(params![row, ROWS_AT_ONCE])?;
    if blocks + lines > 0 {
        return Ok(true);
    }
    db.prepare_cached("DELETE FROM packed_outputs WHERE deployment = ?1")?.execute([row])?;
    Ok(false)
}

fn remove(db: &Connection, rows: &[i64]) -> rusqlite::Result<u64> {
    let mut removed = 0;
    for row in rows {
        for sql in [
            "DELETE FROM idempotency_keys WHERE deployment = ?1",
            "DELETE FROM output_blocks WHERE deployment = ?1",
            "DELETE FROM packed_outputs WHERE deployment = ?1",
            "DELETE FROM events WHERE deployment = ?1",
        ] {
            db.prepare_cached(sql)?.execute([row])?;
        }
        removed += db.prepare_cached("DELETE FROM deployments WHERE number = ?1")?.execute([row])? as u64;
    }
    Ok(removed)
}

/// How many pages of the file should go back to the disk.
fn pages_to_give_back(db: &Connection) -> rusqlite::Result<u32> {
    let pragma = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    // A file that was made by an older version gives nothing back before `store compact` has rewritten it.
    if pragma("auto_vacuum")? != 2 {
        return Ok(0);
    }
    let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
    let too_many = free > FREE_PAGES_MIN && free > all / FREE_PART;
    let surplus = free - (all / FREE_PART / 2).max(FREE_PAGES_MIN / 2);
    Ok(if too_many { u32::try_from(surplus).unwrap_or(0) } else { 0 })
}
