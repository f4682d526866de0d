//! The one door through which the program prints for people and scripts.
//!
//! Much of the printed text is untrusted: names, messages, reasons, output. So every text is cleaned here, and only here:
//! it cannot move a terminal's cursor or add a line, and in a CI it cannot give commands to the job's runner. Only styles
//! and runner commands of our own pass, by functions that take them apart from the text. A test keeps other ways out closed.
//!
//! A reader that has gone away, as in `singletrack list | head -1`, is not an error and ends nothing.

use std::{
    io::{self, Write},
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Mutex, OnceLock, PoisonError},
};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use rustix::fs::fstat;
use serde::Serialize;

use super::{
    clean::{clean, clean_log, defuse},
    fit::{columns, fold},
};
use crate::{
    cli::ci::{Environment, LogWords, Section},
    clock::{Clock as _, SystemClock},
    log,
    wire::ascii,
};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
/// For what a deployment is doing, between its output.
pub const HEADING: Style = AnsiColor::Blue.on_default().bold();
/// For what went well.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// For what failed.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// For what was stopped or left out.
pub const STOPPED: Style = AnsiColor::Yellow.on_default().bold();
/// The words that tell an outcome, and their colours.
const OUTCOMES: [(&str, Style); 4] =
    [("SUCCEEDED", GOOD), ("FAILED", BAD), ("CANCELLED", STOPPED), ("RUNNING", HEADING)];

/// How many columns there are for the result, if a terminal shows it.
pub fn result_columns() -> Option<usize> {
    columns(io::stdout())
}

/// The same for progress.
pub fn progress_columns() -> Option<usize> {
    columns(io::stderr())
}

/// Removes the unfinished line of progress before the process ends at once.
pub fn erase_line() {
    if progress_columns().is_some() && !in_ci() {
        let _ = write!(anstream::stderr().lock(), "\r\u{1b}[K\u{1b}[?25h");
    }
}

/// The text with the words that tell an outcome in their colours.
fn toned(text: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut toned = text.to_owned();
    for (word, style) in OUTCOMES {
        let Some(at) = toned.find(word) else { continue };
        let end = at + word.len();
        if toned[..at].ends_with(is_part) || toned[end..].starts_with(is_part) {
            continue;
        }
        toned.replace_range(at..end, &format!("{style}{word}{style:#}"));
    }
    toned
}

/// A line of what a command found out, on standard output: it fits the terminal, and colours tell outcomes.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn answer(text: &str) -> io::Result<()> {
    let text = shown(text);
    match result_columns() {
        Some(columns) => fold(&text, columns).iter().try_for_each(|line| to_stdout(&toned(line))),
        None => to_stdout(&text),
    }
}

/// Such lines at a terminal, in the place of the rows that showed the same before. Answers how many rows there are now.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn repaint(lines: &[String], former_row_count: usize) -> io::Result<usize> {
    let columns = result_columns().unwrap_or(usize::MAX);
    let rows: Vec<_> = lines.iter().flat_map(|line| fold(&shown(line), columns)).map(|row| toned(&row)).collect();
    let up = if former_row_count > 0 { format!("\u{1b}[{former_row_count}A\r\u{1b}[J") } else { String::new() };
    to_stdout(&format!("{up}{}", rows.join("\n")))?;
    Ok(rows.len())
}

/// Who reads what we print.
struct Reader {
    /// A CI's runner, known or not.
    is_ci: bool,
    /// What the runner reads of its own in a log.
    words: Option<&'static dyn LogWords>,
}

fn reader() -> &'static Reader {
    static READER: OnceLock<Reader> = OnceLock::new();
    READER.get_or_init(|| {
        let get = |name: &str| std::env::var(name).ok();
        let environment = Environment::new(&get);
        let words = environment.detect().and_then(|run| run.system.log_words());
        // Where a step says `2>&1`, progress is on standard output. Otherwise that has the result alone.
        let words = words.filter(|words| !words.wants_standard_output() || progress_is_on_standard_output());
        Reader { is_ci: environment.is_ci(), words }
    })
}

fn progress_is_on_standard_output() -> bool {
    let of = |stream: BorrowedFd<'_>| fstat(stream).ok().map(|file| (file.st_dev, file.st_ino));
    let progress = of(io::stderr().as_fd());
    progress.is_some() && progress == of(io::stdout().as_fd())
}

fn in_ci() -> bool {
    reader().is_ci
}

/// The sections of the log: how many there were, and the one that is open.
static SECTIONS: Mutex<(u32, Option<Section>)> = Mutex::new((0, None));

/// A heading of what a deployment does. Where a CI's log has sections, a heading that `begins` something begins a section, and
/// any other heading ends it.
pub fn heading(begins: bool, style: Style, head: &str, text: &str, at: Timestamp) {
    let Some(words) = reader().words else {
        return styled(style, &format!("==> {head}"), text);
    };
    end_section(at);
    if !begins {
        return styled(style, &format!("==> {head}"), text);
    }
    let mut sections = SECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let (count, open) = &mut *sections;
    *count += 1;
    let section = Section { number: *count, title: shown(&format!("{head}{text}")), began_at: at };
    log::say_whole(&words.begin(&section));
    *open = Some(section);
}

/// Ends the section that is open, if one is.
pub fn end_section(at: Timestamp) {
    let Some(words) = reader().words else { return };
    let open = SECTIONS.lock().unwrap_or_else(PoisonError::into_inner).1.take();
    if let Some(line) = open.and_then(|section| words.end(&section, at)) {
        log::say_whole(&line);
    }
}

/// A text as it may be shown: one line, without control characters, and in a CI without commands to its runner.
pub fn shown(text: &str) -> String {
    let text = clean(text);
    let text = if in_ci() { defuse(text) } else { text };
    if reader().words.is_some_and(|words| words.is_word(&text)) { format!("\u{2060}{text}") } else { text }
}

/// A line on standard error, to a terminal in raw mode: it does not go to the first column by itself.
pub fn progress_in_raw_mode(text: &str) {
    log::say(&format!("{}\r", shown(text)));
}

/// A line of the result, on standard output.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn result(text: &str) -> io::Result<()> {
    to_stdout(&shown(text))
}

/// The same that begins with something in a style of our own.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn styled_result(style: Style, head: &str, text: &str) -> io::Result<()> {
    to_stdout(&format!("{style}{}{style:#}{}", shown(head), shown(text)))
}

/// A line of a deployment's output, on standard output, after something of our own, such as its time. Of a line that a carriage
/// return wrote over, the last text.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn output_after(head: &str, line: &str) -> io::Result<()> {
    result(&format!("{head}{}", clean_log(line)))
}

/// The same of what was written to standard error, which a terminal marks.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn error_output_after(head: &str, line: &str) -> io::Result<()> {
    match result_columns() {
        Some(_) => to_stdout(&format!("{}{BAD}!{BAD:#} {}", shown(head), shown(clean_log(line)))),
        None => output_after(head, line),
    }
}

/// A value as JSON for people, on standard output.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    to_stdout(&inert(ascii::to_string_pretty(value)?))
}

/// A value as JSON in one line, on standard output.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn json_line(value: &impl Serialize) -> io::Result<()> {
    to_stdout(&inert(ascii::to_string(value)?))
}

/// JSON that commands no runner: `##` stands only in strings, where it can be written otherwise.
fn inert(json: String) -> String {
    if in_ci() { json.replace('#', "\\u0023") } else { json }
}

fn to_stdout(line: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A result that is a file of our own making, byte for byte.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn raw_result(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A line of progress, on standard error.
pub fn progress(text: &str) {
    log::say(&shown(text));
}

/// The same of a deployment's output.
pub fn progress_output(line: &str) {
    progress(clean_log(line));
}

/// The same of what was written to standard error, which a terminal marks.
pub fn progress_error_output(line: &str) {
    match progress_columns() {
        Some(_) if !in_ci() => styled(BAD, "!", &format!(" {}", clean_log(line))),
        Some(_) | None => progress_output(line),
    }
}

/// A line of progress that begins with something in a style of our own.
pub fn styled(style: Style, head: &str, text: &str) {
    log::say(&format!("{style}{}{style:#}{}", shown(head), shown(text)));
}

/// `error: …`, on standard error. A CI that lists errors beside the job lists it, under this title.
pub fn error(title: &str, text: &str) {
    let (title, text) = (shown(title), shown(text));
    end_section(SystemClock.wall());
    let words = reader().words;
    let had_sections = SECTIONS.lock().unwrap_or_else(PoisonError::into_inner).0 > 0;
    if let Some(line) = words.filter(|_| had_sections).and_then(|words| words.unfold()) {
        log::say_whole(&line);
    }
    match words.and_then(|words| words.error(&title, &text)) {
        Some(line) => log::say_whole(&line),
        None => styled(ERROR, "error:", &format!(" {text}")),
    }
}

/// `notice: …`, on standard error: what is no error, and should not be missed.
pub fn notice(title: &str, text: &str) {
    let (title, text) = (shown(title), shown(text));
    end_section(SystemClock.wall());
    match reader().words.and_then(|words| words.notice(&title, &text)) {
        Some(line) => log::say_whole(&line),
        None => styled(HINT, "notice:", &format!(" {text}")),
    }
}

/// `warning: …`, on standard error.
pub fn warning(text: &str) {
    styled(WARNING, "warning:", &format!(" {text}"));
}

/// `hint: …`, on standard error.
pub fn hint(text: &str) {
    styled(HINT, "hint:", &format!(" {text}"));
}

/// `more: …`, on standard error: where more about an error stands.
pub fn more(text: &str) {
    styled(HINT, "more:", &format!(" {text}"));
}
