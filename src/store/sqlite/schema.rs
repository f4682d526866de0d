//! Brings a file to the schema that this version knows, and refuses a file with an unknown schema.
//!
//! Each migration is a numbered file that never changes once it was released; its checksum is kept in the database.
//! All that are missing are applied in one transaction.

use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};
use sha2::{Digest, Sha256};

use crate::store::StoreError;

/// "Strk": tells our files from other programs' databases (`PRAGMA application_id`).
const APPLICATION_ID: i64 = 0x5374_726b;

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_projects_deployments_events.sql"),
    include_str!("migrations/0002_agents_leases.sql"),
    include_str!("migrations/0003_the_line_by_rank_and_order.sql"),
    include_str!("migrations/0004_lineage.sql"),
    include_str!("migrations/0005_numbers_of_deployments.sql"),
    include_str!("migrations/0006_rollbacks.sql"),
    include_str!("migrations/0007_who_did_it.sql"),
    include_str!("migrations/0008_last_success.sql"),
    include_str!("migrations/0009_who_willed_it.sql"),
    include_str!("migrations/0010_audit_read.sql"),
    include_str!("migrations/0011_tokens.sql"),
    include_str!("migrations/0012_pause.sql"),
    include_str!("migrations/0013_retention.sql"),
    include_str!("migrations/0014_sealed_inputs.sql"),
    include_str!("migrations/0015_set_mark.sql"),
    include_str!("migrations/0016_forget.sql"),
    include_str!("migrations/0017_notifications.sql"),
    include_str!("migrations/0018_sessions.sql"),
];

const CHECKSUMS: &str =
    "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, checksum BLOB NOT NULL) STRICT";

/// Applies the missing migrations.
///
/// # Errors
/// [`StoreError::Unusable`] for a file of another program, of a newer version, or that was tampered with; then nothing
/// in it was changed.
pub(super) fn migrate(db: &mut Connection, path: &str) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| unreadable(&error, path);
    // The write lock is held from the first read on.
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let application_id: i64 = pragma(&transaction, "application_id").map_err(failed)?;
    let version: i64 = pragma(&transaction, "user_version").map_err(failed)?;
    if application_id != APPLICATION_ID {
        let tables: i64 =
            transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
        if application_id != 0 || version != 0 || tables != 0 {
            return Err(foreign(path));
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        transaction.execute_batch(CHECKSUMS).map_err(failed)?;
    }
    let applied = known_version(version, path)?;
    let newest = MIGRATIONS.len();
    for (version, sql) in (1..).zip(MIGRATIONS) {
        let checksum: [u8; 32] = Sha256::digest(sql).into();
        if version <= applied {
            require_checksum(&transaction, version, checksum, path)?;
        } else {
            transaction.execute_batch(sql).map_err(failed)?;
            transaction
                .execute("INSERT INTO migrations (version, checksum) VALUES (?1, ?2)", params![version, checksum])
                .map_err(failed)?;
        }
    }
    if applied < newest {
        transaction.pragma_update(None, "user_version", newest).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// Whether the file is a store of ours, of this version or an older one. Nothing in it is changed.
///
/// # Errors
/// [`StoreError::Unusable`] where it is not.
pub(super) fn require_known(db: &Connection, path: &str) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| unreadable(&error, path);
    if pragma(db, "application_id").map_err(failed)? != APPLICATION_ID {
        return Err(foreign(path));
    }
    known_version(pragma(db, "user_version").map_err(failed)?, path).map(|_| ())
}

/// Whether the file is a store of this very version.
///
/// # Errors
/// [`StoreError::Unusable`] where it is not.
pub(super) fn require_newest(db: &Connection, path: &str) -> Result<(), StoreError> {
    require_known(db, path)?;
    let version: i64 = pragma(db, "user_version").map_err(|error| unreadable(&error, path))?;
    if known_version(version, path)? == MIGRATIONS.len() {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "{path} was written by an older singletrack; start this version on it once, and stop it again"
    )))
}

/// How many migrations were applied.
fn known_version(version: i64, path: &str) -> Result<usize, StoreError> {
    let newest = MIGRATIONS.len();
    let applied = usize::try_from(version).unwrap_or(usize::MAX);
    if applied > newest {
        return Err(StoreError::Unusable(format!(
            "{path} was written by a newer singletrack (its schema is version {version}, this one knows up to \
             {newest}); start that version, or restore a backup from before it"
        )));
    }
    Ok(applied)
}

fn foreign(path: &str) -> StoreError {
    StoreError::Unusable(format!(
        "{path} is a database of another program; give singletrack a file of its own with --store"
    ))
}

fn require_checksum(db: &Connection, version: usize, checksum: [u8; 32], path: &str) -> Result<(), StoreError> {
    let known: Result<[u8; 32], _> =
        db.query_row("SELECT checksum FROM migrations WHERE version = ?1", [version], |row| row.get(0));
    match known {
        Ok(known) if known == checksum => Ok(()),
        Ok(_) | Err(rusqlite::Error::QueryReturnedNoRows) => Err(StoreError::Unusable(format!(
            "step {version} of the schema of {path} is not the one of this version of singletrack; start the version \
             that made it, or restore a backup"
        ))),
        Err(error) => Err(unreadable(&error, path)),
    }
}

fn pragma(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, name, |row| row.get(0))
}

/// The user's message when the file cannot be used as a database at all.
pub(super) fn unreadable(error: &rusqlite::Error, path: &str) -> StoreError {
    let told = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            format!("{path} is not a SQLite database, and was left as it is; give another file with --store")
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            format!("{path} is damaged ({error}), and was left as it is; restore it from a backup")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => format!(
            "cannot write to {path} ({error}); make the file and its directory writable for the user that runs \
             singletrack"
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("{path} is in use by another program; close it, or give another file with --store")
        }
        Some(ErrorCode::DiskFull) => format!("the disk that holds {path} is full; make room and start again"),
        _ => format!("cannot use {path}: {error}"),
    };
    StoreError::Unusable(told)
}
