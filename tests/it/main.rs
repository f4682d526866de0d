//! Every integration test, in one binary.

mod api;
mod cli_deploy;
mod cli_usage;
mod client_ci;
mod client_follow;
mod config;
mod executor;
mod fake;
mod harness;
mod store_contract;
mod store_trial;
mod tidy;
