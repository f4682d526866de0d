//! The outbox of notifications in SQLite. Rows are added with the changes that they tell of; each later write is an act of
//! its own beside the decisions.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{SqliteStore, audit, rows};
use crate::{
    model::{Caller, NotificationEvent, NotificationId},
    store::{
        BoxFuture, NewAuditLine, StoreError,
        notifications::{
            NO_RULE, NextDue, Notification, NotificationCounts, NotificationQuery, NotificationRoom, NotificationState,
            Settlement, after, kept_error, notification_columns, retried_entry,
        },
    },
};

/// The first pending row of its lane.
macro_rules! heads {
    () => {
        " FROM notifications AS n WHERE n.state = 'pending' AND NOT EXISTS (SELECT 1 FROM notifications AS e \
            WHERE e.state = 'pending' AND e.rule = n.rule AND e.project = n.project AND e.lane = n.lane \
                AND e.number < n.number)"
    };
}

pub(super) const NEXT_DUE: &str = concat!(
    "SELECT n.rule, min(max(n.due_at, coalesce(n.claimed_until, 0)))",
    heads!(),
    " AND n.rule IN (SELECT value FROM json_each(?1)) GROUP BY n.rule"
);
pub(super) const DUE: &str = concat!(
    "SELECT n.number",
    heads!(),
    " AND n.rule = ?1 AND n.due_at <= ?2 AND coalesce(n.claimed_until, 0) <= ?2 ORDER BY n.number LIMIT ?3"
);
const CLAIM: &str = concat!(
    "UPDATE notifications SET claimed_until = ?2, claim_number = claim_number + 1, attempt_count = attempt_count + 1 \
     WHERE number = ?1 RETURNING ",
    notification_columns!()
);
const DONE: &str =
    "DELETE FROM notifications WHERE number = ?1 AND claim_number = ?2 AND id = ?3 AND state = 'pending'";
const LATER: &str = "UPDATE notifications SET claimed_until = NULL, due_at = ?4, error = coalesce(?5, error), \
     attempt_count = attempt_count - (?5 IS NULL) WHERE number = ?1 AND claim_number = ?2 AND id = ?3 AND state = 'pending'";
const DEAD: &str = "UPDATE notifications SET claimed_until = NULL, state = 'dead', dead_at = ?4, error = ?5 \
     WHERE number = ?1 AND claim_number = ?2 AND id = ?3 AND state = 'pending'";
const END_CLAIMS: &str = "UPDATE notifications SET claimed_until = NULL WHERE claimed_until IS NOT NULL";
const GIVE_UP: &str = "UPDATE notifications SET claimed_until = NULL, state = 'dead', dead_at = ?3, error = ?4 \
     WHERE state = 'pending' AND at < ?2 AND rule NOT IN (SELECT value FROM json_each(?1))";
const PRUNE: &str = "DELETE FROM notifications WHERE state = 'dead' AND (dead_at < ?1 OR number <= coalesce(\
     (SELECT number FROM notifications WHERE state = 'dead' ORDER BY number DESC LIMIT 1 OFFSET ?2), 0))";
const COUNTS: &str = "SELECT (SELECT count(*) FROM notifications WHERE state = 'pending'), \
     (SELECT count(*) FROM notifications WHERE state = 'dead')";
const PAGE: &str =
    concat!("SELECT ", notification_columns!(), " FROM notifications WHERE number < ?1 ORDER BY number DESC LIMIT ?2");
const PAGE_IN: &str = concat!(
    "SELECT ",
    notification_columns!(),
    " FROM notifications WHERE state = ?3 AND number < ?1 ORDER BY number DESC LIMIT ?2"
);
const BY_ID: &str =
    concat!("SELECT ", notification_columns!(), " FROM notifications WHERE id = ?1 ORDER BY number DESC LIMIT 1");
const RETRY: &str = "UPDATE notifications SET state = 'pending', dead_at = NULL, attempt_count = 0, due_at = ?2 \
     WHERE number = ?1 AND state = 'dead'";

impl NotificationRoom for SqliteStore {
    fn next_due(&self, rules: Vec<String>, now: Timestamp) -> BoxFuture<'_, Result<Vec<NextDue>, StoreError>> {
        Box::pin(self.readers.read(move |db| {
            let due = |row: &Row<'_>| {
                let wait = row.get::<_, i64>(1)?.saturating_sub(now.as_millisecond());
                let wait = Duration::from_millis(u64::try_from(wait).unwrap_or(0));
                Ok(NextDue { rule: row.get(0)?, wait })
            };
            db.prepare_cached(NEXT_DUE)?.query_map([json(&rules)], due)?.collect()
        }))
    }

    fn claim(
        &self,
        rule: String,
        limit: usize,
        lease: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<Notification>, StoreError>> {
        Box::pin(self.act(move |db| {
            let due = params![rule, now.as_millisecond(), i64::try_from(limit).unwrap_or(i64::MAX)];
            let numbers: Vec<i64> =
                db.prepare_cached(DUE)?.query_map(due, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            let until = after(now, lease).as_millisecond();
            let mut claim = db.prepare_cached(CLAIM)?;
            numbers.into_iter().map(|number| claim.query_row([number, until], notification)).collect()
        }))
    }

    fn settle(
        &self,
        claimed: Notification,
        settlement: Settlement,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (number, claim_number, id) = (claimed.number, claimed.claim_number, claimed.id);
        Box::pin(self.act(move |db| {
            let changed = match &settlement {
                Settlement::Done => db.prepare_cached(DONE)?.execute(params![number, claim_number, id.as_str()])?,
                Settlement::Later { wait, error } => db.prepare_cached(LATER)?.execute(params![
                    number,
                    claim_number,
                    id.as_str(),
                    after(now, *wait).as_millisecond(),
                    error.as_deref().map(kept_error)
                ])?,
                Settlement::Dead { error } => db.prepare_cached(DEAD)?.execute(params![
                    number,
                    claim_number,
                    id.as_str(),
                    now.as_millisecond(),
                    kept_error(error)
                ])?,
            };
            Ok(changed > 0)
        }))
    }

    fn end_claims(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.act(|db| db.execute(END_CLAIMS, []).map(|_| ())))
    }

    fn give_up(&self, rules: Vec<String>, before: Timestamp, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.act(move |db| {
            let wanted = params![json(&rules), before.as_millisecond(), now.as_millisecond(), NO_RULE];
            Ok(db.prepare_cached(GIVE_UP)?.execute(wanted)? as u64)
        }))
    }

    fn prune(&self, before: Option<Timestamp>, keep: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.act(move |db| {
            let keep = i64::try_from(keep).unwrap_or(i64::MAX);
            Ok(db.prepare_cached(PRUNE)?.execute(params![before.map(Timestamp::as_millisecond), keep])? as u64)
        }))
    }

    fn counts(&self) -> BoxFuture<'_, Result<NotificationCounts, StoreError>> {
        Box::pin(self.readers.read(|db| {
            db.prepare_cached(COUNTS)?
                .query_row([], |row| Ok(NotificationCounts { pending_count: row.get(0)?, dead_count: row.get(1)? }))
        }))
    }

    fn page(&self, query: NotificationQuery) -> BoxFuture<'_, Result<Vec<Notification>, StoreError>> {
        let NotificationQuery { state, before, limit } = query;
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Box::pin(self.readers.read(move |db| match state {
            None => db.prepare_cached(PAGE)?.query_map([before, limit], notification)?.collect(),
            Some(state) => {
                let wanted = params![before, limit, state.as_str()];
                db.prepare_cached(PAGE_IN)?.query_map(wanted, notification)?.collect()
            }
        }))
    }

    fn by_id(&self, id: NotificationId) -> BoxFuture<'_, Result<Option<Notification>, StoreError>> {
        Box::pin(self.readers.read(move |db| by_id(db, &id)))
    }

    fn retry(
        &self,
        id: NotificationId,
        caller: Caller,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Notification>, StoreError>> {
        Box::pin(self.act(move |db| {
            let Some(found) = by_id(db, &id)? else { return Ok(None) };
            if found.state == NotificationState::Dead {
                db.execute(RETRY, params![found.number, now.as_millisecond()])?;
                let entry = retried_entry(&found, caller.clone(), now);
                audit::append(db, &NewAuditLine::of(Some(found.project.clone()), entry))?;
            }
            by_id(db, &id)
        }))
    }
}

fn by_id(db: &Connection, id: &NotificationId) -> rusqlite::Result<Option<Notification>> {
    db.prepare_cached(BY_ID)?.query_row([id.as_str()], notification).optional()
}

fn json(rules: &[String]) -> String {
    // Names of rules are plain, so this cannot fail.
    serde_json::to_string(rules).unwrap_or_else(|_| "[]".to_owned())
}

fn notification(row: &Row<'_>) -> rusqlite::Result<Notification> {
    let text = |column: usize| row.get::<_, String>(column);
    let unknown = |column: usize| rows::broken(column, "a word that this version does not know");
    Ok(Notification {
        number: row.get(0)?,
        id: NotificationId::parse(&text(1)?).ok_or_else(|| unknown(1))?,
        rule: text(2)?,
        event: NotificationEvent::of(&text(3)?).ok_or_else(|| unknown(3))?,
        project: rows::name_at(row, 4)?,
        deployment: rows::id_at(row, 5)?,
        detail: row.get(6)?,
        at: rows::required_instant_at(row, 7)?,
        state: NotificationState::of(&text(8)?).ok_or_else(|| unknown(8))?,
        attempt_count: row.get(9)?,
        claim_number: row.get(10)?,
        due_at: rows::required_instant_at(row, 11)?,
        error: row.get(12)?,
        dead_at: rows::instant_at(row, 13)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::open;

    #[test]
    fn rows_are_found_by_an_index() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plans.db");
        open::make(&path).unwrap();
        let db = open::writer_connection(&path).unwrap();
        for sql in [NEXT_DUE, DUE, PAGE, PAGE_IN, BY_ID, DONE, COUNTS, PRUNE] {
            let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let unbound = rusqlite::params_from_iter(vec![rusqlite::types::Null; statement.parameter_count()]);
            let plan: Vec<String> =
                statement.query_map(unbound, |row| row.get("detail")).unwrap().collect::<Result<_, _>>().unwrap();
            let scans = plan.iter().any(|step| step.starts_with("SCAN notifications") && !step.contains("INDEX"));
            assert!(!scans || sql == PAGE, "{sql}: {plan:#?}");
        }
    }
}
