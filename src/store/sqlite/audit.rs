//! The audit log in SQLite.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{SqliteStore, rows};
use crate::{
    model::DeploymentId,
    store::{
        BoxFuture, StoreError,
        audit::{self, AuditLine, AuditPage, AuditQuery, AuditRoom, NewAuditLine, audit_columns},
    },
};

const APPEND: &str = "INSERT INTO audit (at, project, action, deployment, detail, caller, address, request, count) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

macro_rules! lines {
    ($of:expr) => {
        concat!(
            "SELECT ",
            audit_columns!(),
            " FROM audit WHERE number >= ?1 AND number < ?2 AND ",
            $of,
            " AND (?5 IS NULL OR at >= ?5) AND (?6 IS NULL OR at < ?6) AND (?7 IS NULL OR action = ?7) \
             AND (?8 IS NULL OR caller = ?8) ORDER BY number DESC LIMIT ?9"
        )
    };
}

/// Both parameters occur in each, so that all take the same.
const AUDIT: &str = lines!("?3 IS NULL AND ?4 IS NULL");
const AUDIT_OF_PROJECT: &str = lines!("project = ?3 AND ?4 IS NULL");
const AUDIT_OF_DEPLOYMENT: &str = lines!("(?3 IS NULL OR project = ?3) AND deployment = ?4");
const AUDIT_LAST: &str = "SELECT number FROM audit ORDER BY number DESC LIMIT 1";
const AUDIT_OLDER: &str = "SELECT at FROM audit WHERE number < ?1 ORDER BY number DESC LIMIT 1";

impl AuditRoom for SqliteStore {
    fn append(&self, lines: Vec<NewAuditLine>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.act(move |db| lines.iter().try_for_each(|line| append(db, line))))
    }

    fn audit_page(&self, query: AuditQuery) -> BoxFuture<'_, Result<AuditPage, StoreError>> {
        Box::pin(self.readers.read(move |db| page(db, &query)))
    }
}

/// Appends a line within a transaction.
pub(super) fn append(db: &Connection, line: &NewAuditLine) -> rusqlite::Result<()> {
    db.prepare_cached(APPEND)?.execute(params![
        line.at.as_millisecond(),
        line.project.as_ref().map(|project| project.as_str()),
        line.action,
        line.deployment.as_ref().map(DeploymentId::as_bytes),
        line.detail,
        line.caller.as_ref().map(ToString::to_string),
        line.address.map(|address| address.to_string()),
        line.request.as_ref().map(ToString::to_string),
        signed(line.count),
    ])?;
    Ok(())
}

fn page(db: &Connection, query: &AuditQuery) -> rusqlite::Result<AuditPage> {
    let last: Option<i64> = db.prepare_cached(AUDIT_LAST)?.query_row([], |row| row.get(0)).optional()?;
    let (low, before) = audit::span(query, last.and_then(|last| u64::try_from(last).ok()).unwrap_or(0));
    let sql = match (query.deployment, &query.project) {
        (Some(_), _) => AUDIT_OF_DEPLOYMENT,
        (None, Some(_)) => AUDIT_OF_PROJECT,
        (None, None) => AUDIT,
    };
    let lines = db
        .prepare_cached(sql)?
        .query_map(
            params![
                signed(low),
                signed(before),
                query.project.as_ref().map(|project| project.as_str()),
                query.deployment.as_ref().map(DeploymentId::as_bytes),
                query.since.map(|since| since.as_millisecond()),
                query.until.map(|until| until.as_millisecond()),
                query.action,
                query.caller,
                i64::try_from(query.limit).unwrap_or(i64::MAX),
            ],
            line,
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let older = db.prepare_cached(AUDIT_OLDER)?.query_row([signed(low)], |row| rows::required_instant_at(row, 0));
    Ok(audit::page(query, lines, low, older.optional()?))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn line(row: &Row<'_>) -> rusqlite::Result<AuditLine> {
    Ok(AuditLine {
        number: row.get(0)?,
        at: rows::required_instant_at(row, 1)?,
        project: row.get::<_, Option<String>>(2)?.and_then(|name| name.parse().ok()),
        action: row.get(3)?,
        deployment: rows::id_at(row, 4)?,
        detail: row.get(5)?,
        caller: row.get(6)?,
        address: row.get(7)?,
        request: row.get(8)?,
        count: row.get(9)?,
        deployment_number: row.get(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::open;

    #[test]
    fn the_lines_of_a_project_and_of_a_deployment_are_found_by_an_index_and_nothing_is_sorted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plans.db");
        open::make(&path).unwrap();
        let db = open::writer_connection(&path).unwrap();
        for (sql, step) in [
            (AUDIT, "SEARCH audit USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
            (AUDIT_OF_PROJECT, "SEARCH audit USING INDEX audit_by_project (project=? AND rowid>? AND rowid<?)"),
            (
                AUDIT_OF_DEPLOYMENT,
                "SEARCH audit USING INDEX audit_by_deployment (deployment=? AND rowid>? AND rowid<?)",
            ),
            (AUDIT_OLDER, "SEARCH audit USING INTEGER PRIMARY KEY (rowid<?)"),
        ] {
            let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let unbound = rusqlite::params_from_iter(vec![rusqlite::types::Null; statement.parameter_count()]);
            let plan: Vec<String> =
                statement.query_map(unbound, |row| row.get("detail")).unwrap().collect::<Result<_, _>>().unwrap();
            assert!(plan.iter().any(|it| it == step), "{sql}: {plan:#?}");
            assert!(!plan.iter().any(|it| it.contains("TEMP B-TREE")), "{sql}: {plan:#?}");
        }
    }
}
