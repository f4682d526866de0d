//! The scenarios.

pub mod cancel_war;
pub mod contention;
pub mod dead_waiters;
pub mod end_to_end;
pub mod fan_out;
pub mod growth;
pub mod logs;
pub mod pages;
pub mod restart;
pub mod small;
pub mod starts;
pub mod throughput;
pub mod two_years;
pub mod wrapper;
