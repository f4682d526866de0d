//! One whole server: `start` starts store, queue, reaper, worker and HTTP in a stated order and stops them in another.
//! `restart` computes what a configuration means for a restart.

mod restart;
mod start;

pub use restart::stop_limit;
pub use start::{Node, StartError};
