//! All projects on one screen.

use std::{collections::BTreeMap, sync::Arc};

use askama::Template;
use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};

use super::{
    Frame, Viewer, all_rows, html, rendered,
    rows::{ProjectRow, SlotUse, TROUBLE},
    words::{escaped, plain, since},
};
use crate::{
    http::{App, error::ErrorAnswer, params::Query},
    model::{ProjectName, Scope},
};

#[derive(Template)]
#[template(path = "projects.html")]
struct ProjectsScreen {
    frame: Frame,
    title: String,
    find: String,
    is_by_name: bool,
    is_empty: bool,
    sum: String,
    rows: String,
    links: Vec<ScreenLink>,
}

/// A link to another screen.
pub struct ScreenLink {
    path: &'static str,
    text: &'static str,
}

#[derive(Template)]
#[template(path = "sum.html")]
struct SumView {
    title: String,
    running: usize,
    waiting: u64,
    called_up: usize,
    trouble: usize,
    held: usize,
    projects: usize,
    longest: Option<String>,
    everything: Option<String>,
    held_by_it: usize,
}

/// All projects that the viewer may see.
pub async fn all(State(app): State<Arc<App>>, viewer: Viewer, uri: Uri) -> Result<Response, ErrorAnswer> {
    let query = Query::of(&uri, &["find", "sort"])?;
    let find = plain(query.get("find").unwrap_or_default().trim());
    let is_by_name = query.get("sort") == Some("name");
    // The stream begins at the number before anything is read.
    let begin = app.watch.board().cursor();
    let rows = all_rows(&app, &viewer.grant.projects).await?;
    let sum = sum_of(&app, &rows);
    let wanted = find.to_lowercase();
    let mut shown: Vec<_> = rows.iter().filter(|(name, _)| name.as_str().to_lowercase().contains(&wanted)).collect();
    if !is_by_name {
        // By name within a rank, because the sort is stable.
        shown.sort_by_key(|(_, row)| row.rank);
    }
    let screen = ProjectsScreen {
        title: sum.title.clone(),
        is_by_name,
        is_empty: shown.is_empty(),
        sum: rendered(&sum)?,
        rows: shown.iter().map(|(_, row)| String::from_utf8_lossy(&row.html)).collect::<Vec<_>>().join("\n"),
        links: links(&viewer, rows.values().any(|row| row.everything.is_some())),
        find,
        frame: Frame::live(viewer, format!("/live?after={begin}")),
    };
    html(StatusCode::OK, &screen)
}

/// What only those see who administer all projects.
fn links(viewer: &Viewer, is_held: bool) -> Vec<ScreenLink> {
    if !viewer.may(Scope::Admin) || !viewer.grant.projects.sees_all() {
        return Vec::new();
    }
    let hold = if is_held { "Everything is held…" } else { "Hold everything…" };
    vec![
        ScreenLink { path: "/notifications", text: "Notifications" },
        ScreenLink { path: super::hold::PATH, text: hold },
    ]
}

/// The sum over all projects, as HTML.
///
/// # Errors
/// It cannot be rendered; that is a fault of ours.
pub fn sum(app: &App, rows: &BTreeMap<ProjectName, Arc<ProjectRow>>) -> Result<String, ErrorAnswer> {
    rendered(&sum_of(app, rows))
}

fn sum_of(app: &App, rows: &BTreeMap<ProjectName, Arc<ProjectRow>>) -> SumView {
    let count = |is: &dyn Fn(&ProjectRow) -> bool| rows.values().filter(|row| is(row)).count();
    let (running, called_up) =
        (count(&|row| row.slot == SlotUse::Running), count(&|row| row.slot == SlotUse::CalledUp));
    let (trouble, held) = (count(&|row| row.rank == TROUBLE), count(&|row| row.is_held));
    let waiting = rows.values().map(|row| row.waiting).sum();
    let mut title = vec![format!("{running} running")];
    if trouble > 0 {
        title.insert(0, format!("{trouble} stuck"));
    }
    if waiting > 0 {
        title.push(format!("{waiting} waiting"));
    }
    let everything = rows.values().find_map(|row| row.everything.as_ref());
    let longest = rows.iter().filter_map(|(name, row)| Some((row.waits_since?, name))).min();
    SumView {
        title: title.join(" · "),
        running,
        waiting,
        called_up,
        trouble,
        held,
        projects: rows.len(),
        held_by_it: count(&|row| row.everything.is_some()),
        everything: everything.map(super::hold::words_of),
        longest: longest.map(|(at, name)| format!("{} in {}", since(at, app.now()), escaped(name.as_str()))),
    }
}
