//! `cancel`: asks the worker of a deployment to stop it.

use std::time::Duration;

use clap::Args;

use super::{
    TargetArgs,
    exit::{Exit, Failure},
    parse::{parse_deployment, parse_timeout},
    reason::Reason,
    result,
    screen::words::{between, span},
    session::Session,
    signals::Signals,
    wait::{self, Onlooker},
};
use crate::{
    client::{calls::Patience, follow::How},
    model::{DeploymentName, Status, Which},
    wire::{CancelBody, Deployment},
};

/// `cancel`.
#[derive(Args, Debug)]
pub struct CancelArgs {
    /// The deployment: its number, such as 17; its number with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: DeploymentName,
    /// The reason; it is shown to everybody who watches the deployment
    #[arg(long, short)]
    pub reason: Option<String>,
    /// Wait until the deployment is final; exit with 0 if it was cancelled, with 1 if it succeeded or failed first
    #[arg(long)]
    pub wait: bool,
    /// How long to wait; the request to stop stays after that
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Cancels.
///
/// # Errors
/// There is no such deployment, or no answer.
pub async fn run(args: &CancelArgs) -> Result<Exit, Failure> {
    let patience = if args.wait { wait::patience(args.timeout) } else { Patience::QUESTION };
    let session = Session::open(&args.target.connect, patience)?;
    let project = &args.target.project;
    // Before the cancel is sent: an interrupted wait must say that the cancel stays.
    let signals = if args.wait { Some(Signals::of_a_job(session.in_ci)?) } else { None };
    let body = CancelBody { superseded_by: None, reason: args.reason.clone(), actor: session.actor() };
    let (deployment, changed) = session.connection.cancel(project, &args.id, &body).await?;
    let (name, argument) = (deployment.name(), deployment.argument());
    if let Some(mut signals) = signals
        && !deployment.status.is_final()
    {
        let what = if changed { "is asked to stop" } else { "was asked to stop already" };
        session.screen.line(&format!("{name} {what}; waiting until it is final"));
        let meanwhile = "the deployment stays asked to stop";
        let which = deployment.number.map_or(Which::Id(deployment.id), Which::Number);
        let named = DeploymentName { project: None, which };
        let onlooker = Onlooker { session: &session, project, name: named, timeout: args.timeout, meanwhile };
        let deployment = onlooker.until_final(How::EndOnly, &mut signals).await?;
        return tell_end(&session, &deployment);
    }
    if args.wait {
        return tell_end(&session, &deployment);
    }
    let line = match (deployment.status, changed) {
        (Status::Pending | Status::Running, true) => {
            format!(
                "{name} is asked to stop; `singletrack logs --project {project} {argument} --follow` shows its output"
            )
        }
        (Status::Pending | Status::Running, false) => format!("{name} was asked to stop already"),
        (Status::Cancelled, true) => format!("{name} is cancelled"),
        (Status::Cancelled | Status::Succeeded | Status::Failed, _) => {
            format!("{name} had ended already: {}", deployment.status.as_str())
        }
    };
    session.answer(&deployment, &[line])?;
    Ok(Exit::Done)
}

/// The command's result after the wait: was the deployment cancelled?
fn tell_end(session: &Session, deployment: &Deployment) -> Result<Exit, Failure> {
    result::tell_repairs(session, deployment);
    let (project, name, argument) = (&deployment.project, deployment.name(), deployment.argument());
    let what = match deployment.status {
        Status::Cancelled => {
            let took = match (deployment.cancel_requested_at, deployment.ended_at) {
                (Some(asked), Some(ended)) => format!(", {} after it was asked to stop", span(between(asked, ended))),
                _ => String::new(),
            };
            session.answer(deployment, &[format!("{name} is cancelled{took}")])?;
            return Ok(Exit::Done);
        }
        Status::Succeeded => "it succeeded before it could stop",
        Status::Failed => "it failed",
        Status::Pending | Status::Running => "it is not final",
    };
    Err(Failure {
        exit: Exit::Failed,
        message: format!("{name} was not cancelled: {what}"),
        hint: Some(format!("`singletrack status --project {project} {argument}` shows how it ended")),
        reason: Some(Reason::NotCancelled),
        problem: serde_json::to_value(deployment).ok(),
    })
}
