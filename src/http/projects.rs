//! `GET /v1/projects`, `GET /v1/projects/{project}` and `POST …/release`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::Response,
};

use super::{
    App, answer, body,
    cancel::{actor_text, reason_text},
    error::{ErrorAnswer, echo},
    guard::{Grant, VisibleProjects},
    page::{Filled, PageFilling},
    params::{InProject, Query},
    read::page_limit,
};
use crate::{
    model::{Caller, Hold, Project, ProjectName, bounds},
    queue::release::{Release, Released},
    store::{Placed, ProjectState, StoreError},
    wire::{ErrorCode, ProjectList, ProjectSummary, ProjectView, ReleaseAnswer, ReleaseRequest},
};

/// How many deployments of a line are shown.
const LINE_SHOWN_LIMIT: usize = 100;

/// Projects by name: the configured ones, and those that were ever deployed.
pub async fn list(State(app): State<Arc<App>>, grant: Grant, uri: Uri) -> Result<Response, ErrorAnswer> {
    let query = Query::of(&uri, &["limit", "cursor"])?;
    let limit = page_limit(&query)?;
    let mut after = query.get("cursor").map(cursor).transpose()?;
    let mut page = PageFilling::of(limit);
    let filled = loop {
        let read = following(&app, &grant.projects, after.clone(), page.wanted()).await?;
        match page.fill(read) {
            Filled::NotYet => after = page.last().map(|(last, _): &Listed| last.clone()),
            filled @ (Filled::All | Filled::Full) => break filled,
        }
    };
    let next_cursor = page.last().filter(|_| filled == Filled::Full).map(|(last, _)| last.to_string());
    let projects = page.into_entries().into_iter().filter_map(|(_, summary)| summary).collect();
    Ok(answer::json(StatusCode::OK, &ProjectList { projects, next_cursor }))
}

/// A project, by its name. A project that cannot be read has no summary, and the log says why.
pub(super) type Listed = (ProjectName, Option<ProjectSummary>);

/// The next projects that the caller may see, by name.
pub(super) async fn following(
    app: &App,
    visible: &VisibleProjects,
    after: Option<ProjectName>,
    count: usize,
) -> Result<Vec<Listed>, ErrorAnswer> {
    let mut found: BTreeMap<ProjectName, Option<ProjectState>> = BTreeMap::new();
    match visible.only() {
        // The cursor must not reveal other projects either.
        Some(names) => {
            let is_next = |name: &ProjectName| after.as_ref().is_none_or(|after| name > after);
            for name in names.into_iter().filter(is_next) {
                match app.queue.store().project(name.clone(), 0).await {
                    Ok(Some(state)) => _ = found.insert(name, Some(state)),
                    Ok(None) if app.is_configured(&name) => _ = found.insert(name.clone(), Some(idle(name))),
                    Ok(None) => {}
                    Err(StoreError::Unusable(_)) => _ = found.insert(name, None),
                    Err(error) => return Err(error.into()),
                }
                if found.len() == count {
                    break;
                }
            }
        }
        None => {
            let mut from = after.clone();
            while found.len() < count {
                let read = app.queue.store().projects(from, count).await?;
                let is_last = read.len() < count;
                from = read.last().map(|(name, _)| name.clone());
                found.extend(read.into_iter().filter(|(name, _)| visible.sees(name)));
                if is_last {
                    break;
                }
            }
            for name in app.project_names_after(after.as_ref(), count, |name| visible.sees(name)) {
                found.entry(name.clone()).or_insert_with(|| Some(idle(name)));
            }
        }
    }
    let listed =
        |(project, state): (ProjectName, Option<ProjectState>)| (project, state.map(|state| summary(app, state)));
    Ok(found.into_iter().take(count).map(listed).collect())
}

/// A project's line in a list.
fn summary(app: &App, state: ProjectState) -> ProjectSummary {
    let project = state.project;
    let hold = Hold::of(&app.queue.policy(&project.name), project.pause.as_ref(), app.now());
    ProjectSummary {
        paused: hold.is_some(),
        hold,
        holder: state.holder.as_ref().map(answer::unplaced),
        line_length: project.waiting_count,
        last_outcome: state.last_outcome.as_ref().map(answer::unplaced),
        current: state.last_success.as_ref().map(answer::unplaced),
        project: project.name,
    }
}

/// A project's line in a list; `None` if it is not configured and was never deployed, or cannot be read.
pub(super) async fn summary_of(app: &App, name: ProjectName) -> Result<Option<ProjectSummary>, ErrorAnswer> {
    let state = match app.queue.store().project(name.clone(), 0).await {
        Err(StoreError::Unusable(_)) => return Ok(None),
        read => read?,
    };
    let state = state.or_else(|| app.is_configured(&name).then(|| idle(name)));
    Ok(state.map(|state| summary(app, state)))
}

/// One project, with all that `why` shows.
pub async fn one(State(app): State<Arc<App>>, InProject(name): InProject, uri: Uri) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    let view = view_of(&app, name).await?.ok_or_else(ErrorAnswer::not_found)?;
    Ok(answer::json(StatusCode::OK, &view))
}

/// All that is shown of a project; `None` if it is not configured and was never deployed.
pub(super) async fn view_of(app: &App, name: ProjectName) -> Result<Option<ProjectView>, ErrorAnswer> {
    let state = match app.queue.store().project(name.clone(), LINE_SHOWN_LIMIT).await? {
        Some(state) => state,
        None if app.is_configured(&name) => idle(name.clone()),
        None => return Ok(None),
    };
    let in_line = app.line(&state).await?;
    let line: Vec<_> = (1..)
        .zip(&state.line)
        .map(|(position, waiting)| {
            let placed = Placed { deployment: waiting.clone(), position };
            in_line.standing(&placed).in_deployment(answer::deployment(&placed))
        })
        .collect();
    let hold = in_line.hold();
    let ProjectState { project, holder, last_outcome, last_success, .. } = state;
    let known = app.agents.of(&name).await?;
    let now = app.now();
    let mut bytes = 0;
    let line = line.into_iter().take_while(|waiting| {
        bytes += answer::size(waiting);
        bytes <= bounds::PAGE_BYTES
    });
    let told_holder = match &holder {
        Some(holder) => Some(app.with_absence(holder, answer::unplaced(holder)).await?),
        None => None,
    };
    let view = ProjectView {
        liveness: holder.as_ref().map(|holder| answer::liveness(holder, now)),
        eta: holder.as_ref().and_then(|holder| answer::eta(holder, &project, now)),
        holder: told_holder,
        hold,
        line: line.collect(),
        line_length: project.waiting_count,
        last_outcome: last_outcome.as_ref().map(answer::unplaced),
        current: last_success.as_ref().map(answer::unplaced),
        mark: project.mark().map(Into::into),
        policy: app.queue.policy(&name).into(),
        pipelines: app.pipeline_names(&name, &known),
        agents: known.views(),
        revision: project.revision,
        project: name,
    };
    Ok(Some(view))
}

/// Forces the slot free.
pub async fn release(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    Query::of(&parts.uri, &[])?;
    let wish: ReleaseRequest = body::read_json(&parts.headers, body).await?;
    let caller = Grant::of(&parts.extensions).caller;
    Ok(answer::json(StatusCode::OK, &release_slot(&app, &caller, project, wish).await?))
}

/// Forces the slot free.
///
/// # Errors
/// The wish is not valid, the slot is held by another deployment or by a worker that is alive, or the store did not do it.
pub async fn release_slot(
    app: &App,
    caller: &Caller,
    project: ProjectName,
    ReleaseRequest { reason, deployment_id, even_if_alive, actor }: ReleaseRequest,
) -> Result<ReleaseAnswer, ErrorAnswer> {
    let reason = reason_text(&reason)?;
    app.require_project(&project).await?;
    let deployment_id = app.named_if_any(&project, deployment_id.as_ref()).await?;
    let actor = actor.map(actor_text).transpose()?;
    let wish = Release { reason: reason.clone(), actor, only: deployment_id, even_if_alive };
    let released = match app.queue.release_if(caller, project.clone(), wish).await? {
        Released::Ended(deployment) => {
            tracing::warn!(%project, deployment.id = %deployment.id, %reason, "an operator forced the slot free");
            Some(answer::unplaced(&deployment))
        }
        Released::WasFree => None,
        Released::HolderChanged(holder) => {
            return Err(ErrorAnswer::new(
                ErrorCode::HolderChanged,
                format!("{} holds the slot by now; look again before you release it", holder.mention()),
            ));
        }
        Released::Alive(holder) => {
            let phase = holder.phase.as_ref().map(|phase| format!(", phase {phase}")).unwrap_or_default();
            return Err(ErrorAnswer::new(
                ErrorCode::HolderAlive,
                format!(
                    "{} runs{phase}, and its worker sent a sign of life within its lease: its command may go on beside \
                     the next deployment. Cancel it, or release it with evenIfAlive",
                    holder.mention()
                ),
            ));
        }
    };
    Ok(ReleaseAnswer { released })
}

fn idle(name: ProjectName) -> ProjectState {
    ProjectState::of(Project::new(name))
}

fn cursor(text: &str) -> Result<ProjectName, ErrorAnswer> {
    let unknown = |_| {
        ErrorAnswer::new(ErrorCode::InvalidParameter, format!("cursor is one that a page gave, not '{}'", echo(text)))
    };
    text.parse().map_err(unknown)
}
