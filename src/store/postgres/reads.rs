//! The reads that need no lock. Each is answered from one snapshot, mostly in one flight. Every search uses an index,
//! so its cost depends on the size of its answer, not on the length of the history.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::{
    fault::DatabaseFault,
    rows,
    session::{BoundStatement, DatabaseSession, call},
    statements::{DEPLOYMENT_COLUMN_COUNT, PROJECT_COLUMN_COUNT, Sql},
    text::escaped,
};
use crate::{
    model::{Deployment, DeploymentId, Digest, Event, LeaseHolder, ProjectName, Revision, Status},
    store::{
        Claimable, HeldProject, ListQuery, Mark, Offers, Placed, ProjectPage, ProjectState, Watched, blocks::Merging,
        columns::JudgedSpec, forget::BEFORE_ALL_NAMES, unreadable::Unreadable,
    },
};

pub(super) async fn deployment(
    session: &mut DatabaseSession,
    project: &ProjectName,
    id: DeploymentId,
) -> Result<Option<Placed>, DatabaseFault> {
    let found = session.ask(call!(Sql::Placed, rows::uuid(id), text(project))).await?;
    let placed = |row: &Row| {
        let position = rows::number(row, DEPLOYMENT_COLUMN_COUNT)?;
        Ok(Placed { deployment: rows::deployment(row, project)?, position })
    };
    found.first().map(placed).transpose()
}

pub(super) async fn sealed_inputs(
    session: &mut DatabaseSession,
    id: DeploymentId,
) -> Result<Option<Vec<u8>>, DatabaseFault> {
    let found = session.ask(call!(Sql::SealedInputs, rows::uuid(id))).await?;
    Ok(found.first().map(|row| rows::get::<Option<Vec<u8>>>(row, 0)).transpose()?.flatten())
}

pub(super) async fn numbered(
    session: &mut DatabaseSession,
    project: &ProjectName,
    number: u64,
) -> Result<Option<DeploymentId>, DatabaseFault> {
    // No row has a number beyond the largest number of the column.
    let Ok(number) = i64::try_from(number) else { return Ok(None) };
    let found = session.ask(call!(Sql::ByShortNumber, text(project), number)).await?;
    found.first().map(|row| rows::id(row, 0)).transpose()
}

pub(super) async fn events(
    session: &mut DatabaseSession,
    id: DeploymentId,
    after: u64,
    limit: usize,
    unreadable: &Unreadable,
) -> Result<Vec<Event>, DatabaseFault> {
    // A larger number than the column can hold is past the end.
    let last = i64::try_from(after).unwrap_or(i64::MAX);
    let found = session.ask(call!(Sql::Events, rows::uuid(id), last, bound(limit))).await?;
    let rows = found.iter().map(rows::event).collect::<Result<_, _>>()?;
    with_blocks(session, id, Merging::forwards(after, rows, limit), Sql::BlockAfter, unreadable).await
}

pub(super) async fn events_before(
    session: &mut DatabaseSession,
    id: DeploymentId,
    before: u64,
    limit: usize,
    unreadable: &Unreadable,
) -> Result<Vec<Event>, DatabaseFault> {
    let first = i64::try_from(before).unwrap_or(i64::MAX);
    let found = session.ask(call!(Sql::EventsBefore, rows::uuid(id), first, bound(limit))).await?;
    let rows = found.iter().map(rows::event).collect::<Result<_, _>>()?;
    with_blocks(session, id, Merging::backwards(before, rows, limit), Sql::BlockBefore, unreadable).await
}

/// Blocks hold output only, so rows are all there is.
pub(super) async fn course(
    session: &mut DatabaseSession,
    id: DeploymentId,
    after: u64,
    limit: usize,
) -> Result<Vec<Event>, DatabaseFault> {
    let last = i64::try_from(after).unwrap_or(i64::MAX);
    let found = session.ask(call!(Sql::Course, rows::uuid(id), last, bound(limit))).await?;
    found.iter().map(rows::event).collect()
}

/// The rows, and the events of blocks among them. Between the two reads, events may go from rows to a block, but never
/// back; so the blocks are read last, and nothing is missed.
async fn with_blocks(
    session: &mut DatabaseSession,
    id: DeploymentId,
    merging: Result<Merging, Vec<Event>>,
    sql: Sql,
    unreadable: &Unreadable,
) -> Result<Vec<Event>, DatabaseFault> {
    let mut merging = match merging {
        Ok(merging) => merging,
        Err(rows) => return Ok(rows),
    };
    while let Some(place) = merging.wants() {
        let found = session.ask(call!(sql, rows::uuid(id), i64::try_from(place).unwrap_or(i64::MAX))).await?;
        let block = found.first().map(rows::block).transpose()?;
        let named = block.as_ref().map_or(0, |block| block.first_seq);
        merging.take(block.as_ref(), &mut |why| {
            unreadable.skip::<(), _>(Err(why), || format!("output of deployment {id} from event {named} on"));
        });
    }
    Ok(merging.finish())
}

pub(super) async fn list(
    session: &mut DatabaseSession,
    project: &ProjectName,
    query: &ListQuery,
) -> Result<Vec<Deployment>, DatabaseFault> {
    let before = i64::try_from(query.before.unwrap_or(Revision(u64::MAX)).0).unwrap_or(i64::MAX);
    let limit = bound(query.limit);
    let all = |sql: Sql| call!(sql, text(project), before, limit);
    let ended = |state: &'static str| call!(Sql::ListEnded, text(project), before, limit, state);
    let page = match query.status {
        None => session.ask(all(Sql::ListAll)).await?,
        Some(Status::Succeeded) => session.ask(ended("succeeded")).await?,
        Some(Status::Failed) => session.ask(ended("failed")).await?,
        Some(Status::Cancelled) => session.ask(ended("cancelled")).await?,
        Some(status @ (Status::Pending | Status::Running)) => {
            let mut calls: Vec<BoundStatement> = vec![call!(Sql::Holder, text(project))];
            if status == Status::Pending {
                calls.push(all(Sql::ListWaiting));
            }
            let found = session.ask_together(calls).await?;
            let mut page = deployments(found.iter().flatten(), project)?;
            page.retain(|it| it.status() == status && query.before.is_none_or(|end| it.ticket < end));
            page.sort_by_key(|deployment| std::cmp::Reverse(deployment.ticket));
            page.truncate(query.limit);
            return Ok(page);
        }
    };
    deployments(page.iter(), project)
}

pub(super) async fn project(
    session: &mut DatabaseSession,
    name: &ProjectName,
    line: usize,
) -> Result<Option<ProjectState>, DatabaseFault> {
    let found = session
        .ask_together(vec![
            call!(Sql::Project, text(name)),
            call!(Sql::Holder, text(name)),
            call!(Sql::Line, text(name), bound(line)),
            call!(Sql::LastEnds, text(name)),
        ])
        .await?;
    let [project, holder, line, last] = found.as_slice() else { return Ok(None) };
    let Some(project) = project.first() else { return Ok(None) };
    let project = rows::project(project, name)?;
    let last = deployments(last.iter(), name)?;
    let last = |id: Option<DeploymentId>| last.iter().find(|it| Some(it.id) == id).cloned();
    Ok(Some(ProjectState {
        last_outcome: last(project.last_outcome),
        last_success: last(project.last_success),
        project,
        holder: holder.first().map(|row| rows::deployment(row, name)).transpose()?,
        line: deployments(line.iter(), name)?,
    }))
}

/// The projects that have a pause, and those whose slot is free although somebody waits.
pub(super) async fn held_projects(
    session: &mut DatabaseSession,
    unreadable: &Unreadable,
) -> Result<Vec<HeldProject>, DatabaseFault> {
    let found = session.ask(call!(Sql::HeldProjects)).await?;
    let mut held = Vec::with_capacity(found.len());
    for row in &found {
        let project = rows::name(row, 0)?;
        let pause = rows::json_or_none(row, 1).map_err(DatabaseFault::into_store_error);
        let pause = unreadable.skip(pause, || format!("project {project}"));
        held.extend(pause.map(|pause| HeldProject { project, pause }));
    }
    Ok(held)
}

pub(super) async fn projects(
    session: &mut DatabaseSession,
    after: Option<&ProjectName>,
    limit: usize,
    unreadable: &Unreadable,
) -> Result<ProjectPage, DatabaseFault> {
    let after = after.map_or(BEFORE_ALL_NAMES, ProjectName::as_str).to_owned();
    let found = session.ask(call!(Sql::Projects, after, bound(limit))).await?;
    let mut page: ProjectPage = Vec::with_capacity(found.len());
    let mut places: HashMap<i64, usize> = HashMap::with_capacity(found.len());
    for row in &found {
        let name = rows::name(row, PROJECT_COLUMN_COUNT)?;
        places.insert(rows::get(row, 0)?, page.len());
        let project = rows::project(row, &name).map_err(DatabaseFault::into_store_error);
        let project = unreadable.skip(project, || format!("project {name}"));
        let state = project.map(ProjectState::of);
        page.push((name, state));
    }
    // Deployments that changed since are shown in their present state: each is true, and a page needs no single
    // snapshot.
    let numbers: Vec<i64> = places.keys().copied().collect();
    let calls = vec![call!(Sql::ProjectsHolders, numbers.clone()), call!(Sql::ProjectsEnds, numbers)];
    let found = session.ask_together(calls).await?;
    for (rows_of, is_holder) in found.iter().zip([true, false]) {
        for row in rows_of {
            let Some(place) = places.get(&rows::get(row, DEPLOYMENT_COLUMN_COUNT)?) else { continue };
            let (name, state) = &mut page[*place];
            let deployment = rows::deployment(row, name).map_err(DatabaseFault::into_store_error);
            let Some(deployment) = unreadable.skip(deployment, || rows::row_of(row, 0)) else {
                // Otherwise the project would seem to be free.
                *state = None;
                continue;
            };
            let Some(state) = state else { continue };
            if is_holder {
                state.holder = Some(deployment);
                continue;
            }
            if state.project.last_success == Some(deployment.id) {
                state.last_success = Some(deployment.clone());
            }
            if state.project.last_outcome == Some(deployment.id) {
                state.last_outcome = Some(deployment);
            }
        }
    }
    Ok(page)
}

/// The artifacts of the newest deployments, and of those that are not final.
pub(super) async fn artifacts_of(
    session: &mut DatabaseSession,
    project: &ProjectName,
    recent: usize,
    unreadable: &Unreadable,
) -> Result<Vec<Digest>, DatabaseFault> {
    let found = session.ask(call!(Sql::Specs, text(project), bound(recent))).await?;
    let artifact = |row: &Row| {
        let spec = rows::json::<JudgedSpec>(row, 1).map_err(DatabaseFault::into_store_error);
        unreadable.skip(spec, || rows::row_of(row, 0))?.artifact
    };
    Ok(found.iter().filter_map(artifact).collect())
}

pub(super) async fn watched(
    session: &mut DatabaseSession,
    unreadable: &Unreadable,
) -> Result<Vec<Watched>, DatabaseFault> {
    let found = session.ask(call!(Sql::Watched)).await?;
    let readable = |row: &Row| {
        unreadable.skip(rows::watched(row).map_err(DatabaseFault::into_store_error), || rows::row_of(row, 1))
    };
    Ok(found.iter().filter_map(readable).collect())
}

pub(super) async fn claimable(
    session: &mut DatabaseSession,
    offers: &Offers,
    limit: usize,
    unreadable: &Unreadable,
) -> Result<Vec<Claimable>, DatabaseFault> {
    let claimable =
        |row: &Row| Ok(Claimable { project: rows::name(row, 0)?, id: rows::id(row, 1)?, spec: rows::json(row, 2)? });
    let readable =
        |row: &Row| unreadable.skip(claimable(row).map_err(DatabaseFault::into_store_error), || rows::row_of(row, 1));
    let projects: Vec<_> = offers.keys().map(text).collect();
    let mut count = limit;
    loop {
        let found = session.ask(call!(Sql::Claimable, projects.clone(), bound(count))).await?;
        let is_all = found.len() < count;
        let mut wanted: Vec<_> = found.iter().filter_map(readable).collect();
        wanted.retain(|it| offers.get(&it.project).is_some_and(|pipelines| pipelines.contains(&it.spec.pipeline)));
        if is_all || wanted.len() == limit {
            wanted.truncate(limit);
            return Ok(wanted);
        }
        // Some deployments of these projects want another pipeline, which is rare. There is at most one for each
        // project.
        count = usize::MAX;
    }
}

/// The deployment that runs under a lease of this holder.
pub(super) async fn held(
    session: &mut DatabaseSession,
    holder: &LeaseHolder,
) -> Result<Option<Deployment>, DatabaseFault> {
    let found = session.ask(call!(Sql::Held, escaped(holder.as_stored()))).await?;
    let held = |row: &Row| {
        let project = rows::name(row, DEPLOYMENT_COLUMN_COUNT)?;
        rows::deployment(row, &project)
    };
    found.first().map(held).transpose()
}

pub(super) async fn marks(
    session: &mut DatabaseSession,
    ids: Vec<DeploymentId>,
) -> Result<Vec<(DeploymentId, Mark)>, DatabaseFault> {
    let ids: Vec<_> = ids.into_iter().map(rows::uuid).collect();
    let found = session.ask(call!(Sql::Marks, ids)).await?;
    let mark = |row: &Row| {
        let mark = Mark {
            revision: Revision(rows::number(row, 1)?),
            event_count: rows::number(row, 2)?,
            is_cancel_requested: rows::get(row, 3)?,
        };
        Ok((rows::id(row, 0)?, mark))
    };
    found.iter().map(mark).collect()
}

fn deployments<'a>(
    rows: impl Iterator<Item = &'a Row>,
    project: &ProjectName,
) -> Result<Vec<Deployment>, DatabaseFault> {
    rows.map(|row| rows::deployment(row, project)).collect()
}

fn text(name: &ProjectName) -> String {
    name.as_str().to_owned()
}

/// A `LIMIT`.
fn bound(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
