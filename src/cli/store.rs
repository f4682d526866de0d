//! The arguments of `store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `store`.
#[derive(Clone, Debug, Subcommand)]
pub enum Store {
    /// Copy a store's file while its server goes on: whole, as it stood at one moment
    Backup(Backup),
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
