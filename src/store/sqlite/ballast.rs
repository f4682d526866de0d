//! Room kept back for bad days: a file that is given up when the disk is full, so that slots can still be freed.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::open::beside;

/// Room for some 400 lone commits of five pages of 4 KiB, or far more that share one: enough to land what runs.
const BALLAST_BYTES: u64 = 8 << 20;

/// The file, whether it is there or not.
pub(super) struct Ballast {
    path: PathBuf,
    held: bool,
}

impl Ballast {
    /// Takes the room beside the store at `path`, if there is any.
    pub(super) fn take(path: &Path) -> Self {
        let mut ballast = Ballast { path: beside(path, ".ballast"), held: false };
        ballast.held = match allocate(&ballast.path) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, path = %ballast.path.display(), "the disk is almost full: no room to keep back");
                // What there is of it would only be in the way.
                let _ = fs::remove_file(&ballast.path);
                false
            }
        };
        ballast
    }

    /// Whether the room is there to be given up.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Gives the room up. False if there was none.
    pub(super) fn release(&mut self) -> bool {
        let released = self.held && fs::remove_file(&self.path).is_ok();
        if released {
            tracing::error!("the disk is full: output is no longer kept until there is room again");
        }
        self.held = false;
        released
    }

    /// Takes the room again once there is plenty: twice what it takes, so that it is not given up again at once.
    pub(super) fn retake(&mut self) {
        if self.held {
            return;
        }
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let free = statvfs(directory).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
        if free < 2 * BALLAST_BYTES {
            return;
        }
        match allocate(&self.path) {
            Ok(()) => {
                self.held = true;
                tracing::info!("the disk has room again");
            }
            Err(_) => {
                let _ = fs::remove_file(&self.path);
            }
        }
    }
}

fn allocate(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.len() >= BALLAST_BYTES {
        return Ok(());
    }
    // A sparse file would hold nothing back. Where the file system cannot allocate, zeros do.
    if fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES).is_err() {
        let zeros = [0; 64 << 10];
        for _ in 0..BALLAST_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
    }
    Ok(())
}
