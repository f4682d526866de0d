//! The one door through which the program prints for people and scripts.
//!
//! Much of the printed text is untrusted: names, messages, reasons, output. So every text is cleaned here, and only
//! here. A cleaned text cannot move a terminal's cursor or add a line, and in a CI it cannot give commands to the job's
//! runner. Our own styles and runner commands are separate arguments and are not cleaned. A test makes sure that all
//! printing goes through this module.
//!
//! A reader that has closed its end, as in `singletrack list | head -1`, is not an error, and the program goes on.

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
/// For lines about a deployment's activity, between lines of its output.
pub const HEADING: Style = AnsiColor::Blue.on_default().bold();
/// For success.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// For failure.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// For something that was stopped or left out.
pub const STOPPED: Style = AnsiColor::Yellow.on_default().bold();
/// The words for outcomes, and their colours.
const OUTCOMES: [(&str, Style); 4] =
    [("SUCCEEDED", GOOD), ("FAILED", BAD), ("CANCELLED", STOPPED), ("RUNNING", HEADING)];

/// How many columns there are for the result, if a terminal shows it.
pub fn result_columns() -> Option<usize> {
    columns(io::stdout())
}

/// How many columns there are for progress, if a terminal shows it.
pub fn progress_columns() -> Option<usize> {
    columns(io::stderr())
}

/// Removes the unfinished line of progress. Called before the process ends without its usual cleaning up.
pub fn erase_line() {
    if progress_columns().is_some() && !in_ci() {
        let _ = write!(anstream::stderr().lock(), "\r\u{1b}[K\u{1b}[?25h");
    }
}

/// The text with the words for outcomes in their colours.
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

/// A line of a command's answer, on standard output: folded to the terminal's width, with outcomes in colour.
///
/// # Errors
/// Writing failed, and not because the reader has closed its end.
pub fn answer(text: &str) -> io::Result<()> {
    let text = shown(text);
    match result_columns() {
        Some(columns) => fold(&text, columns).iter().try_for_each(|line| to_stdout(&toned(line))),
        None => to_stdout(&text),
    }
}

/// Prints lines of an answer at a terminal, over the rows of the former call. Returns how many rows there are now.
///
/// # Errors
/// Writing failed, and not because the reader has closed its end.
pub fn repaint(lines: &[String], former_row_count: usize) -> io::Result<usize> {
    let columns = result_columns().unwrap_or(usize::MAX);
    let rows: Vec<_> = lines.iter().flat_map(|line| fold(&shown(line), columns)).map(|row| toned(&row)).collect();
    let up = if former_row_count > 0 { format!("\u{1b}[{former_row_count}A\r\u{1b}[J") } else { String::new() };
    to_stdout(&format!("{up}{}", rows.join("\n")))?;
    Ok(rows.len())
}

/// The reader of the printed text.
struct Reader {
    /// Whether the reader is a CI's runner, of a known CI system or not.
    is_ci: bool,
    /// The commands that the runner understands in a log.
    words: Option<&'static dyn LogWords>,
}

fn reader() -> &'static Reader {
    static READER: OnceLock<Reader> = OnceLock::new();
    READER.get_or_init(|| {
        let get = |name: &str| std::env::var(name).ok();
        let environment = Environment::new(&get);
        let words = environment.detect().and_then(|run| run.system.log_words());
        // With `2>&1` in a CI step, progress is on standard output. Otherwise standard output has only the result,
        // without runner commands.
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

/// The sections of the log: how many have begun, and the open section.
static SECTIONS: Mutex<(u32, Option<Section>)> = Mutex::new((0, None));

/// A heading about a deployment's activity. If the CI's log has sections, a heading with `begins` begins a section, and
/// any other heading ends the open section.
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

/// A text that is safe to show: one line, without control characters, and in a CI without commands to the runner.
pub fn shown(text: &str) -> String {
    let text = clean(text);
    let text = if in_ci() { defuse(text) } else { text };
    if reader().words.is_some_and(|words| words.is_word(&text)) { format!("\u{2060}{text}") } else { text }
}

/// A line on standard error, to a terminal in raw mode. Such a terminal does not go to the first column by itself.
pub fn progress_in_raw_mode(text: &str) {
    log::say(&format!("{}\r", shown(text)));
}

/// A line of the result, on standard output.
///
/// # Errors
/// Writing failed, and not because the reader has closed its end.
pub fn result(text: &str) -> io::Result<()> {
    to_stdout(&shown(text))
}

/// A line of the result that begins with `head` in a style of our own.
///
/// # Errors
/// Writing failed, and not because the reader has closed its end.
pub fn styled_result(style: Style, head: &str, text: &str) -> io::Result<()> {
    to_stdout(&format!("{style}{}{style:#}{}", shown(head), shown(text)))
}

/// A line of a deployment's output, on standard output, after a `head` of our own, such as the line's time. If carriage
/// returns overwrote the line, only its last text is printed.
///
/// # Errors
/// Writing failed, and not because the reader has closed its end.
pub fn output_after(head: &str, line: &str) -> io::Result<()> {
    result(&format!("{head}{}", clean_log(line)))
}

/// The same for a line that the command wrote to standard error. At a terminal the line is marked.
///
/// # Errors
/// Writing failed, and not because the reader has closed its end.
pub fn error_output_after(head: &str, line: &str) -> io::Result<()> {
    match result_columns() {
        Some(_) => to_stdout(&format!("{}{BAD}!{BAD:#} {}", shown(head), shown(clean_log(line)))),
        None => output_after(head, line),
    }
}

/// A value as JSON for people, on standard output.
///
/// # Errors
/// Writing failed, and not because the reader has closed its end.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    to_stdout(&inert(ascii::to_string_pretty(value)?))
}

/// A value as JSON in one line, on standard output.
///
/// # Errors
/// Writing failed, and not because the reader has closed its end.
pub fn json_line(value: &impl Serialize) -> io::Result<()> {
    to_stdout(&inert(ascii::to_string(value)?))
}

/// JSON without runner commands. `#` stands only in JSON strings, where it can be escaped.
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

/// A result that is a file made by this program, byte for byte.
///
/// # Errors
/// Writing failed, and not because the reader has closed its end.
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

/// A line of a deployment's output, on standard error.
pub fn progress_output(line: &str) {
    progress(clean_log(line));
}

/// The same for a line that the command wrote to standard error. At a terminal the line is marked.
pub fn progress_error_output(line: &str) {
    match progress_columns() {
        Some(_) if !in_ci() => styled(BAD, "!", &format!(" {}", clean_log(line))),
        Some(_) | None => progress_output(line),
    }
}

/// A line of progress that begins with `head` in a style of our own.
pub fn styled(style: Style, head: &str, text: &str) {
    log::say(&format!("{style}{}{style:#}{}", shown(head), shown(text)));
}

/// `error: …`, on standard error. If a CI lists errors beside the job, the error is in that list under this title.
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

/// `notice: …`, on standard error: something that is no error but should not be missed.
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

/// `more: …`, on standard error: where to read more about an error.
pub fn more(text: &str) {
    styled(HINT, "more:", &format!(" {text}"));
}
