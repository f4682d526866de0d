//! `redeploy`: a former deployment again.

use std::time::Duration;

use clap::Args;

use super::{Deploy, EXIT_CODES, FollowMode, Target, WhenHeld, parse_id, parse_key, parse_text, parse_timeout};
use crate::model::{DeploymentId, IdempotencyKey};

/// `redeploy`.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub struct Redeploy {
    /// The former deployment
    #[arg(value_parser = parse_id)]
    pub id: DeploymentId,
    /// Where.
    #[command(flatten)]
    pub target: Target,
    /// A line about it [default: that of the former deployment]
    #[arg(long, short)]
    pub message: Option<String>,
    /// Who deploys [default: from the CI, else the user]
    #[arg(long, value_parser = parse_text)]
    pub actor: Option<String>,
    /// Where to read more [default: the CI job's page]
    #[arg(long, value_parser = parse_text)]
    pub url: Option<String>,
    /// What to do when another deployment holds the slot
    #[arg(long, value_enum, default_value_t = WhenHeld::Wait)]
    pub on_conflict: WhenHeld,
    /// Cancel the deployment that holds the slot, and those in line before this one
    #[arg(long)]
    pub cancel_in_progress_deployment: bool,
    /// How long all of it may take
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// How the deployment is followed
    #[arg(long, value_enum, default_value_t = FollowMode::Auto)]
    pub follow: FollowMode,
    /// Do not wait: hand it to the server and print its id
    #[arg(long, conflicts_with_all = ["cancel_in_progress_deployment"])]
    pub detach: bool,
    /// Deploy nothing: print what would happen
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,
    /// The own name of this request: repeated with the same name, it makes one deployment [default: from the CI job]
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub idempotency_key: Option<IdempotencyKey>,
}

impl Redeploy {
    /// The deploy that it comes to.
    pub fn deploy(&self) -> Deploy {
        Deploy {
            target: self.target.clone(),
            pipeline: None,
            ref_name: None,
            commit: None,
            message: self.message.clone(),
            actor: self.actor.clone(),
            url: self.url.clone(),
            order: None,
            no_order: true,
            inputs: Vec::new(),
            artifact: None,
            on_conflict: self.on_conflict,
            cancel_in_progress_deployment: self.cancel_in_progress_deployment,
            timeout: self.timeout,
            follow: self.follow,
            detach: self.detach,
            dry_run: self.dry_run,
            rollback: true,
            idempotency_key: self.idempotency_key.clone(),
            retry_of: Some(self.id),
        }
    }
}
