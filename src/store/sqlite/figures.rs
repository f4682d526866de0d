//! The figures of the file for the metrics.

use std::path::Path;

use rusqlite::Connection;

use super::rows;
use crate::store::{
    figures::{HeldSlot, SlotStage, StoreFigures},
    unreadable::Unreadable,
};

/// A holder that has not started has the slot since its last event of that kind.
pub(super) const HELD_SLOTS: &str = "SELECT p.name, d.state, coalesce(d.started_at, \
     (SELECT e.at FROM events AS e WHERE e.deployment = d.number AND e.type = 'queue' ORDER BY e.seq DESC LIMIT 1), \
     d.created_at) \
     FROM deployments AS d INDEXED BY deployments_holding JOIN projects AS p ON p.number = d.project \
     WHERE (d.state = 'reserved' OR d.state = 'ready' OR d.state = 'running')";

pub(super) const LINES: &str = "SELECT p.name, count(*), min(d.created_at) \
     FROM deployments AS d INDEXED BY deployments_waiting JOIN projects AS p ON p.number = d.project \
     WHERE d.state = 'waiting' GROUP BY d.project";

/// It looks at all projects, and is asked rarely.
const PAUSES: &str = "SELECT name, pause FROM projects WHERE pause IS NOT NULL";

/// Everything but the agents, who are not in the file.
pub(super) fn figures(db: &Connection, unreadable: &Unreadable) -> rusqlite::Result<StoreFigures> {
    let mut figures = StoreFigures::default();
    let snapshot = db.unchecked_transaction()?;
    let mut statement = db.prepare_cached(HELD_SLOTS)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let stage = SlotStage::of(row.get_ref(1)?.as_str()?);
        if let (Some(stage), Some(since)) = (stage, rows::instant_at(row, 2)?) {
            figures.entry(rows::name_at(row, 0)?).slot = Some(HeldSlot { stage, since });
        }
    }
    drop(found);
    let mut statement = db.prepare_cached(LINES)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (count, since) = (row.get(1)?, rows::instant_at(row, 2)?);
        let project = figures.entry(rows::name_at(row, 0)?);
        (project.waiting_count, project.waiting_since) = (count, since);
    }
    drop(found);
    let mut statement = db.prepare_cached(PAUSES)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let project = rows::name_at(row, 0)?;
        let pause = unreadable.skip(rows::json_or_none(row, 1), || format!("project {project}"));
        figures.entry(project).pause = pause.flatten();
    }
    drop(found);
    snapshot.commit()?;
    if let Some(path) = db.path().map(Path::new) {
        (figures.size_bytes, figures.free_bytes) = room(path);
    }
    Ok(figures)
}

/// How much room the file and its log take, and how much is left for them.
fn room(path: &Path) -> (u64, Option<u64>) {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let free = rustix::fs::statvfs(path).ok().map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    (size(path) + size(Path::new(&log)), free)
}
