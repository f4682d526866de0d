//! What `deploy` and `redeploy` can be asked for.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{EXIT_CODES, Target, parse_id, parse_input, parse_key, parse_order, parse_text, parse_timeout};
use crate::model::{DeploymentId, IdempotencyKey};

/// `deploy`.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub struct Deploy {
    /// Where.
    #[command(flatten)]
    pub target: Target,
    /// Which of the project's pipelines
    #[arg(long, value_name = "NAME", default_value = "deploy")]
    pub pipeline: Option<String>,
    /// The branch or tag [default: from the CI]
    #[arg(long = "ref", value_name = "REF", value_parser = parse_text)]
    pub ref_name: Option<String>,
    /// The commit [default: from the CI]
    #[arg(long, value_parser = parse_text)]
    pub commit: Option<String>,
    /// A line about it [default: from the CI]
    #[arg(long, short)]
    pub message: Option<String>,
    /// Who deploys [default: from the CI, else the user]
    #[arg(long, value_parser = parse_text)]
    pub actor: Option<String>,
    /// Where to read more [default: the CI job's page]
    #[arg(long, value_parser = parse_text)]
    pub url: Option<String>,
    /// The build number: a lower one is refused once a higher one has started [default: from the CI]
    #[arg(long, value_name = "N", env = "SINGLETRACK_ORDER", allow_negative_numbers = true, value_parser = parse_order)]
    pub order: Option<u64>,
    /// Take no build number from the CI; for projects that several workflows deploy, each with its own count
    #[arg(long, conflicts_with = "order")]
    pub no_order: bool,
    /// A value for the pipeline, which sees it as INPUT_NAME; may be repeated
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = parse_input)]
    pub inputs: Vec<(String, String)>,
    /// What is deployed: a folder, without what its .gitignore files leave out, or a file. Phases find it in their
    /// working directory
    #[arg(long, value_name = "PATH")]
    pub artifact: Option<PathBuf>,
    /// What to do when another deployment holds the slot
    #[arg(long, value_enum, default_value_t = WhenHeld::Wait)]
    pub on_conflict: WhenHeld,
    /// Cancel the deployment that holds the slot, if this one is newer, and go before the older ones in line
    #[arg(long)]
    pub cancel_in_progress_deployment: bool,
    /// Leave the line as soon as a newer deployment is there that will supersede this one when it starts
    #[arg(long, conflicts_with = "detach")]
    pub leave_when_overtaken: bool,
    /// How long all of it may take
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// How the deployment is followed
    #[arg(long, value_enum, default_value_t = FollowMode::Auto)]
    pub follow: FollowMode,
    /// Do not wait: hand it to the server and print its id
    #[arg(long, conflicts_with_all = ["cancel_in_progress_deployment"])]
    pub detach: bool,
    /// Deploy nothing: print what would happen; ends with the code of a deploy that would be refused
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,
    /// Go back on purpose: a lower build number is not refused
    #[arg(long)]
    pub rollback: bool,
    /// The own name of this request: repeated with the same name, it makes one deployment [default: from the CI job]
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub idempotency_key: Option<IdempotencyKey>,
    /// The former deployment that is run again, with what it was asked for.
    #[arg(skip)]
    pub retry_of: Option<DeploymentId>,
}

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
    /// Cancel the deployment that holds the slot, if this one is newer, and go before the older ones in line
    #[arg(long)]
    pub cancel_in_progress_deployment: bool,
    /// Leave the line as soon as a newer deployment is there that will supersede this one when it starts
    #[arg(long, conflicts_with = "detach")]
    pub leave_when_overtaken: bool,
    /// How long all of it may take
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// How the deployment is followed
    #[arg(long, value_enum, default_value_t = FollowMode::Auto)]
    pub follow: FollowMode,
    /// Do not wait: hand it to the server and print its id
    #[arg(long, conflicts_with_all = ["cancel_in_progress_deployment"])]
    pub detach: bool,
    /// Deploy nothing: print what would happen; ends with the code of a deploy that would be refused
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,
    /// The own name of this request: repeated with the same name, it makes one deployment [default: from the CI job]
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub idempotency_key: Option<IdempotencyKey>,
}

/// What to do when another deployment holds the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenHeld {
    /// Wait in line for it
    Wait,
    /// Wait in line; should this client go away, the server starts it all the same
    Queue,
    /// Fail
    Fail,
}

/// How a deployment is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FollowMode {
    /// By a stream, and by polls where streams do not come through
    Auto,
    /// By a stream only
    Sse,
    /// By polls only
    Poll,
    /// Not at all: only wait for its end
    None,
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
            leave_when_overtaken: self.leave_when_overtaken,
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

impl Deploy {
    /// The inputs by name.
    ///
    /// # Errors
    /// The name that stands twice.
    pub fn inputs(&self) -> Result<BTreeMap<String, String>, &str> {
        let mut inputs = BTreeMap::new();
        for (name, value) in &self.inputs {
            if inputs.insert(name.clone(), value.clone()).is_some() {
                return Err(name);
            }
        }
        Ok(inputs)
    }
}
