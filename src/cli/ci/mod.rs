//! Reads what the CI system says about its job: pure functions over the environment.
//!
//! `run` says what is known of a job, `environment` reads variables, `id_token` finds the job's ID token, `log` says how a system's log shows structure, `facts`
//! and `files` what later steps and jobs are told, and each file in `systems` is one CI system. The names of
//! variables are those of each system's own documentation. What a system does not say is left out; a flag always wins.

mod environment;
mod facts;
mod files;
pub mod id_token;
mod log;
pub mod markdown;
mod run;
mod systems;

pub use environment::Environment;
pub use facts::JobFacts;
pub use files::{Files, append, write};
pub use log::{LogWords, Section};
pub use run::{CiRun, System};

/// The largest summary of a step, in bytes.
pub const SUMMARY_LIMIT: u64 = systems::github::SUMMARY_LIMIT;
/// The largest file of a step's outputs, in bytes.
pub const OUTPUTS_LIMIT: u64 = systems::github::OUTPUTS_LIMIT;

/// The outputs of a step of GitHub Actions, and the names of the outputs that do not fit. The delimiter is random.
pub fn outputs(facts: &JobFacts, delimiter: &str) -> (String, Vec<String>) {
    systems::github::outputs(facts, delimiter)
}

/// A dotenv report of GitLab, and the names of the outputs that do not fit.
pub fn dotenv(facts: &JobFacts) -> (String, Vec<String>) {
    systems::gitlab::dotenv(facts)
}
