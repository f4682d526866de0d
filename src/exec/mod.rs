//! Runs a deployment's pipeline as processes that never outlive their lease.
//!
//! It knows nothing of a server, a queue, a store or a client: a `Job` goes in, `Report`s and at last a `Verdict` come
//! out, and a `Stop` may arrive at any time. `job` is what is given, `pipeline` walks the phases and rolls back, `command` runs one script of a
//! phase, `check` requests a URL. `process` owns the command's processes, `output` reads what they print, `archive`
//! packs and unpacks artifacts, and `artifact` unpacks the artifact of a job. `lease` keeps the lease under which all
//! of it runs.

pub mod archive;
pub mod artifact;
mod check;
mod command;
mod environment;
mod job;
pub mod lease;
pub mod output;
pub mod pipeline;
pub mod process;
pub mod report;
pub mod workspaces;

pub use job::{Artifact, Fetch, Job, lock_path};
pub use pipeline::run;
pub use process::owner::ShimProgram;
pub use report::{FailureCause, PhaseState, Report, Stop, Stream, Verdict};
