//! Rows that this version cannot read: each is skipped where it would stand between others, logged once, and counted.

use std::{
    collections::HashSet,
    fmt::Display,
    sync::{Mutex, PoisonError},
};

/// How many rows are remembered. Further rows are neither logged nor counted, so that memory stays bounded.
const KNOWN_LIMIT: usize = 10_000;

/// The rows of a store that could not be read since it was opened.
#[derive(Debug, Default)]
pub(super) struct Unreadable(Mutex<HashSet<String>>);

impl Unreadable {
    /// Answers the value that was read, or notes why `row` cannot be read.
    pub(super) fn skip<T, E: Display>(&self, read: Result<T, E>, row: impl FnOnce() -> String) -> Option<T> {
        match read {
            Ok(read) => Some(read),
            Err(error) => {
                let (row, mut known) = (row(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
                if known.len() < KNOWN_LIMIT && !known.contains(&row) {
                    tracing::error!(row, %error, "a row cannot be read by this version and is skipped");
                    known.insert(row);
                }
                None
            }
        }
    }

    /// How many rows could not be read.
    pub(super) fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
}
