//! Finding the file, making it, and connecting to it.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, wal::CheckpointMode};

use super::{fault::reach, schema};
use crate::{model::Pepper, store::StoreError};

/// How long to wait for another program that has the file locked, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Room for the write-ahead log that is taken before anybody waits for it, because a growing log makes every fsync
/// dearer: the file system must record the growth too. It holds the commits between two checkpoints.
pub(super) const WAL_BYTES: u64 = 8 << 20;

/// The absolute path of the store's file, which need not exist yet, in a directory that must.
pub(super) fn locate(path: &Path) -> Result<PathBuf, StoreError> {
    let shown = path.display();
    let Some(name) = path.file_name() else {
        return Err(StoreError::Unusable(format!("{shown} names no file; give one with --store sqlite:PATH")));
    };
    if path.is_dir() {
        return Err(StoreError::Unusable(format!(
            "{shown} is a directory; give a file in it, such as {}",
            path.join("singletrack.db").display()
        )));
    }
    // A link is followed to its file, so that two names of the file share one lock.
    if let Ok(file) = path.canonicalize() {
        return Ok(file);
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let directory = directory.canonicalize().map_err(|error| {
        StoreError::Unusable(match error.kind() {
            ErrorKind::NotFound => format!(
                "the directory {} does not exist; make it, or give another place with --store",
                directory.display()
            ),
            _ => format!("cannot use the directory {}: {error}", directory.display()),
        })
    })?;
    Ok(directory.join(name))
}

/// `path` with `suffix` behind its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The one connection that writes, to a file that is there and is brought to the newest schema.
pub(super) fn writer_connection(path: &Path) -> Result<Connection, StoreError> {
    let shown = path.display().to_string();
    let failed = |error: rusqlite::Error| schema::unreadable(&error, &shown);
    let mut db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    // A new file can give its free pages back. (In a file that has tables, this changes nothing: `store compact` does.)
    db.pragma_update(None, "auto_vacuum", "incremental").map_err(failed)?;
    schema::migrate(&mut db, &shown)?;
    // What is deleted is overwritten with zeros, so that a secret that was redacted, or output that was compressed before
    // that, is not left in a free page.
    db.pragma_update(None, "secure_delete", true).map_err(failed)?;
    // Six MiB hold the upper levels of every index of 10^6 deployments, and leave the idle server small.
    db.pragma_update(None, "cache_size", -6_000).map_err(failed)?;
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(StoreError::Unusable(format!(
            "the file system that holds {shown} cannot share memory between threads, which SQLite's write-ahead log \
             needs; give a place on a local disk with --store"
        )));
    }
    // Every commit is on the disk before its answer.
    db.pragma_update(None, "synchronous", "full").map_err(failed)?;
    db.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    // The writer decides when to move the log into the file.
    db.pragma_update(None, "wal_autocheckpoint", 0).map_err(failed)?;
    // A log that readers made grow shrinks again.
    db.pragma_update(None, "journal_size_limit", 8 * WAL_BYTES).map_err(failed)?;
    empty_log(&db);
    if let Err(error) = preallocate_wal(path) {
        tracing::warn!(%error, "no room to take for the write-ahead log: commits will be slower");
    }
    Ok(db)
}

/// Moves the whole log into the file, if that can be done at once. A program that still reads from the log, such as a
/// backup, prevents that, and so does a full disk. Neither is a reason not to start, or to end in disorder: the commits
/// are as safe in the log.
pub(super) fn empty_log(db: &Connection) {
    let moved = db.busy_timeout(Duration::ZERO).and_then(|()| {
        let emptied = db.wal_checkpoint_v2(None::<&str>, CheckpointMode::TRUNCATE);
        match emptied {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                tracing::info!("another program reads the store's file: its log is emptied later");
                Ok(())
            }
            other => other.map(|_| ()),
        }
    });
    if let Err(error) = moved {
        reach(db, &error);
        tracing::warn!(%error, "the store cannot move its log into the file now; it does so later");
    }
    if let Err(error) = db.busy_timeout(BUSY_TIMEOUT) {
        tracing::warn!(%error, "the store cannot set how long it waits for other programs");
    }
}

/// Moves the log into the file. Answers whether nothing of it is left to move.
pub(super) fn is_all_moved(db: &Connection) -> rusqlite::Result<bool> {
    db.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE).map(|(pages, moved)| pages == moved)
}

/// The secret that the servers of this file share; made with the file.
pub(super) fn pepper(db: &Connection, path: &Path) -> Result<Pepper, StoreError> {
    let failed = |error: rusqlite::Error| schema::unreadable(&error, &path.display().to_string());
    let fresh = Pepper::generate()
        .map_err(|error| StoreError::Unavailable(format!("the system gives no random bytes: {error}")))?;
    db.execute("INSERT INTO secrets (name, value) VALUES ('lease', ?1) ON CONFLICT DO NOTHING", [fresh.as_bytes()])
        .map_err(failed)?;
    let kept = db.query_row("SELECT value FROM secrets WHERE name = 'lease'", [], |row| row.get(0)).map_err(failed)?;
    Ok(Pepper::from_bytes(kept))
}

/// A connection that only reads.
pub(super) fn reader_connection(path: &Path) -> Result<Connection, StoreError> {
    let failed = |error: rusqlite::Error| schema::unreadable(&error, &path.display().to_string());
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    // Reads of history should not fill the memory; the operating system caches the file anyway. (No `mmap_size`: a
    // read error would be a SIGBUS instead of an answer.)
    db.pragma_update(None, "cache_size", -1_000).map_err(failed)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(db)
}

/// The connection that moves the log into the file. It syncs as SQLite does by default (`synchronous=FULL`), and gets
/// no setting for that, because a setting would make it read the schema, which takes more memory than all else of it.
pub(super) fn mover_connection(path: &Path) -> Result<Connection, StoreError> {
    let failed = |error: rusqlite::Error| schema::unreadable(&error, &path.display().to_string());
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(failed)?;
    // A connection finds the log when it first reads.
    db.query_row("PRAGMA schema_version", [], |_| Ok(())).map_err(failed)?;
    Ok(db)
}

/// Makes a connection with the settings that all connections have.
pub(super) fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    // Each connection stays on its thread, so SQLite needs no mutex of its own.
    let db = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    // One plan for each statement, whatever its parameters are; otherwise a changed `LIMIT` makes SQLite prepare the
    // statement again.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(db)
}

/// Makes an empty file that only its owner may read, because it holds the records of all deployments. SQLite gives the
/// files beside it the same mode.
pub(super) fn make(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::Unusable(format!(
            "cannot make {}: {error}; make its directory writable for the user that runs singletrack, or give \
             another place with --store",
            path.display()
        ))),
    }
}

/// Fills the log with zeros, which SQLite takes for the end of it.
pub(super) fn preallocate_wal(path: &Path) -> io::Result<()> {
    let mut wal = OpenOptions::new().append(true).open(beside(path, "-wal"))?;
    // It may not be empty.
    let length = wal.metadata()?.len();
    let zeros = [0; 64 << 10];
    while wal.metadata()?.len() < WAL_BYTES {
        if let Err(error) = wal.write_all(&zeros) {
            wal.set_len(length)?;
            return Err(error);
        }
    }
    wal.sync_all()
}
