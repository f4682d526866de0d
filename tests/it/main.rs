//! Every integration test, in one binary.
#![expect(clippy::unwrap_used, reason = "a test's helper fails its test by panicking, as the test itself does")]

mod agent;
mod api;
mod artifact;
mod cli_demo;
mod cli_deploy;
mod cli_live;
mod cli_usage;
mod client_ci;
mod client_follow;
mod clocks;
mod config;
mod database;
mod docs;
mod drain;
mod durability;
mod example_release_dir;
mod example_replicas;
mod executor;
mod fake;
mod faults;
mod harness;
mod places;
mod random_walk;
mod replicas;
mod rolling;
mod run;
mod store_backup;
mod store_contract;
mod store_copy;
mod store_place;
mod store_postgres;
mod store_sqlite;
mod store_trial;
mod tidy;
mod transitions;
