//! `release`: an operator forces the slot free.

use clap::Args;
use jiff::Timestamp;

use super::{
    TargetArgs,
    exit::{Exit, Failure},
    parse::parse_deployment,
    screen::{
        clean::clean,
        words::{between, name_and_who, span},
    },
    session::Session,
};
use crate::{
    client::calls::Patience,
    model::DeploymentName,
    wire::{Deployment, ReleaseAnswer, ReleaseRequest},
};

/// `release`.
#[derive(Args, Debug)]
pub struct ReleaseArgs {
    /// The reason; it is recorded
    #[arg(long, short)]
    pub reason: String,
    /// Only if this deployment holds the slot
    #[arg(long, value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub deployment: Option<DeploymentName>,
    /// Even if the worker is alive: its command may then go on for a while beside the next deployment
    #[arg(long)]
    pub even_if_alive: bool,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Releases.
///
/// # Errors
/// The server refuses, or there is no answer.
pub async fn run(args: &ReleaseArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.target.connect, Patience::QUESTION)?;
    let project = &args.target.project;
    // The request names its deployment: should its answer be lost, asking again must not release the next holder too.
    let holder = match &args.deployment {
        Some(name) => Some(name.clone()),
        None => session.connection.project(project).await?.holder.map(|holder| holder.id.into()),
    };
    let Some(holder) = holder else {
        session.answer(&ReleaseAnswer { released: None }, &[format!("{project}: the slot is free already")])?;
        return Ok(Exit::Done);
    };
    let body = ReleaseRequest {
        reason: args.reason.clone(),
        deployment_id: Some(holder),
        even_if_alive: args.even_if_alive,
        actor: session.actor(),
    };
    let answer = session.connection.release(project, &body).await?;
    let lines = match &answer.released {
        Some(released) => {
            let taken = format!(
                "{project}: the slot is taken from {}, which ends {}",
                name_and_who(released),
                released.status.as_str()
            );
            [taken].into_iter().chain(may_still_run(released, session.clock.wall())).collect()
        }
        None => vec![format!("{project}: the slot is free already")],
    };
    session.answer(&answer, &lines)?;
    Ok(Exit::Done)
}

/// The warning that a released deployment may still run; `None` if it had not started.
fn may_still_run(released: &Deployment, now: Timestamp) -> Option<String> {
    released.started_at?;
    let what =
        released.phase.as_deref().map_or_else(|| "its command".to_owned(), |phase| format!("phase {}", clean(phase)));
    let heard = released.last_heartbeat_at.map(|at| format!(" (last sign of life {} ago)", span(between(at, now))));
    let heard = heard.unwrap_or_default();
    Some(format!(
        "{what} may still run: its worker{heard} stops it when the worker learns of the release, which it cannot while it is \
         cut off from the server"
    ))
}
