//! The command line: each command is one file, with its flags and what it does.
//!
//! `args` lists the commands, `groups` are flags that several share, `parse` turns words into values, and `dispatch` runs a
//! command. All that is printed goes through `screen`; `exit` has the exit codes and `reason` what stands behind them;
//! `session` is what every client's command begins with, and `signals` what stops it. `ci` is what the CI system that we run
//! in says and wants to be told; `job`, `result` and `report` are how a CI job ends. Names and exit codes are a contract.

mod agent;
mod args;
mod cancel;
mod check_config;
pub mod ci;
mod demo;
pub mod deploy;
pub mod dispatch;
pub mod exit;
mod explain;
mod groups;
mod job;
mod list;
mod logs;
mod manual;
mod parent;
mod parse;
pub mod reason;
mod release;
mod report;
mod result;
pub mod run;
pub mod screen;
mod serve;
mod service;
pub mod session;
pub mod signals;
mod status;
mod store;
mod token;
mod version;
mod wait;
mod why;

pub use agent::Agent;
pub use args::{Cli, ClientCommand, Command};
pub use cancel::Cancel;
pub use check_config::CheckConfig;
pub use demo::Demo;
pub use deploy::{Deploy, FollowMode, Redeploy, Submit, WhenHeld};
pub use explain::Explain;
pub use groups::{Connect, JobEnd, Line, Origin, Server, Source, Target};
pub use list::{List, Wanted};
pub use logs::Logs;
pub use manual::{Completions, Man};
pub use release::Release;
pub use run::{Fence, FenceCheck, Protect, Run, RunWhenHeld};
pub use serve::Serve;
pub use status::StatusArgs;
pub use store::Store;
pub use token::Token;
pub use version::Version;
pub use wait::Wait;
pub use why::Why;
