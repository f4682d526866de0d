//! Passes a command's output on, byte for byte, while a copy of it goes to the log.
//!
//! The passing on waits for nobody but the one who reads our own output. The copy is taken by another thread; when that
//! does not keep up, whole pieces are left out of the copy and counted, unless a line in them speaks to us.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use memchr::{memchr_iter, memmem, memrchr};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    pipe::fcntl_setpipe_size,
};
use tokio::sync::oneshot;

use super::mask::{Masker, Secrets};
use crate::worker::{
    Stream,
    lines::{COMMAND_PREFIX, LineSplitter},
    output::PhaseOutput,
};

/// How much is read at once: large, so that a flood costs few calls.
const PIECE_LIMIT: usize = 256 << 10;
/// How much the pipe may hold, where the system lets us.
const PIPE_SIZE: usize = 1 << 20;
/// How many pieces may wait to be copied: a few MiB at most, which is more than is sent in any second.
const COPY_LIMIT: usize = 16;
/// How long the beginning of a line waits for its end before it is logged as it is.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// A part of the copy.
enum Piece {
    Bytes(Vec<u8>),
    /// So many lines are missing here.
    Missing(u64),
}

/// Where a copy goes.
#[derive(Clone)]
pub(super) struct Copy {
    pub(super) stream: Stream,
    pub(super) output: PhaseOutput,
    pub(super) secrets: Arc<Secrets>,
}

/// A stream that is being passed on.
pub(super) struct Relay {
    /// Resolves when all of it is in the log.
    pub(super) copied: oneshot::Receiver<()>,
    /// Resolves when all of it is passed on.
    pub(super) passed_on: oneshot::Receiver<()>,
}

/// Passes on what comes from `pipe`.
pub(super) fn start(pipe: OwnedFd, to: OwnedFd, copy: Copy) -> io::Result<Relay> {
    let _ = fcntl_setpipe_size(&pipe, PIPE_SIZE);
    let (pieces, taken) = sync_channel(COPY_LIMIT);
    let (copied_told, copied) = oneshot::channel();
    let (passed_told, passed_on) = oneshot::channel();
    thread::Builder::new().name("copy".to_owned()).spawn(move || {
        log(&taken, &copy);
        let _ = copied_told.send(());
    })?;
    thread::Builder::new().name("relay".to_owned()).spawn(move || {
        pass_on(&pipe, &to, &mut Tap { pieces, missing: 0, in_command: false });
        let _ = passed_told.send(());
    })?;
    Ok(Relay { copied, passed_on })
}

fn pass_on(pipe: &OwnedFd, to: &OwnedFd, tap: &mut Tap) {
    let mut buffer = vec![0; PIECE_LIMIT];
    loop {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let piece = &buffer[..count];
                // The copy first: whoever reads our output may take it as a sign to ask the server.
                tap.copy(piece);
                // With nobody left to read, the command's next write tells it so, as it would without us.
                if write_all(to, piece).is_err() {
                    return;
                }
            }
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Whoever started us may have left its end so.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where the copy branches off.
struct Tap {
    pieces: SyncSender<Piece>,
    missing: u64,
    /// Whether the last piece ended in a line that may speak to us.
    in_command: bool,
}

impl Tap {
    fn copy(&mut self, piece: &[u8]) {
        let must = self.must_be_copied(piece);
        if self.missing > 0 && !self.send(Piece::Missing(self.missing), must) {
            self.missing += lines(piece);
            return;
        }
        self.missing = 0;
        if !self.send(Piece::Bytes(piece.to_vec()), must) {
            self.missing = lines(piece);
        }
    }

    fn send(&self, piece: Piece, must: bool) -> bool {
        match self.pieces.try_send(piece) {
            Ok(()) => true,
            Err(TrySendError::Full(piece)) if must => self.pieces.send(piece).is_ok(),
            Err(TrySendError::Full(_)) => false,
            // Nobody copies any more.
            Err(TrySendError::Disconnected(_)) => true,
        }
    }

    fn must_be_copied(&mut self, piece: &[u8]) -> bool {
        let prefix = COMMAND_PREFIX.as_bytes();
        let was_in_command = self.in_command;
        let newline = memrchr(b'\n', piece);
        let open = newline.map_or(piece, |newline| &piece[newline + 1..]);
        let length = open.len().min(prefix.len());
        let begins_line = newline.is_some() || was_in_command;
        self.in_command =
            begins_line && length > 0 && open[..length] == prefix[..length] || was_in_command && newline.is_none();
        self.in_command || was_in_command || memmem::find(piece, prefix).is_some()
    }
}

fn lines(piece: &[u8]) -> u64 {
    (memchr_iter(b'\n', piece).count() as u64).max(1)
}

/// Takes the copy to its end.
fn log(pieces: &Receiver<Piece>, copy: &Copy) {
    let mut masker = Masker::new(&copy.secrets);
    let mut splitter = LineSplitter::default();
    let take = |line| copy.output.take(copy.stream, line);
    loop {
        let piece = if splitter.is_waiting() {
            pieces.recv_timeout(FLUSH_AFTER)
        } else {
            pieces.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match piece {
            Ok(Piece::Bytes(bytes)) => splitter.push(&masker.push(bytes), take),
            Ok(Piece::Missing(count)) => {
                splitter.push(&masker.finish(), take);
                splitter.finish(take);
                splitter = LineSplitter::default();
                copy.output.note(format!("{count} lines came too fast and were cut here"));
            }
            Err(RecvTimeoutError::Timeout) => splitter.flush(take),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    splitter.push(&masker.finish(), take);
    splitter.finish(take);
}
