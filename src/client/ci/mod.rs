//! What the CI that we run in says about itself: pure functions over the environment.
//!
//! `run` says what is known of a job, `environment` reads variables, `log` says how a system's log shows structure, and each
//! file in `systems` is one CI system. The names of
//! variables are those of each system's own documentation. What a system does not say is left out; a flag always wins.

mod environment;
mod log;
mod run;
mod systems;

pub use environment::Environment;
pub use log::{LogWords, Section};
pub use run::{CiRun, System};
