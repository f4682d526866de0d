//! Runs what a deployment's pipeline says, as processes that never outlive their lease.
//!
//! The executor knows nothing of the server, the queue or the store: a `Job` goes in, `Report`s and at last a `Verdict`
//! come out, and a `Stop` may arrive at any time. `pipeline` walks the phases and rolls back, `command` runs one
//! script of a phase, `check` asks a URL; `process` starts the `shim` (`fork` forks one), which owns the command's whole
//! process tree and ends it even when this process cannot; `gate` holds the command back until it may start; `terms` says who gets SIGTERM and when; `leftovers` ends it when the shim cannot; `output` reads what commands
//! print without ever making them wait; `stream_log` is the way of each stream into the log: `lines` cleans and cuts it, `mask` takes
//! secrets out (their `forms`, and those that are `announced`).

mod announced;
pub mod artifact;
mod cgroup;
mod check;
mod command;
mod control;
mod descendants;
pub mod embedded;
mod environment;
pub mod fork;
mod forms;
mod gate;
mod hide;
mod identity;
mod inherited;
pub mod leased;
mod leftovers;
pub mod lines;
pub mod mask;
pub mod outbox;
pub mod output;
pub mod pipeline;
mod places;
pub mod process;
pub mod report;
pub mod shim;
pub mod stream_log;
mod terms;
pub mod workspaces;

pub use announced::{SIGNS, begins_to_announce};
pub use embedded::{Embedded, STOP_LAST_WORDS};
pub use inherited::{allow_many_open_files, is_ignored};
pub use leftovers::leftovers_gone;
pub use pipeline::{Job, lock_path, run};
pub use process::ShimProgram;
pub use report::{FailureCause, PhaseState, Report, Stop, Stream, Verdict};
