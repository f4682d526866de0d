//! Forgetting a project, in the store's file.

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{SqliteStore, audit, upkeep::with_permit};
use crate::{
    model::ProjectName,
    store::{
        BoxFuture, StoreError,
        audit::NewAuditLine,
        forget::{ForgetOutcome, ForgetRoom, told},
    },
};

const FIND: &str = "SELECT p.number, p.deployment_count, p.waiting_count > 0 OR EXISTS (SELECT 1 FROM deployments AS d \
     WHERE d.project = p.number AND (d.state = 'reserved' OR d.state = 'ready' OR d.state = 'running')) \
     FROM projects AS p WHERE p.name = ?1";
const RAISE_FLOOR: &str = "UPDATE revision_floor SET revision = (SELECT max(revision_floor.revision, p.revision) \
     FROM projects AS p WHERE p.number = ?1)";
/// Nothing of it is live any more, so its whole history may be removed.
const TAKE_NAME: &str = "UPDATE projects SET name = '/' || number, last_started_order = NULL, last_started = NULL, \
     last_started_named = NULL, set_mark = NULL, last_outcome = NULL, last_success = NULL, pause = NULL WHERE number = ?1";

impl ForgetRoom for SqliteStore {
    fn forget(&self, project: ProjectName, line: NewAuditLine) -> BoxFuture<'_, Result<ForgetOutcome, StoreError>> {
        let name = project.clone();
        let forgotten = self.writer.act(move |db| forget(db, &project, line.clone()));
        Box::pin(async move {
            let outcome = forgotten.await?;
            if matches!(outcome, ForgetOutcome::Forgotten { .. }) {
                (self.on_commit)(&name, &told(&name));
            }
            Ok(outcome)
        })
    }
}

fn forget(db: &Connection, project: &ProjectName, line: NewAuditLine) -> rusqlite::Result<ForgetOutcome> {
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, u64>(1)?, row.get::<_, bool>(2)?));
    let Some((number, deployment_count, is_in_use)) = db.query_row(FIND, [project.as_str()], read).optional()? else {
        return Ok(ForgetOutcome::Unknown);
    };
    if is_in_use {
        return Ok(ForgetOutcome::InUse);
    }
    with_permit(db, "forget", |db| {
        db.execute(RAISE_FLOOR, [number])?;
        db.execute(TAKE_NAME, [number]).map(|_| ())
    })?;
    audit::append(db, &line)?;
    Ok(ForgetOutcome::Forgotten { deployment_count })
}
