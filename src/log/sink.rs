//! Where log lines and other texts on standard error go.
//!
//! A server and an agent log through a thread of their own, so that a pipe that nobody empties blocks that thread
//! alone. The queue of that thread is bounded. Commands for people write by themselves, because the order of their
//! output matters; they wait only for a terminal, which a person has paused.

use std::{
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use serde_json::Map;
use tracing::Level;

use super::line::{Line, LogFormat};

/// How many lines may wait to be written: a burst of them, and 1 MiB at most where lines are of the usual length.
const QUEUE_LIMIT: usize = 4096;
/// How long the end of the process waits for lines that are not written yet.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// How long a text waits for room in a pipe. After a text was dropped, the next ones do not wait.
const ROOM_LIMIT: Duration = Duration::from_secs(1);
/// How many bytes a pipe that reports room takes without waiting: `PIPE_BUF`.
const CHUNK_BYTES: usize = 4096;

static QUEUE: OnceLock<SyncSender<LogEntry>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
static IS_STUCK: AtomicBool = AtomicBool::new(false);
/// Whether standard error is to have nothing but JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);

enum LogEntry {
    Line(Vec<u8>),
    /// Answered when all lines before it are written or dropped.
    Flush(SyncSender<()>),
}

/// Begins to write through a thread of its own.
pub(super) fn begin(format: LogFormat) {
    IS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    let (queue, entries) = sync_channel(QUEUE_LIMIT);
    // Without the thread, each line is written by its sender.
    if thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&entries)).is_ok() {
        let _ = QUEUE.set(queue);
    }
}

/// How many lines could not be written since the start of the process.
pub fn dropped_count() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits until everything logged so far is written, but not for long: before the process ends.
pub fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let deadline = Instant::now() + FLUSH_LIMIT;
    let (done, is_done) = sync_channel(1);
    let mut entry = LogEntry::Flush(done);
    while let Err(TrySendError::Full(back)) = queue.try_send(entry) {
        if Instant::now() >= deadline {
            return;
        }
        entry = back;
        thread::sleep(Duration::from_millis(10));
    }
    let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}

/// Writes a line for people on standard error. It is dropped where it cannot be written soon.
pub fn say(line: &str) {
    if IS_JSON.load(Ordering::Relaxed) {
        return say_json(line);
    }
    let is_written = {
        // Colours are removed where standard error is no terminal that shows them.
        let mut text = anstream::AutoStream::new(Vec::new(), anstream::AutoStream::choice(&io::stderr()));
        writeln!(text, "{line}").is_ok() && write_soon(&text.into_inner()).is_ok()
    };
    if !is_written {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// The same, with control sequences that are meant for the reader of the log, such as those of a CI's sections.
pub fn say_whole(line: &str) {
    if IS_JSON.load(Ordering::Relaxed) {
        return say_json(line);
    }
    if write_soon(format!("{line}\n").as_bytes()).is_err() {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes a text for people as a line of the JSON log, whatever the log's filter: mostly why the program ends.
fn say_json(text: &str) {
    let text = anstream::adapter::strip_str(text).to_string();
    let level = match text.split(':').next() {
        Some("error") => Level::ERROR,
        Some("warning") => Level::WARN,
        Some(_) | None => Level::INFO,
    };
    take(format!("{}\n", of_our_own(level, text).to_json()).as_bytes());
}

/// A line that is no event.
fn of_our_own(level: Level, message: String) -> Line<'static> {
    let timestamp = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    Line { timestamp, level, target: "singletrack", message, request_id: None, fields: Map::new() }
}

/// Takes one event of the log, which is written at once.
pub(super) struct LogLine;

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        take(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes a line, or counts it as dropped.
fn take(line: &[u8]) {
    let is_taken = match QUEUE.get() {
        Some(queue) => queue.try_send(LogEntry::Line(line.to_vec())).is_ok(),
        None => write_soon(line).is_ok(),
    };
    if !is_taken {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// The body of the thread: writes the entries that come, and says how many are missing once it can write again.
fn write_all(entries: &Receiver<LogEntry>) {
    let mut told_count = 0;
    while let Ok(entry) = entries.recv() {
        match entry {
            LogEntry::Line(line) => {
                let lost_count = dropped_count() - told_count;
                if lost_count > 0 {
                    let notice = format!("{lost_count} lines of the log could not be written before this one");
                    let notice = match IS_JSON.load(Ordering::Relaxed) {
                        true => format!("{}\n", of_our_own(Level::WARN, notice).to_json()),
                        false => format!("singletrack: {notice}\n"),
                    };
                    if write_whole(notice.as_bytes()).is_ok() {
                        told_count += lost_count;
                    }
                }
                if write_whole(&line).is_err() {
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                }
            }
            LogEntry::Flush(done) => drop(done.send(())),
        }
    }
}

/// Writes all bytes, however long that takes.
fn write_whole(mut bytes: &[u8]) -> Result<(), Errno> {
    let stderr = io::stderr();
    while !bytes.is_empty() {
        match rustix::io::write(&stderr, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Another process that shares standard error has made it non-blocking.
            Err(Errno::AGAIN) => _ = wait_for_room(&stderr, None)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all bytes, but does not wait for long for a pipe that nobody empties.
fn write_soon(bytes: &[u8]) -> Result<(), Errno> {
    let stderr = io::stderr();
    if stderr.is_terminal() {
        return write_whole(bytes);
    }
    let patience = if IS_STUCK.load(Ordering::Relaxed) { Duration::ZERO } else { ROOM_LIMIT };
    for chunk in bytes.chunks(CHUNK_BYTES) {
        let has_room = wait_for_room(&stderr, Some(patience))?;
        IS_STUCK.store(!has_room, Ordering::Relaxed);
        if !has_room {
            return Err(Errno::AGAIN);
        }
        write_whole(chunk)?;
    }
    Ok(())
}

/// Whether there is room within so long.
fn wait_for_room(file: &impl AsFd, patience: Option<Duration>) -> Result<bool, Errno> {
    let patience = patience.map(Timespec::try_from).transpose().map_err(|_| Errno::INVAL)?;
    let mut polled = [PollFd::new(file, PollFlags::OUT)];
    loop {
        match poll(&mut polled, patience.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
