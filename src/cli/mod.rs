//! The command line: each command is one file, with its flags and what it does.
//!
//! `args` lists the commands, `groups` are flags that several share, `read` reads the command line, `parse` turns words into
//! values, `dispatch` runs a command, and `end` says how it ended. All that is printed goes through `screen`; `exit` has the exit codes and `reason` what stands behind them;
//! `session` is what every client's command begins with, and `signals` what stops it. `ci` is what the CI system that we run
//! in says and wants to be told; `job`, `result` and `report` are how a CI job ends. Names and exit codes are a contract.

mod agent;
mod args;
mod audit;
mod cancel;
mod check_config;
pub mod ci;
mod current;
mod demo;
pub mod deploy;
pub mod dispatch;
mod end;
pub mod exit;
mod explain;
mod forget;
mod groups;
mod job;
mod list;
mod logs;
mod manual;
mod order;
mod parent;
mod parse;
mod pause;
mod read;
pub mod reason;
mod redact;
mod release;
mod reload;
mod report;
mod result;
mod rollback;
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

pub use agent::AgentArgs;
pub use args::{AnyCommand, Cli, ClientCommand};
pub use audit::AuditArgs;
pub use cancel::CancelArgs;
pub use check_config::CheckConfigArgs;
pub use current::CurrentArgs;
pub use demo::DemoArgs;
pub use deploy::{DeployArgs, FollowMode, RedeployArgs, SubmitArgs, WhenHeld};
pub use explain::ExplainArgs;
pub use forget::ForgetArgs;
pub use groups::{ConnectArgs, JobEndArgs, LineArgs, OriginArgs, ServerArgs, Source, TargetArgs};
pub use list::{FilterArgs, ListArgs};
pub use logs::LogsArgs;
pub use manual::{CompletionsArgs, ManArgs};
pub use order::OrderArgs;
pub use pause::{PauseArgs, ResumeArgs};
pub use redact::RedactArgs;
pub use release::ReleaseArgs;
pub use reload::ReloadArgs;
pub use rollback::RollbackArgs;
pub use run::{FenceCheckArgs, FenceCommand, ProtectArgs, RunArgs, RunWhenHeld};
pub use serve::ServeArgs;
pub use status::StatusArgs;
pub use store::StoreCommand;
pub use token::TokenCommand;
pub use version::VersionArgs;
pub use wait::WaitArgs;
pub use why::WhyArgs;
