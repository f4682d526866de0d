//! The one door through which the program prints for people and scripts.
//!
//! Much of what is printed was written by others: names, messages, reasons, output. So every text is cleaned here, and nowhere
//! else need be: it cannot move a terminal's cursor or add a line, and in a CI it cannot command the job's runner. Only styles
//! and runner commands of our own pass, by functions that take them apart from the text. A test keeps other ways out closed.
//!
//! A reader that has gone away, as in `singletrack list | head -1`, is no fault of ours and ends nothing.

use std::{
    io::{self, Write},
    sync::OnceLock,
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::clean::{clean, clean_log, defuse};
use crate::{api::ascii, client::ci::Environment, log};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
/// For what a deployment is doing, between its output.
pub const HEADING: Style = AnsiColor::Blue.on_default().bold();

/// Whether a CI's runner reads what we print.
fn in_ci() -> bool {
    static IN_CI: OnceLock<bool> = OnceLock::new();
    *IN_CI.get_or_init(|| Environment::new(&|name| std::env::var(name).ok()).is_ci())
}

/// A text as it may be shown: one line, without control characters, and in a CI without commands to its runner.
pub fn shown(text: &str) -> String {
    let text = clean(text);
    if in_ci() { defuse(text) } else { text }
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

/// A line of a deployment's output, on standard output: of a line that a carriage return wrote over, the last text.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn output(line: &str) -> io::Result<()> {
    result(clean_log(line))
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

/// A line of progress that begins with something in a style of our own.
pub fn styled(style: Style, head: &str, text: &str) {
    log::say(&format!("{style}{}{style:#}{}", shown(head), shown(text)));
}

/// `error: …`, on standard error.
pub fn error(text: &str) {
    styled(ERROR, "error:", &format!(" {text}"));
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
