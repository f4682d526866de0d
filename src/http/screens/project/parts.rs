//! What a stream replaces of a project's screen. It is rendered once after a change, for all who watch.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{history::row, line, live, slot, time_line};
use crate::{
    http::{App, error::ErrorAnswer},
    model::{Deployment, Hold, Project, ProjectName},
    store::{ListQuery, ProjectState},
};

/// How much of a line is shown.
const LINE_SHOWN_LIMIT: usize = 50;
/// How many deployments are looked at for the time line.
const RECENT_LIMIT: usize = 40;
/// How many of those that came last, and of those that ended last, have their rows of the history told.
const NEW_ROWS: usize = 6;

/// What a stream replaces, as HTML.
pub struct LiveParts {
    /// The slot.
    pub slot: String,
    /// The line.
    pub line: String,
    /// The time line.
    pub time_line: String,
    /// What is live.
    pub live: String,
    /// The title of the tab.
    pub title: String,
    /// The rows of the history that may be new, or may have changed.
    rows: Vec<String>,
    /// The project as it was read.
    pub state: ProjectState,
}

/// A project, read whole.
///
/// # Errors
/// The store does not answer.
pub async fn read(app: &App, name: &ProjectName) -> Result<Option<LiveParts>, ErrorAnswer> {
    let store = app.queue.store();
    let state = match store.project(name.clone(), LINE_SHOWN_LIMIT).await? {
        Some(state) => state,
        None if app.is_configured(name) => ProjectState::of(Project::new(name.clone())),
        None => return Ok(None),
    };
    let query = ListQuery { status: None, before: None, limit: RECENT_LIMIT };
    let recent = store.list(name.clone(), query).await?;
    let now = app.now();
    let hold = Hold::of(&app.queue.policy(name), state.project.pause.as_ref(), now);
    let absence = match &state.holder {
        Some(holder) => app.holder_wait(holder).await?,
        None => None,
    };
    let title = slot::title(&state, hold.as_ref(), now);
    let rows = changed_rows(&state, &recent).into_iter().map(|deployment| row(deployment, now));
    Ok(Some(LiveParts {
        slot: slot::html(&state, hold.as_ref(), absence.as_deref(), &title, now)?,
        line: line::html(app, &state).await?,
        time_line: time_line::html(&recent, now)?,
        live: live::html(&state, now)?,
        rows: rows.collect::<Result<_, _>>()?,
        title,
        state,
    }))
}

/// What a stream replaces of a project's screen; `None` if the project is there no more.
///
/// # Errors
/// The store does not answer.
pub async fn parts(app: &App, name: &ProjectName) -> Result<Option<Bytes>, ErrorAnswer> {
    let Some(parts) = read(app, name).await? else { return Ok(None) };
    let LiveParts { slot, line, time_line, live, rows, title: _, state: _ } = parts;
    // A row must stand in a table: a browser's parser drops it elsewhere.
    let rows = format!("<table>{}</table>", rows.concat());
    Ok(Some([slot, line, time_line, live, rows].concat().into()))
}

/// The deployments whose rows of the history may be new or may have changed, the oldest first.
fn changed_rows<'a>(state: &'a ProjectState, recent: &'a [Deployment]) -> Vec<&'a Deployment> {
    let mut ended: Vec<_> = recent.iter().filter(|deployment| deployment.is_final()).collect();
    ended.sort_by_key(|deployment| std::cmp::Reverse(deployment.ended_at()));
    let newest = recent.iter().take(NEW_ROWS);
    let known = state.holder.iter().chain(&state.last_outcome);
    let all = ended.into_iter().take(NEW_ROWS).chain(newest).chain(known);
    all.map(|deployment| (deployment.ticket, deployment)).collect::<BTreeMap<_, _>>().into_values().collect()
}
