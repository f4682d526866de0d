//! The place of the store's file: refused where two servers could both have it, locked, and watched while it is used.
//! See decision 0041.
//!
//! A lock beside the file guards one name, but one file can have several names: a hard link, a mount of the file alone.
//! So the file itself is locked, too. And because SQLite finds the log by the file's name, a file with several names
//! has several logs, each with a part of the commits: such a file is refused even where no other server has it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, StatxAttributes, StatxFlags, statfs, statx},
    io::Errno,
};

use super::{lineage, lock::lock_soon, open::beside};
use crate::{private, store::StoreError};

/// File systems, by the numbers that `statfs` tells, on which the lock of one machine, or of one mount, does not hold
/// for another. (The numbers are those of `linux/magic.h` and of the file systems' own sources.)
const UNFIT_FILE_SYSTEMS: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x564c, "NCP"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x2003_0528, "OrangeFS"),
    (0x786f_4256, "VirtualBox shared folders"),
    (0xbacb_acbc, "VMware shared folders"),
    (0x7c7c_6673, "Parallels shared folders"),
];

/// File systems whose content is gone when the machine restarts.
const IN_MEMORY: &[u32] = &[0x0102_1994, 0x8584_58f6];

/// The store's file, locked for as long as this lives.
pub(super) struct OwnFile {
    path: PathBuf,
    file: File,
    /// The files that SQLite keeps beside it, once they exist.
    beside: OnceLock<[(PathBuf, Identity); 2]>,
    has_other_name: AtomicBool,
}

/// Which file something is, whatever its name.
type Identity = (u64, u64);

impl OwnFile {
    /// Takes the file at `path`, which exists, and keeps every other server from it, under whatever name they know it.
    ///
    /// Closing any handle of a file takes away the locks that SQLite has on it in this process, so this handle is
    /// opened before all connections and is dropped after them.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] where it is in use, or where it is not safe to use it.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let unusable = |error: io::Error| {
            StoreError::Unusable(format!(
                "cannot write to {}: {error}; make the file and its directory writable for the user that runs \
                 singletrack",
                path.display()
            ))
        };
        require_fit_file_system(path)?;
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(unusable)?;
        match lock_soon(&file) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StoreError::Unusable(format!(
                    "{} is in use by another singletrack server, under another name; stop it or give this one another \
                     --store",
                    path.display()
                )));
            }
            Err(errno) => {
                return Err(StoreError::Unusable(format!(
                    "the file system of {} cannot lock files ({errno}); put the store on a local disk",
                    path.display()
                )));
            }
        }
        require_one_name(path)?;
        for suffix in ["", "-wal", "-shm", ".lock", ".ballast", lineage::SUFFIX] {
            private::close_file(&beside(path, suffix));
        }
        if kind(path).is_some_and(|kind| IN_MEMORY.contains(&kind)) {
            tracing::warn!(path = %path.display(), "the store is in memory (tmpfs): it is gone when the machine restarts");
        }
        Ok(OwnFile { path: path.to_owned(), file, beside: OnceLock::new(), has_other_name: AtomicBool::new(false) })
    }

    /// Notes which files SQLite has made beside it: from now on, these are watched, too.
    ///
    /// # Errors
    /// They are gone already.
    pub(super) fn watch_beside(&self) -> Result<(), StoreError> {
        let note = |suffix| {
            let path = beside(&self.path, suffix);
            identity(&path).map(|identity| (path.clone(), identity)).map_err(|error| {
                StoreError::Unavailable(format!("{} disappeared as the store was opened: {error}", path.display()))
            })
        };
        // The store is opened once.
        let _ = self.beside.set([note("-wal")?, note("-shm")?]);
        Ok(())
    }

    /// Whether every file is still under its name, where a restart, a backup and SQLite look for it. Takes some
    /// microseconds.
    ///
    /// # Errors
    /// The file that is not in its place, and what that means.
    pub(super) fn require_in_place(&self) -> Result<(), Displaced> {
        let own = self.file.metadata().map_err(|_| Displaced { what: self.path.clone(), is_the_log: false })?;
        if !identity(&self.path).is_ok_and(|found| found == (own.dev(), own.ino())) {
            return Err(Displaced { what: self.path.clone(), is_the_log: false });
        }
        if own.nlink() > 1 && !self.has_other_name.swap(true, Ordering::Relaxed) {
            tracing::error!(
                path = %self.path.display(),
                inode = own.ino(),
                "the store's file has a second name (hard link); remove it: no server starts on a file with two names"
            );
        }
        for (path, known) in self.beside.get().into_iter().flatten() {
            if !identity(path).is_ok_and(|found| found == *known) {
                return Err(Displaced { what: path.clone(), is_the_log: true });
            }
        }
        Ok(())
    }

    /// The file, to sync it.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// A file of the store that is not under its name any more.
pub(super) struct Displaced {
    pub(super) what: PathBuf,
    /// Whether only the log or its index is displaced, so that the content of the log can still be moved into the
    /// store's file.
    pub(super) is_the_log: bool,
}

fn identity(path: &Path) -> io::Result<Identity> {
    path.symlink_metadata().map(|found| (found.dev(), found.ino()))
}

/// Fails for a file that has another name besides `path`, because SQLite would look for its log under `path` only.
///
/// # Errors
/// [`StoreError::Unusable`] with what to do about it.
pub(super) fn require_one_name(path: &Path) -> Result<(), StoreError> {
    let shown = path.display();
    let found = path.metadata().map_err(|error| StoreError::Unusable(format!("cannot look at {shown}: {error}")))?;
    if found.nlink() > 1 {
        return Err(StoreError::Unusable(format!(
            "{shown} has {} names (hard links), and each would have a log of its own; find the others with `find / -xdev -inum {}` \
             and remove them, or copy the file and use the copy",
            found.nlink(),
            found.ino()
        )));
    }
    if is_mount_point(path) {
        return Err(StoreError::Unusable(format!(
            "{shown} is mounted by itself, so its log would stay behind under this name; mount its directory instead of \
             the file"
        )));
    }
    Ok(())
}

/// Fails where the file system that holds `path` is no place for a store.
///
/// # Errors
/// [`StoreError::Unusable`] with what to do about it.
pub(super) fn require_fit_file_system(path: &Path) -> Result<(), StoreError> {
    if let Some(name) = kind(path).and_then(unfit) {
        return Err(StoreError::Unusable(format!(
            "{} is on a file system ({name}) that does not keep two servers from one file; put the store on a local disk, \
             or keep it in PostgreSQL: --store postgres://…",
            path.display()
        )));
    }
    Ok(())
}

/// The number of the file system that holds `path`.
fn kind(path: &Path) -> Option<u32> {
    match statfs(path) {
        // The type is a number of 32 bits, whatever C type it has on this machine.
        Ok(found) => Some(found.f_type as u32),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "cannot ask what file system holds the store");
            None
        }
    }
}

fn unfit(kind: u32) -> Option<&'static str> {
    UNFIT_FILE_SYSTEMS.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name)
}

/// Whether something is mounted at `path` itself. Kernels before Linux 5.8 do not tell.
fn is_mount_point(path: &Path) -> bool {
    let asked = statx(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
    asked.is_ok_and(|found| {
        found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
            && found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_do_not_keep_two_servers_apart_are_known_by_their_numbers() {
        for (kind, name) in [
            (libc::NFS_SUPER_MAGIC as u32, "NFS"),
            (libc::FUSE_SUPER_MAGIC as u32, "FUSE"),
            (libc::SMB_SUPER_MAGIC as u32, "SMB"),
            (libc::AFS_SUPER_MAGIC as u32, "AFS"),
            (libc::CODA_SUPER_MAGIC as u32, "Coda"),
            (libc::NCP_SUPER_MAGIC as u32, "NCP"),
        ] {
            assert_eq!(unfit(kind), Some(name));
        }
        for local in [
            libc::EXT4_SUPER_MAGIC,
            libc::XFS_SUPER_MAGIC,
            libc::BTRFS_SUPER_MAGIC,
            libc::OVERLAYFS_SUPER_MAGIC,
            libc::TMPFS_MAGIC,
        ] {
            assert_eq!(unfit(local as u32), None, "{local:#x}");
        }
    }
}
