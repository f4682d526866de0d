//! A command's processes: started, told to stop, and ended whatever happens to this process.
//!
//! `owner` starts the `shim` (`fork` forks one), which owns the command's whole process tree and ends it even when this
//! process cannot; `control` is what the two say to each other. `start` starts the command, `terms` says
//! who gets SIGTERM and when, `leftovers` ends what the shim cannot, found by `cgroup` and `descendants`. `hide`
//! and `inherited` are about what a child gets from this process.

mod cgroup;
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
