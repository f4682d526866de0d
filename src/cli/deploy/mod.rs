//! `deploy` and `redeploy`: `args` are their flags, `race` submits, resolves a conflict and follows the deployment to its
//! end, `artifact` packs and uploads, `plan` is the dry run, `key` is the idempotency key, and `fits` says whether `--timeout` can be kept.

mod args;
mod artifact;
mod fits;
mod inside;
pub mod key;
mod plan;
pub mod race;

pub use args::{DeployArgs, FollowMode, RedeployArgs, SubmitArgs, WhenHeld};
