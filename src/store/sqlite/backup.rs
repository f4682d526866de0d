//! A copy of a store's file, and a store that is made of a copy again.
//!
//! A backup is taken while the server goes on: one read transaction holds the moment that is copied, and readers never
//! block the writer. The written file appears whole under its name, or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::{
    lineage,
    lock::Lock,
    open::{beside, connect, locate, reader_connection},
    place::{require_fit_file_system, require_one_name},
    schema,
};
use crate::store::StoreError;

/// How many pages are copied between two reports of progress: 4 MiB, a few milliseconds.
const STEP_PAGES: i32 = 1024;

/// Is told the progress in bytes: how much of the total is done.
pub use crate::store::copy::Progress;

/// Copies the store at `from`, which may be in use, to the new file `to`. Answers its size in bytes.
///
/// # Errors
/// [`StoreError`] with what to do about it; then there is no file `to`.
pub fn backup(from: &Path, to: &Path, progress: Progress<'_>) -> Result<u64, StoreError> {
    let from = existing(from)?;
    // Under another name of the file, SQLite would not find its log, and so not its newest commits.
    require_one_name(&from)?;
    let to = absent(to)?;
    let source = reader_connection(&from)?;
    let copied = in_place(&to, |partial| {
        let shown = from.display().to_string();
        let failed = |error: rusqlite::Error| schema::unreadable(&error, &shown);
        // The moment that is copied: as long as this transaction is open, nothing in its sight changes.
        let moment = source.unchecked_transaction().map_err(failed)?;
        schema::require_known(&moment, &shown)?;
        copy(&moment, partial, progress).map_err(|error| cannot_write(&to, &error))?;
        connect(partial, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .and_then(|db| {
                forget_sealed(&db)?;
                lineage::mark_backup(&db)
            })
            .map_err(|error| cannot_write(&to, &error))?;
        check(partial)
    });
    copied.and_then(|()| size(&to))
}

/// Makes the store at `to` from the backup `from`, with revisions above all that were ever handed out.
///
/// # Errors
/// [`StoreError`] with what to do about it; then there is no file `to`.
pub fn restore(from: &Path, to: &Path, progress: Progress<'_>) -> Result<u64, StoreError> {
    let from = existing(from)?;
    let to = locate(to)?;
    require_fit_file_system(to.parent().unwrap_or(Path::new("/")))?;
    // The lock comes before the check whether `to` exists, because a server may be making it.
    let _lock = Lock::take(&to)?;
    let to = absent(&to)?;
    check(&from)?;
    let source = reader_connection(&from)?;
    let mut standing = None;
    let restored = in_place(&to, |partial| {
        copy(&source, partial, progress).map_err(|error| cannot_write(&to, &error))?;
        let mut db = connect(partial, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|error| cannot_write(&to, &error))?;
        schema::migrate(&mut db, &to.display().to_string())?;
        standing = Some(lineage::restore(&mut db, &to).map_err(|error| cannot_write(&to, &error))?);
        db.close().map_err(|(_, error)| cannot_write(&to, &error))
    });
    restored?;
    if let Some(standing) = standing {
        lineage::write_beside(&to, standing);
    }
    size(&to)
}

pub(super) fn existing(path: &Path) -> Result<PathBuf, StoreError> {
    let path = locate(path)?;
    if path.exists() { Ok(path) } else { Err(StoreError::Unusable(format!("there is no file {}", path.display()))) }
}

fn absent(path: &Path) -> Result<PathBuf, StoreError> {
    let path = locate(path)?;
    // Files that a server left beside a store that is gone would be taken for a part of the new one.
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = beside(&path, suffix);
        if path.exists() {
            let shown = path.display();
            return Err(StoreError::Unusable(format!("{shown} exists; move it away, or give another place with --to")));
        }
    }
    Ok(path)
}

/// Lets `write` make a file beside `to`, and gives it that name once it is whole and on the disk.
fn in_place(to: &Path, write: impl FnOnce(&Path) -> Result<(), StoreError>) -> Result<(), StoreError> {
    let partial = beside(to, ".part");
    let failed = |error: io::Error| StoreError::Unavailable(format!("cannot write {}: {error}", partial.display()));
    let whole = || {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial).map_err(failed)?;
        write(&partial)?;
        File::open(&partial).and_then(|file| file.sync_all()).map_err(failed)?;
        publish(&partial, to).map_err(failed)
    };
    let written = whole();
    if let Err(error) = fs::remove_file(&partial)
        && error.kind() != io::ErrorKind::NotFound
        && written.is_ok()
    {
        return Err(failed(error));
    }
    written?;
    let directory = to.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// Gives the file at `partial` the name `to`, unless a file has appeared there meanwhile.
fn publish(partial: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, partial, CWD, to, RenameFlags::NOREPLACE) {
        // This file system has no such rename; it may have links.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        done => return Ok(done?),
    }
    match fs::hard_link(partial, to) {
        Ok(()) => fs::remove_file(partial),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // It has neither, as on FAT or a network share. The place was free a moment ago, and is checked once more.
        Err(_) if to.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(partial, to),
    }
}

fn copy(source: &Connection, to: &Path, progress: Progress<'_>) -> rusqlite::Result<()> {
    let page_bytes: u64 = source.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let mut target = connect(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // The file is synchronised once, when it is whole.
    target.pragma_update(None, "synchronous", "off")?;
    let copying = Backup::new(source, &mut target)?;
    loop {
        let step = copying.step(STEP_PAGES)?;
        let seen = copying.progress();
        let pages = |count: i32| u64::from(count.unsigned_abs()) * page_bytes;
        progress(pages(seen.pagecount - seen.remaining), pages(seen.pagecount));
        match step {
            StepResult::Done => break,
            // The source stands still, and no other connection knows the target.
            StepResult::More | StepResult::Busy | StepResult::Locked => {}
            _ => return Err(rusqlite::Error::InvalidQuery),
        }
    }
    drop(copying);
    // One file that needs nothing beside it; when it is opened as a store, a write-ahead log is made again.
    target.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
    target.close().map_err(|(_, error)| error)
}

/// Takes the sealed values of secret inputs out of a backup, which holds the secret that they are sealed with.
fn forget_sealed(db: &Connection) -> rusqlite::Result<()> {
    // An older store has none.
    let column = "SELECT count(*) FROM pragma_table_info('deployments') WHERE name = 'sealed_inputs'";
    if db.query_row(column, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(());
    }
    db.pragma_update_and_check(None, "secure_delete", "on", |_| Ok(()))?;
    db.execute("UPDATE deployments SET sealed_inputs = NULL WHERE sealed_inputs IS NOT NULL", [])?;
    Ok(())
}

/// Whether the file is a whole store of a known version.
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    let shown = path.display().to_string();
    let failed = |error: rusqlite::Error| schema::unreadable(&error, &shown);
    let db = reader_connection(path)?;
    schema::require_known(&db, &shown)?;
    let verdict: String = db.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(failed)?;
    if verdict == "ok" {
        return Ok(());
    }
    let verdict: Vec<_> = verdict.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(StoreError::Unusable(format!("{shown} is damaged: {}", verdict.join("; "))))
}

fn size(path: &Path) -> Result<u64, StoreError> {
    let found = fs::metadata(path);
    found.map(|found| found.len()).map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))
}

fn cannot_write(path: &Path, error: &rusqlite::Error) -> StoreError {
    schema::unreadable(error, &path.display().to_string())
}
