//! Every integration test, in one binary.

mod config;
mod executor;
mod tidy;
