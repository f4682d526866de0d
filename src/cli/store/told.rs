//! How the commands of `store` show how far they are, and why they fail.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::store::StoreError;

pub(super) enum Failed {
    Usage(String),
    Config(String),
    Store(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Failed::Store(error)
    }
}

/// A bar that counts so.
pub(super) fn bar(what: &'static str, count: &str) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template(&format!("{{msg}} {{bar:30}} {count}, {{eta}} left")) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
