//! `current`: what is live, since when, and who deployed it.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    ConnectArgs,
    exit::{Exit, Failure, about_project},
    list,
    parse::parse_project,
    screen::{
        clean::clean,
        table,
        words::{between, source, span, time},
    },
    session::Session,
    status,
};
use crate::{client::calls::Patience, model::ProjectName, wire::Deployment};

/// `current`.
#[derive(Args, Debug)]
pub struct CurrentArgs {
    /// The project [default: --project, else all projects]
    #[arg(value_name = "PROJECT", value_parser = parse_project)]
    pub name: Option<ProjectName>,
    /// The project
    #[arg(long, short, value_name = "NAME", env = "SINGLETRACK_PROJECT", value_parser = parse_project)]
    #[arg(display_order = 0)]
    pub project: Option<ProjectName>,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// What is live of a project, as `--json` has it.
#[derive(Debug, Serialize)]
struct Live {
    project: ProjectName,
    current: Option<Deployment>,
}

/// The same of all projects.
#[derive(Debug, Serialize)]
struct AllLive {
    projects: Vec<Live>,
}

/// How many projects are asked for: more than any server has.
const PROJECTS_LIMIT: u64 = 100_000;

/// Prints what is live.
///
/// # Errors
/// There is no such project, or no answer.
pub async fn run(args: &CurrentArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let (connection, now) = (&session.connection, session.clock.wall());
    if let Some(project) = args.name.as_ref().or(args.project.as_ref()) {
        let view = connection.project(project).await.map_err(|fault| about_project(connection, project, fault))?;
        let live = Live { project: view.project, current: view.current };
        session.answer(&live, &lines(&live, now))?;
        return Ok(Exit::Done);
    }
    let list = list::projects(connection, PROJECTS_LIMIT, None).await?;
    let projects = list.projects.into_iter().map(|it| Live { project: it.project, current: it.current }).collect();
    let all = AllLive { projects };
    session.answer(&all, &table_lines(&all, now))?;
    Ok(Exit::Done)
}

fn lines(live: &Live, now: Timestamp) -> Vec<String> {
    let Some(current) = &live.current else {
        return vec![format!("{}: nothing is live yet: no deployment of it has succeeded", live.project)];
    };
    let since = current.ended_at.unwrap_or(current.created_at);
    let first = format!("{} is live since {} ({})", current.name(), time(since, now), span(between(since, now)));
    [first].into_iter().chain(status::lines(current, now)).collect()
}

fn table_lines(all: &AllLive, now: Timestamp) -> Vec<String> {
    if all.projects.is_empty() {
        return vec!["no projects yet: the first deploy makes one".to_owned()];
    }
    let none = || "-".to_owned();
    let mut rows = vec![["PROJECT", "LIVE", "SOURCE", "ACTOR", "SINCE", "FOR"].map(str::to_owned).to_vec()];
    rows.extend(all.projects.iter().map(|Live { project, current }| {
        let Some(live) = current else {
            return vec![project.to_string(), none(), none(), none(), none(), none()];
        };
        let since = live.ended_at.unwrap_or(live.created_at);
        vec![
            project.to_string(),
            live.number.map_or_else(|| live.id.to_string(), |number| format!("#{number}")),
            source(live.ref_name.as_deref(), live.commit.as_deref()).unwrap_or_else(none),
            live.actor.as_deref().map_or_else(none, clean),
            time(since, now),
            span(between(since, now)),
        ]
    }));
    table::lines(&rows)
}
