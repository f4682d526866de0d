//! The arguments of `store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `store`.
#[derive(Clone, Debug, Subcommand)]
pub enum Store {
    /// Copy a store's file while its server goes on: whole, as it stood at one moment
    Backup(Backup),
    /// Move everything of a SQLite store whose server is stopped into an empty PostgreSQL database
    Copy(StoreCopy),
    /// Put a backup into the place of a store, for a server to start from
    Restore(Restore),
}

/// `store backup`.
#[derive(Args, Clone, Debug)]
pub struct Backup {
    /// The store
    #[arg(long, value_name = "STORE", env = "SINGLETRACK_STORE", default_value = "sqlite:singletrack.db")]
    pub from: String,
    /// The file to write; it must not exist yet
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
}

/// `store copy`.
#[derive(Args, Clone, Debug)]
pub struct StoreCopy {
    /// The store to copy, sqlite:FILE; it stays as it is
    #[arg(long, value_name = "STORE", env = "SINGLETRACK_STORE", default_value = "sqlite:singletrack.db")]
    pub from: String,
    /// The empty database, postgres://HOST/DATABASE
    #[arg(long, value_name = "STORE")]
    pub to: String,
    /// The folder in which the store's server ran pipelines, and kept artifacts [default: singletrack-work beside the file]
    #[arg(long, value_name = "FOLDER", env = "SINGLETRACK_WORK_DIR")]
    pub work_dir: Option<PathBuf>,
}

/// `store restore`.
#[derive(Args, Clone, Debug)]
pub struct Restore {
    /// The backup
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// The store to make of it; its file must not exist yet
    #[arg(long, value_name = "STORE", env = "SINGLETRACK_STORE", default_value = "sqlite:singletrack.db")]
    pub to: String,
}
