//! Finds the branch of the database's history that a session leads to, and the newer one of two branches.
//! See decision 0043.
//!
//! ```text
//! primary a ──11──12──13┬─(lost)
//!                       └▶ b is promoted: timeline 2 ▶ the revisions leap, the branch gets a name ──10000013──…
//! a starts again, as a primary of timeline 1: an older branch, which is refused
//! ```
//!
//! A promotion, a restore and a copy each begin a branch on which the last commits may be missing. The first server that
//! notices the new branch makes the revisions leap, under a lock and before anything is granted, so that no fencing token
//! is given twice. Each server remembers (in memory) the newest branch that it has seen, and works on no other.

use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

use super::{
    branch::{Branch, Kinship, Row},
    facts::{Facts, first_row},
    fault::DatabaseFault,
    schema,
};
use crate::store::{
    StoreError,
    copy::{NUMBER_LEAP, REVISION_LEAP},
};

/// How long a new branch waits for transactions that use the tables.
const PATIENCE_MS: u32 = 10_000;
/// More promotions than this between two looks mean that the values were read wrongly.
const TIMELINE_STEP_LIMIT: i64 = 1_000;

/// The change that must be written before the tables can be used.
#[derive(Debug, PartialEq, Eq)]
enum Needed {
    /// The tables are new.
    Beginning,
    /// The database tells more about itself than before.
    Detail,
    /// The row was written by another database, so earlier commits may be missing here.
    Leap { times: i64, why: String },
}

/// Compares the tables' row with the facts that the database tells about itself.
fn needed(facts: &Facts) -> Option<Needed> {
    let Some(Row { branch, tables }) = &facts.lineage else { return Some(Needed::Beginning) };
    if facts.tables.as_ref() != Some(tables) {
        return Some(Needed::Leap { times: 1, why: "the tables were copied or restored".to_owned() });
    }
    if let (Some(before), Some(now)) = (&branch.system, &facts.system)
        && before != now
    {
        return Some(Needed::Leap { times: 1, why: "the database is another cluster than before".to_owned() });
    }
    match (branch.timeline, facts.timeline) {
        (Some(before), Some(now)) if before < now => {
            // One leap for each promotion, because a promoted primary whose leap is missing here may have granted
            // tokens, too.
            let times = (now - before).clamp(1, TIMELINE_STEP_LIMIT);
            let why = format!("a standby of the database was promoted (timeline {before} to {now})");
            Some(Needed::Leap { times, why })
        }
        (None, Some(_)) => Some(Needed::Detail),
        // The tables may know of a later promotion than the database tells here, because it does not tell every role.
        // The leap of that promotion has been made.
        (Some(_) | None, Some(_) | None) => {
            (branch.system.is_none() && facts.system.is_some()).then_some(Needed::Detail)
        }
    }
}

/// Returns the branch of the connection. If the branch is new, its beginning is written first, once, by whichever
/// server comes first. The connection must not be in a transaction.
pub(super) async fn settle(client: &mut Client, schema: &str, facts: &mut Facts) -> Result<Branch, DatabaseFault> {
    if let (None, Some(row)) = (needed(facts), &facts.lineage) {
        return Ok(row.branch.clone());
    }
    let transaction = client.transaction().await?;
    let settings = format!(
        "SET LOCAL search_path TO {schema}; SET LOCAL lock_timeout TO {PATIENCE_MS}; SET LOCAL statement_timeout TO 0; \
         {}; LOCK TABLE projects IN EXCLUSIVE MODE",
        schema::lock(schema)
    );
    transaction.batch_execute(&settings).await?;
    // Another server may have done it meanwhile.
    let row = transaction.simple_query("SELECT store, branch, era, system, timeline, tables FROM lineage").await?;
    facts.lineage = first_row(&row).map(|cells| Row::parse(&cells)).transpose()?;
    let name = Uuid::now_v7();
    let step = needed(facts);
    let branch = match (&step, &facts.lineage) {
        (None, Some(row)) => return Ok(row.branch.clone()),
        (Some(Needed::Detail), Some(Row { branch, .. })) => Branch {
            system: facts.system.clone().or(branch.system.clone()),
            timeline: facts.timeline.or(branch.timeline),
            ..branch.clone()
        },
        (Some(Needed::Leap { times, why }), Some(Row { branch, .. })) => {
            let leap = REVISION_LEAP.saturating_mul(*times);
            let detail = format!(
                "{why}: what was committed last before may be missing, so the project's revision was raised by {leap}"
            );
            // A row that was only made to be locked stays as it is.
            let raise = "UPDATE projects SET revision = revision + $1 WHERE revision > 0";
            transaction.query_typed(raise, &[(&leap, Type::INT8)]).await?;
            // The tables may be of an older version. The migration finds the floor by the revisions.
            let has_floor =
                transaction.query_typed_one("SELECT to_regclass('revision_floor') IS NOT NULL", &[]).await?;
            if has_floor.get(0) {
                let raise = "UPDATE revision_floor SET revision = revision + $1";
                transaction.query_typed(raise, &[(&leap, Type::INT8)]).await?;
            }
            // In a version before it, no deployment had a number.
            let is_counted = transaction
                .query_typed_one(
                    "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('projects') \
                        AND attname = 'deployment_count' AND NOT attisdropped)",
                    &[],
                )
                .await?;
            if is_counted.get(0) {
                let raise = "UPDATE projects SET deployment_count = deployment_count + $1 WHERE revision > 0";
                transaction.query_typed(raise, &[(&NUMBER_LEAP.saturating_mul(*times), Type::INT8)]).await?;
            }
            transaction
                .query_typed(
                    "INSERT INTO audit (at, project, action, detail) \
                     SELECT (extract(epoch FROM now()) * 1000)::bigint, name, 'fail_over', $1 FROM projects WHERE name NOT LIKE '/%'",
                    &[(&detail, Type::TEXT)],
                )
                .await?;
            schema::catch_up_sequences(&transaction).await?;
            let (system, timeline) = (facts.system.clone(), facts.timeline);
            Branch { name, era: branch.era + 1, system, timeline, ..branch.clone() }
        }
        (Some(_) | None, None) | (Some(Needed::Beginning), Some(_)) => {
            Branch { store: Uuid::now_v7(), name, era: 1, system: facts.system.clone(), timeline: facts.timeline }
        }
    };
    let tables =
        facts.tables.clone().ok_or_else(|| DatabaseFault::Row("the database does not number its tables".to_owned()))?;
    transaction
        .query_typed(
            "INSERT INTO lineage (store, branch, era, system, timeline, tables) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (is_only) DO UPDATE SET branch = $2, era = $3, system = $4, timeline = $5, tables = $6, \
                since = now()",
            &[
                (&branch.store, Type::UUID),
                (&branch.name, Type::UUID),
                (&branch.era, Type::INT8),
                (&branch.system, Type::TEXT),
                (&branch.timeline, Type::INT8),
                (&tables, Type::TEXT),
            ],
        )
        .await?;
    transaction.commit().await?;
    if let Some(Needed::Leap { times, why }) = &step {
        tracing::warn!(
            branch = branch.in_words(),
            revision_leap = REVISION_LEAP.saturating_mul(*times),
            "{why}: what was committed last before may be missing, so all revisions leapt and no fencing token is given \
             twice; leases that are not known here are lost"
        );
    }
    facts.lineage = Some(Row { branch: branch.clone(), tables });
    Ok(branch)
}

/// The error that refuses an older branch.
pub(super) fn refusal(known: &Branch, other: &Branch, kinship: Kinship) -> StoreError {
    let (known, other) = (known.in_words(), other.in_words());
    StoreError::Unavailable(match kinship {
        Kinship::Stranger => format!(
            "the database holds another store than the one that this server works on ({other}, not {known}); restart the \
             server if that is meant"
        ),
        Kinship::Same | Kinship::Newer | Kinship::Older => format!(
            "the database is not the newest one: it is at {other}, and this server has worked at {known}. It looks like a \
             former primary that was started again; stop it, and make it a standby of the present one"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(number: u128, era: i64, system: &str, timeline: Option<i64>) -> Branch {
        let (store, name) = (Uuid::from_u128(1), Uuid::from_u128(number));
        Branch { store, name, era, system: Some(system.to_owned()), timeline }
    }

    #[test]
    fn of_two_branches_the_later_promotion_wins_and_where_none_is_told_the_later_leap() {
        let known = branch(1, 2, "a", Some(2));
        assert_eq!(known.kinship(&known), Kinship::Same);
        assert_eq!(known.kinship(&branch(2, 1, "a", Some(1))), Kinship::Older);
        assert_eq!(known.kinship(&branch(2, 2, "a", Some(2))), Kinship::Older, "two were promoted independently");
        assert_eq!(known.kinship(&branch(2, 3, "a", Some(2))), Kinship::Newer, "restored on the same timeline");
        assert_eq!(known.kinship(&branch(2, 2, "a", Some(3))), Kinship::Newer);
        assert_eq!(known.kinship(&branch(2, 3, "b", Some(1))), Kinship::Newer, "moved to another cluster");
        assert_eq!(known.kinship(&branch(2, 1, "a", None)), Kinship::Older);
        let stranger = Branch { store: Uuid::from_u128(9), ..branch(2, 9, "a", Some(9)) };
        assert_eq!(known.kinship(&stranger), Kinship::Stranger);
    }
}
