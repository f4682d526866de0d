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
use crate::{api::Plan, model::ProjectName};

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
    if !plan.changes.is_empty() {
        lines.push("since the last success:".to_owned());
    }
    lines.extend(plan.changes.iter().map(|change| {
        let value = |value: &Option<String>| value.as_deref().map_or_else(|| "nothing".to_owned(), clean);
        format!("  {}: {} -> {}", clean(&change.field), value(&change.from), value(&change.to))
    }));
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
