//! `list`: a project's deployments, or the projects.

use clap::Args;
use jiff::Timestamp;

use super::{
    ConnectArgs,
    exit::{Exit, Failure, about_project},
    parse::{parse_count, parse_project, parse_status, parse_text},
    screen::{
        clean::clean,
        table,
        words::{between, name_and_who, source, span, time},
    },
    session::Session,
};
use crate::{
    client::calls::{Connection, Filter, Patience},
    config::Since,
    model::{Hold, HoldKind, ProjectName, Status},
    wire::{Deployment, DeploymentList, ProjectList, ProjectSummary},
};

/// `list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// The project
    #[arg(long, short, value_name = "NAME", env = "SINGLETRACK_PROJECT", value_parser = parse_project)]
    #[arg(display_order = 0)]
    pub project: Option<ProjectName>,
    /// Which of the project's deployments.
    #[command(flatten)]
    pub wanted: FilterArgs,
    /// How many at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = parse_count::<u16>(1..=1000))]
    pub limit: u16,
    /// Continue a list: the nextCursor of its last page
    #[arg(long, value_parser = parse_text)]
    pub cursor: Option<String>,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Which of a project's deployments.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterArgs {
    /// Only deployments with this status
    #[arg(long, value_parser = parse_status, value_name = "STATUS", help_heading = "Filter")]
    pub status: Option<Status>,
    /// Only deployments of this actor
    #[arg(long, value_name = "NAME", value_parser = parse_text, help_heading = "Filter")]
    pub actor: Option<String>,
    /// Only deployments of this branch or tag
    #[arg(long = "ref", value_name = "REF", value_parser = parse_text, help_heading = "Filter")]
    pub ref_name: Option<String>,
    /// Only deployments submitted since then: a duration before now, such as 24h, or a time, such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "WHEN", help_heading = "Filter")]
    pub since: Option<Since>,
}

/// The largest page that the server gives.
const PAGE_LIMIT: u64 = 100;

impl FilterArgs {
    fn filter(&self) -> Filter {
        let FilterArgs { status, actor, ref_name, since } = self.clone();
        Filter { status, actor, ref_name, since }
    }
}

/// Prints the list.
///
/// # Errors
/// There is no answer.
pub async fn run(args: &ListArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let limit = u64::from(args.limit);
    let now = session.clock.wall();
    match &args.project {
        Some(project) => {
            let list = deployments(&session.connection, project, args).await?;
            session.answer(&list, &deployment_lines(project, &list, now))?;
        }
        None if args.wanted != FilterArgs::default() => {
            let message = "--status, --actor, --ref and --since are about deployments";
            return Err(Failure::new(Exit::Usage, message).hint("name their project: --project NAME"));
        }
        None => {
            let list = projects(&session.connection, limit, args.cursor.clone()).await?;
            session.answer(&list, &project_lines(&list, session.clock.wall()))?;
        }
    }
    Ok(Exit::Done)
}

async fn deployments(
    connection: &Connection,
    project: &ProjectName,
    args: &ListArgs,
) -> Result<DeploymentList, Failure> {
    let limit = u64::from(args.limit);
    let mut all = DeploymentList { deployments: Vec::new(), next_cursor: args.cursor.clone() };
    loop {
        let count = limit - all.deployments.len() as u64;
        let cursor = all.next_cursor.as_deref();
        let page = connection.deployments(project, &args.wanted.filter(), count.min(PAGE_LIMIT), cursor).await;
        let page = page.map_err(|fault| about_project(connection, project, fault))?;
        // An empty page has found no entries yet: the next page continues the search.
        let is_stuck = page.next_cursor == all.next_cursor;
        all.deployments.extend(page.deployments);
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_none() || is_stuck || all.deployments.len() as u64 >= limit {
            return Ok(all);
        }
    }
}

/// The first projects, by name.
pub(super) async fn projects(
    connection: &Connection,
    limit: u64,
    cursor: Option<String>,
) -> Result<ProjectList, Failure> {
    let mut all = ProjectList { projects: Vec::new(), next_cursor: cursor };
    loop {
        let wanted = limit - all.projects.len() as u64;
        let page = connection.projects(wanted.min(PAGE_LIMIT), all.next_cursor.as_deref()).await?;
        let is_empty = page.projects.is_empty();
        all.projects.extend(page.projects);
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_none() || is_empty || all.projects.len() as u64 >= limit {
            return Ok(all);
        }
    }
}

fn deployment_lines(project: &ProjectName, list: &DeploymentList, now: Timestamp) -> Vec<String> {
    if list.deployments.is_empty() {
        return vec![format!("{project}: no deployments")];
    }
    let mut rows =
        vec![["NUMBER", "STATUS", "PIPELINE", "SOURCE", "ACTOR", "SUBMITTED", "TOOK"].map(str::to_owned).to_vec()];
    rows.extend(list.deployments.iter().map(|deployment| row(deployment, now)));
    let mut lines = table::lines(&rows);
    lines.extend(list.next_cursor.as_deref().map(more));
    lines
}

/// The line that says how to get the next page.
fn more(cursor: &str) -> String {
    format!("(there are more: raise --limit, or go on with --cursor {})", clean(cursor))
}

fn row(deployment: &Deployment, now: Timestamp) -> Vec<String> {
    let end = deployment.ended_at.unwrap_or(now);
    let took = deployment.started_at.map(|started| span(between(started, end)));
    vec![
        deployment.number.map_or_else(|| deployment.id.to_string(), |number| format!("#{number}")),
        status_and_more(deployment),
        clean(&deployment.pipeline),
        source(deployment.ref_name.as_deref(), deployment.commit.as_deref()).unwrap_or_else(|| "-".to_owned()),
        deployment.actor.as_deref().map_or_else(|| "-".to_owned(), clean),
        time(deployment.created_at, now),
        took.unwrap_or_else(|| "-".to_owned()),
    ]
}

/// `CANCELLED (SUPERSEDED)`, `PENDING (2)`: the status, and what else there is to say about it.
fn status_and_more(deployment: &Deployment) -> String {
    let status = deployment.status.as_str();
    let more = match (&deployment.error, deployment.queue_position) {
        // CANCELLED because CANCELLED says nothing more.
        (Some(error), _) if error.code != status => format!(" ({})", clean(&error.code)),
        (Some(_), _) | (None, 0) => String::new(),
        (None, position) => format!(" ({position})"),
    };
    format!("{status}{more}")
}

/// What holds a project, in a table: without the reason.
fn held(hold: Option<&Hold>, now: Timestamp) -> String {
    let Some(hold) = hold else { return "paused".to_owned() };
    let until = hold.until.map(|at| format!(" until {}", time(at, now))).unwrap_or_default();
    let what = match hold.kind {
        HoldKind::Pause => clean(&hold.what()),
        HoldKind::Freeze => "frozen".to_owned(),
        HoldKind::Configuration => "paused".to_owned(),
    };
    format!("{what}{until}")
}

fn project_lines(list: &ProjectList, now: Timestamp) -> Vec<String> {
    if list.projects.is_empty() {
        return vec!["no projects yet: the first deploy makes one".to_owned()];
    }
    let mut rows = vec![["PROJECT", "SLOT", "LINE", "LAST", "LIVE"].map(str::to_owned).to_vec()];
    rows.extend(list.projects.iter().map(
        |ProjectSummary { project, holder, line_length, last_outcome, current, paused, hold }| {
            let slot =
                holder.as_ref().map_or_else(|| "free".to_owned(), |holder| format!("held by {}", name_and_who(holder)));
            vec![
                project.to_string(),
                match (paused, holder) {
                    (false, _) => slot,
                    (true, None) => held(hold.as_ref(), now),
                    (true, Some(_)) => format!("{slot}; {}", held(hold.as_ref(), now)),
                },
                line_length.to_string(),
                last_outcome.as_ref().map_or_else(|| "-".to_owned(), status_and_more),
                current
                    .as_ref()
                    .and_then(|live| live.number)
                    .map_or_else(|| "-".to_owned(), |number| format!("#{number}")),
            ]
        },
    ));
    let mut lines = table::lines(&rows);
    lines.extend(list.next_cursor.as_deref().map(more));
    lines
}
