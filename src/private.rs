//! Folders and files that other users of the machine should not read, because they hold artifacts, output, and the
//! records of deployments.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// The mode of a folder, and of a file.
const FOLDER: u32 = 0o700;
const FILE: u32 = 0o600;

/// The names that we make in a work directory. A directory that holds nothing else is ours alone.
const OURS: &[&str] =
    &["runs", "artifacts", "artifact-copies", "server-id", "journals", "agent.lock", "agent-id", "former-runs"];

/// Makes a folder, and those above it, for our user alone. An existing folder that is ours is closed to others.
///
/// # Errors
/// It cannot be made.
pub fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path)?;
    close(path, FOLDER);
    Ok(())
}

/// Makes a work directory for our user alone. An existing directory is closed to others only where it holds nothing but
/// our own files, because it may be a directory such as `/tmp`.
///
/// # Errors
/// It cannot be made.
pub fn work_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path)?;
    let mut names = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name()));
    if names.all(|name| name.is_ok_and(|name| OURS.iter().any(|ours| name == *ours))) {
        close(path, FOLDER);
    }
    Ok(())
}

/// The same as [`folder`], and closes the files that are in it.
///
/// # Errors
/// It cannot be made or read.
pub fn folder_of_files(path: &Path) -> io::Result<()> {
    folder(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            close(&entry.path(), FILE);
        }
    }
    Ok(())
}

/// The options to open a file that is for our user alone if it is made.
pub fn file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE);
    options
}

/// Closes an existing file to others.
pub fn close_file(path: &Path) {
    close(path, FILE);
}

fn close(path: &Path, mode: u32) {
    let closed = path.metadata().and_then(|found| {
        if found.mode() & 0o077 == 0 {
            return Ok(());
        }
        // Rights are only taken away, never given.
        fs::set_permissions(path, Permissions::from_mode(found.mode() & mode))
    });
    match closed {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "others on this machine may read what should be private");
        }
    }
}
