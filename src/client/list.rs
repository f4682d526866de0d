//! `list`: a project's deployments, or the projects.

use jiff::Timestamp;

use super::{
    connection::{Connection, Patience},
    exit::{Exit, Failure, about_project},
    render::{
        clean::clean,
        table,
        words::{between, source, span, time, who_deploys},
    },
    session::Session,
};
use crate::{
    api::{Deployment, DeploymentList, ProjectList, ProjectSummary},
    cli::List,
    model::{ProjectName, Status},
};

/// The largest page that the server gives.
const PAGE_LIMIT: u64 = 100;

/// Prints the list.
///
/// # Errors
/// There is no answer.
pub async fn run(args: &List) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let limit = u64::from(args.limit);
    let now = session.clock.wall();
    match &args.project {
        Some(project) => {
            let list = deployments(&session.connection, project, args.status, limit).await?;
            session.answer(&list, &deployment_lines(project, &list, now))?;
        }
        None if args.status.is_some() => {
            return Err(
                Failure::new(Exit::Usage, "--status is about deployments").hint("name their project: --project NAME")
            );
        }
        None => {
            let list = projects(&session.connection, limit).await?;
            session.answer(&list, &project_lines(&list))?;
        }
    }
    Ok(Exit::Done)
}

async fn deployments(
    connection: &Connection,
    project: &ProjectName,
    status: Option<Status>,
    limit: u64,
) -> Result<DeploymentList, Failure> {
    let mut all = DeploymentList { deployments: Vec::new(), next_cursor: None };
    loop {
        let wanted = limit - all.deployments.len() as u64;
        let cursor = all.next_cursor.as_deref();
        let page = connection.deployments(project, status, wanted.min(PAGE_LIMIT), cursor).await;
        let page = page.map_err(|fault| about_project(connection, project, fault))?;
        let is_empty = page.deployments.is_empty();
        all.deployments.extend(page.deployments);
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_none() || is_empty || all.deployments.len() as u64 >= limit {
            return Ok(all);
        }
    }
}

async fn projects(connection: &Connection, limit: u64) -> Result<ProjectList, Failure> {
    let mut all = ProjectList { projects: Vec::new(), next_cursor: None };
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
        vec![["ID", "STATUS", "PIPELINE", "SOURCE", "ACTOR", "SUBMITTED", "TOOK"].map(str::to_owned).to_vec()];
    rows.extend(list.deployments.iter().map(|deployment| row(deployment, now)));
    let mut lines = table::lines(&rows);
    if list.next_cursor.is_some() {
        lines.push("(there are more: raise --limit)".to_owned());
    }
    lines
}

fn row(deployment: &Deployment, now: Timestamp) -> Vec<String> {
    let end = deployment.ended_at.unwrap_or(now);
    let took = deployment.started_at.map(|started| span(between(started, end)));
    vec![
        deployment.id.to_string(),
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

fn project_lines(list: &ProjectList) -> Vec<String> {
    if list.projects.is_empty() {
        return vec!["no projects yet: the first deploy makes one".to_owned()];
    }
    let mut rows = vec![["PROJECT", "SLOT", "LINE", "LAST"].map(str::to_owned).to_vec()];
    rows.extend(list.projects.iter().map(|ProjectSummary { project, holder, line_length, last_outcome, paused }| {
        let slot =
            holder.as_ref().map_or_else(|| "free".to_owned(), |holder| format!("held by {}", who_deploys(holder)));
        vec![
            project.to_string(),
            match (paused, holder) {
                (false, _) => slot,
                (true, None) => "paused".to_owned(),
                (true, Some(_)) => format!("{slot}; paused"),
            },
            line_length.to_string(),
            last_outcome.as_ref().map_or_else(|| "-".to_owned(), status_and_more),
        ]
    }));
    table::lines(&rows)
}
