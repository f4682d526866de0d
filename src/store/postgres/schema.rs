//! Brings a database to the schema that this version knows, and refuses a schema that it does not know.
//!
//! Each migration is a numbered file that never changes once it was released; its checksum is kept in the database. All
//! missing migrations are applied in one transaction. Several replicas may try at once; an advisory lock lets one of
//! them through. The migrating server also keeps all others from locking projects meanwhile. Each of their transactions
//! reads the version once it has its lock, so no version of this program writes into a schema that it does not know.

use sha2::{Digest, Sha256};
use tokio_postgres::{Client, Transaction};

use super::fault::{DatabaseFault, told};
use crate::{model::Pepper, store::StoreError};

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_projects_deployments_events.sql"),
    include_str!("migrations/0002_agents.sql"),
    include_str!("migrations/0003_artifacts.sql"),
    include_str!("migrations/0004_one_check_of_a_deployment.sql"),
    include_str!("migrations/0005_the_line_by_rank_and_order.sql"),
    include_str!("migrations/0006_lineage.sql"),
    include_str!("migrations/0007_revision_floor.sql"),
    include_str!("migrations/0008_numbers_of_deployments.sql"),
    include_str!("migrations/0009_rollbacks.sql"),
    include_str!("migrations/0010_who_did_it.sql"),
    include_str!("migrations/0011_last_success.sql"),
    include_str!("migrations/0012_who_willed_it.sql"),
    include_str!("migrations/0013_audit_read.sql"),
    include_str!("migrations/0014_tokens.sql"),
    include_str!("migrations/0015_pause.sql"),
    include_str!("migrations/0016_retention.sql"),
    include_str!("migrations/0017_sealed_inputs.sql"),
    include_str!("migrations/0018_set_mark.sql"),
    include_str!("migrations/0019_forget.sql"),
    include_str!("migrations/0020_notifications.sql"),
    include_str!("migrations/0021_sessions.sql"),
];

/// The schema's version that this program knows.
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// How long a migration waits for transactions that use the tables.
const PATIENCE_MS: u32 = 60_000;

const CHECKSUMS: &str = "CREATE TABLE IF NOT EXISTS migrations \
    (version integer PRIMARY KEY, checksum bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

/// Applies the missing migrations, and reads the secret that the servers of this database share.
pub(super) async fn migrate(client: &mut Client, schema: &str) -> Result<Pepper, DatabaseFault> {
    match migrated(client, schema).await {
        Err(DatabaseFault::Driver(error))
            if error.as_db_error().is_some_and(|error| is_forbidden(error.code().code())) =>
        {
            let user = format!("CREATE SCHEMA {schema} AUTHORIZATION <user>");
            Err(unusable(format!(
                "the database's user may not make singletrack's tables ({}); have its owner run: {user}",
                told(&error)
            )))
        }
        done => done,
    }
}

fn is_forbidden(code: &str) -> bool {
    code == "42501"
}

async fn migrated(client: &mut Client, schema: &str) -> Result<Pepper, DatabaseFault> {
    let transaction = client.transaction().await?;
    transaction
        .batch_execute(&format!(
            "SET LOCAL lock_timeout TO {PATIENCE_MS}; SET LOCAL statement_timeout TO 0; \
             SET LOCAL client_min_messages TO warning; SET LOCAL search_path TO {schema}; \
             {}",
            lock(schema)
        ))
        .await?;
    let known = transaction
        .query_typed_one(
            "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($1 || '.migrations') IS NOT NULL, \
                to_regclass($1 || '.projects') IS NOT NULL",
            &[(&schema, tokio_postgres::types::Type::TEXT)],
        )
        .await?;
    let (has_schema, is_ours, has_projects): (bool, bool, bool) = (known.get(0), known.get(1), known.get(2));
    if has_projects && !is_ours {
        return Err(unusable(format!(
            "the schema {schema} is another program's; give singletrack one of its own with ?schema="
        )));
    }
    if !has_schema {
        transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
    }
    if !is_ours {
        transaction.batch_execute(CHECKSUMS).await?;
    }
    let applied = transaction.query_typed("SELECT version, checksum FROM migrations ORDER BY version", &[]).await?;
    let applied: Vec<(i32, Vec<u8>)> = applied.iter().map(|row| (row.get(0), row.get(1))).collect();
    let newest = applied.last().map_or(0, |(version, _)| *version);
    if newest > VERSION {
        return Err(newer(newest));
    }
    let (mut has_locked, mut has_changed) = (false, false);
    for (version, sql) in (1_i32..).zip(MIGRATIONS) {
        let checksum = Sha256::digest(sql).to_vec();
        match applied.iter().find(|(known, _)| *known == version) {
            Some((_, known)) if *known == checksum => {}
            Some(_) => {
                return Err(unusable(format!(
                    "step {version} of the database's schema is not the one of this version of singletrack; start the \
                     version that made it, or restore a backup"
                )));
            }
            None => {
                if has_projects && !has_locked {
                    transaction.batch_execute("LOCK TABLE projects IN EXCLUSIVE MODE").await?;
                    has_locked = true;
                }
                transaction.batch_execute(sql).await?;
                transaction
                    .query_typed(
                        "INSERT INTO migrations (version, checksum) VALUES ($1, $2)",
                        &[
                            (&version, tokio_postgres::types::Type::INT4),
                            (&checksum, tokio_postgres::types::Type::BYTEA),
                        ],
                    )
                    .await?;
                has_changed = true;
            }
        }
    }
    let fresh = Pepper::generate().map_err(|error| {
        DatabaseFault::Refused(StoreError::Unavailable(format!("the system gives no random bytes: {error}")))
    })?;
    transaction
        .query_typed(
            "INSERT INTO secrets (name, value) VALUES ('lease', $1) ON CONFLICT DO NOTHING",
            &[(&fresh.as_bytes().as_slice(), tokio_postgres::types::Type::BYTEA)],
        )
        .await?;
    let kept = transaction.query_typed_one("SELECT value FROM secrets WHERE name = 'lease'", &[]).await?;
    let kept: Vec<u8> = kept.get(0);
    catch_up_sequences(&transaction).await?;
    transaction.commit().await?;
    if has_changed {
        tracing::info!(schema, from = newest, to = VERSION, "the database's schema was brought up to date");
    }
    pepper_of(kept)
}

fn pepper_of(kept: Vec<u8>) -> Result<Pepper, DatabaseFault> {
    let kept: [u8; 32] =
        kept.try_into().map_err(|_| DatabaseFault::Row("the shared secret has another length".to_owned()))?;
    Ok(Pepper::from_bytes(kept))
}

/// Requires that the schema is the one of this version, and changes nothing. Answers the servers' shared secret.
pub(super) async fn require_present(client: &Client, schema: &str) -> Result<Pepper, DatabaseFault> {
    let text = tokio_postgres::types::Type::TEXT;
    let is_ours = "SELECT to_regclass($1 || '.migrations') IS NOT NULL AND to_regclass($1 || '.secrets') IS NOT NULL";
    if !client.query_typed_one(is_ours, &[(&schema, text)]).await?.get::<_, bool>(0) {
        return Err(unusable(format!(
            "the schema {schema} of the database holds no store; give the --store with which its servers are started"
        )));
    }
    let version = format!("SELECT max(version) FROM {schema}.migrations");
    require_version(client.query_typed_one(&version, &[]).await?.get(0))?;
    let kept = format!("SELECT value FROM {schema}.secrets WHERE name = 'lease'");
    pepper_of(client.query_typed_one(&kept, &[]).await?.get(0))
}

/// Moves the sequences past the existing numbers. A logical replica has the rows but not the sequences' positions, so
/// the next number would be given twice.
pub(super) async fn catch_up_sequences(transaction: &Transaction<'_>) -> Result<(), DatabaseFault> {
    for table in ["projects", "deployments", "audit", "artifacts", "tokens", "notifications"] {
        // If rights for work are missing, readiness reports it; it is no reason to refuse here.
        let rights = format!(
            "SELECT has_sequence_privilege('{table}_number_seq', 'SELECT') \
                AND has_sequence_privilege('{table}_number_seq', 'UPDATE')"
        );
        let is_allowed: bool = transaction.query_typed_one(&rights, &[]).await?.get(0);
        if !is_allowed {
            continue;
        }
        // The last number is the last entry of the index.
        let catch_up = format!(
            "SELECT setval('{table}_number_seq', newest.number) FROM (SELECT max(number) AS number FROM {table}) AS newest \
             WHERE newest.number >= (SELECT last_value + is_called::int FROM {table}_number_seq)"
        );
        if !transaction.query_typed(&catch_up, &[]).await?.is_empty() {
            tracing::warn!(table, "the numbers of this table were behind its rows, as after a logical replication");
        }
    }
    Ok(())
}

/// Waits for every other server that makes or fills tables, until the transaction ends.
pub(super) fn lock(schema: &str) -> String {
    format!("SELECT pg_advisory_xact_lock(hashtextextended('singletrack.{schema}', 0))")
}

/// Refuses a schema that this version does not know.
pub(super) fn require_version(version: Option<i32>) -> Result<(), DatabaseFault> {
    match version {
        Some(VERSION) => Ok(()),
        Some(other) if other > VERSION => Err(newer(other)),
        other => Err(unusable(format!(
            "the database's schema is version {}, this singletrack knows {VERSION}; restart it",
            other.unwrap_or(0)
        ))),
    }
}

fn newer(version: i32) -> DatabaseFault {
    unusable(format!(
        "the database was brought to version {version} of the schema by a newer singletrack, this one knows up to \
         {VERSION}; start that version, or restore a backup from before it"
    ))
}

fn unusable(why: String) -> DatabaseFault {
    DatabaseFault::Refused(StoreError::Unusable(why))
}
