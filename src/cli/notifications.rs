//! `notifications`: what is to be told to targets outside, what was given up, and a new attempt.

use clap::Args;
use jiff::Timestamp;

use super::{
    ConnectArgs,
    exit::{Exit, Failure},
    parse::{parse_count, parse_text},
    screen::{clean::clean, print, table, words::time},
    session::{Session, not_written},
};
use crate::{client::calls::Patience, wire::NotificationView};

/// `notifications`.
#[derive(Args, Debug)]
pub struct NotificationsArgs {
    /// Only those that were given up
    #[arg(long)]
    pub dead: bool,
    /// Try this one anew that was given up, as if it had never been tried
    #[arg(long, value_name = "ID", value_parser = parse_text, conflicts_with_all = ["dead", "limit"])]
    pub retry: Option<String>,
    /// How many at most, the last ones first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = parse_count::<u32>(1..=1_000_000))]
    pub limit: u32,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// The largest page that the server gives.
const PAGE_LIMIT: u64 = 500;

/// Lists them, or tries one anew.
///
/// # Errors
/// There is no answer, or the caller may not do it.
pub async fn run(args: &NotificationsArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    if let Some(id) = &args.retry {
        let retried = session.connection.retry_notification(id).await?;
        session.answer(&retried, &[format!("{} is tried anew: {}", clean(&retried.id), what(&retried))])?;
        return Ok(Exit::Done);
    }
    let state = args.dead.then_some("dead");
    let (limit, now) = (u64::from(args.limit), session.clock.wall());
    let mut all: Vec<NotificationView> = Vec::new();
    let (mut cursor, mut count) = (None, 0);
    loop {
        let wanted = (limit - count).min(PAGE_LIMIT);
        let page = session.connection.notifications(state, wanted, cursor.as_deref()).await?;
        let is_stuck = page.next_cursor == cursor;
        count += page.notifications.len() as u64;
        cursor = page.next_cursor;
        if args.connect.json {
            // Each page is printed as it comes: there may be many.
            page.notifications.iter().try_for_each(print::json_line).map_err(not_written)?;
        } else {
            all.extend(page.notifications);
        }
        if cursor.is_none() || is_stuck || count >= limit {
            break;
        }
    }
    if !args.connect.json {
        for line in lines(&all, args.dead, cursor.is_some(), now) {
            print::answer(&line).map_err(not_written)?;
        }
    }
    Ok(Exit::Done)
}

fn lines(all: &[NotificationView], dead: bool, are_more: bool, now: Timestamp) -> Vec<String> {
    if all.is_empty() {
        let what = if dead { "no notification was given up" } else { "no notification waits, and none was given up" };
        return vec![what.to_owned()];
    }
    let mut rows =
        vec![["WHEN", "STATE", "RULE", "WHAT", "ATTEMPTS", "NEXT", "LAST ERROR", "ID"].map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|one| row(one, now)));
    let mut lines = table::lines(&rows);
    if are_more {
        lines.push("(there are more: raise --limit)".to_owned());
    }
    lines
}

fn row(one: &NotificationView, now: Timestamp) -> Vec<String> {
    vec![
        time(one.at, now),
        clean(&one.state),
        clean(&one.rule),
        what(one),
        one.attempts.to_string(),
        one.next_attempt_at.map_or_else(|| "-".to_owned(), |at| time(at, now)),
        one.error.as_deref().map_or_else(|| "-".to_owned(), clean),
        clean(&one.id),
    ]
}

fn what(one: &NotificationView) -> String {
    let deployment = one.deployment_id.map(|id| format!(" {id}")).unwrap_or_default();
    format!("{} {}{deployment}", clean(one.project.as_str()), clean(&one.event))
}
