//! `store compact`: the file is written anew without its free pages, so that it can give pages back from then on.
//!
//! A new file is written beside the old one, checked, and then takes its name in one step. A crash leaves the old file or
//! the new one, each of them whole. While that happens, nobody else has the file open: a server is kept out by the lock,
//! and other programs by SQLite's own. See decision 0083.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rustix::fs::statvfs;

use super::{
    backup::{Progress, check, existing},
    lineage,
    lock::Lock,
    open::{beside, connect},
    place::{OwnFile, require_fit_file_system},
    schema,
};
use crate::store::StoreError;

/// The name of the new file while it is written, after the store's own.
const SUFFIX: &str = ".compact";
/// How often the progress is told.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);
/// Room beyond the pages in use: for the pages that say where other pages are, one in 800, and for the file system itself.
const SPARE_BYTES: u64 = 2 << 20;

/// How large the file was, and is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
    /// Whether it gave no room back by itself before.
    pub was_rigid: bool,
}

/// Writes the store's file anew. No server may have it.
///
/// # Errors
/// [`StoreError`] with what to do about it; then the store is as it was.
pub fn compact(path: &Path, progress: Progress<'_>) -> Result<Compacted, StoreError> {
    let path = existing(path)?;
    require_fit_file_system(path.parent().unwrap_or(Path::new("/")))?;
    let _lock = Lock::take_or(&path, "stop it, compact the file, and start it again; clients wait for it meanwhile")?;
    // Dropped after the connection, see there.
    let _file = OwnFile::take(&path)?;
    lineage::require_own_log(&path)?;
    forget_interrupted(&path);
    // Without any room, the file cannot even be opened.
    require_room(&path, 0)?;
    let (shown, fresh) = (path.display().to_string(), beside(&path, SUFFIX));
    let failed = |error: rusqlite::Error| schema::unreadable(&error, &shown);
    let db = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    schema::require_known(&db, &shown)?;
    take_alone(&db, &shown)?;
    let before = size(&path)?;
    let was_rigid = pragma(&db, "auto_vacuum").map_err(failed)? != 2;
    let in_use = bytes_in_use(&db).map_err(failed)?;
    require_room(&path, in_use)?;
    let written = write(&db, &path, &fresh, in_use, progress);
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written?;
    Ok(Compacted { before, after: size(&path)?, was_rigid })
}

/// Removes what a compaction left that was killed.
pub(super) fn forget_interrupted(path: &Path) {
    let fresh = beside(path, SUFFIX);
    if let Err(error) = fs::remove_file(&fresh)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %fresh.display(), "what an interrupted compaction left cannot be removed");
    }
}

/// Moves the log into the file, and lets nobody else read or write it until the connection is closed.
fn take_alone(db: &Connection, shown: &str) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| schema::unreadable(&error, shown);
    let others = || {
        StoreError::Unusable(format!(
            "another program has {shown} open, such as a backup or a database browser; wait for its end or close it, and \
             compact once more"
        ))
    };
    let is_busy = |error: &rusqlite::Error| {
        matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    };
    let mode = db.pragma_update_and_check(None, "journal_mode", "delete", |row| row.get::<_, String>(0));
    match mode {
        Ok(mode) if mode == "delete" => {}
        Ok(_) => return Err(others()),
        Err(error) if is_busy(&error) => return Err(others()),
        Err(error) => return Err(failed(error)),
    }
    db.pragma_update_and_check(None, "locking_mode", "exclusive", |_| Ok(())).map_err(failed)?;
    let locked = rusqlite::Transaction::new_unchecked(db, TransactionBehavior::Exclusive).and_then(|it| it.commit());
    locked.map_err(|error| if is_busy(&error) { others() } else { failed(error) })
}

/// How many bytes are in use, all others being free.
fn bytes_in_use(db: &Connection) -> rusqlite::Result<u64> {
    let (all, free) = (pragma(db, "page_count")?, pragma(db, "freelist_count")?);
    Ok(all.saturating_sub(free).saturating_mul(pragma(db, "page_size")?))
}

/// Requires room on the disk for a file with so many bytes in use.
fn require_room(path: &Path, in_use: u64) -> Result<(), StoreError> {
    let needed = in_use + in_use / 256 + SPARE_BYTES;
    let directory = path.parent().unwrap_or(Path::new("/"));
    // Where the file system does not say, the write itself finds out.
    let room = statvfs(directory).map(|found| found.f_bavail.saturating_mul(found.f_frsize)).unwrap_or(u64::MAX);
    if room >= needed {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "{} is written anew beside itself, which needs {} MiB of free disk, and there are {} MiB; nothing was changed",
        path.display(),
        needed.div_ceil(1 << 20),
        room >> 20
    )))
}

fn write(db: &Connection, path: &Path, fresh: &Path, in_use: u64, progress: Progress<'_>) -> Result<(), StoreError> {
    let cannot = |error: io::Error| StoreError::Unavailable(format!("cannot write {}: {error}", fresh.display()));
    let failed = |error: rusqlite::Error| schema::unreadable(&error, &fresh.display().to_string());
    let name = fresh.to_str().ok_or_else(|| cannot(io::ErrorKind::InvalidFilename.into()))?;
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(fresh).map_err(cannot)?;
    db.pragma_update(None, "auto_vacuum", "incremental").map_err(failed)?;
    told_meanwhile(fresh, in_use, progress, || db.execute("VACUUM INTO ?1", [name]).map_err(failed))?;
    check(fresh)?;
    require_same_rows(db, fresh)?;
    // Whoever ran the server must be able to go on with it.
    let own = fs::metadata(path).map_err(cannot)?;
    fs::set_permissions(fresh, fs::Permissions::from_mode(own.mode() & 0o7777)).map_err(cannot)?;
    let made = fs::metadata(fresh).map_err(cannot)?;
    if (made.uid(), made.gid()) != (own.uid(), own.gid()) {
        chown(fresh, Some(own.uid()), Some(own.gid())).map_err(cannot)?;
    }
    File::open(fresh).and_then(|file| file.sync_all()).map_err(cannot)?;
    fs::rename(fresh, path).map_err(cannot)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(cannot)
}

/// Every table must have as many rows as before.
fn require_same_rows(db: &Connection, fresh: &Path) -> Result<(), StoreError> {
    let shown = fresh.display().to_string();
    let failed = |error: rusqlite::Error| schema::unreadable(&error, &shown);
    let copy = connect(fresh, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    let count = |db: &Connection| -> rusqlite::Result<Vec<(String, u64)>> {
        let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
        let names: Vec<String> = db.prepare(tables)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let rows = |name: String| {
            let count = format!("SELECT count(*) FROM \"{name}\"");
            Ok((name, db.query_row(&count, [], |row| row.get(0))?))
        };
        names.into_iter().map(rows).collect()
    };
    if count(db).map_err(failed)? == count(&copy).map_err(failed)? {
        return Ok(());
    }
    Err(StoreError::Unusable(format!("{shown} came out with other rows than the store; the store was left as it is")))
}

/// Does `work`, and tells meanwhile how large the file has become.
fn told_meanwhile<T: Send>(
    fresh: &Path,
    total: u64,
    progress: Progress<'_>,
    work: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    thread::scope(|scope| {
        let (done, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(PROGRESS_PAUSE) == Err(RecvTimeoutError::Timeout) {
                progress(size(fresh).unwrap_or(0).min(total), total);
            }
        });
        let worked = work();
        drop(done);
        worked
    })
}

fn size(path: &Path) -> Result<u64, StoreError> {
    let found = fs::metadata(path);
    found.map(|found| found.len()).map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))
}

fn pragma(db: &Connection, name: &str) -> rusqlite::Result<u64> {
    db.pragma_query_value(None, name, |row| row.get(0))
}
