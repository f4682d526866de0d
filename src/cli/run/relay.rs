//! Passes a command's output on, byte for byte, while a copy of the output goes to the log. See decision 0062.
//!
//! Passing on waits only for the reader of our own output, and does no work per line. `tap` takes the copy.

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

/// How many bytes are read at once: many, so that a flood costs few calls, and few enough to stay in a core's own
/// cache.
const PIECE_LIMIT: usize = 128 << 10;
/// How many bytes a pipe may hold, if the system allows it.
const PIPE_SIZE: usize = 1 << 20;

/// A stream that is being passed on.
pub(super) struct Relay {
    /// Resolves when all output is in the log.
    pub(super) copied: oneshot::Receiver<()>,
    /// Resolves when all output is passed on, or with the error that lost a part of the output. If the sender is
    /// dropped without a result, all output may be lost.
    pub(super) passed_on: oneshot::Receiver<Result<(), Errno>>,
}

/// Passes the bytes of `from` on to `to` in a thread. If a copy is wanted, a second thread logs the copy.
pub(super) fn start(from: OwnedFd, to: OwnedFd, copy: Option<Copy>) -> io::Result<Relay> {
    // A failure is ignored: the descriptor may be no pipe, or the system may refuse. Then the size stays as it is.
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

/// Passes on all output. If the output cannot be written, for example on a full disk, the command still runs on. Only a
/// reader that is gone ends the reading. Then the command's next write fails, as it would without `run`.
fn pass_on(from: &OwnedFd, to: &OwnedFd, mut tap: impl FnMut(&[u8])) -> Result<(), Errno> {
    let mut buffer = vec![0; PIECE_LIMIT];
    let mut ended = Ok(());
    loop {
        let piece = match rustix::io::read(from, &mut buffer) {
            // Reading from a terminal whose other side is closed gives this error.
            Ok(0) | Err(Errno::IO) => return ended,
            Ok(count) => &buffer[..count],
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        // The copy is taken first, because a reader of our output may take a line as a sign to ask the server.
        tap(piece);
        match write_all(to, piece) {
            Ok(()) => {}
            Err(Errno::PIPE) => return ended,
            Err(error) => ended = Err(error),
        }
    }
}

/// Writes all bytes, also if `to` is non-blocking.
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

/// Waits until `to` can take bytes. The process that started us may have made `to` non-blocking.
fn wait_for_room(to: &OwnedFd) {
    let _ = poll(&mut [PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT)], None);
}
