//! `store backup`, `store restore` and `store compact`, and the arguments of `store`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    super::{
        screen::words::size,
        service::{EX_CONFIG, EX_UNAVAILABLE, fail, print},
    },
    copy::{self, CopyArgs},
    prune::{self, PruneArgs},
    told::{Failed, bar},
};
use crate::{config::StoreLocation, store::sqlite};

/// `store`.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreCommand {
    /// Copy a store's file while its server runs: the whole store at one moment
    Backup(BackupArgs),
    /// Write the file of a SQLite store whose server is stopped anew, without the room in it that is free
    Compact(CompactArgs),
    /// Copy everything of a SQLite store whose server is stopped into an empty PostgreSQL database
    Copy(CopyArgs),
    /// Remove what [retention] lets go, or say with --dry-run what would go and why others stay
    Prune(PruneArgs),
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

/// `store compact`.
#[derive(Args, Clone, Debug)]
pub struct CompactArgs {
    /// The store
    #[arg(long, value_name = "STORE", env = "SINGLETRACK_STORE", default_value = "sqlite:singletrack.db")]
    pub store: String,
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
        StoreCommand::Compact(CompactArgs { store }) => compact(store),
        StoreCommand::Copy(args) => copy::copy(args),
        StoreCommand::Prune(args) => prune::prune(args),
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
            told.lines().for_each(print);
            ExitCode::SUCCESS
        }
        Err(Failed::Usage(message)) => fail(EXIT_USAGE, &message),
        Err(Failed::Config(message)) => fail(EX_CONFIG, &message),
        Err(Failed::Store(error)) => fail(EX_UNAVAILABLE, &error.to_string()),
    }
}

fn compact(store: &str) -> Result<String, Failed> {
    const POSTGRES: &str = "PostgreSQL gives the room of removed rows to new rows by itself, by autovacuum; see \
                            \"Two years\" in docs/operations.md";
    let file = sqlite_file(store, "--store", POSTGRES)?;
    let done = with_bar("compacting", |progress| sqlite::compact(&file, progress))?;
    let sqlite::Compacted { before, after, was_rigid } = done;
    let (shown, from_now_on) =
        (file.display(), if was_rigid { ", and gives room back by itself from now on" } else { "" });
    Ok(format!("{shown} is compacted: {} before, {} after{from_now_on}", size(before), size(after)))
}

/// The file of a SQLite store, to be backed up or restored.
fn file_of(store: &str, flag: &str) -> Result<PathBuf, Failed> {
    sqlite_file(store, flag, "back up a PostgreSQL database with its own tools, such as pg_dump")
}

/// The file of a SQLite store. For a PostgreSQL database, the error has this advice.
fn sqlite_file(store: &str, flag: &str, advice: &str) -> Result<PathBuf, Failed> {
    match store.parse() {
        Ok(StoreLocation::Sqlite(file)) => Ok(file),
        Ok(StoreLocation::Postgres(_)) => {
            Err(Failed::Usage(format!("{flag}: this is only for sqlite: stores; {advice}")))
        }
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
