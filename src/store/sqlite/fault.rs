//! What SQLite's errors mean for us.

use std::path::Path;

use rusqlite::{Error, ErrorCode, ffi};

use crate::store::StoreError;

/// `sysexits.h`: an internal fault. A supervisor starts the process again.
const EX_SOFTWARE: i32 = 70;

/// How far a failure reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// This request only: what it decided cannot be recorded, or what it asked for cannot be read.
    Request,
    /// The disk is full: everything since the last commit is taken back.
    Full,
    /// The file cannot be written to or read: everything since the last commit is taken back.
    File,
}

/// How far `error` reaches.
///
/// A failed fsync reaches furthest: the kernel may have dropped what it could not write, so that a second fsync would
/// answer well for data that is lost. The process ends at once, and starts again from what is on the disk.
pub(super) fn reach(error: &Error) -> Reach {
    let Error::SqliteFailure(failure, _) = error else { return Reach::Request };
    match failure.code {
        ErrorCode::DiskFull => Reach::Full,
        ErrorCode::SystemIoFailure => match failure.extended_code {
            ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => abort_on_failed_sync(),
            _ => Reach::File,
        },
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

/// What a caller is told of `error`.
pub(super) fn store_error(error: &Error) -> StoreError {
    match error {
        Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DiskFull => StoreError::Full,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                StoreError::Unusable(format!("the database is damaged: {error}; restore it from a backup"))
            }
            _ => StoreError::Unavailable(error.to_string()),
        },
        Error::FromSqlConversionFailure(..) | Error::InvalidColumnType(..) | Error::IntegralValueOutOfRange(..) => {
            StoreError::Unusable(format!("the database holds what this version does not understand: {error}"))
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Ends the process, since nobody knows any more what is on the disk.
pub(super) fn abort_on_failed_sync() -> ! {
    tracing::error!("the disk did not keep what was written to it (fsync failed): the server ends at once");
    crate::log::flush();
    std::process::abort()
}

/// Ends the process, since what it would acknowledge is lost at its next start.
pub(super) fn end_displaced(what: &Path) -> ! {
    tracing::error!(
        path = %what.display(),
        "a file of the store was removed, replaced or renamed while it was in use: the server ends at once, since what it \
         commits would be lost"
    );
    std::process::exit(EX_SOFTWARE)
}
