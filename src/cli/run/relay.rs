//! Passes a command's output on, byte for byte, while a copy of it goes to the log.
//!
//! The passing on waits for nobody but the one who reads our own output, and does nothing per line. The copy branches off in
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
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, tee},
    time::Timespec,
};
use tokio::{net::unix::pipe, sync::oneshot};

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

/// Passes on what comes from `from`, with a copy if one is wanted.
pub(super) fn start(from: OwnedFd, to: OwnedFd, copy: Option<Copy>) -> io::Result<Relay> {
    let (tellers, relay) = Tellers::new();
    start_threads(from, to, copy, tellers)?;
    Ok(relay)
}

/// The same for a pipe, once there is something to pass on: a command that prints nothing on it, as most do on one of
/// the two, costs no thread.
pub(super) fn start_at_first_byte(from: OwnedFd, to: OwnedFd, copy: Copy) -> io::Result<Relay> {
    let (tellers, relay) = Tellers::new();
    let from = pipe::Receiver::from_owned_fd(from)?;
    tokio::spawn(async move {
        if !has_output(&from).await {
            let _ = tellers.passed_on.send(Ok(()));
            return;
        }
        let output = copy.output.clone();
        let started = from.into_blocking_fd().and_then(|from| start_threads(from, to, Some(copy), tellers));
        if let Err(error) = started {
            output.note(format!("the command's output is lost, as no thread can be started for it: {error}"));
        }
    });
    Ok(relay)
}

/// Waits until there is something to read, or until it is clear that nothing comes any more.
async fn has_output(from: &pipe::Receiver) -> bool {
    if from.readable().await.is_err() {
        // What cannot be waited for here, a thread's blocking read can wait for.
        return true;
    }
    let mut fds = [PollFd::new(from, PollFlags::IN)];
    let is_closed_and_empty = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
        && fds[0].revents().contains(PollFlags::HUP)
        && !fds[0].revents().contains(PollFlags::IN);
    !is_closed_and_empty
}

/// Tell how far the threads are, at the latest by being dropped.
struct Tellers {
    copied: oneshot::Sender<()>,
    passed_on: oneshot::Sender<Result<(), Errno>>,
}

impl Tellers {
    fn new() -> (Self, Relay) {
        let (copied_told, copied) = oneshot::channel();
        let (passed_told, passed_on) = oneshot::channel();
        (Tellers { copied: copied_told, passed_on: passed_told }, Relay { copied, passed_on })
    }
}

fn start_threads(from: OwnedFd, to: OwnedFd, copy: Option<Copy>, tellers: Tellers) -> io::Result<()> {
    // Either may be no pipe, or the system may say no: then it is as large as it is.
    let _ = fcntl_setpipe_size(&from, PIPE_SIZE);
    let _ = fcntl_setpipe_size(&to, PIPE_SIZE);
    let Tellers { copied, passed_on } = tellers;
    let mut tap = None;
    if let Some(copy) = copy {
        let (taps, taken) = tap::new(copy);
        tap = Some(taps);
        thread::Builder::new().name("copy".to_owned()).spawn(move || {
            taken.log();
            let _ = copied.send(());
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
        let _ = passed_on.send(ended);
    })?;
    Ok(())
}

/// Passes on all that comes. Where it cannot be written, as on a full disk, the command goes on all the same: only a reader
/// that is gone makes us stop reading, and the command's next write tells it so, as it would without us.
fn pass_on(from: &OwnedFd, to: &OwnedFd, mut tap: impl FnMut(&[u8])) -> Result<(), Errno> {
    let mut buffer = vec![0; PIECE_LIMIT];
    // From pipe to pipe the bytes themselves are moved, and what is looked at is a duplicate.
    let mut lane = Lane::new().ok();
    let mut ended = Ok(());
    loop {
        let arrived = match &lane {
            Some(lane) => lane.peek(from, &mut buffer),
            None => rustix::io::read(from, &mut buffer),
        };
        let piece = match arrived {
            Ok(0) => return ended,
            Ok(count) => &buffer[..count],
            Err(Errno::INTR) => continue,
            // It is no pipe, or the kernel or a profile will not have it: then it is read.
            Err(_) if lane.is_some() => {
                lane = None;
                continue;
            }
            // A terminal whose other side is closed says so with an error.
            Err(Errno::IO) => return ended,
            Err(error) => return Err(error),
        };
        // The copy first: whoever reads our output may take it as a sign to ask the server.
        tap(piece);
        let passed = if lane.is_some() {
            let (moved, result) = move_all(from, to, piece.len());
            if moved < piece.len() {
                lane = None;
                take(from, piece.len() - moved)?;
            }
            result.and_then(|()| write_all(to, &piece[moved..]))
        } else {
            write_all(to, piece)
        };
        match passed {
            Ok(()) => {}
            Err(Errno::PIPE) => return ended,
            Err(error) => ended = Err(error),
        }
    }
}

/// A pipe of our own, to which what comes is duplicated.
struct Lane {
    end: OwnedFd,
    beginning: OwnedFd,
}

impl Lane {
    fn new() -> io::Result<Self> {
        let (end, beginning) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setpipe_size(&beginning, PIPE_SIZE)?;
        Ok(Lane { end, beginning })
    }

    /// Waits for what comes, and reads it without taking it from the pipe.
    fn peek(&self, from: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        let count = tee(from, &self.beginning, buffer.len(), SpliceFlags::empty())?;
        let mut rest = &mut buffer[..count];
        while !rest.is_empty() {
            match rustix::io::read(&self.end, &mut *rest) {
                Ok(count) => rest = &mut rest[count..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }
}

/// Moves so many bytes from one pipe to another. Answers how many, and why no more: nothing is wrong where the other end is
/// no pipe, nor anything else that takes them so.
fn move_all(from: &OwnedFd, to: &OwnedFd, count: usize) -> (usize, Result<(), Errno>) {
    let mut moved = 0;
    while moved < count {
        match splice(from, None, to, None, count - moved, SpliceFlags::MOVE) {
            Ok(count) => moved += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for_room(to),
            Err(Errno::PIPE) => return (moved, Err(Errno::PIPE)),
            // Whatever else is wrong, the write that comes next says it.
            Err(_) => break,
        }
    }
    (moved, Ok(()))
}

/// Takes so many bytes out of a pipe that holds them.
fn take(from: &OwnedFd, mut count: usize) -> rustix::io::Result<()> {
    let mut taken = [0; 4 << 10];
    while count > 0 {
        let limit = count.min(taken.len());
        match rustix::io::read(from, &mut taken[..limit]) {
            Ok(read) => count -= read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
