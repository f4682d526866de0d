//! Two tasks that act where nobody calls: the reaper, and the timer of holds (`holds`).
//!
//! The reaper ends deployments whose sign of life did not come, so that no slot stays locked until a person looks. See decision
//! 0001.
//!
//! The reaper trusts no clock but its own: a deployment is reaped when *this* process has seen the same vital signs for
//! as long as its state allows. The store compares the vital signs once more when it ends the deployment, so a sign of
//! life that comes in between wins, and of two reapers only one succeeds.
//!
//! The reaper must not judge a silence that the server itself has caused. So silence does not count while signs of life
//! could not be recorded: while the process was stopped, while the store took no writes or no reads, while connections
//! were turned away; for one deployment, while its own signs of life could not be recorded; for one project, while this
//! server could not write to it either. A deployment whose silence did not count has its whole time anew.
//!
//! ```text
//! once a second: look at all ─▶ which have lapsed? ─▶ end them, each project by itself (`ends`)
//! ```

mod ends;
mod holds;
mod rounds;

pub use holds::{HOLDS_TASK, HoldTimer};
pub use rounds::{Reaper, TASK, TICK};
