//! The meaning of SQLite's errors for us.

use std::{io, path::Path};

use rusqlite::{Connection, Error, ErrorCode, ffi};

use super::emergency;
use crate::{health::end_process, store::StoreError};

/// How far a failure reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// This request only: its changes cannot be recorded, or the data that it asked for cannot be read.
    Request,
    /// The disk is full: everything since the last commit is taken back.
    Full,
    /// The file cannot be written to or read: everything since the last commit is taken back.
    File,
}

/// How far `error`, which `db` has just returned, reaches.
///
/// A failed fsync reaches furthest: the kernel may have dropped the data that it could not write, so that a second
/// fsync would succeed although the data is lost. The process ends at once, and starts again from the data on the disk.
pub(super) fn reach(db: &Connection, error: &Error) -> Reach {
    let Error::SqliteFailure(failure, _) = error else { return Reach::Request };
    match failure.code {
        ErrorCode::DiskFull => Reach::Full,
        ErrorCode::SystemIoFailure => match failure.extended_code {
            ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => abort_on_failed_sync(),
            _ if is_full(&system_error(db)) => Reach::Full,
            _ => Reach::File,
        },
        // This is an error about a file beside the store's that could not be made.
        ErrorCode::CannotOpen if is_full(&system_error(db)) => Reach::Full,
        ErrorCode::DatabaseCorrupt
        | ErrorCode::NotADatabase
        | ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied
        | ErrorCode::OutOfMemory
        | ErrorCode::DatabaseBusy
        | ErrorCode::FileLockingProtocolFailed => Reach::File,
        _ => Reach::Request,
    }
}

/// Whether there is no room: on the disk, within a quota, or below a limit of file sizes. SQLite reports the first case
/// only.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}

/// The system's error when `db` last failed.
fn system_error(db: &Connection) -> io::Error {
    #[expect(unsafe_code, reason = "rusqlite does not tell it")]
    // SAFETY: the connection is open, and belongs to this thread.
    let errno = unsafe { ffi::sqlite3_system_errno(db.handle()) };
    io::Error::from_raw_os_error(errno)
}

/// Errors of our own triggers and unique indexes. They can also come from data that has changed meanwhile.
const IS_CHANGED: [i32; 3] =
    [ffi::SQLITE_CONSTRAINT_TRIGGER, ffi::SQLITE_CONSTRAINT_UNIQUE, ffi::SQLITE_CONSTRAINT_PRIMARYKEY];

/// The caller's error for `error`, which `db` has just returned.
pub(super) fn store_error(db: &Connection, error: &Error) -> StoreError {
    match error {
        Error::SqliteFailure(..) if reach(db, error) == Reach::Full => StoreError::Full,
        Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                StoreError::Unusable(format!("the database is damaged: {error}; restore it from a backup"))
            }
            ErrorCode::TooBig | ErrorCode::TypeMismatch => StoreError::Refused(error.to_string()),
            ErrorCode::ConstraintViolation if !IS_CHANGED.contains(&failure.extended_code) => {
                StoreError::Refused(error.to_string())
            }
            _ => StoreError::Unavailable(error.to_string()),
        },
        Error::FromSqlConversionFailure(..) | Error::InvalidColumnType(..) | Error::IntegralValueOutOfRange(..) => {
            StoreError::Unusable(format!("the database holds what this version does not understand: {error}"))
        }
        // A decision that cannot be recorded as it is.
        Error::ToSqlConversionFailure(_) => StoreError::Refused(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Ends the process, because nobody knows any more which data is on the disk.
pub(super) fn abort_on_failed_sync() -> ! {
    // Some file systems find out so late that there is no room. The next start needs some.
    emergency::give_up();
    tracing::error!("the disk did not keep what was written to it (fsync failed): the server ends at once");
    crate::log::flush();
    std::process::abort()
}

/// Ends the process, because all that it would acknowledge is lost at its next start.
pub(super) fn end_displaced(what: &Path) -> ! {
    end_process(&format!(
        "{} was removed, replaced or renamed while it was in use: what the store commits would be lost",
        what.display()
    ))
}
