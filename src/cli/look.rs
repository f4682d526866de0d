//! What the commands that look at deployments, and intervene, can be asked for.

use clap::Args;

use super::{Connect, Target, parse_id, parse_project, parse_status};
use crate::model::{DeploymentId, ProjectName, Status};

/// `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The deployment
    #[arg(value_parser = parse_id)]
    pub id: Option<DeploymentId>,
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
    /// The deployment
    #[arg(value_parser = parse_id)]
    pub id: Option<DeploymentId>,
    /// Go on until the deployment is final
    #[arg(long, short)]
    pub follow: bool,
    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// `list`.
#[derive(Args, Debug)]
pub struct List {
    /// The project
    #[arg(long, short, value_name = "NAME", env = "SINGLETRACK_PROJECT", value_parser = parse_project)]
    pub project: Option<ProjectName>,
    /// Only those that stand so
    #[arg(long, value_parser = parse_status, value_name = "STATUS")]
    pub status: Option<Status>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,
    /// The server.
    #[command(flatten)]
    pub connect: Connect,
}

/// `cancel`.
#[derive(Args, Debug)]
pub struct Cancel {
    /// The deployment
    #[arg(value_parser = parse_id)]
    pub id: DeploymentId,
    /// Why; it is shown to those who watch the deployment
    #[arg(long, short)]
    pub reason: Option<String>,
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
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    pub deployment: Option<DeploymentId>,
    /// Where.
    #[command(flatten)]
    pub target: Target,
}
