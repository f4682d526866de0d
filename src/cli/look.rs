//! What the commands that look at deployments, and intervene, can be asked for.

use std::time::Duration;

use clap::Args;

use super::{Connect, Target, parse_count, parse_deployment, parse_project, parse_status, parse_text, parse_timeout};
use crate::{
    config::Since,
    model::{DeploymentName, ProjectName, Status, bounds::TAIL_LINES},
};

const WAIT_HELP: &str = "\
Exit codes:
  0    the deployment SUCCEEDED
  1    it FAILED
  2    usage, or there is no such deployment
  121  it was still blocked at its deadline, or its client was gone
  122  it was cancelled or superseded
  124  --timeout passed; the deployment goes on
  125  no server, or a fault of something in between
  130  interrupted; the deployment goes on";

/// `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The deployment: its number, such as 17; that with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: Option<DeploymentName>,
    /// Go on showing it until it is final: in its place at a terminal, else a line for each change
    #[arg(long)]
    pub watch: bool,
    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// `wait`.
#[derive(Args, Debug)]
#[command(after_long_help = WAIT_HELP)]
pub struct Wait {
    /// The deployment: its number, such as 17; that with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: DeploymentName,
    /// How long to wait; the deployment goes on after that [default: until it is final]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// Show what happens until then, as `deploy` does; without it, only the end is told
    #[arg(long)]
    pub progress: bool,
    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// `why`.
#[derive(Args, Debug)]
pub struct Why {
    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// `logs`.
#[derive(Args, Debug)]
pub struct Logs {
    /// The deployment: its number, such as 17; that with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: Option<DeploymentName>,
    /// Go on until the deployment is final
    #[arg(long, short)]
    pub follow: bool,
    /// Only the last N lines of what is there already
    #[arg(long, short = 'n', value_name = "N", value_parser = parse_count::<u64>(0..=TAIL_LINES as u64))]
    pub tail: Option<u64>,
    /// Only what happened since then: so long ago, such as 10m, or a time, such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    pub since: Option<Since>,
    /// Print the time before each line
    #[arg(long, short)]
    pub timestamps: bool,
    /// End with the deployment's exit code, as `wait` does
    #[arg(long, requires = "follow")]
    pub exit_code: bool,
    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// `list`.
#[derive(Args, Debug)]
pub struct List {
    /// The project
    #[arg(long, short, value_name = "NAME", env = "SINGLETRACK_PROJECT", value_parser = parse_project)]
    #[arg(display_order = 0)]
    pub project: Option<ProjectName>,
    /// Which of the project's deployments.
    #[command(flatten)]
    pub wanted: Wanted,
    /// How many at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = parse_count::<u16>(1..=1000))]
    pub limit: u16,
    /// Go on where a list ended: the nextCursor that it told
    #[arg(long, value_parser = parse_text)]
    pub cursor: Option<String>,
    /// The server.
    #[command(flatten)]
    pub connect: Connect,
}

/// Which of a project's deployments.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only deployments with this status
    #[arg(long, value_parser = parse_status, value_name = "STATUS", help_heading = "Filter")]
    pub status: Option<Status>,
    /// Only deployments of this actor
    #[arg(long, value_name = "NAME", value_parser = parse_text, help_heading = "Filter")]
    pub actor: Option<String>,
    /// Only deployments of this branch or tag
    #[arg(long = "ref", value_name = "REF", value_parser = parse_text, help_heading = "Filter")]
    pub ref_name: Option<String>,
    /// Only deployments submitted since then: so long ago, such as 24h, or a time, such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "WHEN", help_heading = "Filter")]
    pub since: Option<Since>,
}

/// `cancel`.
#[derive(Args, Debug)]
pub struct Cancel {
    /// The deployment: its number, such as 17; that with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: DeploymentName,
    /// Why; it is shown to those who watch the deployment
    #[arg(long, short)]
    pub reason: Option<String>,
    /// Wait until it is final; ends with 0 if it was cancelled, and with 1 if it succeeded or failed all the same
    #[arg(long)]
    pub wait: bool,
    /// How long to wait; the cancel stays asked for after that
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// `release`.
#[derive(Args, Debug)]
pub struct Release {
    /// Why; it is recorded
    #[arg(long, short)]
    pub reason: String,
    /// Only if this deployment holds the slot
    #[arg(long, value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub deployment: Option<DeploymentName>,
    /// Also from a worker that is alive: what it runs may go on for a while beside the next deployment
    #[arg(long)]
    pub even_if_alive: bool,
    /// Where.
    #[command(flatten)]
    pub target: Target,
}
