//! Every integration test, in one binary.

mod api;
mod config;
mod executor;
mod harness;
mod tidy;
