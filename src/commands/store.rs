//! `store`: what is done to a store as a whole, beside its server.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{EX_UNAVAILABLE, fail, print};
use crate::{
    cli::{Backup, Restore, Store},
    config::StoreLocation,
    store::{StoreError, sqlite},
};

mod copy;

/// As clap ends for everything that it refuses.
const EXIT_USAGE: u8 = 2;

/// Does it.
pub fn store(args: &Store) -> ExitCode {
    let done = match args {
        Store::Backup(Backup { from, to }) => file_of(from, "--from").and_then(|from| {
            let bytes = with_bar("backing up", |progress| sqlite::backup(&from, to, progress))?;
            Ok(format!("{} holds all of {} ({bytes} bytes)", to.display(), from.display()))
        }),
        Store::Copy(args) => copy::copy(args),
        Store::Restore(Restore { from, to }) => file_of(to, "--to").and_then(|to| {
            let bytes = with_bar("restoring", |progress| sqlite::restore(from, &to, progress))?;
            let (to, from) = (to.display(), from.display());
            Ok(format!("{to} is made of {from} ({bytes} bytes); start it with `singletrack serve --store sqlite:{to}`"))
        }),
    };
    match done {
        Ok(told) => {
            print(&told);
            ExitCode::SUCCESS
        }
        Err(Failed::Usage(message)) => fail(EXIT_USAGE, &message),
        Err(Failed::Store(error)) => fail(EX_UNAVAILABLE, &error.to_string()),
    }
}

enum Failed {
    Usage(String),
    Store(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Failed::Store(error)
    }
}

/// The file of a SQLite store.
fn file_of(store: &str, flag: &str) -> Result<PathBuf, Failed> {
    match store.parse() {
        Ok(StoreLocation::Sqlite(file)) => Ok(file),
        Ok(StoreLocation::Postgres(_)) => Err(Failed::Usage(format!(
            "{flag}: this is for sqlite: stores; back up a PostgreSQL database with its own tools, such as pg_dump"
        ))),
        Ok(StoreLocation::Memory) => Err(Failed::Usage(format!("{flag}: nothing of memory: can be kept"))),
        Err(why) => Err(Failed::Usage(format!("{flag}: {why}"))),
    }
}

/// Shows how far it is, where somebody watches.
fn with_bar<T>(what: &'static str, work: impl FnOnce(sqlite::Progress<'_>) -> T) -> T {
    let bar = bar(what, "{bytes}/{total_bytes}");
    let done = work(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    done
}

/// A bar that counts so.
fn bar(what: &'static str, count: &str) -> ProgressBar {
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
