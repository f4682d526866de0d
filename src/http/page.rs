//! Pages of lists: bounded in number and in bytes, and read in parts, since one entry may be as large as a thousand others.

use serde::Serialize;

use super::answer;
use crate::model::bounds;

/// How many entries are read first, before it is known how large they are.
const FIRST_PART: usize = 8;

/// A page that is being filled.
pub struct PageFilling<T> {
    entries: Vec<T>,
    bytes: usize,
    limit: usize,
    part: usize,
}

/// How a page stands after a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// There is room for more, and there may be more.
    NotYet,
    /// That is all there is.
    All,
    /// There is more, for the next page.
    Full,
}

impl<T: Serialize> PageFilling<T> {
    /// A page for so many entries.
    pub fn of(limit: usize) -> Self {
        PageFilling { entries: Vec::new(), bytes: 0, limit, part: FIRST_PART }
    }

    /// How many entries are to be read next: one more than are taken, which tells whether there is more.
    pub fn wanted(&self) -> usize {
        self.part.min(self.limit - self.entries.len()) + 1
    }

    /// Takes what was read of those that were wanted, in order.
    pub fn fill(&mut self, read: Vec<T>) -> Filled {
        let (wanted, read_count) = (self.wanted(), read.len());
        for entry in read.into_iter().take(wanted - 1) {
            let bytes = answer::size(&entry);
            // One that is larger than a page is a page.
            if !self.entries.is_empty() && self.bytes + bytes > bounds::PAGE_BYTES {
                return Filled::Full;
            }
            self.bytes += bytes;
            self.entries.push(entry);
        }
        // As many as would fill the page, if they are like those before them.
        if !self.entries.is_empty() {
            self.part =
                (bounds::PAGE_BYTES.saturating_sub(self.bytes) / (self.bytes / self.entries.len()).max(1)).max(1);
        }
        match (read_count < wanted, self.entries.len() < self.limit) {
            (true, _) => Filled::All,
            (false, true) => Filled::NotYet,
            (false, false) => Filled::Full,
        }
    }

    /// The last entry.
    pub fn last(&self) -> Option<&T> {
        self.entries.last()
    }

    /// All entries.
    pub fn into_entries(self) -> Vec<T> {
        self.entries
    }
}
