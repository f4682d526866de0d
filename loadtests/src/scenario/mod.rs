//! The scenarios.

pub mod throughput;
