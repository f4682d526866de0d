//! Room that is kept back: a file that is given up when the disk is full, so that slots can still be freed. See
//! decision 0042.
//!
//! The room must be as large as the whole log, because the content of the log needs as much room in the store's file,
//! and only a log that was moved there starts anew. So the ballast grows with a log that a long reader keeps from being
//! moved.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::{emergency, fault::is_full, open::beside};

/// Room for some 400 lone commits of five pages of 4 KiB, or for far more that share one: enough to land the
/// deployments that run. The ballast grows in steps of this size.
const BALLAST_BYTES: u64 = 8 << 20;

/// Without this much room beside the ballast, a store cannot even be opened, because the index of its log is made anew
/// then.
const START_BYTES: usize = 256 << 10;

/// How long the ballast is not taken again after a failure for another reason than a lack of free space.
const PAUSE: Duration = Duration::from_secs(30);

/// The file, whether it is there or not.
pub(super) struct Ballast {
    path: PathBuf,
    held_bytes: u64,
    /// Whether it was given up so that the store could be opened.
    is_spent: bool,
    /// When it may be taken again at the earliest, where the disk is not full.
    not_before: Option<Instant>,
}

impl Ballast {
    /// The ballast that a former server left beside the store at `path`. It is given up at once where the disk is so
    /// full that the store could not be opened.
    pub(super) fn found(path: &Path) -> Self {
        let ballast_path = beside(path, ".ballast");
        let held_bytes = ballast_path.metadata().map_or(0, |found| found.blocks() * 512);
        let mut ballast = Ballast { path: ballast_path, held_bytes, is_spent: false, not_before: None };
        if ballast.is_held() {
            emergency::remember(&ballast.path);
            if let Err(error) = try_room(&beside(path, ".room"))
                && is_full(&error)
            {
                ballast.is_spent = ballast.release();
            }
        }
        ballast
    }

    /// Takes the room, if there is any.
    pub(super) fn take(&mut self) {
        // The file is smaller where a former server was stopped while it took the room. Room that was only just given
        // up is not taken again.
        if self.held_bytes >= BALLAST_BYTES || self.is_spent {
            return;
        }
        if let Err(error) = self.allocate(BALLAST_BYTES) {
            tracing::warn!(%error, path = %self.path.display(), "the disk is almost full: no room to keep back");
        }
    }

    /// Whether the room is there to be given up.
    pub(super) fn is_held(&self) -> bool {
        self.held_bytes > 0
    }

    /// Gives the room up. False if there was none.
    pub(super) fn release(&mut self) -> bool {
        emergency::forget();
        let released = self.is_held() && fs::remove_file(&self.path).is_ok();
        if released {
            tracing::error!("the disk is full: output is no longer kept until there is room again");
        }
        if released && self.free_bytes() >= 3 * BALLAST_BYTES {
            // A quota, or a limit of file sizes: free space does not tell when there is room again.
            self.not_before = Some(Instant::now() + PAUSE);
        }
        self.held_bytes = 0;
        released
    }

    /// Takes the room again once there is plenty: twice its size, so that it is not given up again at once. Takes more
    /// of it for a log of so many bytes.
    pub(super) fn retake(&mut self, log_bytes: u64) {
        if emergency::was_given_up() {
            self.held_bytes = 0;
        }
        let wanted = log_bytes.next_multiple_of(BALLAST_BYTES).max(BALLAST_BYTES);
        let is_early = self.not_before.is_some_and(|at| Instant::now() < at);
        if wanted <= self.held_bytes || is_early || self.free_bytes() < 2 * (wanted - self.held_bytes) {
            return;
        }
        let is_new = !self.is_held();
        if self.allocate(wanted).is_ok() && is_new {
            tracing::info!("the disk has room again");
        }
    }

    /// Gives back the part that it took for a long log. The log is short again.
    pub(super) fn shrink(&mut self) {
        if self.held_bytes <= BALLAST_BYTES {
            return;
        }
        let shrunk = OpenOptions::new().write(true).open(&self.path).and_then(|file| file.set_len(BALLAST_BYTES));
        if shrunk.is_ok() {
            self.held_bytes = BALLAST_BYTES;
        }
    }

    fn free_bytes(&self) -> u64 {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        statvfs(directory).map_or(0, |disk| disk.f_bavail * disk.f_frsize)
    }

    /// Makes the file this large. The room that it held stays where there is no room for more.
    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        match allocate(&self.path, bytes) {
            Ok(()) => {
                self.held_bytes = bytes;
                emergency::remember(&self.path);
                Ok(())
            }
            Err(error) => {
                if self.is_held() {
                    let kept = OpenOptions::new().write(true).open(&self.path);
                    let _ = kept.and_then(|file| file.set_len(self.held_bytes));
                } else {
                    // A part of the ballast would only be in the way.
                    let _ = fs::remove_file(&self.path);
                }
                Err(error)
            }
        }
    }
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    // A sparse file would hold nothing back. Where the file system cannot allocate, zeros do.
    if fallocate(&file, FallocateFlags::empty(), 0, bytes).is_err() {
        let zeros = [0; 64 << 10];
        while file.metadata()?.len() < bytes {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// Whether anything can be written at all. It writes, because a quota shows in no other way.
fn try_room(path: &Path) -> io::Result<()> {
    let tried = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&[0x5a; START_BYTES])?;
        file.sync_all()
    })();
    let _ = fs::remove_file(path);
    tried
}
