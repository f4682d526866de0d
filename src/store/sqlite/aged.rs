//! What retention decides by, read from the file: by the server that has it, or beside that server.

use std::{path::Path, sync::Arc};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{backup::existing, open::reader_connection, place::require_one_name, readers::Readers, schema};
use crate::{
    model::{ProjectName, Revision},
    store::{
        BoxFuture, StoreError,
        upkeep::{AgedDeployment, AgedHistory, KeptAs, KeptDeployments, UpkeepMark},
    },
};

/// Among so many of the newest successes are the last two, whatever order they ended in.
macro_rules! recent_successes {
    () => {
        "SELECT number, revision FROM deployments AS d WHERE d.project = ?1 AND d.ended_at IS NOT NULL \
         AND d.state = 'succeeded' ORDER BY d.ticket DESC LIMIT 100"
    };
}

pub(super) const LIVE: &str =
    concat!("SELECT number, 0 FROM (", recent_successes!(), ") ORDER BY revision DESC LIMIT 2");

const NAMED: &str = "SELECT d.number, CASE d.id WHEN p.last_success THEN 0 WHEN p.last_started THEN 1 ELSE 2 END \
     FROM projects AS p JOIN deployments AS d ON d.id IN (p.last_started, p.last_outcome, p.last_success) \
     WHERE p.number = ?1";

pub(super) const AGED: &str = "SELECT d.number, d.ticket, d.created_at, d.ended_at, \
     length(d.spec) + length(d.outputs) + 1500, \
     coalesce((SELECT packed_bytes FROM packed_outputs WHERE deployment = d.number), d.log_total_bytes) \
     FROM deployments AS d WHERE d.project = ?1 AND d.ticket > ?2 ORDER BY d.ticket LIMIT ?3";

pub(super) const AGED_OUTPUTS: &str = "SELECT deployment, ticket, ended_at, ended_at, 0, packed_bytes \
     FROM packed_outputs WHERE project = ?1 AND ticket > ?2 ORDER BY ticket LIMIT ?3";

/// The history of a store's file, which may be in use. Nothing is written to the file.
pub struct FileHistory(Readers);

impl FileHistory {
    /// Opens the file to read it.
    ///
    /// # Errors
    /// [`StoreError`] with what to do about it.
    pub fn open(path: &Path) -> Result<FileHistory, StoreError> {
        let path = existing(path)?;
        // Under another name of the file, SQLite would not find its log, and so not its newest commits.
        require_one_name(&path)?;
        schema::require_newest(&reader_connection(&path)?, &path.display().to_string())?;
        Readers::start(&path, Arc::default()).map(FileHistory)
    }

    /// What it reads.
    pub fn aged(&self) -> &dyn AgedHistory {
        &self.0
    }
}

impl Drop for FileHistory {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl AgedHistory for Readers {
    fn mark(&self, mark: UpkeepMark) -> BoxFuture<'_, Result<Option<i64>, StoreError>> {
        Box::pin(self.read(move |db| {
            let value = "SELECT value FROM upkeep WHERE name = ?1";
            db.prepare_cached(value)?.query_row([mark.as_str()], |row| row.get(0)).optional()
        }))
    }

    fn newest(&self) -> BoxFuture<'_, Result<Option<(i64, i64)>, StoreError>> {
        Box::pin(self.read(|db| {
            let newest = "SELECT number, created_at FROM deployments ORDER BY number DESC LIMIT 1";
            db.prepare_cached(newest)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        }))
    }

    fn project_rows(&self) -> BoxFuture<'_, Result<Vec<(i64, ProjectName)>, StoreError>> {
        Box::pin(self.read(|db| {
            let project = |row: &Row<'_>| Ok((row.get(0)?, super::rows::name_at(row, 1)?));
            db.prepare_cached("SELECT number, name FROM projects WHERE name NOT LIKE '/%' ORDER BY number")?
                .query_map([], project)?
                .collect()
        }))
    }

    fn forgotten_rows(&self) -> BoxFuture<'_, Result<Vec<i64>, StoreError>> {
        Box::pin(self.read(|db| {
            let rows = "SELECT number FROM projects WHERE name < '/~' ORDER BY name";
            db.prepare_cached(rows)?.query_map([], |row| row.get(0))?.collect()
        }))
    }

    fn kept(&self, project: i64, newest: u32) -> BoxFuture<'_, Result<KeptDeployments, StoreError>> {
        Box::pin(self.read(move |db| {
            let snapshot = db.unchecked_transaction()?;
            let boundary = "SELECT ticket FROM deployments WHERE project = ?1 ORDER BY ticket DESC LIMIT 1 OFFSET ?2";
            let newest_from = db
                .prepare_cached(boundary)?
                .query_row(params![project, newest.saturating_sub(1)], |row| row.get(0).map(Revision))
                .optional()?;
            let mut rows = Vec::new();
            for sql in [LIVE, NAMED] {
                let kept = |row: &Row<'_>| Ok((row.get(0)?, KeptAs::of(row.get(1)?)));
                for row in db.prepare_cached(sql)?.query_map([project], kept)? {
                    rows.push(row?);
                }
            }
            snapshot.commit()?;
            Ok(KeptDeployments { newest_from, rows })
        }))
    }

    fn aged(
        &self,
        project: i64,
        after: Revision,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgedDeployment>, StoreError>> {
        Box::pin(self.read(move |db| aged(db, AGED, project, after, limit)))
    }

    fn aged_outputs(
        &self,
        project: i64,
        after: Revision,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgedDeployment>, StoreError>> {
        Box::pin(self.read(move |db| aged(db, AGED_OUTPUTS, project, after, limit)))
    }
}

fn aged(
    db: &Connection,
    sql: &str,
    project: i64,
    after: Revision,
    limit: usize,
) -> rusqlite::Result<Vec<AgedDeployment>> {
    let read = |row: &Row<'_>| {
        Ok(AgedDeployment {
            row: row.get(0)?,
            ticket: Revision(row.get(1)?),
            created_at: row.get(2)?,
            ended_at: row.get(3)?,
            bytes: row.get(4)?,
            output_bytes: row.get(5)?,
        })
    };
    db.prepare_cached(sql)?.query_map(params![project, after.0, limit], read)?.collect()
}
