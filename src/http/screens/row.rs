//! A project's row on the screen of all projects.

use std::time::Duration;

use askama::Template;
use jiff::Timestamp;

use super::{
    rendered,
    rows::{EverythingHeld, ProjectRow, SlotUse, TROUBLE},
    words::{self, Tag, escaped, moment, plain, since},
};
use crate::{
    http::{App, answer, error::ErrorAnswer},
    model::{Deployment, Hold, HoldKind, Outcome, ProjectName, State},
    store::{ListQuery, Placed, ProjectState, StoreError},
    wire::Liveness,
};

/// How many outcomes are shown.
const DOTS: usize = 8;
/// How many deployments of a history are looked at for them.
const DOTS_LOOK_LIMIT: usize = 32;
/// How much of a line is read for the expected start of its last one.
const LINE_LIMIT: usize = 100;

#[derive(Template)]
#[template(path = "row.html")]
struct RowView {
    name: String,
    rank: u8,
    edge: &'static str,
    under_name: String,
    tag: Tag,
    build: Option<BuildCell>,
    notes: Vec<String>,
    progress: Option<u8>,
    waiting: u64,
    last_start: String,
    live: Option<LiveCell>,
    dots: Vec<Dot>,
}

struct BuildCell {
    path: String,
    label: String,
    what: String,
    run: Option<String>,
}

struct LiveCell {
    path: String,
    label: String,
    what: String,
    since: String,
}

struct Dot {
    class: &'static str,
    path: String,
    what: String,
}

/// The id of a project's row.
pub fn row_id(project: &ProjectName) -> String {
    format!("p-{project}")
}

/// Reads a project and renders its row; `None` if it is not configured and was never deployed, or cannot be read.
///
/// # Errors
/// The store does not answer.
pub async fn read(app: &App, name: &ProjectName) -> Result<Option<ProjectRow>, ErrorAnswer> {
    let store = app.queue.store();
    let state = match store.project(name.clone(), LINE_LIMIT).await {
        Err(StoreError::Unusable(_)) => return Ok(None),
        read => read?,
    };
    let Some(state) = state.or_else(|| app.is_configured(name).then(|| idle(name))) else { return Ok(None) };
    let query = ListQuery { status: None, before: None, limit: DOTS_LOOK_LIMIT };
    let history = match store.list(name.clone(), query).await {
        Err(StoreError::Unusable(_)) => Vec::new(),
        read => read?,
    };
    let last_start = last_start(app, &state).await?;
    let absence = match &state.holder {
        Some(holder) => app.holder_wait(holder).await?,
        None => None,
    };
    rendered_row(app, &state, &history, last_start, absence).map(Some)
}

fn rendered_row(
    app: &App,
    state: &ProjectState,
    history: &[Deployment],
    last_start: String,
    absence: Option<String>,
) -> Result<ProjectRow, ErrorAnswer> {
    let (now, project) = (app.now(), &state.project);
    let hold = Hold::of(&app.queue.policy(&project.name), project.pause.as_ref(), now);
    let liveness = state.holder.as_ref().map_or(Liveness::Alive, |holder| answer::liveness(holder, now));
    let is_running = state.holder.as_ref().is_some_and(|holder| matches!(holder.state, State::Running(_)));
    let slot = match (&state.holder, is_running) {
        (None, _) => SlotUse::Free,
        (Some(_), false) => SlotUse::CalledUp,
        (Some(_), true) => SlotUse::Running,
    };
    let failed_last = state.last_outcome.as_ref().is_some_and(has_failed);
    let is_trouble = liveness != Liveness::Alive || absence.is_some();
    let rank = match (is_trouble, &hold, slot, failed_last) {
        (true, ..) => TROUBLE,
        (false, Some(_), ..) if project.waiting_count > 0 => 1,
        (false, _, _, true) => 2,
        (false, _, SlotUse::Running | SlotUse::CalledUp, _) => 3,
        (false, Some(_), ..) => 4,
        (false, None, SlotUse::Free, _) => 5,
    };
    let shown = state.holder.as_ref();
    let held = hold.as_ref().map(held);
    let policy = app.queue.policy(&project.name);
    let changes_by_time = shown.is_some() || hold.is_some() || project.waiting_count > 0 || !policy.freezes.is_empty();
    let told = format!("{rank} {liveness:?} {absence:?} {held:?}");
    let mut notes = Vec::new();
    if let Some(holder) = shown {
        notes.push(how_far(state, holder, liveness, now));
    }
    notes.extend(absence.map(|absence| escaped(&plain(&absence))));
    notes.extend(held);
    if shown.is_none() && hold.is_none() {
        notes.extend(state.last_outcome.as_ref().map(last_words));
    }
    let view = RowView {
        name: project.name.to_string(),
        rank,
        edge: match (rank, &hold) {
            (TROUBLE, _) => "trouble",
            (_, Some(_)) => "held",
            (2, None) => "failed",
            _ => "",
        },
        under_name: under_name(app, &project.name),
        tag: match (shown, &hold) {
            (Some(holder), _) => Tag::of(holder, liveness),
            (None, Some(hold)) => Tag::new(held_word(hold.kind), "wait"),
            (None, None) => Tag::new("free", "ok"),
        },
        build: shown.map(|holder| BuildCell {
            path: words::deployment_path(holder),
            label: words::label(holder),
            what: words::what(holder),
            run: holder.spec.url.as_deref().and_then(words::link),
        }),
        notes,
        progress: shown.filter(|_| is_running).map(|holder| holder.progress),
        waiting: project.waiting_count,
        last_start,
        live: state.last_success.as_ref().map(|live| live_cell(live, now)),
        dots: dots(history),
    };
    Ok(ProjectRow {
        html: rendered(&view)?.replace('\n', "").into(),
        rank,
        slot,
        waiting: project.waiting_count,
        is_held: hold.is_some(),
        everything: hold.as_ref().and_then(EverythingHeld::of),
        waits_since: state.line.first().map(|first| first.created_at),
        told,
        changes_by_time,
    })
}

/// A project that was never deployed.
fn idle(name: &ProjectName) -> ProjectState {
    ProjectState::of(crate::model::Project::new(name.clone()))
}

/// The word for a project that is held.
pub fn held_word(kind: HoldKind) -> &'static str {
    match kind {
        HoldKind::Pause | HoldKind::Configuration => "paused",
        HoldKind::Freeze => "frozen",
    }
}

/// What holds a project, as HTML.
pub fn held(hold: &Hold) -> String {
    let reason = hold.reason.as_deref().map(|reason| format!(": “{}”", escaped(&plain(reason)))).unwrap_or_default();
    let until = match hold.until {
        Some(until) => format!(" until {}", moment(until)),
        None => ", until somebody resumes it".to_owned(),
    };
    let until = if hold.kind == HoldKind::Configuration { " by the configuration".to_owned() } else { until };
    format!("{}{until}{reason}", escaped(&plain(&hold.what())))
}

fn has_failed(deployment: &Deployment) -> bool {
    matches!(&deployment.state, State::Finished { outcome: Outcome::Failed { .. }, .. })
}

/// How far the holder is and when the slot is free, as HTML.
fn how_far(state: &ProjectState, holder: &Deployment, liveness: Liveness, now: Timestamp) -> String {
    let State::Running(lease) = &holder.state else {
        return format!("the slot is kept for it; submitted {} ago", since(holder.created_at, now));
    };
    if liveness != Liveness::Alive
        && let Some(at) = holder.last_heartbeat_at
    {
        let freed = at.checked_add(lease.ttl).unwrap_or(at);
        return format!("no sign of life for {}; the slot is freed at about {}", since(at, now), moment(freed));
    }
    let begun = holder.started_at.unwrap_or(holder.created_at);
    let since = format!("for {}", since(begun, now));
    match answer::eta(holder, &state.project, now) {
        Some(eta) if eta.p90_seconds > 0 => {
            let free = now.checked_add(Duration::from_secs(eta.p50_seconds)).unwrap_or(now);
            format!("{since}; free at about {}", moment(free))
        }
        Some(_) => format!("{since}; longer than usual already"),
        None => since,
    }
}

/// How the last one ended, as HTML.
fn last_words(last: &Deployment) -> String {
    let (what, at) = match &last.state {
        State::Finished { outcome, at, .. } => (Tag::of(last, Liveness::Alive).word, Some((outcome, at))),
        State::Waiting(_) | State::Reserved | State::Ready | State::Running(_) => return String::new(),
    };
    let ended = at.map(|(_, at)| moment(*at)).unwrap_or_default();
    let (path, label) = (words::deployment_path(last), escaped(&words::label(last)));
    format!("last: <a href=\"{}\">{label}</a> {} {ended}", escaped(&path), escaped(&what))
}

/// When the last one in line is expected to start, as HTML.
async fn last_start(app: &App, state: &ProjectState) -> Result<String, ErrorAnswer> {
    let Some(last) = state.line.last() else { return Ok(String::new()) };
    if state.project.waiting_count > state.line.len() as u64 {
        return Ok("start not known".to_owned());
    }
    let placed = Placed { deployment: last.clone(), position: state.line.len() as u64 };
    let standing = app.line(state).await?.standing(&placed);
    Ok(match standing.start {
        Some(Ok(eta)) => {
            let at = app.now().checked_add(Duration::from_secs(eta.p50_seconds)).unwrap_or_else(|_| app.now());
            format!("last by about {}", moment(at))
        }
        Some(Err(unknown)) => format!("<span title=\"{}\">start not known</span>", escaped(&unknown.to_string())),
        None => "next".to_owned(),
    })
}

/// Who runs the project.
fn under_name(app: &App, project: &ProjectName) -> String {
    match app.config().projects.get(project) {
        Some(configured) if configured.agents.is_some() => "run by agents".to_owned(),
        Some(configured) if !configured.pipelines.is_empty() => "run by the server".to_owned(),
        Some(_) | None => String::new(),
    }
}

fn live_cell(live: &Deployment, now: Timestamp) -> LiveCell {
    let at = match &live.state {
        State::Finished { at, .. } => *at,
        State::Waiting(_) | State::Reserved | State::Ready | State::Running(_) => live.created_at,
    };
    let source = match live.spec.commit.as_deref() {
        Some(commit) => plain(crate::model::mention::short(commit)),
        None => words::label(live),
    };
    LiveCell {
        path: words::deployment_path(live),
        label: source,
        what: format!("{} {}", words::label(live), words::what(live)),
        since: since(at, now),
    }
}

/// The last outcomes, the newest last.
fn dots(history: &[Deployment]) -> Vec<Dot> {
    let ended = history.iter().filter_map(|deployment| match &deployment.state {
        State::Finished { outcome, .. } => Some((deployment, outcome)),
        State::Waiting(_) | State::Reserved | State::Ready | State::Running(_) => None,
    });
    let dot = |(deployment, outcome): (&Deployment, &Outcome)| Dot {
        class: match outcome {
            Outcome::Succeeded => "ok",
            Outcome::Failed { .. } => "bad",
            Outcome::Cancelled { .. } => "off",
        },
        path: words::deployment_path(deployment),
        what: format!("{} {}", words::label(deployment), Tag::of(deployment, Liveness::Alive).word),
    };
    let mut dots: Vec<_> = ended.take(DOTS).map(dot).collect();
    dots.reverse();
    dots
}
