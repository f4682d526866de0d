//! `status`: one deployment.

use std::{pin::pin, time::Duration};

use clap::Args;
use jiff::Timestamp;
use tokio::{sync::watch::channel, time::sleep};

use super::{
    TargetArgs,
    exit::{Exit, Failure, about_project},
    parse::parse_deployment,
    screen::{
        clean::clean,
        print,
        words::{between, is_rolled_back, named, repairs, source, span, start, time, what_holds},
    },
    session::{Session, not_written},
    signals::Signals,
};
use crate::{
    client::{
        calls::{Connection, Filter, Patience},
        follow::{FollowLimits, Follower, How, Update},
    },
    model::{DeploymentName, EventBody, Party, ProjectName, Which},
    wire::{Deployment, Event, EventData},
};

/// `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The deployment: its number, such as 17; its number with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: Option<DeploymentName>,
    /// Show the deployment until it is final: updated in place at a terminal, else a line for each change
    #[arg(long)]
    pub watch: bool,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Prints a deployment.
///
/// # Errors
/// There is none, or no answer.
pub async fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    let patience = if args.watch { Patience::WATCH } else { Patience::QUESTION };
    let session = Session::open(&args.target.connect, patience)?;
    let deployment = find(&session.connection, &args.target.project, args.id.as_ref()).await?;
    if args.watch {
        return watch(&session, deployment).await;
    }
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
            .deployments(project, &Filter::default(), 1, None)
            .await?
            .deployments
            .into_iter()
            .next()
            .ok_or_else(none),
    }
}

/// How often it is shown anew at most, however much happens.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the time that it has taken is shown anew at a terminal.
const TICK: Duration = Duration::from_secs(1);

/// Shows a deployment at each change, until it is final.
async fn watch(session: &Session, mut deployment: Deployment) -> Result<Exit, Failure> {
    let (project, id) = (deployment.project.clone(), deployment.id);
    let name = DeploymentName { project: None, which: Which::Id(id) };
    let mut signals = Signals::of_a_job(session.in_ci)?;
    let (news, mut changes) = channel(());
    // Its output changes nothing of what is shown.
    let mut show = |update: Update| match update {
        Update::Event(Event { data: EventData::Other(EventBody::Log { .. }), .. }) | Update::Switched(_) => {}
        Update::Event(_) | Update::State { .. } => news.send_replace(()),
    };
    let mut follower =
        Follower { connection: &session.connection, project: &project, id, limits: FollowLimits::default(), after: 0 };
    let following = async {
        match follower.begin(Some(1), None, &mut show).await? {
            Some(ended) => Ok(ended),
            None => follower.follow(How::Auto, &mut show).await,
        }
    };
    let mut following = pin!(following);
    let mut picture = Picture::default();
    loop {
        picture.show(session, &deployment)?;
        let changed = async {
            loop {
                tokio::select! {
                    // Its sender lives as long as what follows.
                    _ = changes.changed() => break,
                    () = sleep(TICK), if picture.is_repainted(session) => picture.show(session, &deployment)?,
                }
            }
            sleep(PAUSE).await;
            Ok::<_, Failure>(session.connection.deployment(&project, &name).await?)
        };
        tokio::select! {
            ended = &mut following => {
                picture.show(session, &ended?)?;
                return Ok(Exit::Done);
            }
            () = signals.first() => return Err(Failure::new(Exit::Interrupted, "interrupted; the deployment goes on")),
            next = changed => deployment = next?,
        }
    }
}

/// What was shown last.
#[derive(Default)]
struct Picture {
    row_count: usize,
    line: String,
}

impl Picture {
    fn is_repainted(&self, session: &Session) -> bool {
        !session.json && print::result_columns().is_some()
    }

    /// In its place at a terminal, else on a line of its own where it is not as it was.
    fn show(&mut self, session: &Session, deployment: &Deployment) -> Result<(), Failure> {
        let now = session.clock.wall();
        if self.is_repainted(session) {
            self.row_count = print::repaint(&lines(deployment, now), self.row_count).map_err(not_written)?;
            return Ok(());
        }
        let line = summary(deployment);
        if line == self.line {
            return Ok(());
        }
        let written = if session.json { print::json_line(deployment) } else { print::answer(&line) };
        self.line = line;
        written.map_err(not_written)
    }
}

/// The deployment on one line.
fn summary(deployment: &Deployment) -> String {
    let mut parts = vec![format!("{} {}", deployment.name(), deployment.status.as_str())];
    let place = deployment.queue_position;
    parts.extend((place > 0).then(|| format!("number {place} in line")));
    let is_running = !deployment.status.is_final() && deployment.started_at.is_some();
    let phase = deployment.phase.as_deref().filter(|_| is_running);
    parts.extend(phase.map(|phase| format!("phase {}", clean(phase))));
    parts.extend(is_running.then(|| format!("{} %", deployment.progress)));
    parts.extend(deployment.waits_for.as_deref().map(clean));
    parts.extend(deployment.cancel_requested_at.filter(|_| is_running).map(|_| "asked to stop".to_owned()));
    parts.extend(deployment.error.as_ref().map(|error| format!("{}: {}", clean(&error.code), clean(&error.message))));
    parts.extend(repairs(deployment));
    parts.join(", ")
}

/// A deployment, whole.
pub(super) fn lines(deployment: &Deployment, now: Timestamp) -> Vec<String> {
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
    add("held", deployment.hold.as_ref().map(|hold| format!("{} is {}", deployment.project, what_holds(hold, now))));
    add("passes", deployment.override_pause.then(|| "no pause and no freeze window holds it".to_owned()));
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
    add("artifact", deployment.artifact.as_ref().map(|artifact| clean(&artifact.sha256)));
    for (name, hash) in &deployment.secret_inputs {
        add("secret", Some(format!("{}={}", clean(name), clean(hash))));
    }
    for (name, value) in &deployment.inputs {
        add("input", Some(format!("{}={}", clean(name), clean(value))));
    }
    add("url", deployment.url.as_deref().map(clean));
    let party = |party: &Option<Party>| party.as_ref().map(|party| clean(&party.to_string()));
    // The actor stands on a line of its own.
    let submitted_by = deployment.submitted_by.as_ref().map(|party| clean(&party.identity.to_string()));
    add("caller", submitted_by);
    add("cancelled", party(&deployment.cancelled_by).map(|by| format!("by {by}")));
    add("released", party(&deployment.released_by).map(|by| format!("by {by}")));
    add("worker", deployment.worker.as_deref().map(clean));
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
    add("rollback", is_rolled_back(deployment).then(|| "done".to_owned()));
    repairs(deployment).into_iter().for_each(|repair| add("rollback", Some(repair)));
    add("superseded", deployment.successor().map(|by| format!("by {}", named(&by))));
    add("again", deployment.former().map(|former| format!("what {} deployed", named(&former))));
    // An older server has them only in the result.
    let outputs = deployment.result.as_ref().map(|result| &result.outputs).filter(|_| deployment.outputs.is_empty());
    for (name, value) in outputs.unwrap_or(&deployment.outputs) {
        add("output", Some(format!("{}={}", clean(name), clean(value))));
    }
    lines
}
