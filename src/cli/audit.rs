//! `audit`: who did what, from where, and with which request.

use clap::Args;
use jiff::Timestamp;

use super::{
    ConnectArgs,
    exit::{Exit, Failure},
    parse::{parse_count, parse_project, parse_text},
    screen::{clean::clean, print, table, words::time},
    session::{Session, not_written},
};
use crate::{
    client::{audit::AuditFilter, calls::Patience},
    config::Since,
    model::{DeploymentName, ProjectName},
    wire::AuditRecord,
};

/// `audit`.
#[derive(Args, Debug)]
pub struct AuditArgs {
    /// Only lines about this project
    #[arg(long, short, value_name = "NAME", env = "SINGLETRACK_PROJECT", value_parser = parse_project)]
    #[arg(display_order = 0)]
    pub project: Option<ProjectName>,
    /// Only lines about this deployment: its number or its id
    #[arg(long, value_name = "ID", requires = "project", help_heading = "Filter")]
    pub deployment: Option<DeploymentName>,
    /// Only lines since then: a duration before now, such as 24h, or a time, such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "WHEN", help_heading = "Filter")]
    pub since: Option<Since>,
    /// Only lines before then
    #[arg(long, value_name = "WHEN", help_heading = "Filter")]
    pub until: Option<Since>,
    /// Only lines about this action, such as release or refused
    #[arg(long, value_name = "ACTION", value_parser = parse_text, help_heading = "Filter")]
    pub action: Option<String>,
    /// Only what this caller did: local, server, token:NAME or oidc:ISSUER:SUBJECT
    #[arg(long, value_name = "CALLER", value_parser = parse_text, help_heading = "Filter")]
    pub caller: Option<String>,
    /// How many lines at most, the last ones first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = parse_count::<u32>(1..=1_000_000))]
    pub limit: u32,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// The largest page that the server gives.
const PAGE_LIMIT: u64 = 500;

/// Prints the log, the last line first.
///
/// # Errors
/// There is no answer, or the caller may not read it.
pub async fn run(args: &AuditArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let deployment = match (&args.deployment, &args.project) {
        (Some(name), Some(project)) => Some(session.connection.deployment(project, name).await?.id),
        (Some(_), None) | (None, _) => None,
    };
    let wanted = AuditFilter {
        project: args.project.clone(),
        deployment,
        since: args.since,
        until: args.until,
        action: args.action.clone(),
        caller: args.caller.clone(),
    };
    let (limit, now) = (u64::from(args.limit), session.clock.wall());
    let mut entries: Vec<AuditRecord> = Vec::new();
    let (mut cursor, mut count) = (None, 0);
    loop {
        let page = session.connection.audit(&wanted, (limit - count).min(PAGE_LIMIT), cursor.as_deref()).await?;
        // An empty page has found no lines yet: the next page continues the search.
        let is_stuck = page.next_cursor == cursor;
        count += page.entries.len() as u64;
        cursor = page.next_cursor;
        if args.connect.json {
            // Each page is printed as it comes: the log may be long.
            page.entries.iter().try_for_each(print::json_line).map_err(not_written)?;
        } else {
            entries.extend(page.entries);
        }
        if cursor.is_none() || is_stuck || count >= limit {
            break;
        }
    }
    if !args.connect.json {
        for line in lines(&entries, cursor.is_some(), now) {
            print::answer(&line).map_err(not_written)?;
        }
    }
    Ok(Exit::Done)
}

fn lines(entries: &[AuditRecord], are_more: bool, now: Timestamp) -> Vec<String> {
    if entries.is_empty() {
        return vec!["no lines".to_owned()];
    }
    let mut rows = vec![["WHEN", "WHO", "ACTION", "WHAT", "DETAIL", "FROM", "REQUEST"].map(str::to_owned).to_vec()];
    rows.extend(entries.iter().map(|entry| row(entry, now)));
    let mut lines = table::lines(&rows);
    if are_more {
        lines.push("(there are more: raise --limit, or pass --until with the time of the last line)".to_owned());
    }
    lines
}

fn row(entry: &AuditRecord, now: Timestamp) -> Vec<String> {
    let or_none = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), clean);
    let project = entry.project.as_ref().map_or("", |project| project.as_str());
    let what = match (entry.deployment_number, entry.deployment_id) {
        (Some(number), _) => format!("{project}#{number}"),
        (None, Some(id)) => format!("{project} {id}"),
        (None, None) if project.is_empty() => "-".to_owned(),
        (None, None) => project.to_owned(),
    };
    vec![
        time(entry.at, now),
        or_none(entry.caller.as_deref()),
        clean(&entry.action),
        what,
        or_none(Some(&*entry.detail).filter(|detail| !detail.is_empty())),
        or_none(entry.address.as_deref()),
        or_none(entry.request_id.as_deref()),
    ]
}
