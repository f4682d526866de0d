//! Moving the write-ahead log into the file, so that the log can start anew. See decision 0024.
//!
//! The pages in a log belong to places all over the file, and to sync those takes a hundred times as long as a commit.
//! So a thread beside the writer moves the log, while commits go on. But the log starts anew only when nothing in it is
//! left to move, and while commits come all the time, something always is. Only a little is left, and the writer moves
//! that between two commits. (SQLite does not sync the file before nothing is left, so the thread syncs it; otherwise
//! the writer would have to sync everything after all.)

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::Path,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, hooks::Wal, wal::CheckpointMode};

use super::{
    fault::{Reach, abort_on_failed_sync, reach},
    open::{self, WAL_BYTES},
    place::OwnFile,
};
use crate::{health::or_end_process, store::StoreError};

/// How many pages the log may hold: the room that was taken for it beforehand. A longer log would need more room than
/// is kept back for a full disk, both for the log and in the file to which it is moved.
const FULL_PAGES: u32 = (WAL_BYTES / PAGE_BYTES) as u32;

/// The size of a page of a new store, for which the limits are meant.
pub(super) const PAGE_BYTES: u64 = 4096;

/// How many pages the log holds before it is moved; the rest is for the commits that come meanwhile.
const DUE_PAGES: u32 = FULL_PAGES / 4 * 3;

/// How many pages may be left to the writer: to sync these costs it little more than a commit does.
const REST_PAGES: u32 = 64;

/// How often the thread goes back for pages that came meanwhile: each time they are fewer, unless the disk is too slow
/// for that.
const PASSES_MAX: usize = 4;

/// How much of the file is synced at once, in bytes, unless that made too many parts of it.
const SYNC_BYTES: u64 = 256 << 10;
const SYNC_PARTS_MAX: u64 = 4096;

const WRITE_AND_WAIT: libc::c_uint =
    libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;

/// A log of this many pages is reported as growing, because our own readers cannot make it so long.
const TOLD_PAGES: u32 = FULL_PAGES * 2;

/// The result of a look at the log.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// There is nothing more to do now.
    Done,
    /// The log cannot be moved, because the disk is full.
    Full,
}

/// Decides when the log is moved, and by which thread.
pub(super) struct Checkpoints {
    /// How many pages the log holds.
    log_pages: Arc<AtomicU32>,
    /// Whether all of the log is in the file and nothing was committed since, or another log has begun and that is not
    /// recorded yet.
    begins: Arc<AtomicBool>,
    due_at: u32,
    /// From how many pages on the growth of the log is reported.
    told_at: u32,
    is_under_way: bool,
    readers: Arc<RwLock<()>>,
    orders: SyncSender<()>,
    done: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Checkpoints {
    /// Counts the pages that `writer` adds to the log, and starts the thread that moves the log and syncs `file`.
    ///
    /// # Errors
    /// There is no connection or no thread to be had.
    pub(super) fn start(
        writer: &mut Connection,
        path: &Path,
        file: Arc<OwnFile>,
        readers: Arc<RwLock<()>>,
    ) -> Result<Self, StoreError> {
        let log_pages = Arc::new(AtomicU32::new(0));
        let begins = Arc::new(AtomicBool::new(false));
        let hooked = (Arc::clone(&log_pages), Arc::clone(&begins));
        let failed = |error: rusqlite::Error| StoreError::Unavailable(error.to_string());
        let count = move |_: &mut Wal, pages: i32| {
            let (log_pages, begins) = &hooked;
            // A log only grows.
            if log_pages.swap(pages.unsigned_abs(), Ordering::Relaxed) >= pages.unsigned_abs() {
                begins.store(true, Ordering::Relaxed);
            }
            Ok(())
        };
        writer.wal_hook(Some(count)).map_err(failed)?;
        let db = open::mover_connection(path)?;
        let (orders, ordered) = sync_channel(1);
        let (tell_done, done) = sync_channel(1);
        let counted = Arc::clone(&log_pages);
        let thread = thread::Builder::new()
            .name("store-mover".to_owned())
            .spawn(move || {
                or_end_process("store-mover", || {
                    while ordered.recv().is_ok() {
                        move_beside(&db, file.file(), &counted);
                        if tell_done.send(()).is_err() {
                            break;
                        }
                    }
                });
            })
            .map_err(|error| StoreError::Unavailable(format!("cannot start a thread: {error}")))?;
        let (due_at, told_at, is_under_way) = (DUE_PAGES, TOLD_PAGES, false);
        let checkpoints =
            Checkpoints { log_pages, begins, due_at, told_at, is_under_way, readers, orders, done, thread };
        let _ = checkpoints.move_all(writer);
        Ok(checkpoints)
    }

    /// Whether the next commit begins another log, or the last commit has done so.
    pub(super) fn begins_log(&self) -> bool {
        self.begins.load(Ordering::Relaxed)
    }

    /// The beginning of the log is recorded.
    pub(super) fn began_log(&self) {
        self.begins.store(false, Ordering::Relaxed);
    }

    /// How many bytes the log holds.
    pub(super) fn log_bytes(&self) -> u64 {
        u64::from(self.log_pages.load(Ordering::Relaxed)) * PAGE_BYTES
    }

    /// Whether the log is so short that it covers nothing but itself.
    pub(super) fn is_short(&self) -> bool {
        self.log_pages.load(Ordering::Relaxed) < DUE_PAGES
    }

    /// Where to read how many pages the log holds.
    pub(super) fn log_pages(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.log_pages)
    }

    /// Between two commits: starts the move of a long log, and moves the rest once that is done. Waits for the move
    /// where the log is full.
    ///
    /// A reader that still reads from the end of the log keeps it from starting anew. Our own readers are kept out of a
    /// full log for a moment; with a reader of another program, this is tried again a little later.
    pub(super) fn look(&mut self, writer: &Connection) -> Look {
        let pages = self.log_pages.load(Ordering::Relaxed);
        if self.is_under_way {
            if matches!(self.done.try_recv(), Err(TryRecvError::Empty)) {
                if pages < FULL_PAGES {
                    return Look::Done;
                }
                // The move is done, or the thread is gone.
                let _ = self.done.recv();
            }
            self.is_under_way = false;
            return self.move_rest(writer, pages);
        }
        self.tell_growth(pages);
        if pages < DUE_PAGES {
            self.due_at = DUE_PAGES;
        }
        if pages < self.due_at {
            return Look::Done;
        }
        self.due_at = pages + DUE_PAGES / 4;
        match self.orders.send(()) {
            Ok(()) => {
                self.is_under_way = true;
                Look::Done
            }
            // The thread is gone, which is no reason for the log to grow.
            Err(_) => self.move_rest(writer, pages),
        }
    }

    /// Moves the content of the log, as the writer. A reader that begins after all of it is moved reads from the file
    /// alone.
    fn move_rest(&self, writer: &Connection, pages: u32) -> Look {
        let _pause = (pages >= FULL_PAGES).then(|| self.readers.write().unwrap_or_else(PoisonError::into_inner));
        self.move_all(writer)
    }

    fn move_all(&self, writer: &Connection) -> Look {
        match move_log(writer) {
            Moved::Full => Look::Full,
            Moved::Pages { is_all, .. } => {
                // No other connection commits.
                self.begins.fetch_or(is_all, Ordering::Relaxed);
                Look::Done
            }
            Moved::Failed => Look::Done,
        }
    }

    /// Reports that the log grows, and again each time that it is twice as long.
    fn tell_growth(&mut self, pages: u32) {
        if pages < DUE_PAGES && self.told_at > TOLD_PAGES {
            self.told_at = TOLD_PAGES;
            tracing::info!("the store's log has started anew");
        }
        if pages >= self.told_at {
            self.told_at = pages.saturating_mul(2);
            tracing::warn!(
                log_mib = (u64::from(pages) * PAGE_BYTES) >> 20,
                "the store's log grows, because another program reads the store's file for long (a backup, a database browser)"
            );
        }
    }

    /// Moves everything, because there is nothing else to do.
    pub(super) fn settle(&mut self, writer: &Connection) {
        if self.is_under_way {
            // The move is done, or the thread is gone.
            let _ = self.done.recv();
            self.is_under_way = false;
        }
        let _ = self.move_rest(writer, FULL_PAGES);
    }

    /// Moves everything, makes the log empty, and takes its room anew with zeros in it, so that nothing is left in it of what
    /// it held. `false`: somebody reads from the log.
    pub(super) fn scrub(&mut self, writer: &Connection) -> bool {
        self.settle(writer);
        let pause = Arc::clone(&self.readers);
        let _pause = pause.write().unwrap_or_else(PoisonError::into_inner);
        match writer.wal_checkpoint_v2(None::<&str>, CheckpointMode::TRUNCATE) {
            Ok(_) => {}
            Err(error) => {
                reach(writer, &error);
                tracing::warn!(%error, "the store's log is still read, so what it held is not overwritten yet");
                return false;
            }
        }
        if let Some(path) = writer.path()
            && let Err(error) = open::preallocate_wal(Path::new(path))
        {
            tracing::warn!(%error, "no room to take for the write-ahead log: commits will be slower");
        }
        true
    }

    /// Moves the content of the log, before the process ends and the log is lost.
    pub(super) fn save(&self, writer: &Connection, file: &OwnFile) {
        if matches!(move_log(writer), Moved::Pages { .. }) && file.file().sync_all().is_err() {
            abort_on_failed_sync();
        }
    }

    /// Ends the thread, after its present work.
    pub(super) fn stop(self) {
        drop((self.orders, self.done));
        if self.thread.join().is_err() {
            tracing::error!("the thread that moves the store's log ended by a panic");
        }
    }
}

/// Moves the log until little of it is left.
fn move_beside(db: &Connection, file: &File, log_pages: &AtomicU32) {
    for _ in 0..PASSES_MAX {
        let Moved::Pages { moved, .. } = move_log(db) else { return };
        if sync(file).is_err() {
            abort_on_failed_sync();
        }
        if log_pages.load(Ordering::Relaxed).saturating_sub(moved) <= REST_PAGES {
            return;
        }
    }
}

/// Syncs the file, one part after the other: a commit that comes meanwhile waits for the writes of one part at most,
/// and not of the whole file.
fn sync(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let part = SYNC_BYTES.max(length.div_ceil(SYNC_PARTS_MAX));
    for begin in (0..length).step_by(usize::try_from(part).unwrap_or(usize::MAX)) {
        #[expect(unsafe_code, reason = "nothing safe writes out a part of a file")]
        // SAFETY: it takes numbers only, and the file is open.
        let written =
            unsafe { libc::sync_file_range(file.as_raw_fd(), begin.cast_signed(), part.cast_signed(), WRITE_AND_WAIT) };
        if written != 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                // The kernel may report this error only once.
                Some(libc::EIO | libc::ENOSPC | libc::EDQUOT) => return Err(error),
                // This file system cannot sync parts.
                _ => break,
            }
        }
    }
    // That has written the pages, but the disk itself may still have them in its cache.
    file.sync_data()
}

/// The result of moving the log.
enum Moved {
    /// How many of its pages are moved now, and whether that is all of them.
    Pages { moved: u32, is_all: bool },
    /// There is no room for them in the file.
    Full,
    /// It cannot be done yet.
    Failed,
}

/// Moves the pages that no reader must find in the log.
fn move_log(db: &Connection) -> Moved {
    match db.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
        Ok((pages, moved)) => Moved::Pages { moved: u32::try_from(moved).unwrap_or(0), is_all: pages == moved },
        Err(error) => {
            tracing::warn!(%error, "the store cannot move its log into the file yet");
            if reach(db, &error) == Reach::Full { Moved::Full } else { Moved::Failed }
        }
    }
}
