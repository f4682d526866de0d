//! Passes a command's output on, byte for byte, while a copy of it goes to the log.
//!
//! The passing on waits for nobody but the one who reads our own output, and does nothing per line. The copy is taken by
//! another thread and is bounded before any work is done on it: what comes faster is counted and left out, but for the
//! lines in it that speak to us.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use memchr::{memchr, memchr_iter, memmem, memrchr};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, tee},
    time::Timespec,
};
use tokio::{net::unix::pipe, sync::oneshot};

use super::mask::{Masker, Secrets};
use crate::worker::{
    Stream,
    lines::{COMMAND_PREFIX, LineSplitter},
    output::PhaseOutput,
};

/// How much is read at once: large, so that a flood costs few calls, and small enough to stay in a core's own cache.
const PIECE_LIMIT: usize = 128 << 10;
/// How much a pipe may hold, where the system lets us.
const PIPE_SIZE: usize = 1 << 20;
/// How much is copied in a second: more than anybody reads, and little work beside that of passing on a flood.
const COPY_LIMIT: usize = 2 << 20;
/// How long that is counted; also the least time between two notes that something is missing.
const COPY_INTERVAL: Duration = Duration::from_secs(1);
/// How much may wait to be copied: as much as the outbox behind it holds.
const PENDING_LIMIT: usize = 1 << 20;
/// How much more may wait of lines that speak to us.
const COMMANDS_PENDING_LIMIT: usize = PENDING_LIMIT + (256 << 10);
/// What a piece costs besides its bytes.
const PIECE_OVERHEAD: usize = 64;
/// The longest line that may speak to us; an output's value is the longest part of one.
const COMMAND_LIMIT: usize = 16 << 10;
/// How long the beginning of a line waits for its end before it is logged as it is.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// A part of the copy.
enum Piece {
    Bytes(Vec<u8>),
    /// Lines that speak to us, from a part that is left out.
    Commands(Vec<u8>),
    Gap(Gap),
}

/// What is missing.
#[derive(Debug, Default)]
struct Gap {
    byte_count: u64,
    line_count: u64,
    /// Its last bytes, which may be the beginning of a secret.
    tail: Vec<u8>,
    /// Whether the copy goes on in the middle of a line.
    in_line: bool,
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
    /// Resolves when all of it is passed on, or told why a part is lost.
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
        let (pieces, taken) = channel();
        let pending = Arc::new(AtomicUsize::new(0));
        tap = Some(Tap::new(pieces, Arc::clone(&pending), copy.secrets.longest()));
        thread::Builder::new().name("copy".to_owned()).spawn(move || {
            log(&taken, &pending, &copy);
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
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) if lane.is_some() => {
                lane = None;
                continue;
            }
            // A terminal whose other side is closed says so with an error.
            Err(_) => return ended,
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
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => break,
            Err(error) => return (moved, Err(error)),
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

/// Where the copy branches off.
struct Tap {
    pieces: Sender<Piece>,
    pending: Arc<AtomicUsize>,
    counted_from: Option<Instant>,
    copied_count: usize,
    /// While something is left out.
    gap: Option<Gap>,
    /// The end of the stream so far, if that may be the beginning of a line that speaks to us.
    open: Vec<u8>,
    in_line: bool,
    tail_limit: usize,
}

impl Tap {
    fn new(pieces: Sender<Piece>, pending: Arc<AtomicUsize>, tail_limit: usize) -> Self {
        Tap {
            pieces,
            pending,
            counted_from: None,
            copied_count: 0,
            gap: None,
            open: Vec::new(),
            in_line: false,
            tail_limit,
        }
    }

    fn copy(&mut self, piece: &[u8], now: Instant) {
        if self.has_room(piece.len(), now) {
            self.close_gap();
            self.copied_count += piece.len();
            self.send(Piece::Bytes(piece.to_vec()), piece.len());
            self.find_open(piece);
        } else {
            self.leave_out(piece);
        }
        self.in_line = piece.last().is_some_and(|last| *last != b'\n');
    }

    /// Whether so much more may be copied. Once it may not, it may not for the rest of the interval, so that the copy
    /// has few gaps.
    fn has_room(&mut self, count: usize, now: Instant) -> bool {
        if self.counted_from.is_none_or(|from| now.duration_since(from) >= COPY_INTERVAL) {
            self.counted_from = Some(now);
            self.copied_count = 0;
        }
        let fits = self.copied_count + count <= COPY_LIMIT
            && self.pending.load(Ordering::Relaxed) + count + PIECE_OVERHEAD <= PENDING_LIMIT;
        if !fits {
            self.copied_count = COPY_LIMIT;
        }
        fits
    }

    fn send(&self, piece: Piece, byte_count: usize) {
        self.pending.fetch_add(byte_count + PIECE_OVERHEAD, Ordering::Relaxed);
        // With nobody there to copy any more, there is nothing to do about it.
        let _ = self.pieces.send(piece);
    }

    fn leave_out(&mut self, piece: &[u8]) {
        let gap = self.gap.get_or_insert_default();
        gap.byte_count += piece.len() as u64;
        gap.line_count += memchr_iter(b'\n', piece).count() as u64;
        let kept = gap.tail.len().min(self.tail_limit.saturating_sub(piece.len()));
        gap.tail.drain(..gap.tail.len() - kept);
        gap.tail.extend_from_slice(&piece[piece.len().saturating_sub(self.tail_limit)..]);
        let mut commands = Vec::new();
        // The line that was open first; what of it was copied already ends there without its end.
        let mut rest = piece;
        if !self.open.is_empty() {
            let end = memchr(b'\n', piece).map_or(piece.len(), |newline| newline + 1);
            commands.append(&mut self.open);
            commands.extend_from_slice(&piece[..end.min(COMMAND_LIMIT)]);
            rest = &piece[end..];
            if !commands.ends_with(b"\n") {
                self.open = std::mem::take(&mut commands);
                self.check_open();
            } else if !commands.starts_with(COMMAND_PREFIX.as_bytes()) {
                commands.clear();
            }
        }
        let mut newline_before = !self.in_line;
        while let Some(at) = memmem::find(rest, COMMAND_PREFIX.as_bytes()) {
            let begins_line = if at == 0 { newline_before } else { rest[at - 1] == b'\n' };
            let end = memchr(b'\n', &rest[at..]).map(|newline| at + newline + 1);
            let Some(end) = end else { break };
            if begins_line && end - at <= COMMAND_LIMIT {
                commands.extend_from_slice(&rest[at..end]);
            }
            rest = &rest[end..];
            newline_before = true;
        }
        let pending = self.pending.load(Ordering::Relaxed);
        if !commands.is_empty() && pending + commands.len() + PIECE_OVERHEAD <= COMMANDS_PENDING_LIMIT {
            let byte_count = commands.len();
            self.send(Piece::Commands(commands), byte_count);
        }
        self.find_open(piece);
    }

    /// Keeps the end of the piece, if that may be the beginning of a line that speaks to us.
    fn find_open(&mut self, piece: &[u8]) {
        match memrchr(b'\n', piece) {
            Some(newline) => {
                self.open.clear();
                let line = &piece[newline + 1..];
                self.open.extend_from_slice(&line[..line.len().min(COMMAND_LIMIT + 1)]);
            }
            None if self.gap.is_none() && (!self.open.is_empty() || !self.in_line) => {
                self.open.extend_from_slice(&piece[..piece.len().min(COMMAND_LIMIT + 1)]);
            }
            // In a gap it was added already, or has never begun.
            None if self.gap.is_some() && self.open.is_empty() && !self.in_line => {
                self.open.extend_from_slice(&piece[..piece.len().min(COMMAND_LIMIT + 1)]);
            }
            None => {}
        }
        self.check_open();
    }

    fn check_open(&mut self) {
        let length = self.open.len().min(COMMAND_PREFIX.len());
        if self.open[..length] != COMMAND_PREFIX.as_bytes()[..length] || self.open.len() > COMMAND_LIMIT {
            self.open.clear();
        }
    }

    fn close_gap(&mut self) {
        let Some(mut gap) = self.gap.take() else { return };
        gap.in_line = self.in_line;
        // A line that may speak to us is copied whole.
        let open = if gap.in_line { self.open.clone() } else { Vec::new() };
        gap.in_line &= open.is_empty();
        let tail_length = gap.tail.len();
        self.send(Piece::Gap(gap), tail_length);
        if !open.is_empty() {
            let byte_count = open.len();
            self.send(Piece::Bytes(open), byte_count);
        }
    }

    fn finish(mut self) {
        self.close_gap();
    }
}

/// Takes the copy to its end.
fn log(pieces: &Receiver<Piece>, pending: &AtomicUsize, copy: &Copy) {
    let mut masker = Masker::new(&copy.secrets);
    let mut splitter = LineSplitter::default();
    let take = |line| copy.output.take(copy.stream, line);
    loop {
        let piece = if splitter.is_waiting() {
            pieces.recv_timeout(FLUSH_AFTER)
        } else {
            pieces.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let byte_count = match piece {
            Ok(Piece::Bytes(bytes)) => {
                let byte_count = bytes.len();
                splitter.push(&masker.push(bytes), take);
                byte_count
            }
            Ok(Piece::Commands(lines)) => {
                let byte_count = lines.len();
                let mut masker = Masker::new(&copy.secrets);
                let mut splitter = LineSplitter::default();
                splitter.push(&masker.push(lines), take);
                splitter.push(&masker.finish(), take);
                byte_count
            }
            Ok(Piece::Gap(gap)) => {
                let byte_count = gap.tail.len();
                splitter.push(&masker.finish(), take);
                splitter.break_off(take);
                let Gap { byte_count: missing, line_count, tail, in_line } = gap;
                copy.output.note(format!("{missing} bytes, {line_count} lines, came too fast and were cut here"));
                splitter = if in_line { LineSplitter::within_line() } else { LineSplitter::default() };
                // Only to know of a secret that begins in what is missing.
                let _missing = masker.push(tail);
                byte_count
            }
            Err(RecvTimeoutError::Timeout) => {
                splitter.flush(take);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        pending.fetch_sub(byte_count + PIECE_OVERHEAD, Ordering::Relaxed);
    }
    splitter.push(&masker.finish(), take);
    splitter.finish(take);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is copied of these pieces when there is room for the first one only.
    fn commands(pieces: &[&str]) -> (String, Gap) {
        let (sender, taken) = channel();
        let mut tap = Tap::new(sender, Arc::default(), 4);
        let now = Instant::now();
        let mut pieces = pieces.iter();
        tap.copy(pieces.next().expect("a first one").as_bytes(), now);
        tap.copied_count = COPY_LIMIT;
        for piece in pieces {
            tap.copy(piece.as_bytes(), now);
        }
        tap.finish();
        let mut found = String::new();
        let mut last = Gap::default();
        for piece in taken.into_iter().skip(1) {
            match piece {
                Piece::Commands(lines) => found.push_str(std::str::from_utf8(&lines).expect("text")),
                Piece::Gap(gap) => last = gap,
                Piece::Bytes(_) => {}
            }
        }
        (found, last)
    }

    #[test]
    fn lines_that_speak_are_found_in_what_is_left_out_however_they_are_cut() {
        let text = "a\n::singletrack protect::\nb ::singletrack unprotect::\n::singletrack progress=3::\nc";
        let wanted = "::singletrack protect::\n::singletrack progress=3::\n";
        for at in 0..text.len() {
            let (head, tail) = text.split_at(at);
            assert_eq!(commands(&["", head, tail]).0, wanted, "cut at {at}");
        }
        let single: Vec<&str> = (0..text.len()).map(|at| &text[at..=at]).collect();
        assert_eq!(commands(&[&[""], single.as_slice()].concat()).0, wanted);
        assert_eq!(commands(&["x\n::single", "track protect::\n"]).0, "::singletrack protect::\n");
        assert_eq!(commands(&["x", "::singletrack protect::\n"]).0, "");
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let (_, gap) = commands(&["one\n", "two\nth", "ree\nfo", "u"]);
        assert_eq!((gap.byte_count, gap.line_count, gap.tail.as_slice(), gap.in_line), (13, 2, &b"\nfou"[..], true));
    }

    #[test]
    fn room_comes_back_with_the_next_interval() {
        let (sender, _taken) = channel();
        let mut tap = Tap::new(sender, Arc::default(), 0);
        let start = Instant::now();
        assert!(tap.has_room(COPY_LIMIT / 4, start));
        tap.copied_count = COPY_LIMIT;
        assert!(!tap.has_room(1, start));
        assert!(tap.has_room(1, start + COPY_INTERVAL));
        tap.pending.store(PENDING_LIMIT, Ordering::Relaxed);
        assert!(!tap.has_room(1, start + COPY_INTERVAL));
        tap.pending.store(0, Ordering::Relaxed);
        assert!(!tap.has_room(1, start + COPY_INTERVAL), "the gap lasts for the rest of the interval");
    }
}
