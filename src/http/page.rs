//! Pages of lists: limited in entries and in bytes. They are read in parts, because one entry may be as large as a
//! thousand others.

use serde::Serialize;

use super::answer;
use crate::model::bounds;

/// How many entries are read first, before their size is known.
const FIRST_PART: usize = 8;

pub struct PageFilling<T> {
    entries: Vec<T>,
    bytes: usize,
    limit: usize,
    part: usize,
}

/// The state of a page after a part was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// There is room for more, and there may be more.
    NotYet,
    /// All entries were read.
    All,
    /// The page is full, and there are more entries for the next page.
    Full,
}

impl<T: Serialize> PageFilling<T> {
    /// A page for this many entries.
    pub fn of(limit: usize) -> Self {
        PageFilling { entries: Vec::new(), bytes: 0, limit, part: FIRST_PART }
    }

    /// How many entries to read next: one more than the page takes, because that one tells whether there are more.
    pub fn wanted(&self) -> usize {
        self.part.min(self.limit - self.entries.len()) + 1
    }

    /// Adds the wanted entries that were read, in order.
    pub fn fill(&mut self, read: Vec<T>) -> Filled {
        let (wanted, read_count) = (self.wanted(), read.len());
        for entry in read.into_iter().take(wanted - 1) {
            let bytes = answer::size(&entry);
            // An entry that is larger than a page gets a page of its own.
            if !self.entries.is_empty() && self.bytes + bytes > bounds::PAGE_BYTES {
                return Filled::Full;
            }
            self.bytes += bytes;
            self.entries.push(entry);
        }
        // The number that would fill the page if the next entries are as large as those before them.
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
