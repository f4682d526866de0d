//! How the end of a `deploy` is reported: the result on standard output, the reason and the next thing to do on standard
//! error, and the exit code.

use serde_json::Value;

use super::{
    exit::{Exit, Failure, exit_of_end},
    reason::{ROLLBACK_FAILED, Reason},
    screen::{
        clean::clean,
        print,
        words::{LineAhead, between, named, repairs, span},
    },
    session::Session,
};
use crate::{
    client::resolve::{Ending, Reached, StopReason},
    model::{DeploymentId, ProjectName, Status},
    wire::{Conflict, Deployment},
};

/// Tells the verdict. `problem` is the last conflict as the server told it.
///
/// # Errors
/// Every end that is not a success; the caller reports it.
pub fn tell(
    session: &Session,
    project: &ProjectName,
    verdict: Ending,
    problem: Option<Value>,
) -> Result<Exit, Failure> {
    match verdict {
        Ending::Ended { deployment, replayed } => {
            ended(session, &deployment, if replayed { ToldTo::Repeater } else { ToldTo::Owner })
        }
        Ending::Detached(deployment) => {
            let place = match deployment.queue_position {
                0 => "has the slot".to_owned(),
                position => format!("is number {position} in line"),
            };
            session.screen.line(&format!("{} {place}", deployment.name()));
            session.answer(&deployment, &[deployment.id.to_string()])?;
            Ok(Exit::Done)
        }
        Ending::Blocked(conflict) => Err(blocked(session, project, &conflict, problem)),
        Ending::Inside(conflict) => Err(Failure {
            exit: Exit::Blocked,
            message: format!(
                "this is a command of {}, which holds the slot",
                conflict.blocker.map_or_else(|| project.to_string(), |holder| named(&holder.mention(project)))
            ),
            hint: Some(
                "the command would wait for itself: deploy another project, or deploy after this deployment".to_owned(),
            ),
            reason: Some(Reason::InsideHolder),
            problem,
        }),
        Ending::Overtaken { id, by, deployment } => Err(Failure {
            exit: Exit::Cancelled,
            message: format!(
                "{} left the line: {} is newer, and supersedes it when it starts",
                name_of(deployment.as_deref(), id),
                named(&by)
            ),
            hint: Some(format!(
                "`singletrack status --project {project} {}` shows what is deployed instead",
                by.argument()
            )),
            reason: Some(Reason::Overtaken),
            problem: deployment.as_deref().and_then(to_value).or(problem),
        }),
        Ending::Refused(refusal) => Err(Failure::from(*refusal)),
        Ending::Faulted(fault) => Err(Failure::from(fault)),
        Ending::Stopped { why, reached, deployment } => {
            stopped(session, project, HowStopped { why, reached, deployment, problem })
        }
    }
}

/// The reader of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ToldTo {
    /// To the client that made the deployment.
    Owner,
    /// To another attempt of the CI job that made it.
    Repeater,
    /// To somebody who looks on.
    Onlooker,
}

/// Tells an onlooker how a deployment has ended.
///
/// # Errors
/// Every end that is not a success; the caller reports it.
pub fn tell_onlooker(session: &Session, deployment: &Deployment) -> Result<Exit, Failure> {
    ended(session, deployment, ToldTo::Onlooker)
}

fn ended(session: &Session, deployment: &Deployment, told: ToldTo) -> Result<Exit, Failure> {
    let (name, argument) = (deployment.name(), deployment.argument());
    let project = &deployment.project;
    let Some(error) = &deployment.error else {
        let took = match (deployment.started_at, deployment.ended_at) {
            (Some(begin), Some(end)) => format!(" in {}", span(between(begin, end))),
            _ => String::new(),
        };
        let earlier = if told == ToldTo::Repeater { ", in an earlier run of this job" } else { "" };
        session.screen.clear();
        session.screen.line(&format!("{name} succeeded{took}{earlier}"));
        let outputs = deployment.result.iter().flat_map(|result| &result.outputs);
        let lines: Vec<_> = outputs.map(|(name, value)| format!("{}={}", clean(name), clean(value))).collect();
        session.answer(deployment, &lines)?;
        return Ok(Exit::Done);
    };
    tell_repairs(session, deployment);
    let reason = clean(&error.message);
    let code = clean(&error.code);
    let phase = error.phase.as_deref().map(|phase| format!(" in phase {}", clean(phase))).unwrap_or_default();
    let logs = format!("`singletrack logs --project {project} {argument}` shows its output");
    let exit = exit_of_end(deployment.status, &error.code);
    let (message, hint) = match (deployment.status, error.code.as_str(), deployment.successor()) {
        (Status::Cancelled, _, Some(by)) => (
            format!("{name} was superseded by {}", named(&by)),
            format!("`singletrack status --project {project} {}` shows what took its place", by.argument()),
        ),
        (Status::Cancelled, "ABANDONED", None) if told == ToldTo::Onlooker => (
            format!("{name} lost its place in line: the server got no sign of life from its client for too long"),
            format!("`singletrack status --project {project} {argument}` shows whose it was"),
        ),
        (Status::Cancelled, "EXPIRED", None) if told == ToldTo::Onlooker => (
            format!("{name} was still waiting for the slot at its deadline"),
            "`singletrack why` shows who holds the slot".to_owned(),
        ),
        (Status::Cancelled, "ABANDONED", None) => (
            format!("{name} lost its place in line: the server got no sign of life from this client for too long"),
            "check the network between this job and the server, then deploy again".to_owned(),
        ),
        (Status::Cancelled, "EXPIRED", None) => (
            format!("{name} was still waiting for the slot at its deadline"),
            "pass a longer --timeout; `singletrack why` shows who holds the slot".to_owned(),
        ),
        (Status::Cancelled, ..) => (format!("{name} was cancelled ({code}): {reason}"), logs),
        (Status::Failed | Status::Pending | Status::Running | Status::Succeeded, ..) => {
            (format!("{name} failed{phase} ({code}): {reason}"), logs)
        }
    };
    let hint = if told == ToldTo::Repeater {
        "this is how an earlier run of the same job attempt ended; start the job anew, or pass another \
         --idempotency-key, to deploy again"
            .to_owned()
    } else {
        hint
    };
    Err(Failure { exit, message, hint: Some(hint), reason: None, problem: to_value(deployment) })
}

/// Tells what a person must repair after rollbacks that failed, however the command ends.
pub fn tell_repairs(session: &Session, deployment: &Deployment) {
    let repairs = repairs(deployment);
    if repairs.is_empty() {
        return;
    }
    session.screen.clear();
    let title = format!("singletrack: {ROLLBACK_FAILED}");
    session.screen.over(|| {
        repairs.iter().for_each(|repair| print::error(&title, repair));
        print::more(&format!("singletrack explain {ROLLBACK_FAILED}"));
    });
}

fn blocked(session: &Session, project: &ProjectName, conflict: &Conflict, problem: Option<Value>) -> Failure {
    let message = match LineAhead::in_conflict(project, conflict) {
        Some(ahead) => {
            format!("the slot is held by {}: {}", ahead.name_and_who(), ahead.how_far(session.clock.wall()))
        }
        None => "the slot is held".to_owned(),
    };
    Failure {
        exit: Exit::Blocked,
        message,
        hint: Some("leave --on-conflict out to wait for it, or pass --cancel-in-progress-deployment".to_owned()),
        reason: Some(Reason::DeploymentInProgress),
        problem,
    }
}

/// How it was stopped.
struct HowStopped {
    why: StopReason,
    reached: Reached,
    deployment: Option<Box<Deployment>>,
    problem: Option<Value>,
}

fn stopped(session: &Session, project: &ProjectName, ending: HowStopped) -> Result<Exit, Failure> {
    let HowStopped { why, reached, deployment, problem } = ending;
    // A deployment that succeeded anyway is reported as succeeded.
    let succeeded = deployment.as_ref().filter(|deployment| deployment.status == Status::Succeeded);
    if let (StopReason::Deadline, Some(deployment)) = (why, succeeded) {
        return ended(session, deployment, ToldTo::Owner);
    }
    deployment.iter().for_each(|deployment| tell_repairs(session, deployment));
    let trouble = session.connection.trouble().map(|trouble| format!("; the server does not answer: {trouble}"));
    let is_down = trouble.is_some();
    let trouble = trouble.unwrap_or_default();
    let became = deployment.as_ref().map_or_else(
        || "its outcome is unknown".to_owned(),
        |deployment| match deployment.status {
            Status::Pending | Status::Running => "it is asked to stop, and has not stopped yet".to_owned(),
            Status::Succeeded => "it had succeeded by then".to_owned(),
            Status::Failed => "it failed".to_owned(),
            Status::Cancelled => "it is cancelled".to_owned(),
        },
    );
    let is_open = deployment.as_ref().is_none_or(|deployment| !deployment.status.is_final());
    let name = |id| name_of(deployment.as_deref(), id);
    let look = |id: DeploymentId| {
        let argument = deployment.as_ref().map_or_else(|| id.to_string(), |deployment| deployment.argument());
        format!("`singletrack status --project {project} {argument}` shows its status")
    };
    let (exit, reason, message, hint) = match (why, reached) {
        (StopReason::Signal, Reached::Nothing) => {
            (Exit::Interrupted, Reason::Interrupted, format!("interrupted before the server answered{trouble}"), None)
        }
        (StopReason::Signal, Reached::Line(id)) => {
            (Exit::Interrupted, Reason::Interrupted, format!("interrupted in line; {}: {became}", name(id)), None)
        }
        (StopReason::Signal, Reached::Slot(id)) => (
            Exit::Interrupted,
            Reason::Interrupted,
            format!("interrupted; {}: {became}", name(id)),
            is_open.then(|| look(id)),
        ),
        (StopReason::Deadline, Reached::Nothing) => (
            if is_down { Exit::Fault } else { Exit::TimedOut },
            if is_down { Reason::Unreachable } else { Reason::ClientTimeout },
            format!("no answer to the submit before the deadline{trouble}"),
            Some("check --server (or SINGLETRACK_URL)".to_owned()),
        ),
        (StopReason::Deadline, Reached::Line(_)) => (
            Exit::Blocked,
            Reason::DeadlinePassed,
            format!("still waiting for the slot at the deadline{trouble}"),
            Some("pass a longer --timeout; `singletrack why` shows who holds the slot".to_owned()),
        ),
        (StopReason::Deadline, Reached::Slot(id)) if deployment.as_ref().is_some_and(|it| it.started_at.is_none()) => (
            Exit::TimedOut,
            Reason::ClientTimeoutUnclaimed,
            format!("the deadline passed before a worker took {}; {became}{trouble}", name(id)),
            Some(format!(
                "`singletrack why --project {project}` shows which agents are there; or pass a longer --timeout"
            )),
        ),
        (StopReason::Deadline, Reached::Slot(id)) => (
            Exit::TimedOut,
            Reason::ClientTimeoutRunning,
            format!("the deadline passed while {} ran; {became}{trouble}", name(id)),
            Some(format!("pass a longer --timeout; {}", look(id))),
        ),
    };
    let told = deployment.as_deref().and_then(to_value).or(problem);
    Err(Failure { exit, message, hint, reason: Some(reason), problem: told })
}

/// The name of a deployment for people, as far as it was told.
fn name_of(deployment: Option<&Deployment>, id: DeploymentId) -> String {
    deployment.map_or_else(|| format!("deployment {id}"), Deployment::name)
}

fn to_value(deployment: &Deployment) -> Option<Value> {
    serde_json::to_value(deployment).ok()
}
