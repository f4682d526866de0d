//! What every scenario needs to know about its run.

use indicatif::ProgressBar;

use crate::server::Recipe;

/// How it is run.
pub struct Run {
    pub recipe: Recipe,
    /// Seconds instead of minutes, for the truth checks alone.
    pub small: bool,
    pub progress: ProgressBar,
}

impl Run {
    /// The one size or the other.
    pub fn scale<T>(&self, full: T, small: T) -> T {
        if self.small { small } else { full }
    }

    pub fn say(&self, text: impl Into<String>) {
        self.progress.set_message(text.into());
    }
}
