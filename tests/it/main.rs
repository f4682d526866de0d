//! Every integration test, in one binary.

mod config;
mod tidy;
mod executor;
