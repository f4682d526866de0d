//! `order`: shows the mark of a project, sets it, or removes it.

use clap::Args;
use jiff::Timestamp;

use super::{
    ConnectArgs,
    exit::{Exit, Failure, about_project},
    parse::{parse_order, parse_project},
    screen::words::mark,
    session::Session,
};
use crate::{
    client::calls::Patience,
    model::ProjectName,
    wire::{MarkView, OrderAnswer, OrderRequest},
};

/// `order`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct OrderArgs {
    /// The project
    #[arg(value_name = "PROJECT", env = "SINGLETRACK_PROJECT", value_parser = parse_project)]
    pub project: ProjectName,
    /// Set the mark to this build number, higher or lower than it is; needs the scope admin
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_order, conflicts_with = "clear")]
    pub set: Option<u64>,
    /// Remove the mark: any build number is let in, and the next start makes its own the mark; needs the scope admin
    #[arg(long)]
    pub clear: bool,
    /// The reason; it is recorded, and whoever is refused is told
    #[arg(long, short)]
    pub reason: Option<String>,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

const AFTER_HELP: &str = "\
The mark is the highest build number that was started. A deploy with a lower one is refused (OUTDATED), and one that waits with \
a lower one ends when its turn comes; the mark's own number is let in. Declared rollbacks and deployments without a build number \
are never judged by it.

--set N takes effect at once: what runs goes on; of those that wait, the ones below N end at their turn, and the ones at N or \
above it start. It holds until a deployment with that number or a higher one starts, which moves the mark on. --set higher than all builds \
so far keeps old ones out; --set lower, or --clear, is for a CI whose build numbers began anew.";

/// Shows the mark, or changes it.
///
/// # Errors
/// There is no such project, the server refuses, or there is no answer.
pub async fn run(args: &OrderArgs) -> Result<Exit, Failure> {
    if args.reason.is_some() && args.set.is_none() && !args.clear {
        return Err(Failure::new(Exit::Usage, "--reason goes with --set or --clear"));
    }
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let (connection, project, now) = (&session.connection, &args.project, session.clock.wall());
    let failed = |fault| about_project(connection, project, fault);
    if args.set.is_none() && !args.clear {
        let view = connection.project(project).await.map_err(failed)?;
        let shown = serde_json::json!({ "project": project, "mark": view.mark });
        session.answer(&shown, &shown_lines(project, view.mark.as_ref(), now))?;
        return Ok(Exit::Done);
    }
    let body = OrderRequest { order: args.set, reason: args.reason.clone(), actor: session.actor() };
    let answer = connection.set_order(project, &body).await.map_err(failed)?;
    session.answer(&answer, &lines(&answer, now))?;
    Ok(Exit::Done)
}

fn shown_lines(project: &ProjectName, shown: Option<&MarkView>, now: Timestamp) -> Vec<String> {
    match shown {
        Some(shown) => vec![format!("{project}: {}", mark(project, shown, now))],
        None => vec![format!("{project} has no mark: any build number is let in")],
    }
}

fn lines(answer: &OrderAnswer, now: Timestamp) -> Vec<String> {
    let OrderAnswer { project, changed, mark: after, before, outdated_in_line, line_length } = answer;
    let mut lines = shown_lines(project, after.as_ref(), now);
    match (changed, before) {
        (false, _) => lines.push("  nothing changed: it was so already".to_owned()),
        (true, Some(before)) => lines.push(format!("  until now: {}", mark(project, before, now))),
        (true, None) => lines.push("  until now there was no mark".to_owned()),
    }
    if *outdated_in_line > 0 {
        lines.push(format!(
            "  {outdated_in_line} of the {line_length} in line have a lower build number, and end when their turn comes"
        ));
    }
    lines
}
