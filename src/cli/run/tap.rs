//! The copy of a command's output. The copy is limited before any work is done on it: output that comes too fast is
//! counted and left out. Two parts are kept: the end of the left-out output, because it often says why the command
//! fails, and the lines that are directives to Singletrack. Another thread writes the copy to the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use aho_corasick::AhoCorasick;
use memchr::{memchr, memchr_iter, memrchr};

use crate::exec::{
    Stream,
    output::{SIGNS, begins_to_announce, mask::Secrets, phase::PhaseOutput, stream_log::StreamLog},
};

/// How many bytes are copied in a second: more than a person reads, and little work compared with passing on a flood.
const COPY_LIMIT: usize = 2 << 20;
/// The interval for which `COPY_LIMIT` counts; also the shortest time between two notes about missing output.
const COPY_INTERVAL: Duration = Duration::from_secs(1);
/// How many bytes may wait to be copied: as many as the outbox behind the copy holds.
const PENDING_LIMIT: usize = 1 << 20;
/// How many bytes may wait in total when the newest ones are lines with directives.
const COMMANDS_PENDING_LIMIT: usize = PENDING_LIMIT + (256 << 10);
/// What a waiting piece counts in addition to its bytes.
const PIECE_OVERHEAD: usize = 64;
/// The longest line that may be a directive. Its longest part is an announced secret.
const COMMAND_LIMIT: usize = 64 << 10;
/// How many bytes of the end of left-out output are copied.
const TAIL_LIMIT: usize = 64 << 10;
/// How many bytes before that end are kept as context, because a secret may begin there.
const CONTEXT_LIMIT: usize = 64 << 10;
/// How long an unfinished line waits for its end. After that time the beginning is logged alone.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// One piece of the copy.
enum CopyPiece {
    Bytes(Vec<u8>),
    /// Lines with directives, from a part that is left out.
    Commands(Vec<u8>),
    /// Output that was held back and then turned out to be short enough to copy. Its directives were already sent as
    /// `Commands`.
    Late(Vec<u8>),
    Gap(Gap),
    /// A secret was announced and could not be read. Later output may contain this secret, so none of it can be logged
    /// safely.
    SecretMissed,
}

/// A missing part of the output.
#[derive(Debug, Default)]
struct Gap {
    byte_count: u64,
    line_count: u64,
    /// The last missing bytes before the tail.
    context: Vec<u8>,
    /// The output after the missing part. The directives in the tail were already obeyed.
    tail: Vec<u8>,
    /// Whether the tail begins in the middle of a line.
    within_line: bool,
}

/// The destination of a copy.
#[derive(Clone)]
pub(super) struct Copy {
    pub(super) stream: Stream,
    pub(super) output: PhaseOutput,
}

/// Makes both ends: the `Tap` takes the copy, the `TapEnd` writes it to the log.
pub(super) fn new(copy: Copy) -> (Tap, TapEnd) {
    let (pieces, taken) = channel();
    let pending = Arc::new(AtomicUsize::new(0));
    let secrets = Arc::clone(copy.output.secrets());
    let log = StreamLog::new(copy.output, copy.stream);
    let taken = TapEnd { pieces: taken, pending: Arc::clone(&pending), log, secrets };
    (Tap::new(pieces, pending), taken)
}

/// The end that takes the copy.
pub(super) struct Tap {
    pieces: Sender<CopyPiece>,
    pending: Arc<AtomicUsize>,
    /// Finds lines with directives. With `None`, no line is found.
    signs: Option<AhoCorasick>,
    counted_from: Option<Instant>,
    copied_count: usize,
    /// While output is left out: its number of bytes and lines, and its last bytes.
    left_out: Option<LeftOutOutput>,
    /// The unfinished line, up to one byte more than the longest directive.
    open: Vec<u8>,
}

#[derive(Default)]
struct LeftOutOutput {
    byte_count: u64,
    line_count: u64,
    last: Vec<u8>,
}

impl Tap {
    fn new(pieces: Sender<CopyPiece>, pending: Arc<AtomicUsize>) -> Self {
        let signs = AhoCorasick::new(SIGNS).ok();
        Tap { pieces, pending, signs, counted_from: None, copied_count: 0, left_out: None, open: Vec::new() }
    }

    /// Takes a copy of a piece that is passed on.
    pub(super) fn copy(&mut self, piece: &[u8], now: Instant) {
        if self.has_room(piece.len(), now) {
            self.close_gap();
            self.copied_count += piece.len();
            self.send(CopyPiece::Bytes(piece.to_vec()), piece.len());
        } else {
            self.leave_out(piece);
        }
        match memrchr(b'\n', piece) {
            Some(newline) => {
                self.open.clear();
                self.keep_open(&piece[newline + 1..]);
            }
            None => self.keep_open(piece),
        }
    }

    /// The stream has ended.
    pub(super) fn finish(mut self) {
        self.close_gap();
    }

    /// Whether `count` more bytes may be copied. After the first refusal nothing is copied for the rest of the
    /// interval, so that the copy has few gaps.
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

    fn send(&self, piece: CopyPiece, byte_count: usize) {
        self.pending.fetch_add(byte_count + PIECE_OVERHEAD, Ordering::Relaxed);
        // Sending fails only when the receiving thread has ended. Then nothing can be copied, so the error is ignored.
        let _ = self.pieces.send(piece);
    }

    fn leave_out(&mut self, piece: &[u8]) {
        let left_out = self.left_out.get_or_insert_default();
        left_out.byte_count += piece.len() as u64;
        left_out.line_count += memchr_iter(b'\n', piece).count() as u64;
        const KEPT: usize = TAIL_LIMIT + CONTEXT_LIMIT;
        let kept = left_out.last.len().min(KEPT.saturating_sub(piece.len()));
        left_out.last.drain(..left_out.last.len() - kept);
        left_out.last.extend_from_slice(&piece[piece.len().saturating_sub(KEPT)..]);
        let Some(first_end) = memchr(b'\n', piece).map(|newline| newline + 1) else { return };
        // First the line that was unfinished. If its beginning was copied already, the copy has this line without its
        // end.
        let mut commands = Vec::new();
        let mut line = std::mem::take(&mut self.open);
        line.extend_from_slice(&piece[..first_end]);
        self.find_commands(&line, &mut commands);
        self.find_commands(&piece[first_end..], &mut commands);
        let pending = self.pending.load(Ordering::Relaxed);
        if pending + commands.len() + PIECE_OVERHEAD > COMMANDS_PENDING_LIMIT {
            if commands.split(|byte| *byte == b'\n').any(announces) {
                self.send(CopyPiece::SecretMissed, 0);
            }
        } else if !commands.is_empty() {
            let byte_count = commands.len();
            self.send(CopyPiece::Commands(commands), byte_count);
        }
    }

    /// Adds the complete lines among `lines` that are directives.
    fn find_commands(&self, lines: &[u8], commands: &mut Vec<u8>) {
        let Some(signs) = &self.signs else { return };
        let mut from = 0;
        while let Some(sign) = signs.find(&lines[from..]) {
            let at = from + sign.start();
            let begin = memrchr(b'\n', &lines[..at]).map_or(0, |newline| newline + 1);
            let Some(end) = memchr(b'\n', &lines[at..]).map(|newline| at + newline + 1) else { return };
            if end - begin <= COMMAND_LIMIT {
                commands.extend_from_slice(&lines[begin..end]);
            } else if announces(&lines[begin..end]) {
                self.send(CopyPiece::SecretMissed, 0);
            }
            from = end;
        }
    }

    fn keep_open(&mut self, part: &[u8]) {
        let room = (COMMAND_LIMIT + 1).saturating_sub(self.open.len());
        self.open.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn close_gap(&mut self) {
        let Some(LeftOutOutput { byte_count, line_count, last }) = self.left_out.take() else { return };
        let last_length = last.len();
        if byte_count <= TAIL_LIMIT as u64 {
            return self.send(CopyPiece::Late(last), last_length);
        }
        let mut begin = last_length - TAIL_LIMIT.min(last_length);
        let line_begin = memchr(b'\n', &last[begin.saturating_sub(1)..]).map(|at| begin.saturating_sub(1) + at + 1);
        let within_line = line_begin.is_none();
        begin = line_begin.unwrap_or(begin);
        while within_line && last.get(begin).is_some_and(|byte| byte & 0xC0 == 0x80) {
            begin += 1;
        }
        let (context, tail) = last.split_at(begin);
        let cut = if byte_count > last_length as u64 { memchr(b'\n', context).map_or(0, |at| at + 1) } else { 0 };
        let gap = Gap {
            byte_count: byte_count - tail.len() as u64,
            line_count: line_count - memchr_iter(b'\n', tail).count() as u64,
            context: context[cut..].to_vec(),
            tail: tail.to_vec(),
            within_line,
        };
        let size = gap.context.len() + gap.tail.len();
        self.send(CopyPiece::Gap(gap), size);
    }
}

fn announces(line: &[u8]) -> bool {
    begins_to_announce(&String::from_utf8_lossy(line))
}

/// The other end of a tap.
pub(super) struct TapEnd {
    pieces: Receiver<CopyPiece>,
    pending: Arc<AtomicUsize>,
    log: StreamLog,
    secrets: Arc<Secrets>,
}

impl TapEnd {
    /// Writes the copy to the log until the copy ends.
    pub(super) fn log(self) {
        let TapEnd { pieces, pending, mut log, secrets } = self;
        loop {
            let piece = if log.is_waiting() {
                pieces.recv_timeout(FLUSH_AFTER)
            } else {
                pieces.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            let byte_count = match piece {
                Ok(CopyPiece::Bytes(bytes)) => {
                    log.push(&bytes);
                    bytes.len()
                }
                Ok(CopyPiece::Commands(lines)) => {
                    log.hear(&lines);
                    lines.len()
                }
                Ok(CopyPiece::Late(bytes)) => {
                    log.push_heard(&bytes);
                    bytes.len()
                }
                Ok(CopyPiece::Gap(Gap { byte_count, line_count, context, tail, within_line })) => {
                    let note = format!("{byte_count} bytes, {line_count} lines, came too fast and were cut here");
                    log.skip(note, &context, within_line, &tail);
                    context.len() + tail.len()
                }
                Ok(CopyPiece::SecretMissed) => {
                    secrets.give_up();
                    0
                }
                Err(RecvTimeoutError::Timeout) => {
                    log.flush();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            pending.fetch_sub(byte_count + PIECE_OVERHEAD, Ordering::Relaxed);
        }
        log.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is copied of these pieces when there is room only for the first piece.
    fn taken(pieces: &[&str]) -> (String, Vec<Gap>, String) {
        let (sender, taken) = channel();
        let mut tap = Tap::new(sender, Arc::default());
        let now = Instant::now();
        let mut pieces = pieces.iter();
        tap.copy(pieces.next().expect("a first one").as_bytes(), now);
        tap.copied_count = COPY_LIMIT;
        for piece in pieces {
            tap.copy(piece.as_bytes(), now);
        }
        tap.finish();
        let (mut commands, mut gaps, mut late) = (String::new(), Vec::new(), String::new());
        for piece in taken.into_iter().skip(1) {
            match piece {
                CopyPiece::Commands(lines) => commands.push_str(std::str::from_utf8(&lines).expect("text")),
                CopyPiece::Late(bytes) => late.push_str(std::str::from_utf8(&bytes).expect("text")),
                CopyPiece::Gap(gap) => gaps.push(gap),
                CopyPiece::Bytes(_) | CopyPiece::SecretMissed => {}
            }
        }
        (commands, gaps, late)
    }

    #[test]
    fn lines_that_speak_are_found_in_what_is_left_out_however_they_are_cut() {
        let text = "a\n::singletrack protect::\nb\n ::add-mask::x\n::singletrack progress=3::\nc";
        let wanted = "::singletrack protect::\n ::add-mask::x\n::singletrack progress=3::\n";
        for at in 0..text.len() {
            let (head, tail) = text.split_at(at);
            assert_eq!(taken(&["", head, tail]).0, wanted, "cut at {at}");
        }
        let single: Vec<&str> = (0..text.len()).map(|at| &text[at..=at]).collect();
        assert_eq!(taken(&[&[""], single.as_slice()].concat()).0, wanted);
        assert_eq!(taken(&["x\n::single", "track protect::\n"]).0, "::singletrack protect::\n");
    }

    #[test]
    fn the_end_of_what_is_left_out_is_copied_and_the_rest_is_counted() {
        let flood = "0123456\n".repeat(TAIL_LIMIT);
        let (_, gaps, _) = taken(&["one\n", &flood, "FATAL\nno end"]);
        let gap = &gaps[0];
        assert!(gap.tail.ends_with(b"0123456\nFATAL\nno end") && gap.tail.len() <= TAIL_LIMIT && !gap.within_line);
        assert!(gap.tail.starts_with(b"0123456\n") && gap.context.ends_with(b"6\n"));
        let (bytes, lines) = (gap.byte_count, gap.line_count);
        let tail_lines = gap.tail.iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(bytes + gap.tail.len() as u64, flood.len() as u64 + 12);
        assert_eq!(lines + tail_lines, TAIL_LIMIT as u64 + 1);
        // Left-out output that is short enough is copied in the end, so nothing is missing.
        assert_eq!(taken(&["one\n", "two\nth", "ree\n"]).2, "two\nthree\n");
        let (_, gaps, _) = taken(&["", &"x".repeat(3 * TAIL_LIMIT)]);
        assert!(gaps[0].within_line && gaps[0].tail.len() == TAIL_LIMIT);
    }

    #[test]
    fn room_comes_back_with_the_next_interval() {
        let (sender, _taken) = channel();
        let mut tap = Tap::new(sender, Arc::default());
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
