//! The flags of `deploy` and `redeploy`.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Args, ValueEnum};

use crate::{
    cli::{
        TargetArgs,
        exit::EXIT_CODES,
        groups::{JobEndArgs, LineArgs, OriginArgs, Source},
        parse::{parse_deployment, parse_input, parse_key},
    },
    model::{DeploymentName, IdempotencyKey},
};

/// `deploy`.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub struct DeployArgs {
    /// The pipeline to run
    #[arg(long, value_name = "NAME", default_value = "deploy")]
    pub pipeline: Option<String>,
    /// A value for the pipeline: its phases get the variable INPUT_NAME; may be repeated
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = parse_input)]
    pub inputs: Vec<(String, String)>,
    /// The folder or file to deploy; .singletrackignore files leave out files of the folder. Phases find the artifact in
    /// their working directory
    #[arg(long, value_name = "PATH")]
    pub artifact: Option<PathBuf>,
    /// Leave out what the folder's .gitignore files list, too
    #[arg(long, requires = "artifact")]
    pub respect_gitignore: bool,
    /// Accept a folder without files
    #[arg(long, requires = "artifact")]
    pub allow_empty: bool,
    /// Go back on purpose: accept a lower build number
    #[arg(long)]
    pub rollback: bool,
    /// What is deployed, and who deploys it.
    #[command(flatten)]
    pub source: Source,
    /// How it is submitted and followed.
    #[command(flatten)]
    pub submit: SubmitArgs,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
    /// The former deployment that is run again, with what it was asked for.
    #[arg(skip)]
    pub retry_of: Option<DeploymentName>,
}

/// `redeploy`.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
#[command(mut_arg("message", |arg| arg.help("A line about the deployment [default: that of the earlier one]")))]
pub struct RedeployArgs {
    /// The earlier deployment: its number, such as 17; its number with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: DeploymentName,
    /// The value of a secret input of that deployment, which is not kept; may be repeated
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = parse_input)]
    pub inputs: Vec<(String, String)>,
    /// Who deploys it.
    #[command(flatten)]
    pub origin: OriginArgs,
    /// How it is submitted and followed.
    #[command(flatten)]
    pub submit: SubmitArgs,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// How a deployment is submitted and followed.
#[derive(Args, Clone, Debug)]
pub struct SubmitArgs {
    /// What to do when another deployment holds the slot
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = WhenHeld::Wait, help_heading = "Waiting")]
    pub on_conflict: WhenHeld,
    /// How it waits in line.
    #[command(flatten)]
    pub line: LineArgs,
    /// How the deployment is followed
    #[arg(long, value_enum, value_name = "HOW", default_value_t = FollowMode::Auto, help_heading = "Waiting")]
    pub follow: FollowMode,
    /// Do not wait: hand the deployment to the server and print its ID
    #[arg(long, conflicts_with_all = ["cancel_in_progress_deployment", "leave_when_overtaken", "follow_successor"])]
    #[arg(help_heading = "Waiting")]
    pub detach: bool,
    /// Deploy nothing, print what would happen; if the deploy would be refused, exit with its exit code
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,
    /// Idempotency key of this request: requests with the same key make one deployment [default: from the CI job]
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub idempotency_key: Option<IdempotencyKey>,
    /// How the job ends.
    #[command(flatten)]
    pub end: JobEndArgs,
}

/// What to do when another deployment holds the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenHeld {
    /// Wait in line for it
    Wait,
    /// Wait in line; if this client goes away, the server still starts the deployment
    Queue,
    /// Do not wait: fail
    Fail,
}

/// How a deployment is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FollowMode {
    /// By a stream; by polls where streams do not work
    Auto,
    /// By a stream only
    Sse,
    /// By polls only
    Poll,
    /// Not at all: only wait for the end
    None,
}

impl RedeployArgs {
    /// The deploy that it comes to.
    pub fn deploy(&self) -> DeployArgs {
        DeployArgs {
            target: self.target.clone(),
            pipeline: None,
            // Its order is its own, and not that of this job.
            source: Source { origin: self.origin.clone(), ref_name: None, commit: None, order: None, no_order: true },
            inputs: self.inputs.clone(),
            artifact: None,
            respect_gitignore: false,
            allow_empty: false,
            submit: self.submit.clone(),
            rollback: true,
            retry_of: Some(self.id.clone()),
        }
    }
}

impl DeployArgs {
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
