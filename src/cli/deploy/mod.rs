//! `deploy` and `redeploy`: `args` are their flags, `race` submits, resolves a conflict and follows the deployment to its
//! end, `plan` is the dry run, `key` is the idempotency key, and `fits` says whether `--timeout` can be kept.

mod args;
mod fits;
pub mod key;
mod plan;
pub mod race;

pub use args::{Deploy, FollowMode, Redeploy, Submit, WhenHeld};
