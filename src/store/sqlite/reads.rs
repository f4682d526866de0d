//! The reads that need no lock. Each is answered from one snapshot, and every search is backed by an index: its cost
//! depends on the size of the answer, not on the length of the history. (The one exception says so.)

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};

use super::rows::{self, DEPLOYMENT_COLUMN_COUNT, deployment_columns, project_columns};
use crate::{
    model::{Deployment, DeploymentId, Digest, Event, LeaseHolder, Place, ProjectName, Revision, Spec, State, Status},
    store::{
        Claimable, HeldProject, ListQuery, Mark, Offers, Placed, ProjectPage, ProjectState, Watched,
        blocks::{Merging, StoredBlock},
        columns::JudgedSpec,
        forget::BEFORE_ALL_NAMES,
        unreadable::Unreadable,
    },
};

/// The condition of the index `deployments_holding`, to the letter, so that SQLite recognises it.
macro_rules! holding {
    () => {
        "(d.state = 'reserved' OR d.state = 'ready' OR d.state = 'running')"
    };
}

pub(super) const PLACED: &str = concat!(
    "SELECT ",
    deployment_columns!(),
    ", CASE d.state WHEN 'waiting' THEN (SELECT count(*) FROM deployments AS o \
     WHERE o.project = d.project AND o.state = 'waiting' AND o.line_place <= d.line_place) ELSE 0 END \
     FROM deployments AS d WHERE d.id = ?1 AND d.project = (SELECT number FROM projects WHERE name = ?2)"
);

pub(super) const EVENTS: &str = "SELECT seq, at, body FROM events \
     WHERE deployment = (SELECT number FROM deployments WHERE id = ?1) AND seq > ?2 ORDER BY seq LIMIT ?3";

pub(super) const EVENTS_BEFORE: &str = "SELECT seq, at, body FROM events \
     WHERE deployment = (SELECT number FROM deployments WHERE id = ?1) AND seq < ?2 ORDER BY seq DESC LIMIT ?3";

pub(super) const COURSE: &str = "SELECT seq, at, body FROM events \
     WHERE deployment = (SELECT number FROM deployments WHERE id = ?1) AND seq > ?2 \
     AND type NOT IN ('log', 'progress', 'output') ORDER BY seq LIMIT ?3";

/// The first block with an event after this one.
pub(super) const BLOCK_AFTER: &str = "SELECT b.first_seq, b.last_seq, b.body FROM output_blocks AS b \
     WHERE b.deployment = (SELECT number FROM deployments WHERE id = ?1) AND b.last_seq > ?2 AND b.first_seq >= \
     coalesce((SELECT max(first_seq) FROM output_blocks WHERE deployment = b.deployment AND first_seq <= ?2), 0) \
     ORDER BY b.first_seq LIMIT 1";

/// The last block with an event before this one.
pub(super) const BLOCK_BEFORE: &str = "SELECT b.first_seq, b.last_seq, b.body FROM output_blocks AS b \
     WHERE b.deployment = (SELECT number FROM deployments WHERE id = ?1) AND b.first_seq < ?2 \
     ORDER BY b.first_seq DESC LIMIT 1";

pub(super) const LIST_ALL: &str = concat!(
    "SELECT ",
    deployment_columns!(),
    " FROM deployments AS d WHERE d.project = ?1 AND d.ticket < ?2 ORDER BY d.ticket DESC LIMIT ?3"
);

pub(super) const LIST_WAITING: &str = concat!(
    "SELECT ",
    deployment_columns!(),
    " FROM deployments AS d WHERE d.project = ?1 AND d.state = 'waiting' AND d.ticket < ?2 \
     ORDER BY d.ticket DESC LIMIT ?3"
);

pub(super) const LIST_ENDED: &str = concat!(
    "SELECT ",
    deployment_columns!(),
    " FROM deployments AS d WHERE d.project = ?1 AND d.ended_at IS NOT NULL AND d.state = ?4 AND d.ticket < ?2 \
     ORDER BY d.ticket DESC LIMIT ?3"
);

pub(super) const LINE: &str = concat!(
    "SELECT ",
    deployment_columns!(),
    " FROM deployments AS d WHERE d.project = ?1 AND d.state = 'waiting' ORDER BY d.line_place LIMIT ?2"
);

pub(super) const HOLDER: &str =
    concat!("SELECT ", deployment_columns!(), " FROM deployments AS d WHERE d.project = ?1 AND ", holding!());

pub(super) const BY_ID: &str =
    concat!("SELECT ", deployment_columns!(), " FROM deployments AS d WHERE d.id = ?1 AND d.project = ?2");

pub(super) const BY_SHORT_NUMBER: &str = "SELECT d.id FROM deployments AS d \
     WHERE d.project = (SELECT number FROM projects WHERE name = ?1) AND d.short_number = ?2";

pub(super) const PROJECT: &str = concat!("SELECT ", project_columns!(), " FROM projects AS p WHERE p.name = ?1");

pub(super) const PROJECTS: &str =
    concat!("SELECT ", project_columns!(), ", p.name FROM projects AS p WHERE p.name > ?1 ORDER BY p.name LIMIT ?2");

/// The one search that looks at all rows of a table: there are few projects, and it is asked rarely.
pub(super) const HELD_PROJECTS: &str = concat!(
    "SELECT p.name, p.pause FROM projects AS p WHERE p.pause IS NOT NULL OR (p.waiting_count > 0 AND NOT EXISTS \
     (SELECT 1 FROM deployments AS d WHERE d.project = p.number AND ",
    holding!(),
    "))"
);

/// The columns by which the reaper judges. Of the columns that may be large, the spec is read only while something in
/// it matters.
macro_rules! watched_columns {
    () => {
        "p.name, d.id, d.revision, d.pulse, d.state, d.window_ms, d.executor, d.lease_secret, d.fencing_token, \
         d.lease_ttl_ms, d.worker, CASE WHEN d.state = 'waiting' OR d.state = 'ready' THEN d.spec END"
    };
}

pub(super) const ALL_HOLDERS: &str = concat!(
    "SELECT ",
    watched_columns!(),
    " FROM deployments AS d INDEXED BY deployments_holding JOIN projects AS p ON p.number = d.project WHERE ",
    holding!()
);

pub(super) const ALL_WAITING: &str = concat!(
    "SELECT ",
    watched_columns!(),
    " FROM deployments AS d INDEXED BY deployments_waiting JOIN projects AS p ON p.number = d.project \
     WHERE d.state = 'waiting'"
);

pub(super) const RECENT_SPECS: &str =
    "SELECT d.id, d.spec FROM deployments AS d WHERE d.project = ?1 ORDER BY d.ticket DESC LIMIT ?2";

pub(super) const WAITING_SPECS: &str =
    "SELECT d.id, d.spec FROM deployments AS d WHERE d.project = ?1 AND d.state = 'waiting'";

pub(super) const HOLDER_SPEC: &str =
    concat!("SELECT d.id, d.spec FROM deployments AS d WHERE d.project = ?1 AND ", holding!());

pub(super) const CLAIMABLE: &str = "SELECT p.name, d.id, d.spec FROM deployments AS d \
     JOIN projects AS p ON p.number = d.project \
     WHERE d.state = 'ready' AND d.executor = 'server' ORDER BY d.number";

pub(super) const HELD: &str = concat!(
    "SELECT ",
    deployment_columns!(),
    ", p.name FROM deployments AS d JOIN projects AS p ON p.number = d.project \
     WHERE d.state = 'running' AND d.executor = 'server' AND d.worker = ?1"
);

pub(super) const MARK: &str =
    "SELECT revision, event_count, cancel_requested_at IS NOT NULL FROM deployments WHERE id = ?1";

type Read<T> = rusqlite::Result<T>;

pub(super) fn deployment(db: &Connection, project: &ProjectName, id: DeploymentId) -> Read<Option<Placed>> {
    db.prepare_cached(PLACED)?
        .query_row(params![id.as_bytes(), project.as_str()], |row| {
            let deployment = rows::deployment(row, project)?;
            Ok(Placed { deployment, position: row.get(DEPLOYMENT_COLUMN_COUNT)? })
        })
        .optional()
}

pub(super) fn numbered(db: &Connection, project: &ProjectName, number: u64) -> Read<Option<DeploymentId>> {
    // No deployment has a number above the largest one that a row can have.
    let Ok(number) = i64::try_from(number) else { return Ok(None) };
    let id = |row: &Row<'_>| rows::required_id_at(row, 0);
    db.prepare_cached(BY_SHORT_NUMBER)?.query_row(params![project.as_str(), number], id).optional()
}

pub(super) fn sealed_inputs(db: &Connection, id: DeploymentId) -> Read<Option<Vec<u8>>> {
    let mut statement = db.prepare_cached("SELECT sealed_inputs FROM deployments WHERE id = ?1")?;
    statement.query_row([id.as_bytes()], |row| row.get(0)).optional().map(Option::flatten)
}

pub(super) fn events(
    db: &Connection,
    id: DeploymentId,
    after: u64,
    limit: usize,
    unreadable: &Unreadable,
) -> Read<Vec<Event>> {
    // A number above the largest one that a row can have is past the end.
    let last = i64::try_from(after).unwrap_or(i64::MAX);
    let rows: Vec<_> = db
        .prepare_cached(EVENTS)?
        .query_map(params![id.as_bytes(), last, bound(limit)], rows::event)?
        .collect::<Read<_>>()?;
    with_blocks(db, id, Merging::forwards(after, rows, limit), BLOCK_AFTER, unreadable)
}

pub(super) fn events_before(
    db: &Connection,
    id: DeploymentId,
    before: u64,
    limit: usize,
    unreadable: &Unreadable,
) -> Read<Vec<Event>> {
    let first = i64::try_from(before).unwrap_or(i64::MAX);
    let rows: Vec<_> = db
        .prepare_cached(EVENTS_BEFORE)?
        .query_map(params![id.as_bytes(), first, bound(limit)], rows::event)?
        .collect::<Read<_>>()?;
    with_blocks(db, id, Merging::backwards(before, rows, limit), BLOCK_BEFORE, unreadable)
}

/// Blocks hold output only, so rows are all there is.
pub(super) fn course(db: &Connection, id: DeploymentId, after: u64, limit: usize) -> Read<Vec<Event>> {
    let last = i64::try_from(after).unwrap_or(i64::MAX);
    db.prepare_cached(COURSE)?.query_map(params![id.as_bytes(), last, bound(limit)], rows::event)?.collect()
}

/// The rows, and the events of blocks among them. Between the two reads, events may go from rows to a block, but never
/// back; so the blocks are read last, and nothing is missed.
fn with_blocks(
    db: &Connection,
    id: DeploymentId,
    merging: Result<Merging, Vec<Event>>,
    sql: &str,
    unreadable: &Unreadable,
) -> Read<Vec<Event>> {
    let mut merging = match merging {
        Ok(merging) => merging,
        Err(rows) => return Ok(rows),
    };
    let mut statement = db.prepare_cached(sql)?;
    let read = |row: &Row<'_>| Ok(StoredBlock { first_seq: row.get(0)?, last_seq: row.get(1)?, body: row.get(2)? });
    while let Some(place) = merging.wants() {
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        let block = statement.query_row(params![id.as_bytes(), place], read).optional()?;
        let named = block.as_ref().map_or(0, |block| block.first_seq);
        merging.take(block.as_ref(), &mut |why| {
            unreadable.skip::<(), _>(Err(why), || format!("output of deployment {id} from event {named} on"));
        });
    }
    Ok(merging.finish())
}

pub(super) fn list(db: &Connection, project: &ProjectName, query: &ListQuery) -> Read<Vec<Deployment>> {
    let snapshot = db.unchecked_transaction()?;
    let Some(number) = number_of(db, project)? else { return Ok(Vec::new()) };
    let before = i64::try_from(query.before.unwrap_or(Revision(u64::MAX)).0).unwrap_or(i64::MAX);
    let limit = bound(query.limit);
    let read = |row: &Row<'_>| rows::deployment(row, project);
    let ended = |state: &str| -> Read<Vec<Deployment>> {
        db.prepare_cached(LIST_ENDED)?.query_map(params![number, before, limit, state], read)?.collect()
    };
    let page = match query.status {
        None => db.prepare_cached(LIST_ALL)?.query_map(params![number, before, limit], read)?.collect::<Read<_>>()?,
        Some(Status::Succeeded) => ended("succeeded")?,
        Some(Status::Failed) => ended("failed")?,
        Some(Status::Cancelled) => ended("cancelled")?,
        Some(status @ (Status::Pending | Status::Running)) => {
            let mut page: Vec<Deployment> = match status {
                Status::Pending => {
                    let mut waiting = db.prepare_cached(LIST_WAITING)?;
                    waiting.query_map(params![number, before, limit], read)?.collect::<Read<_>>()?
                }
                _ => Vec::new(),
            };
            let holder = holder(db, number, project)?;
            page.extend(holder.filter(|it| it.status() == status && query.before.is_none_or(|end| it.ticket < end)));
            page.sort_by_key(|deployment| std::cmp::Reverse(deployment.ticket));
            page.truncate(query.limit);
            page
        }
    };
    snapshot.commit()?;
    Ok(page)
}

pub(super) fn project(db: &Connection, name: &ProjectName, line: usize) -> Read<Option<ProjectState>> {
    let snapshot = db.unchecked_transaction()?;
    let found = db
        .prepare_cached(PROJECT)?
        .query_row([name.as_str()], |row| Ok((row.get::<_, i64>(0)?, rows::project(row, name)?)))
        .optional()?;
    let Some((number, project)) = found else { return Ok(None) };
    let line = db
        .prepare_cached(LINE)?
        .query_map(params![number, bound(line)], |row| rows::deployment(row, name))?
        .collect::<Read<_>>()?;
    let state = ProjectState {
        holder: holder(db, number, name)?,
        last_outcome: project.last_outcome.map(|id| by_id(db, number, name, id)).transpose()?.flatten(),
        last_success: project.last_success.map(|id| by_id(db, number, name, id)).transpose()?.flatten(),
        project,
        line,
    };
    snapshot.commit()?;
    Ok(Some(state))
}

pub(super) fn projects(
    db: &Connection,
    after: Option<&ProjectName>,
    limit: usize,
    unreadable: &Unreadable,
) -> Read<ProjectPage> {
    let snapshot = db.unchecked_transaction()?;
    let after = after.map_or(BEFORE_ALL_NAMES, ProjectName::as_str);
    let mut statement: CachedStatement<'_> = db.prepare_cached(PROJECTS)?;
    let mut rows = statement.query(params![after, bound(limit)])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let name = rows::name_at(row, rows::PROJECT_COLUMN_COUNT)?;
        let state = match project_state(db, row, &name) {
            // The file itself is in trouble, and not only one row of it.
            Err(error @ rusqlite::Error::SqliteFailure(..)) => return Err(error),
            read => unreadable.skip(read, || format!("project {name}")),
        };
        page.push((name, state));
    }
    drop(rows);
    drop(statement);
    snapshot.commit()?;
    Ok(page)
}

fn project_state(db: &Connection, row: &Row<'_>, name: &ProjectName) -> Read<ProjectState> {
    let number: i64 = row.get(0)?;
    let project = rows::project(row, name)?;
    Ok(ProjectState {
        holder: holder(db, number, name)?,
        line: Vec::new(),
        last_outcome: project.last_outcome.map(|id| by_id(db, number, name, id)).transpose()?.flatten(),
        last_success: project.last_success.map(|id| by_id(db, number, name, id)).transpose()?.flatten(),
        project,
    })
}

/// The projects that have a pause, and those whose slot is free although somebody waits.
pub(super) fn held_projects(db: &Connection, unreadable: &Unreadable) -> Read<Vec<HeldProject>> {
    let mut statement = db.prepare_cached(HELD_PROJECTS)?;
    let mut rows = statement.query([])?;
    let mut held = Vec::new();
    while let Some(row) = rows.next()? {
        let project = rows::name_at(row, 0)?;
        let pause = unreadable.skip(rows::json_or_none(row, 1), || format!("project {project}"));
        held.extend(pause.map(|pause| HeldProject { project, pause }));
    }
    Ok(held)
}

/// The artifacts of the newest deployments, and of those that are not final.
pub(super) fn artifacts_of(
    db: &Connection,
    project: &ProjectName,
    recent: usize,
    unreadable: &Unreadable,
) -> Read<Vec<Digest>> {
    let snapshot = db.unchecked_transaction()?;
    let Some(number) = number_of(db, project)? else { return Ok(Vec::new()) };
    let mut artifacts = Vec::new();
    let mut add = |row: &Row<'_>| {
        let spec = unreadable.skip(rows::json_at::<JudgedSpec>(row, 1), || rows::row_of(row, 0));
        artifacts.extend(spec.and_then(|spec| spec.artifact));
        Ok(())
    };
    db.prepare_cached(RECENT_SPECS)?.query_map(params![number, bound(recent)], &mut add)?.collect::<Read<()>>()?;
    for sql in [WAITING_SPECS, HOLDER_SPEC] {
        db.prepare_cached(sql)?.query_map([number], &mut add)?.collect::<Read<()>>()?;
    }
    snapshot.commit()?;
    Ok(artifacts)
}

pub(super) fn watched(db: &Connection, unreadable: &Unreadable) -> Read<Vec<Watched>> {
    let snapshot = db.unchecked_transaction()?;
    let mut watched = Vec::new();
    for sql in [ALL_HOLDERS, ALL_WAITING] {
        let mut statement = db.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            watched.extend(unreadable.skip(rows::watched(row), || rows::row_of(row, 1)));
        }
    }
    // Queued deployments without a deadline have nothing that could lapse.
    watched.retain(|it| it.state != State::Waiting(Place::Queued) || it.deadline.is_some());
    snapshot.commit()?;
    Ok(watched)
}

/// Of the deployments that can be claimed, the first so many that are offered; of the others only the project's name is
/// read.
pub(super) fn claimable(
    db: &Connection,
    offers: &Offers,
    limit: usize,
    unreadable: &Unreadable,
) -> Read<Vec<Claimable>> {
    let mut statement = db.prepare_cached(CLAIMABLE)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let project = rows::name_at(row, 0);
        let Some(project) = unreadable.skip(project, || rows::row_of(row, 1)) else { continue };
        let Some(pipelines) = offers.get(&project) else { continue };
        let read = rows::json_at::<Spec>(row, 2).and_then(|spec| Ok((rows::required_id_at(row, 1)?, spec)));
        let Some((id, spec)) = unreadable.skip(read, || rows::row_of(row, 1)) else { continue };
        if pipelines.contains(&spec.pipeline) {
            found.push(Claimable { project, id, spec });
        }
        if found.len() >= limit {
            break;
        }
    }
    Ok(found)
}

pub(super) fn marks(db: &Connection, ids: &[DeploymentId]) -> Read<Vec<(DeploymentId, Mark)>> {
    let snapshot = db.unchecked_transaction()?;
    let mut statement = db.prepare_cached(MARK)?;
    let mut marks = Vec::with_capacity(ids.len());
    for id in ids {
        let mark = statement
            .query_row([id.as_bytes()], |row| {
                let (revision, event_count) = (Revision(row.get(0)?), row.get(1)?);
                Ok(Mark { revision, event_count, is_cancel_requested: row.get(2)? })
            })
            .optional()?;
        marks.extend(mark.map(|mark| (*id, mark)));
    }
    drop(statement);
    snapshot.commit()?;
    Ok(marks)
}

/// The deployment that runs under a lease of this holder.
pub(super) fn held(db: &Connection, holder: &LeaseHolder) -> Read<Option<Deployment>> {
    db.prepare_cached(HELD)?
        .query_row([holder.as_stored()], |row| {
            let project = rows::name_at(row, DEPLOYMENT_COLUMN_COUNT)?;
            rows::deployment(row, &project)
        })
        .optional()
}

fn number_of(db: &Connection, project: &ProjectName) -> Read<Option<i64>> {
    let mut statement = db.prepare_cached("SELECT number FROM projects WHERE name = ?1")?;
    statement.query_row([project.as_str()], |row| row.get(0)).optional()
}

fn holder(db: &Connection, number: i64, project: &ProjectName) -> Read<Option<Deployment>> {
    db.prepare_cached(HOLDER)?.query_row([number], |row| rows::deployment(row, project)).optional()
}

fn by_id(db: &Connection, number: i64, project: &ProjectName, id: DeploymentId) -> Read<Option<Deployment>> {
    db.prepare_cached(BY_ID)?.query_row(params![id.as_bytes(), number], |row| rows::deployment(row, project)).optional()
}

/// A `LIMIT`; a negative one would be none.
fn bound(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::{figures, open, record};

    /// How SQLite goes about a statement, one line a step.
    fn plan(db: &Connection, sql: &str) -> Vec<String> {
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let unbound = rusqlite::params_from_iter(vec![rusqlite::types::Null; statement.parameter_count()]);
        statement.query_map(unbound, |row| row.get("detail")).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn every_search_is_backed_by_an_index_and_nothing_is_sorted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plans.db");
        open::make(&path).unwrap();
        let db = open::writer_connection(&path).unwrap();
        let expected: &[(&str, &str, &str)] = &[
            ("a deployment", PLACED, "SEARCH d USING INDEX sqlite_autoindex_deployments_1 (id=?)"),
            ("its position", PLACED, "SEARCH o USING COVERING INDEX deployments_served (project=? AND line_place<?)"),
            ("events", EVENTS, "SEARCH events USING PRIMARY KEY (deployment=? AND seq>?)"),
            ("course", COURSE, "SEARCH events USING PRIMARY KEY (deployment=? AND seq>?)"),
            ("events before", EVENTS_BEFORE, "SEARCH events USING PRIMARY KEY (deployment=? AND seq<?)"),
            ("list", LIST_ALL, "SEARCH d USING INDEX deployments_by_ticket (project=? AND ticket<?)"),
            ("list waiting", LIST_WAITING, "SEARCH d USING INDEX deployments_waiting (project=? AND ticket<?)"),
            ("list ended", LIST_ENDED, "SEARCH d USING INDEX deployments_ended (project=? AND state=? AND ticket<?)"),
            ("line", LINE, "SEARCH d USING INDEX deployments_served (project=?)"),
            (
                "line below",
                record::LINE_BELOW,
                "SEARCH d USING INDEX deployments_waiting_by_order (project=? AND <expr><?)",
            ),
            (
                "line above",
                record::LINE_ABOVE,
                "SEARCH d USING INDEX deployments_waiting_by_order (project=? AND <expr>>?)",
            ),
            ("holder", HOLDER, "SEARCH d USING INDEX deployments_holding (project=?)"),
            ("by id", BY_ID, "SEARCH d USING INDEX sqlite_autoindex_deployments_1 (id=?)"),
            ("keyed", record::KEYED, "SEARCH k USING PRIMARY KEY (project=? AND key=?)"),
            ("project", PROJECT, "SEARCH p USING INDEX sqlite_autoindex_projects_1 (name=?)"),
            ("projects", PROJECTS, "SEARCH p USING INDEX sqlite_autoindex_projects_1 (name>?)"),
            ("holders", ALL_HOLDERS, "SCAN d USING INDEX deployments_holding"),
            ("waiting", ALL_WAITING, "SCAN d USING INDEX deployments_waiting"),
            ("held slots", figures::HELD_SLOTS, "SCAN d USING INDEX deployments_holding"),
            ("their events", figures::HELD_SLOTS, "SEARCH e USING PRIMARY KEY (deployment=?)"),
            ("lines", figures::LINES, "SCAN d USING INDEX deployments_waiting"),
            ("recent specs", RECENT_SPECS, "SEARCH d USING INDEX deployments_by_ticket (project=?)"),
            ("waiting specs", WAITING_SPECS, "SEARCH d USING INDEX deployments_waiting_by_order (project=?)"),
            ("holder's spec", HOLDER_SPEC, "SEARCH d USING INDEX deployments_holding (project=?)"),
            ("claimable", CLAIMABLE, "SEARCH d USING INDEX deployments_claimable (state=?)"),
            ("held", HELD, "SEARCH d USING INDEX deployments_by_worker (worker=?)"),
            ("mark", MARK, "SEARCH deployments USING INDEX sqlite_autoindex_deployments_1 (id=?)"),
            ("trim", record::TRIM, "SEARCH events USING PRIMARY KEY (deployment=? AND seq>?)"),
        ];
        for (what, sql, step) in expected {
            let plan = plan(&db, sql);
            assert!(plan.iter().any(|it| it == step), "{what}: {plan:#?}");
            let slow = |it: &&String| {
                it.contains("TEMP B-TREE") || (it.starts_with("SCAN") && !it.contains("INDEX deployments_"))
            };
            assert_eq!(plan.iter().find(slow), None, "{what}: {plan:#?}");
        }
    }
}
