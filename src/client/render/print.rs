//! The only place of the client that writes to standard output and standard error.
//!
//! A reader that has gone away, as in `singletrack list | head -1`, is no fault of ours and ends nothing.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use crate::log;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
/// For what a deployment is doing, between its output.
pub const HEADING: Style = AnsiColor::Blue.on_default().bold();

/// A line of the result, on standard output.
///
/// # Errors
/// It could not be written, other than because nobody reads it.
pub fn result(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A result that is a file by itself, byte for byte.
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
    log::say(text);
}

/// `error: …`, on standard error.
pub fn error(text: &str) {
    progress(&format!("{ERROR}error:{ERROR:#} {text}"));
}

/// `warning: …`, on standard error.
pub fn warning(text: &str) {
    progress(&format!("{WARNING}warning:{WARNING:#} {text}"));
}

/// `hint: …`, on standard error.
pub fn hint(text: &str) {
    progress(&format!("{HINT}hint:{HINT:#} {text}"));
}
