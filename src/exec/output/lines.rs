//! Cuts a command's output into lines that are safe to store and to show.
//!
//! A line holds no control character except tabs, so no log can move a terminal or end a stream. It is valid UTF-8 and
//! at most 64 KiB long. Longer lines are split, and `…` marks both sides of the cut.

use std::{borrow::Cow, io::BufRead};

use anstream::adapter::StripBytes;

use crate::model::bounds;

/// How long a line may be, in bytes of its text.
pub const LINE_LIMIT: usize = bounds::LINE_BYTES;

/// The mark on both sides of a cut.
const MARK: char = '…';

/// How many bytes are read before a line is cut. It leaves room for two marks.
const PIECE_LIMIT: usize = LINE_LIMIT - 2 * MARK.len_utf8();

/// The prefix of a directive line. Such a line is not passed on before it is complete.
pub const COMMAND_PREFIX: &str = "::singletrack ";

/// A part of a line, clean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinePart {
    pub(super) text: String,
    /// Whether this is the line's beginning. Only a line of a single part can be a directive.
    pub(super) begins: bool,
    /// Whether the line ends with it.
    pub(super) ends: bool,
}

/// A line from outside, cleaned in the same way as the lines that are read here: mostly one piece, else several.
pub fn clean_line(line: String) -> Vec<String> {
    if line.len() <= LINE_LIMIT && !line.chars().any(|c| c.is_control() && c != '\t') {
        return vec![line];
    }
    let mut splitter = LineSplitter::default();
    let mut cutter = Cutter::default();
    let mut lines = Vec::new();
    let mut take = |part: LinePart| cutter.push(part.text.into(), part.ends, &mut |line| lines.push(line));
    splitter.push(line.as_bytes(), &mut take);
    splitter.finish(&mut take);
    lines
}

/// A text of some lines from outside, without the characters that would move a terminal.
pub fn clean_text(text: String) -> String {
    if text.chars().any(|c| c.is_control() && c != '\t') { clean_line(text).join("\n") } else { text }
}

/// Collects bytes until they make a line, and cleans it.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    pending: Vec<u8>,
    /// Whether the line's beginning has been emitted already.
    continued: bool,
    cleaner: Cleaner,
}

impl LineSplitter {
    /// Begins in the middle of a line whose beginning is missing.
    pub(super) fn within_line() -> Self {
        LineSplitter { continued: true, ..LineSplitter::default() }
    }

    /// Takes bytes, and emits each line that they complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(LinePart)) {
        while !bytes.is_empty() {
            // Reading from a slice into memory cannot fail.
            let _ = bytes.read_until(b'\n', &mut self.pending);
            let ended = self.pending.last() == Some(&b'\n');
            if ended {
                self.pending.pop();
            }
            while self.pending.len() > PIECE_LIMIT {
                let rest = self.pending.split_off(whole_characters(&self.pending[..PIECE_LIMIT]));
                let piece = std::mem::replace(&mut self.pending, rest);
                self.pass_on(&piece, false, emit);
            }
            if ended {
                self.end_line(emit);
            }
        }
    }

    /// Whether there is the beginning of a line that is not complete. A beginning for which `is_for_us` holds does not
    /// count.
    pub(super) fn is_waiting(&self, is_for_us: impl Fn(&[u8]) -> bool) -> bool {
        whole_characters(&self.pending) > 0 && (self.continued || !is_for_us(&self.pending))
    }

    /// Emits the beginning of an incomplete line, such as a prompt.
    pub(super) fn flush(&mut self, emit: &mut impl FnMut(LinePart)) {
        let rest = self.pending.split_off(whole_characters(&self.pending));
        let piece = std::mem::replace(&mut self.pending, rest);
        if !piece.is_empty() {
            self.pass_on(&piece, false, emit);
        }
    }

    /// Emits the rest when the output has ended, or when a part of it is missing.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(LinePart)) {
        if !self.pending.is_empty() {
            self.end_line(emit);
        }
    }

    fn end_line(&mut self, emit: &mut impl FnMut(LinePart)) {
        let piece = std::mem::take(&mut self.pending);
        self.pass_on(&piece, true, emit);
        // An escape sequence without an end must not swallow the lines after it.
        self.cleaner = Cleaner::default();
        self.pending = piece;
        self.pending.clear();
    }

    fn pass_on(&mut self, piece: &[u8], ends: bool, emit: &mut impl FnMut(LinePart)) {
        emit(LinePart { text: self.cleaner.clean(piece), begins: !self.continued, ends });
        self.continued = !ends;
    }
}

/// Makes lines of clean parts, none longer than a line may be.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    pending: String,
    continued: bool,
}

impl Cutter {
    /// Begins in the middle of a line whose beginning is missing.
    pub(super) fn within_line() -> Self {
        Cutter { continued: true, ..Cutter::default() }
    }

    /// Takes a part of a line; emits the line if it `ends` with this part.
    pub(super) fn push(&mut self, text: Cow<'_, str>, ends: bool, emit: &mut impl FnMut(String)) {
        if self.pending.is_empty() && !self.continued && ends && text.len() <= PIECE_LIMIT {
            return emit(text.into_owned());
        }
        self.pending.push_str(&text);
        // Each invalid byte became a character of three bytes, so the text may be too long again.
        while self.pending.len() > PIECE_LIMIT {
            let rest = self.pending.split_off(self.pending.floor_char_boundary(PIECE_LIMIT));
            self.pass_on(true, emit);
            self.pending = rest;
        }
        if ends {
            if !(self.pending.is_empty() && self.continued) {
                self.pass_on(false, emit);
            }
            self.continued = false;
        }
    }

    /// Whether there is the beginning of a line.
    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Emits the beginning of an incomplete line.
    pub(super) fn flush(&mut self, emit: &mut impl FnMut(String)) {
        if !self.pending.is_empty() {
            self.pass_on(false, emit);
        }
    }

    /// Emits the beginning of a line whose end is missing.
    pub(super) fn break_off(&mut self, emit: &mut impl FnMut(String)) {
        if !self.pending.is_empty() {
            self.pass_on(true, emit);
        }
        self.continued = false;
    }

    /// `cut` means that the line was too long and continues, or that its rest is missing.
    fn pass_on(&mut self, cut: bool, emit: &mut impl FnMut(String)) {
        let text = std::mem::take(&mut self.pending);
        let mut line = String::with_capacity(text.len() + 2 * MARK.len_utf8());
        line.extend(self.continued.then_some(MARK));
        line.push_str(&text);
        line.extend(cut.then_some(MARK));
        emit(line);
        self.continued = true;
    }
}

/// How many of the bytes form complete characters. An incomplete character at the end waits for its rest.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail_start = bytes.len().saturating_sub(3);
    let tail = &bytes[tail_start..];
    let lead = tail.iter().rposition(|byte| *byte >= 0xC0);
    let incomplete = lead.filter(|at| {
        let needed = match tail[*at] {
            0xF0.. => 4,
            0xE0.. => 3,
            _ => 2,
        };
        tail.len() - at < needed
    });
    incomplete.map_or(bytes.len(), |at| tail_start + at)
}

/// Removes the characters that would move a terminal. It remembers an escape sequence that began in an earlier piece of
/// a line.
#[derive(Debug, Default)]
struct Cleaner {
    escapes: StripBytes,
    /// Whether an escape sequence may have begun.
    escaped: bool,
    /// Whether a carriage return was seen. The text after it overwrites the line, as on a terminal.
    returned: bool,
}

impl Cleaner {
    fn clean(&mut self, piece: &[u8]) -> String {
        let text = String::from_utf8_lossy(piece);
        let plain = |byte: u8| (byte >= 0x20 && byte != 0x7F && byte != 0xC2) || byte == b'\t';
        if !self.escaped && !self.returned && text.bytes().all(plain) {
            return text.into_owned();
        }
        self.escaped |= text.contains('\u{1b}');
        let shown: Vec<u8> = self.escapes.strip_next(text.as_bytes()).flatten().copied().collect();
        let mut clean = String::with_capacity(shown.len());
        for character in String::from_utf8_lossy(&shown).chars() {
            if character == '\r' {
                self.returned = true;
            } else if character == '\t' || !character.is_control() {
                if std::mem::take(&mut self.returned) {
                    clean.clear();
                }
                clean.push(character);
            }
        }
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<String> {
        let mut splitter = LineSplitter::default();
        let mut cutter = Cutter::default();
        let mut lines = Vec::new();
        let mut take = |part: LinePart| cutter.push(part.text.into(), part.ends, &mut |line| lines.push(line));
        for chunk in chunks {
            splitter.push(chunk, &mut take);
        }
        splitter.finish(&mut take);
        lines
    }

    #[test]
    fn lines_come_whole_however_they_were_read() {
        assert_eq!(split(&[b"one\ntw", b"o\n", b"\nthree"]), ["one", "two", "", "three"]);
        assert_eq!(split(&["é\n".as_bytes().split_at(1).0, "é\n".as_bytes().split_at(1).1]), ["é"]);
        assert_eq!(split(&[]), [""; 0]);
    }

    #[test]
    fn nothing_that_moves_a_terminal_gets_through() {
        let cases: [(&[u8], &str); 10] = [
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"\x1b]0;title\x07text", "text"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            (b"\x1b(Bset \x1bc", "set "),
            ("\u{9b}2Jgone".as_bytes(), "2Jgone"),
            (b"a\0b\x08c\x7fd\te", "abcd\te"),
            (b"\xff\xfeok", "\u{fffd}\u{fffd}ok"),
            (b"windows\r", "windows"),
            (b"10%\r50%\r100%\r", "100%"),
            (b"\x1b[31", ""),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(split(&[bytes]), [wanted], "{bytes:?}");
        }
        assert_eq!(split(&[b"\x1b]0;no end\nnext"]), ["", "next"]);
    }

    #[test]
    fn what_others_send_is_cleaned_as_what_is_read_here() {
        let clean = |line: &str| clean_line(line.to_owned());
        assert_eq!(clean("plain\tline"), ["plain\tline"]);
        assert_eq!(clean(""), [""]);
        assert_eq!(clean("\u{1b}[2Jone\0\u{9b}1mtwo\n10 %\r50 %"), ["one1mtwo", "50 %"]);
        assert_eq!(clean(&"é".repeat(LINE_LIMIT)).concat().replace(MARK, ""), "é".repeat(LINE_LIMIT));
        assert_eq!(clean_text("first\n\u{1b}[31msecond\0".to_owned()), "first\nsecond");
    }

    #[test]
    fn long_lines_are_cut_marked_and_lose_nothing() {
        let mut text = "é".repeat(LINE_LIMIT);
        text.insert(0, 'x');
        let lines = split(&[text.as_bytes()]);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() <= LINE_LIMIT));
        assert!(lines[0].ends_with(MARK) && lines[1].starts_with(MARK) && !lines[2].ends_with(MARK));
        assert_eq!(lines.concat().replace(MARK, ""), text);
        let invalid = split(&[&[0xFF; LINE_LIMIT]]);
        assert!(invalid.len() > 1 && invalid.iter().all(|line| line.len() <= LINE_LIMIT));
        assert_eq!(invalid.concat().replace(MARK, "").chars().count(), LINE_LIMIT);
    }
}
