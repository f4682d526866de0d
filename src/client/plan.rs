//! `deploy --dry-run`: what would happen.

use super::{
    deadline::Deadline,
    exit::{Exit, Failure},
    render::{
        clean::clean,
        words::{eta, who_deploys},
    },
    session::Session,
};
use crate::{
    api::{Plan, PlanChange},
    model::ProjectName,
};

/// Prints the plan.
///
/// # Errors
/// The server has none.
pub async fn run(session: &Session, project: &ProjectName, body: &[u8], deadline: &Deadline) -> Result<Exit, Failure> {
    let (plan, whole) = tokio::select! {
        answer = session.connection.plan(project, body) => answer?,
        () = deadline.passed() => return Err(Failure::new(Exit::Fault, "no answer before the deadline")),
    };
    session.answer(&whole, &lines(&plan))?;
    Ok(Exit::Done)
}

fn lines(plan: &Plan) -> Vec<String> {
    let mut lines = vec![format!("{}: {} would run", plan.project, clean(&plan.pipeline))];
    lines.extend(plan.phases.iter().map(|phase| {
        let marks = [(phase.protected, "protected"), (phase.rollback, "can be rolled back")];
        let marks: Vec<_> = marks.into_iter().filter_map(|(is, mark)| is.then_some(mark)).collect();
        let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
        format!("  {} {}{marks}", clean(&phase.kind), clean(&phase.name))
    }));
    lines.extend(differences(&plan.changes));
    lines.push(match &plan.holder {
        None => "the slot is free: it would start at once".to_owned(),
        Some(holder) => {
            let wait = plan.expected_wait.map(|wait| format!(", {}", eta(wait))).unwrap_or_default();
            format!(
                "the slot is held by {}; it would be number {} in line{wait}",
                who_deploys(holder),
                plan.queue_position
            )
        }
    });
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
        // Its value is a hash, which tells people no more than that it is another one.
        "pipelineDigest" => "  the pipeline's definition changed".to_owned(),
        field => format!("  {}: {} -> {}", clean(field), value(&change.from), value(&change.to)),
    };
    ["since the last success:".to_owned()].into_iter().chain(changes.iter().map(line)).collect()
}
