//! Every integration test, in one binary.

mod config;
mod example_release_dir;
mod executor;
