//! Something that may happen often, and is logged at most once a second.

use std::time::{Duration, Instant};

/// How often it is logged.
const PAUSE: Duration = Duration::from_secs(1);

/// Something that happens often and is logged at most once a second.
#[derive(Debug, Default)]
pub struct Rarely {
    count: u64,
    told: Option<Instant>,
}

impl Rarely {
    /// How often it has happened since the last log line, if it is to be logged now.
    pub fn note(&mut self) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| told.elapsed() < PAUSE) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.count))
    }
}
