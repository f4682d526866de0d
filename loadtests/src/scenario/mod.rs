//! The scenarios.

pub mod contention;
pub mod throughput;
