//! `store backup` and `store restore`, and the arguments of `store`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    super::service::{EX_UNAVAILABLE, fail, print},
    copy::{self, CopyArgs},
    told::{Failed, bar},
};
use crate::{config::StoreLocation, store::sqlite};

/// `store`.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreCommand {
    /// Copy a store's file while its server runs: the whole store at one moment
    Backup(BackupArgs),
    /// Copy everything of a SQLite store whose server is stopped into an empty PostgreSQL database
    Copy(CopyArgs),
    /// Make a store from a backup, for a server to start with
    Restore(RestoreArgs),
}

/// `store backup`.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// The store
    #[arg(long, value_name = "STORE", env = "SINGLETRACK_STORE", default_value = "sqlite:singletrack.db")]
    pub from: String,
    /// The file to write; it must not exist yet
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
}

/// `store restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The backup
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// The store to make; its file must not exist yet
    #[arg(long, value_name = "STORE", env = "SINGLETRACK_STORE", default_value = "sqlite:singletrack.db")]
    pub to: String,
}

/// The exit code of clap for a usage error.
const EXIT_USAGE: u8 = 2;

/// Does it.
pub fn store(args: &StoreCommand) -> ExitCode {
    let done = match args {
        StoreCommand::Backup(BackupArgs { from, to }) => file_of(from, "--from").and_then(|from| {
            let bytes = with_bar("backing up", |progress| sqlite::backup(&from, to, progress))?;
            Ok(format!("{} holds all of {} ({bytes} bytes)", to.display(), from.display()))
        }),
        StoreCommand::Copy(args) => copy::copy(args),
        StoreCommand::Restore(RestoreArgs { from, to }) => file_of(to, "--to").and_then(|to| {
            let bytes = with_bar("restoring", |progress| sqlite::restore(from, &to, progress))?;
            let (to, from) = (to.display(), from.display());
            Ok(format!(
                "{to} is restored from {from} ({bytes} bytes); start it with `singletrack serve --store sqlite:{to}`"
            ))
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

/// The file of a SQLite store.
fn file_of(store: &str, flag: &str) -> Result<PathBuf, Failed> {
    match store.parse() {
        Ok(StoreLocation::Sqlite(file)) => Ok(file),
        Ok(StoreLocation::Postgres(_)) => Err(Failed::Usage(format!(
            "{flag}: this is only for sqlite: stores; back up a PostgreSQL database with its own tools, such as pg_dump"
        ))),
        Ok(StoreLocation::Memory) => Err(Failed::Usage(format!("{flag}: a memory: store has no file"))),
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
