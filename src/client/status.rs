//! `status`: one deployment.

use jiff::Timestamp;

use super::{
    connection::{Connection, Patience},
    exit::{Exit, Failure, about_project},
    render::{
        clean::clean,
        words::{between, named, source, span, start, time},
    },
    session::Session,
};
use crate::{
    api::Deployment,
    cli::{StatusArgs, Wanted},
    model::{DeploymentName, ProjectName},
};

/// Prints a deployment.
///
/// # Errors
/// There is none, or no answer.
pub async fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.target.connect, Patience::QUESTION)?;
    let deployment = find(&session.connection, &args.target.project, args.id.as_ref()).await?;
    session.answer(&deployment, &lines(&deployment, session.clock.wall()))?;
    Ok(Exit::Done)
}

/// The deployment that is named so; without a name, the one that holds the slot, else the latest.
///
/// # Errors
/// There is none, or no answer.
pub async fn find(
    connection: &Connection,
    project: &ProjectName,
    name: Option<&DeploymentName>,
) -> Result<Deployment, Failure> {
    let none = || Failure::new(Exit::Usage, format!("{project} has no deployment yet"));
    if let Some(name) = name {
        return Ok(connection.deployment(project, name).await?);
    }
    let view = connection.project(project).await.map_err(|fault| about_project(connection, project, fault))?;
    match view.holder {
        Some(holder) => Ok(holder),
        None => connection
            .deployments(project, &Wanted::default(), 1, None)
            .await?
            .deployments
            .into_iter()
            .next()
            .ok_or_else(none),
    }
}

fn lines(deployment: &Deployment, now: Timestamp) -> Vec<String> {
    let mut lines = match deployment.number {
        Some(_) => vec![format!("deployment  {}", deployment.name()), format!("id          {}", deployment.id)],
        None => vec![format!("deployment  {}", deployment.id)],
    };
    let mut add = |name: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("{name:<10}  {value}")));
    };
    let at = |at: Option<Timestamp>| at.map(|at| time(at, now));
    add("project", Some(deployment.project.to_string()));
    add("pipeline", Some(clean(&deployment.pipeline)));
    let place = match deployment.queue_position {
        0 => String::new(),
        position => format!(", number {position} in line"),
    };
    add("status", Some(format!("{}{place}", deployment.status.as_str())));
    add("phase", deployment.phase.as_deref().map(clean));
    if !deployment.status.is_final() && deployment.started_at.is_some() {
        add("progress", Some(format!("{} %", deployment.progress)));
    }
    let is_said = |message: &str| deployment.waits_for.as_deref().is_some_and(|waits| waits.starts_with(message));
    add("message", deployment.message.as_deref().filter(|message| !is_said(message)).map(clean));
    add("starts", start(deployment.expected_start.flatten(), deployment.start_unknown.as_deref()));
    add("waits", deployment.waits_for.as_deref().map(clean));
    add("source", source(deployment.ref_name.as_deref(), deployment.commit.as_deref()));
    add("actor", deployment.actor.as_deref().map(clean));
    add("order", deployment.order.map(|order| order.to_string()));
    add("url", deployment.url.as_deref().map(clean));
    add("submitted", at(Some(deployment.created_at)));
    add("started", at(deployment.started_at));
    add("ended", at(deployment.ended_at));
    let end = deployment.ended_at.unwrap_or(now);
    add("took", deployment.started_at.map(|started| span(between(started, end))));
    if !deployment.status.is_final() {
        add("heartbeat", at(deployment.last_heartbeat_at));
        add("cancel", at(deployment.cancel_requested_at).map(|at| format!("asked to stop at {at}")));
    }
    add("error", deployment.error.as_ref().map(|error| format!("{}: {}", clean(&error.code), clean(&error.message))));
    add("superseded", deployment.successor().map(|by| format!("by {}", named(&by))));
    add("again", deployment.former().map(|former| format!("what {} deployed", named(&former))));
    // An older server tells them with the result alone.
    let outputs = deployment.result.as_ref().map(|result| &result.outputs).filter(|_| deployment.outputs.is_empty());
    for (name, value) in outputs.unwrap_or(&deployment.outputs) {
        add("output", Some(format!("{}={}", clean(name), clean(value))));
    }
    lines
}
