//! `why`: who holds the slot, who waits, how long yet, and what can be done about it.

use clap::Args;
use jiff::Timestamp;

use super::{
    TargetArgs,
    exit::{Exit, Failure, about_project},
    screen::{
        clean::clean,
        words::{LineAhead, between, mark, name_and_who, overtaken, repairs, span, start, time, what_holds},
    },
    session::Session,
};
use crate::{
    client::calls::Patience,
    model::{HoldKind, LinePolicy, Preempt, Status},
    wire::{Liveness, ProjectView},
};

/// `why`.
#[derive(Args, Debug)]
pub struct WhyArgs {
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// How many of the line are shown.
const LINE_LIMIT: usize = 20;

/// Prints a project's slot and line.
///
/// # Errors
/// There is no such project, or no answer.
pub async fn run(args: &WhyArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.target.connect, Patience::QUESTION)?;
    let (connection, project) = (&session.connection, &args.target.project);
    let view = connection.project(project).await.map_err(|fault| about_project(connection, project, fault))?;
    session.answer(&view, &lines(&view, session.clock.wall()))?;
    Ok(Exit::Done)
}

fn lines(view: &ProjectView, now: Timestamp) -> Vec<String> {
    let project = &view.project;
    let mut lines = Vec::new();
    let mut next = Vec::new();
    match &view.holder {
        None if view.hold.is_some() => lines.push(format!("{project}: the slot is free, and given to nobody")),
        None => lines.push(format!("{project}: the slot is free")),
        Some(holder) => {
            let ahead = LineAhead::of(holder, view.liveness, view.eta);
            lines.push(format!("{project}: the slot is held by {}", ahead.name_and_who()));
            lines.push(format!("  {}", ahead.how_far(now)));
            let is_said = |message: &str| holder.waits_for.as_deref().is_some_and(|waits| waits.starts_with(message));
            if let Some(message) = holder.message.as_deref().filter(|message| !is_said(message)) {
                lines.push(format!("  {}", clean(message)));
            }
            if let Some(at) = holder.last_heartbeat_at {
                lines.push(format!("  last heartbeat {} ago", span(between(at, now))));
            }
            if let Some(url) = &holder.url {
                lines.push(format!("  {}", clean(url)));
            }
            next.push(("watch it", format!("singletrack logs --project {project} {} --follow", holder.argument())));
            if holder.cancel_requested_at.is_none() {
                next.push(("stop it", format!("singletrack cancel --project {project} {}", holder.argument())));
            }
            let is_stuck =
                holder.status == Status::Running && matches!(view.liveness, Some(Liveness::Silent | Liveness::Lost));
            if is_stuck {
                let flag = if view.liveness == Some(Liveness::Lost) { "" } else { " --even-if-alive" };
                next.push((
                    "force the slot free, if its worker is gone for good",
                    format!(
                        "singletrack release --project {project} --deployment {}{flag} --reason '...'",
                        holder.argument()
                    ),
                ));
            }
        }
    }
    if let Some(hold) = &view.hold {
        lines.push(format!("held: {project} is {}", what_holds(hold, now)));
        if hold.kind == HoldKind::Pause {
            next.push(("let it go on", format!("singletrack resume {project}")));
        }
    }
    if view.line_length > 0 {
        lines.push(format!("{} in line:", view.line_length));
        lines.extend(view.line.iter().take(LINE_LIMIT).map(|waiting| {
            let waited = span(between(waiting.created_at, now));
            let position = waiting.queue_position;
            let fate = match waiting.overtaker() {
                Some(by) => Some(overtaken(&by)),
                None => start(waiting.expected_start.flatten(), waiting.start_unknown.as_deref()),
            };
            let fate = fate.map(|fate| format!("; {fate}")).unwrap_or_default();
            format!("  {position}. {}, for {waited}{fate}", name_and_who(waiting))
        }));
        let shown = view.line.len().min(LINE_LIMIT) as u64;
        if view.line_length > shown {
            lines.push(format!("  and {} more", view.line_length - shown));
        }
    }
    if let Some(last) = &view.last_outcome {
        let ended = last.ended_at.map(|at| format!(" at {}", time(at, now))).unwrap_or_default();
        let error = last.error.as_ref().map(|error| format!(": {}", clean(&error.message))).unwrap_or_default();
        lines.push(format!("last: {} {}{ended}{error}", name_and_who(last), last.status.as_str()));
        lines.extend(repairs(last).into_iter().map(|repair| format!("  {repair}")));
        if last.status == Status::Failed {
            next.push((
                "see why the last one failed",
                format!("singletrack logs --project {project} {}", last.argument()),
            ));
        }
    }
    if let Some(live) = &view.current {
        let since = live.ended_at.map(|at| format!(" since {}", time(at, now))).unwrap_or_default();
        lines.push(format!("live: {}{since}", name_and_who(live)));
    }
    lines.extend(view.mark.as_ref().map(|shown| format!("mark: {}", mark(project, shown, now))));
    lines.push(format!("rules: {}", rules(view)));
    if !view.pipelines.is_empty() {
        let names: Vec<_> = view.pipelines.iter().map(|name| clean(name)).collect();
        lines.push(format!("pipelines: {}", names.join(", ")));
    }
    lines.extend(agents(view, now));
    if view.holder.is_none() && view.hold.is_none() {
        next.push(("deploy", deploy_command(view)));
    }
    if !next.is_empty() {
        lines.push("next:".to_owned());
        lines.extend(next.into_iter().map(|(what, command)| format!("  {what}: {command}")));
    }
    lines
}

/// How the project is deployed: by a pipeline that is there, or, where the server knows none, by the job itself.
fn deploy_command(view: &ProjectView) -> String {
    let (project, pipelines) = (&view.project, &view.pipelines);
    match pipelines.first() {
        None => format!("singletrack run --project {project} -- COMMAND"),
        Some(_) if pipelines.iter().any(|name| name == "deploy") => format!("singletrack deploy --project {project}"),
        Some(first) => format!("singletrack deploy --project {project} --pipeline {}", clean(first)),
    }
}

fn agents(view: &ProjectView, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    if !view.agents.is_empty() {
        lines.push("agents:".to_owned());
    }
    lines.extend(view.agents.iter().take(LINE_LIMIT).map(|agent| {
        let seen = if agent.connected {
            "connected".to_owned()
        } else {
            format!("last seen {} ago", span(between(agent.last_seen_at, now)))
        };
        let pipelines: Vec<_> = agent.pipelines.iter().map(|name| clean(name)).collect();
        format!("  {}: {seen}, runs {}", clean(&agent.worker), pipelines.join(", "))
    }));
    lines
}

fn rules(view: &ProjectView) -> String {
    let policy = &view.policy;
    let line = match policy.line {
        LinePolicy::All => format!("everyone is served in order, at most {} wait", policy.line_limit),
        LinePolicy::Latest => format!(
            "the newest is served first and supersedes the older ones as it starts, at most {} wait",
            policy.line_limit
        ),
    };
    let preempt = match policy.preempt {
        Preempt::Allow => "newcomers may cancel what runs".to_owned(),
        Preempt::Never => "what runs is never cancelled by newcomers".to_owned(),
        Preempt::Times { times } => format!("newcomers may cancel what runs {times} times in a row"),
    };
    let freezes = match policy.freezes.is_empty() {
        true => String::new(),
        false => format!("; freeze windows: {}", clean(&policy.freezes.join("; "))),
    };
    format!("{line}; {preempt}{freezes}")
}
