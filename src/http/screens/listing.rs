//! Which projects a viewer sees, with their rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    row,
    rows::{FRESH, KnownNames, ProjectRow},
};
use crate::{
    http::{App, error::ErrorAnswer, guard::VisibleProjects},
    model::ProjectName,
};

/// How many names of projects are read at once.
const NAMES_AT_ONCE: usize = 500;

/// A project's row, as it is after its last change; `None` if the project is not there.
///
/// # Errors
/// The store does not answer.
pub async fn row_of(app: &App, name: &ProjectName) -> Result<Option<Arc<ProjectRow>>, ErrorAnswer> {
    not_older(app, name, None).await
}

async fn not_older(
    app: &App,
    name: &ProjectName,
    limit: Option<Duration>,
) -> Result<Option<Arc<ProjectRow>>, ErrorAnswer> {
    // The number first: a change between this and the read makes another slot.
    let number = app.watch.board().number_of(name);
    let slot = app.rows.slot(name, number, limit);
    let read = || async { Ok::<_, ErrorAnswer>(row::read(app, name).await?.map(Arc::new)) };
    let row = slot.row.get_or_try_init(read).await.cloned()?;
    if row.is_none() {
        app.rows.forget(name);
    }
    Ok(row)
}

/// The rows of all projects that the caller may see.
///
/// # Errors
/// The store does not answer.
pub async fn all_rows(
    app: &App,
    visible: &VisibleProjects,
) -> Result<BTreeMap<ProjectName, Arc<ProjectRow>>, ErrorAnswer> {
    let mut names: BTreeSet<_> = match visible.only() {
        Some(only) => only,
        None => names(app).await?.into_iter().filter(|name| visible.sees(name)).collect(),
    };
    names.extend(app.config().projects.keys().filter(|name| visible.sees(name)).cloned());
    let mut rows = BTreeMap::new();
    // Where another server may change a project, a hint can be late.
    let limit = app.queue.store().is_shared().then_some(FRESH);
    for name in names {
        if let Some(row) = not_older(app, &name, limit).await? {
            rows.insert(name, row);
        }
    }
    Ok(rows)
}

/// Renders the rows again that change by time alone, at most every few seconds, whoever asks. One that has changed is told to
/// all who watch.
///
/// # Errors
/// The store does not answer.
pub async fn refresh_rows(app: &App) -> Result<(), ErrorAnswer> {
    // Whoever comes while another one does it goes on.
    let Ok(mut refreshed_at) = app.rows.refreshed_at.try_lock() else { return Ok(()) };
    if refreshed_at.is_some_and(|at| at.elapsed() < FRESH) {
        return Ok(());
    }
    *refreshed_at = Some(Instant::now());
    for (name, before) in app.rows.changing_by_time() {
        let now = row::read(app, &name).await?;
        if now.is_none_or(|row| row.told != before.told) {
            app.watch.board().touch(name);
        }
    }
    Ok(())
}

async fn names(app: &App) -> Result<BTreeSet<ProjectName>, ErrorAnswer> {
    let mut known = app.rows.names.lock().await;
    let board = app.watch.board();
    let floor = board.floor();
    let is_usable = |names: &&KnownNames| {
        names.floor == floor && (!app.queue.store().is_shared() || names.read_at.elapsed() < FRESH)
    };
    let mut names = match known.as_ref().filter(is_usable) {
        Some(names) => names.names.clone(),
        None => {
            let read = read_names(app).await?;
            *known = Some(KnownNames { floor, read_at: Instant::now(), names: read.clone() });
            read
        }
    };
    // Those that came since then.
    names.extend(board.names());
    Ok(names)
}

async fn read_names(app: &App) -> Result<BTreeSet<ProjectName>, ErrorAnswer> {
    let mut names = BTreeSet::new();
    let mut after = None;
    loop {
        let read = app.queue.store().projects(after, NAMES_AT_ONCE).await?;
        let is_last = read.len() < NAMES_AT_ONCE;
        after = read.last().map(|(name, _)| name.clone());
        names.extend(read.into_iter().map(|(name, _)| name));
        if is_last {
            return Ok(names);
        }
    }
}
