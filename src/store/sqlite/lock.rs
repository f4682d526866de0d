//! One server per file: an advisory lock on `<file>.lock`, which names its holder.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::open::beside;
use crate::store::StoreError;

/// How often a lock is tried, and the pause in between: a quarter of a second in all.
const LOCK_TRIES: u32 = 6;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The lock, held until this is dropped or the process ends, however it ends. The file itself stays, since removing it
/// would let two servers lock two files of one name.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the store at `path`.
    pub(super) fn take(path: &Path) -> Result<Lock, StoreError> {
        Lock::take_or(path, "stop it or give this one another --store")
    }

    /// The same; where a server has the store, the error says what to do instead.
    pub(super) fn take_or(path: &Path, advice: &str) -> Result<Lock, StoreError> {
        let lock_path = beside(path, ".lock");
        let unusable = |error: std::io::Error| {
            StoreError::Unusable(format!(
                "cannot lock {}: {error}; make its directory writable for the user that runs singletrack, or give \
                 another place with --store",
                lock_path.display()
            ))
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(unusable)?;
        match lock_soon(&file) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(in_use(path, &mut file, advice)),
            Err(errno) => return Err(unusable(errno.into())),
        }
        let name_holder = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        // The name only serves a message: with a full disk the lock holds all the same.
        if let Err(error) = name_holder(&mut file) {
            tracing::warn!(%error, path = %lock_path.display(), "cannot write the process id into the lock file");
        }
        Ok(Lock { _file: file })
    }
}

/// Locks the file, if it is free now or in a moment.
///
/// A process that has just been forked has a copy of each lock of its parent until it becomes another program, so a lock can
/// outlive its holder by a moment.
pub(super) fn lock_soon(file: &File) -> Result<(), Errno> {
    for _ in 1..LOCK_TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            done => return done,
        }
    }
    flock(file, FlockOperation::NonBlockingLockExclusive)
}

fn in_use(path: &Path, file: &mut File, advice: &str) -> StoreError {
    let mut holder = String::new();
    let pid = match file.read_to_string(&mut holder) {
        Ok(_) if !holder.trim().is_empty() => format!(" (pid {})", holder.trim()),
        Ok(_) | Err(_) => String::new(),
    };
    StoreError::Unusable(format!("{} is in use by another singletrack server{pid}; {advice}", path.display()))
}
