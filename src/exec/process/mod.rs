//! A command's processes: started, told to stop, and ended whatever happens to this process.
//!
//! `owner` starts the `shim` (`fork` forks one), which owns the command's whole process tree and ends it even when this
//! process cannot; `contract` is what both sides agree on, `control` is the shim's end of the socket between
//! them. `start` starts the command, `terms` decides which processes get SIGTERM and when, and `leftovers` ends the
//! processes that the shim cannot end, found by `cgroup` and `descendants`. `hide` and `inherited` limit what a child inherits from this process.

mod cgroup;
pub mod contract;
mod control;
mod descendants;
pub mod fork;
mod hide;
pub mod inherited;
pub mod leftovers;
pub mod owner;
pub mod shim;
mod start;
mod terms;
