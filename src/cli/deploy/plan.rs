//! `deploy --dry-run`: what would happen.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    fits::{KnownAtSubmit, too_short},
    inside::inside,
};
use crate::{
    cli::{
        DeployArgs,
        exit::{Exit, Failure, exit_of, told_by},
        reason::Reason,
        screen::{
            clean::clean,
            words::{name_and_who, overtaken, start, what_holds},
        },
        session::Session,
    },
    client::deadline::Deadline,
    model::{DeploymentId, Status},
    wire::{Plan, PlanChange, PlanOutcome},
};

/// Prints the plan. Ends with the code with which the deploy itself would end at once, or with 0 where it would start or wait.
///
/// # Errors
/// The server has none.
pub async fn run(session: &Session, args: &DeployArgs, body: &[u8], deadline: &Deadline) -> Result<Exit, Failure> {
    let flags = [
        (args.submit.line.cancel_in_progress_deployment, "cancelInProgress"),
        (args.artifact.is_some(), "artifactFollows"),
    ];
    let flags: Vec<_> = flags.into_iter().filter_map(|(is, flag)| is.then_some(flag)).collect();
    let project = &args.target.project;
    // Only a key from a flag can name an earlier submit; generated keys are left out.
    let key = args.submit.idempotency_key.as_ref();
    let (plan, mut whole) = tokio::select! {
        answer = session.connection.plan(project, key, body, &flags) => answer?,
        () = deadline.passed() => return Err(Failure::new(Exit::Fault, "no answer before the deadline")),
    };
    let end = end(&plan, args, inside());
    if let Some(members) = whole.as_object_mut() {
        // Null where only the run itself can tell.
        members.insert("exitCode".to_owned(), end.map_or(Value::Null, |exit| json!(exit.code())));
        members.insert("reason".to_owned(), json!(end.and_then(|exit| reason(&plan, exit))));
    }
    let start = plan.expected_wait.filter(|_| plan.queue_position > 0);
    let expected = KnownAtSubmit { start, run: (!args.submit.detach).then_some(&plan.takes) };
    if let (None, Some(text)) = (end, too_short(expected, args.submit.line.timeout, args.submit.line.timeout)) {
        session.screen.warning(&text);
    }
    session.answer(&whole, &lines(&plan, end, inside(), session.clock.wall()))?;
    Ok(end.unwrap_or(Exit::Done))
}

/// The exit of a deploy that would end at once; `None` if it would start or wait.
fn end(plan: &Plan, args: &DeployArgs, inside: Option<DeploymentId>) -> Option<Exit> {
    match outcome(plan) {
        PlanOutcome::Refused => Some(exit_of(plan.refusal.as_ref().map(|refusal| refusal.error_code))),
        PlanOutcome::Blocked => Some(Exit::Blocked),
        PlanOutcome::Replayed => match plan.replays.as_ref()?.status {
            Status::Pending | Status::Running => None,
            Status::Succeeded => Some(Exit::Done),
            Status::Failed => Some(Exit::Failed),
            Status::Cancelled => Some(Exit::Cancelled),
        },
        PlanOutcome::Waits if is_inside(plan, inside) => Some(Exit::Blocked),
        PlanOutcome::Waits if args.submit.line.leave_when_overtaken && plan.will_be_superseded_by.is_some() => {
            Some(Exit::Cancelled)
        }
        PlanOutcome::Waits | PlanOutcome::Starts => None,
    }
}

/// The reason that the deploy itself would give for that exit.
fn reason(plan: &Plan, end: Exit) -> Option<String> {
    let own = |reason: Reason| Some(reason.as_str().to_owned());
    match outcome(plan) {
        PlanOutcome::Refused => told_by(&json!(plan.refusal), end).map(str::to_owned),
        PlanOutcome::Replayed => plan.replays.as_ref()?.error.as_ref().map(|error| error.code.clone()),
        PlanOutcome::Blocked => own(Reason::DeploymentInProgress),
        PlanOutcome::Waits if end == Exit::Blocked => own(Reason::InsideHolder),
        PlanOutcome::Waits => own(Reason::Overtaken),
        PlanOutcome::Starts => None,
    }
}

fn outcome(plan: &Plan) -> PlanOutcome {
    // An older server tells only who holds the slot.
    plan.outcome.unwrap_or(if plan.holder.is_some() { PlanOutcome::Waits } else { PlanOutcome::Starts })
}

/// Whether we are a command of the deployment that holds the slot.
fn is_inside(plan: &Plan, inside: Option<DeploymentId>) -> bool {
    plan.holder.as_ref().is_some_and(|holder| Some(holder.id) == inside)
}

fn lines(plan: &Plan, end: Option<Exit>, inside: Option<DeploymentId>, now: Timestamp) -> Vec<String> {
    let outcome = outcome(plan);
    let would = match (outcome, end) {
        (PlanOutcome::Replayed, _) => "would not run anew",
        (_, Some(_)) => "would not run",
        (_, None) => "would run",
    };
    let mut lines = vec![format!("{}: {} {would}", plan.project, clean(&plan.pipeline))];
    lines.extend(plan.phases.iter().map(|phase| {
        let marks = [(phase.protected, "protected"), (phase.rollback, "can be rolled back")];
        let marks: Vec<_> = marks.into_iter().filter_map(|(is, mark)| is.then_some(mark)).collect();
        let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
        format!("  {} {}{marks}", clean(&phase.kind), clean(&phase.name))
    }));
    lines.extend(differences(&plan.changes));
    let holder = plan.holder.as_ref().map_or_else(|| "nobody".to_owned(), name_and_who);
    lines.push(match outcome {
        PlanOutcome::Starts if plan.cancels.is_none() => "the slot is free: it would start at once".to_owned(),
        PlanOutcome::Starts => format!("the slot is held by {holder}; it would start at once"),
        PlanOutcome::Waits => {
            let wait = start(plan.expected_wait, plan.start_unknown.as_deref());
            let wait = wait.filter(|_| plan.will_be_superseded_by.is_none()).map(|wait| format!(", {wait}"));
            let wait = wait.unwrap_or_default();
            match (&plan.hold, &plan.holder) {
                (Some(hold), None) => format!(
                    "the project is {}; it would be number {} in line{wait}",
                    what_holds(hold, now),
                    plan.queue_position
                ),
                (Some(hold), Some(_)) => format!(
                    "the slot is held by {holder}, and the project is {}; it would be number {} in line{wait}",
                    what_holds(hold, now),
                    plan.queue_position
                ),
                (None, _) => {
                    format!("the slot is held by {holder}; it would be number {} in line{wait}", plan.queue_position)
                }
            }
        }
        PlanOutcome::Blocked => format!("the slot is held by {holder}, and --on-conflict fail does not wait for it"),
        PlanOutcome::Refused => {
            let why = plan.refusal.as_ref().map(|refusal| clean(&refusal.message)).unwrap_or_default();
            format!("it would be refused: {why}")
        }
        PlanOutcome::Replayed => {
            let made = plan.replays.as_ref().map(|made| format!("{}, which is {}", made.name(), made.status.as_str()));
            format!("a submit with the same --idempotency-key made {} already", made.unwrap_or_default())
        }
    });
    if is_inside(plan, inside) {
        lines.push("this is a command of the deployment that holds the slot: it would wait for itself".to_owned());
    }
    if let Some(cancelled) = &plan.cancels {
        lines.push(format!("it would cancel {}", name_and_who(cancelled)));
    }
    if let Some(refusal) = &plan.cancel_refusal {
        lines.push(format!("it would cancel nobody: {}", clean(&refusal.message)));
    }
    lines.extend(
        plan.supersedes.iter().map(|older| format!("when it starts, it would supersede {}", name_and_who(older))),
    );
    lines.extend(plan.overtaker().map(|by| format!("it {}", overtaken(&by))));
    lines.extend(plan.waits_for_agent.as_deref().map(|absence| format!("{}: it would wait for one", clean(absence))));
    lines.extend(end.map(|exit| format!("exit code of the deploy itself: {}", exit.code())));
    lines
}

/// What differs from the last success.
fn differences(changes: &[PlanChange]) -> Vec<String> {
    // Whatever has succeeded had a pipeline.
    if changes.iter().any(|change| change.field == "pipeline" && change.from.is_none()) {
        return vec!["never deployed before, or never with success: there is nothing to compare with".to_owned()];
    }
    if changes.is_empty() {
        return vec!["nothing differs from the last success".to_owned()];
    }
    let value = |value: &Option<String>| value.as_deref().map_or_else(|| "nothing".to_owned(), clean);
    let line = |change: &PlanChange| match change.field.as_str() {
        // The value is a hash: people only need to know that it changed.
        "pipelineDigest" => "  the pipeline's definition changed".to_owned(),
        field => format!("  {}: {} -> {}", clean(field), value(&change.from), value(&change.to)),
    };
    ["since the last success:".to_owned()].into_iter().chain(changes.iter().map(line)).collect()
}
