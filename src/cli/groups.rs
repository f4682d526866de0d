//! Flags that several commands share. Each flag names its help heading itself, because a heading set for a whole group
//! would also apply to the flags after the group.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use reqwest::Url;

use super::parse::{parse_order, parse_project, parse_server, parse_text, parse_timeout};
use crate::{config::DEFAULT_AUDIENCE, model::ProjectName};

/// Which server, who asks, and how the answer is printed.
#[derive(Args, Clone, Debug)]
pub struct ConnectArgs {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which server, and who asks.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// The server
    #[arg(id = "server", long, value_name = "URL", env = "SINGLETRACK_URL", default_value = "http://127.0.0.1:7878")]
    #[arg(value_parser = parse_server, help_heading = "Server")]
    pub url: Url,
    /// A file with the token ('-' is standard input), instead of SINGLETRACK_TOKEN
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub token_file: Option<PathBuf>,
    /// For whom GitHub makes the ID token that is sent without another token: the `audience` of the server's [[oidc]]
    #[arg(long, value_name = "NAME", env = "SINGLETRACK_OIDC_AUDIENCE", default_value = DEFAULT_AUDIENCE)]
    #[arg(value_parser = parse_text, help_heading = "Server")]
    pub oidc_audience: String,
    /// A file with the certificate authority (PEM) to trust beside the system's
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub ca_cert: Option<PathBuf>,
}

/// Which project of which server.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// The project
    #[arg(long, short, value_name = "NAME", env = "SINGLETRACK_PROJECT", value_parser = parse_project)]
    #[arg(display_order = 0)]
    pub project: ProjectName,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// What is deployed, and who deploys it.
#[derive(Args, Clone, Debug)]
pub struct Source {
    /// The branch or tag [default: from the CI]
    #[arg(long = "ref", value_name = "REF", value_parser = parse_text, help_heading = "Source")]
    pub ref_name: Option<String>,
    /// The commit [default: from the CI]
    #[arg(long, value_parser = parse_text, help_heading = "Source")]
    pub commit: Option<String>,
    /// Who deploys it.
    #[command(flatten)]
    pub origin: OriginArgs,
    /// The build number: a lower one is refused once a higher one has started [default: from the CI]
    #[arg(long, value_name = "N", env = "SINGLETRACK_ORDER", allow_negative_numbers = true, value_parser = parse_order)]
    #[arg(help_heading = "Source")]
    pub order: Option<u64>,
    /// Take no build number from the CI; for projects that several workflows deploy, each with its own build numbers
    #[arg(long, conflicts_with = "order", help_heading = "Source")]
    pub no_order: bool,
}

/// Who deploys, and where to read more.
#[derive(Args, Clone, Debug)]
pub struct OriginArgs {
    /// A line about the deployment [default: from the CI]
    #[arg(long, short, value_name = "TEXT", help_heading = "Source")]
    pub message: Option<String>,
    /// Who deploys [default: from the CI, else the user]
    #[arg(long, value_name = "NAME", value_parser = parse_text, help_heading = "Source")]
    pub actor: Option<String>,
    /// A page with more information [default: the CI job's page]
    #[arg(long, value_parser = parse_text, help_heading = "Source")]
    pub url: Option<String>,
}

/// How the job ends, and what it leaves to later ones.
#[derive(Args, Clone, Debug)]
pub struct JobEndArgs {
    /// Exit with 0 if a newer deployment superseded this one or was already deployed
    #[arg(long, conflicts_with = "follow_successor", help_heading = "End")]
    pub superseded_ok: bool,
    /// If a newer deployment superseded this one, follow the newer one and exit as it ends: with 0 only if it succeeded
    /// and its build number is not lower
    #[arg(long, help_heading = "End")]
    pub follow_successor: bool,
    /// Write the deployment's outcome to this file, one variable a line, as a GitLab dotenv report
    #[arg(long, value_name = "FILE", help_heading = "End")]
    pub dotenv: Option<PathBuf>,
    /// Write the result to this file: the JSON object of `deploy --json`, with exit code and reason
    #[arg(long, value_name = "FILE", help_heading = "End")]
    pub result_file: Option<PathBuf>,
}

/// How to wait for the slot.
#[derive(Args, Clone, Debug)]
pub struct LineArgs {
    /// Cancel the deployment that holds the slot, if this one is newer, and go before the older ones in line
    #[arg(long, help_heading = "Waiting")]
    pub cancel_in_progress_deployment: bool,
    /// Let no pause and no freeze window hold this deployment, and go before all who are held; needs the scope admin
    #[arg(long, help_heading = "Waiting")]
    pub override_pause: bool,
    /// End the pause of the project with this deployment, also that of a rollback, and go before all who were held; needs the
    /// scope admin
    #[arg(long, help_heading = "Waiting")]
    pub resume: bool,
    /// Leave the line as soon as a newer deployment waits that would supersede this one
    #[arg(long, help_heading = "Waiting")]
    pub leave_when_overtaken: bool,
    /// How long everything together may take: waiting, retries, running
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_timeout, help_heading = "Waiting")]
    pub timeout: Duration,
}
