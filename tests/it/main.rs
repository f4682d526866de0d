//! Every integration test, in one binary.

mod api;
mod config;
mod executor;
mod harness;
mod store_contract;
mod store_trial;
mod tidy;
