//! The statements of the outbox of notifications.

use crate::store::notifications::notification_columns;

/// The database's present time, in the unit of all columns.
macro_rules! now_ms {
    () => {
        "(extract(epoch FROM now()) * 1000)::bigint"
    };
}

/// The first pending rows of their lanes.
macro_rules! heads {
    () => {
        " FROM notifications AS n WHERE n.state = 'pending' AND NOT EXISTS (SELECT 1 FROM notifications AS e \
            WHERE e.state = 'pending' AND e.rule = n.rule AND e.project = n.project AND e.lane = n.lane \
                AND e.number < n.number)"
    };
}

/// Rows that fulfil this.
macro_rules! rows_where {
    ($rest:literal) => {
        concat!("SELECT ", notification_columns!(), " FROM notifications WHERE ", $rest)
    };
}

pub(super) const INSERT: &str = concat!(
    "INSERT INTO notifications (id, rule, event, project, deployment, lane, detail, at, due_at) \
     SELECT n.id, n.rule, n.event, $1, n.deployment, n.lane, n.detail, n.at, ",
    now_ms!(),
    " + n.delay FROM unnest($2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::text[], $8::bigint[], \
        $9::bigint[]) WITH ORDINALITY AS n (id, rule, event, deployment, lane, detail, at, delay, place) \
     ORDER BY n.place"
);
pub(super) const NEXT_DUE: &str = concat!(
    "SELECT n.rule, greatest(0, min(greatest(n.due_at, coalesce(n.claimed_until, 0))) - ",
    now_ms!(),
    ")",
    heads!(),
    " AND n.rule = ANY ($1) GROUP BY n.rule"
);
/// Rows that another server is claiming at this moment are left to it.
pub(super) const CLAIM: &str = concat!(
    "WITH due AS MATERIALIZED (SELECT n.number AS due_number",
    heads!(),
    " AND n.rule = $1 AND n.due_at <= ",
    now_ms!(),
    " AND coalesce(n.claimed_until, 0) <= ",
    now_ms!(),
    " ORDER BY n.number LIMIT $2 FOR UPDATE SKIP LOCKED) UPDATE notifications SET claimed_until = ",
    now_ms!(),
    " + $3, claim_number = claim_number + 1, attempt_count = attempt_count + 1 \
     FROM due WHERE number = due.due_number RETURNING ",
    notification_columns!()
);
pub(super) const DONE: &str = "DELETE FROM notifications \
     WHERE number = $1 AND claim_number = $2 AND id = $3 AND state = 'pending' RETURNING number";
pub(super) const LATER: &str = concat!(
    "UPDATE notifications SET claimed_until = NULL, due_at = ",
    now_ms!(),
    " + $4, error = coalesce($5, error), attempt_count = attempt_count - ($5 IS NULL)::int \
     WHERE number = $1 AND claim_number = $2 AND id = $3 AND state = 'pending' RETURNING number"
);
pub(super) const DEAD: &str = concat!(
    "UPDATE notifications SET claimed_until = NULL, state = 'dead', dead_at = ",
    now_ms!(),
    ", error = $4 WHERE number = $1 AND claim_number = $2 AND id = $3 AND state = 'pending' RETURNING number"
);
pub(super) const GIVE_UP: &str = concat!(
    "UPDATE notifications SET claimed_until = NULL, state = 'dead', dead_at = ",
    now_ms!(),
    ", error = $3 WHERE state = 'pending' AND at < $2 AND rule <> ALL ($1) RETURNING number"
);
pub(super) const PRUNE: &str = "DELETE FROM notifications WHERE state = 'dead' AND (dead_at < $1 OR number <= \
     coalesce((SELECT number FROM notifications WHERE state = 'dead' ORDER BY number DESC LIMIT 1 OFFSET $2), 0)) \
     RETURNING number";
pub(super) const COUNTS: &str = "SELECT (SELECT count(*) FROM notifications WHERE state = 'pending'), \
     (SELECT count(*) FROM notifications WHERE state = 'dead')";
pub(super) const PAGE: &str = rows_where!("number < $1 ORDER BY number DESC LIMIT $2");
pub(super) const PAGE_PENDING: &str = rows_where!("state = 'pending' AND number < $1 ORDER BY number DESC LIMIT $2");
pub(super) const PAGE_DEAD: &str = rows_where!("state = 'dead' AND number < $1 ORDER BY number DESC LIMIT $2");
pub(super) const BY_ID: &str = rows_where!("id = $1 ORDER BY number DESC LIMIT 1");
/// With a line in the audit log.
pub(super) const RETRY: &str = concat!(
    "WITH retried AS (UPDATE notifications SET state = 'pending', dead_at = NULL, attempt_count = 0, due_at = ",
    now_ms!(),
    " WHERE id = $1 AND state = 'dead' RETURNING project, deployment) \
     INSERT INTO audit (at, project, action, deployment, detail, caller, address, request) \
     SELECT $2, r.project, $3, r.deployment, $4, $5, $6, $7 FROM retried AS r"
);
