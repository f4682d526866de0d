//! Passes a command's output on, byte for byte, while a copy of it goes to the log. See decision 0062.
//!
//! Passing on waits only for the reader of our own output, and does no work per line. The copy branches off in
//! `tap`.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    pipe::fcntl_setpipe_size,
};
use tokio::sync::oneshot;

use super::tap::{self, Copy};

/// How much is read at once: large, so that a flood costs few calls, and small enough to stay in a core's own cache.
const PIECE_LIMIT: usize = 128 << 10;
/// How much a pipe may hold, where the system lets us.
const PIPE_SIZE: usize = 1 << 20;

/// A stream that is being passed on.
pub(super) struct Relay {
    /// Resolves when all of it is in the log.
    pub(super) copied: oneshot::Receiver<()>,
    /// Resolves when all of it is passed on, or told why a part is lost; without a word, all of it may be.
    pub(super) passed_on: oneshot::Receiver<Result<(), Errno>>,
}

/// Passes on what comes from `from`, with a copy if one is wanted, in threads of their own.
pub(super) fn start(from: OwnedFd, to: OwnedFd, copy: Option<Copy>) -> io::Result<Relay> {
    // Either may be no pipe, or the system may say no: then it is as large as it is.
    let _ = fcntl_setpipe_size(&from, PIPE_SIZE);
    let _ = fcntl_setpipe_size(&to, PIPE_SIZE);
    let (copied_told, copied) = oneshot::channel();
    let (passed_told, passed_on) = oneshot::channel();
    let mut tap = None;
    if let Some(copy) = copy {
        let (taps, taken) = tap::new(copy);
        tap = Some(taps);
        thread::Builder::new().name("copy".to_owned()).spawn(move || {
            taken.log();
            let _ = copied_told.send(());
        })?;
    }
    thread::Builder::new().name("relay".to_owned()).spawn(move || {
        let ended = pass_on(&from, &to, |piece| {
            if let Some(tap) = &mut tap {
                tap.copy(piece, Instant::now());
            }
        });
        if let Some(tap) = tap {
            tap.finish();
        }
        let _ = passed_told.send(ended);
    })?;
    Ok(Relay { copied, passed_on })
}

/// Passes on all that comes. Where it cannot be written, as on a full disk, the command goes on all the same: only a reader
/// that is gone makes us stop reading, and the command's next write tells it so, as it would without us.
fn pass_on(from: &OwnedFd, to: &OwnedFd, mut tap: impl FnMut(&[u8])) -> Result<(), Errno> {
    let mut buffer = vec![0; PIECE_LIMIT];
    let mut ended = Ok(());
    loop {
        let piece = match rustix::io::read(from, &mut buffer) {
            // A terminal whose other side is closed says so with an error.
            Ok(0) | Err(Errno::IO) => return ended,
            Ok(count) => &buffer[..count],
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        // The copy first: whoever reads our output may take it as a sign to ask the server.
        tap(piece);
        match write_all(to, piece) {
            Ok(()) => {}
            Err(Errno::PIPE) => return ended,
            Err(error) => ended = Err(error),
        }
    }
}

/// Writes all of it, however the other end was left.
pub(super) fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for_room(to),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whoever started us may have left its end so that a write does not wait.
fn wait_for_room(to: &OwnedFd) {
    let _ = poll(&mut [PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT)], None);
}
