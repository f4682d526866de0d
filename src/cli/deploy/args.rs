//! What `deploy` and `redeploy` can be asked for.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Args, ValueEnum};

use crate::{
    cli::{
        TargetArgs,
        args::EXIT_CODES,
        groups::{JobEndArgs, LineArgs, OriginArgs, Source},
        parse::{parse_deployment, parse_input, parse_key},
    },
    model::{DeploymentName, IdempotencyKey},
};

/// `deploy`.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub struct DeployArgs {
    /// Which of the project's pipelines
    #[arg(long, value_name = "NAME", default_value = "deploy")]
    pub pipeline: Option<String>,
    /// A value for the pipeline, which sees it as INPUT_NAME; may be repeated
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = parse_input)]
    pub inputs: Vec<(String, String)>,
    /// What is deployed: a folder, without what its .singletrackignore files leave out, or a file. Phases find it in
    /// their working directory
    #[arg(long, value_name = "PATH")]
    pub artifact: Option<PathBuf>,
    /// Leave out of the artifact what the .gitignore files in the folder say, too
    #[arg(long, requires = "artifact")]
    pub respect_gitignore: bool,
    /// Deploy a folder in which there is no file
    #[arg(long, requires = "artifact")]
    pub allow_empty: bool,
    /// Go back on purpose: a lower build number is not refused
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
#[command(mut_arg("message", |arg| arg.help("A line about it [default: that of the former deployment]")))]
pub struct RedeployArgs {
    /// The former deployment: its number, such as 17; that with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: DeploymentName,
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
    /// Do not wait: hand it to the server and print its id
    #[arg(long, conflicts_with_all = ["cancel_in_progress_deployment", "leave_when_overtaken", "follow_successor"])]
    #[arg(help_heading = "Waiting")]
    pub detach: bool,
    /// Deploy nothing: print what would happen; ends with the code of a deploy that would be refused
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,
    /// The key of this request: repeated with the same key, it makes one deployment [default: from the CI job]
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

impl RedeployArgs {
    /// The deploy that it comes to.
    pub fn deploy(&self) -> DeployArgs {
        DeployArgs {
            target: self.target.clone(),
            pipeline: None,
            // Its order is its own, and not that of this job.
            source: Source { origin: self.origin.clone(), ref_name: None, commit: None, order: None, no_order: true },
            inputs: Vec::new(),
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
