//! Every integration test, in one binary.

mod config;
mod executor;
mod store_contract;
mod store_trial;
mod tidy;
