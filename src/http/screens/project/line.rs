//! The line as a timetable: who waits, for how long still, and in what.

use std::time::Duration;

use askama::Template;
use jiff::Timestamp;

use crate::{
    http::{
        App,
        error::ErrorAnswer,
        line::StandingInLine,
        screens::{
            rendered,
            words::{self, escaped, moment, plain, since},
        },
    },
    model::{Deployment, Place, State},
    store::{Placed, ProjectState},
};

#[derive(Template)]
#[template(path = "project_line.html")]
struct LineView {
    waiting: u64,
    shown: Vec<WaitingView>,
    hidden: u64,
}

struct WaitingView {
    position: u64,
    path: String,
    label: String,
    what: String,
    run: Option<String>,
    start: String,
    notes: Vec<String>,
}

/// The line, as HTML.
///
/// # Errors
/// The store does not answer.
pub async fn html(app: &App, state: &ProjectState) -> Result<String, ErrorAnswer> {
    let in_line = app.line(state).await?;
    let now = app.now();
    let shown: Vec<_> = (1..)
        .zip(&state.line)
        .map(|(position, waiting)| {
            let standing = in_line.standing(&Placed { deployment: waiting.clone(), position });
            view(position, waiting, &standing, now)
        })
        .collect();
    let waiting = state.project.waiting_count;
    let hidden = waiting.saturating_sub(shown.len() as u64);
    rendered(&LineView { waiting, shown, hidden })
}

fn view(position: u64, waiting: &Deployment, standing: &StandingInLine, now: Timestamp) -> WaitingView {
    let (start, why) = start(standing, now);
    let mut notes = vec![waits_in(waiting, now)];
    notes.extend(why);
    notes.extend(
        standing
            .overtaker
            .as_ref()
            .map(|newer| format!("{} supersedes it when that one starts", escaped(&plain(&newer.to_string())))),
    );
    if waiting.spec.override_pause {
        notes.push("no pause and no freeze holds it".to_owned());
    }
    if waiting.spec.rollback {
        notes.push("a rollback".to_owned());
    }
    WaitingView {
        position,
        path: words::deployment_path(waiting),
        label: words::label(waiting),
        what: words::what(waiting),
        run: waiting.spec.url.as_deref().and_then(words::link),
        start,
        notes,
    }
}

/// When it is expected to start, as HTML, and why that is not known.
fn start(standing: &StandingInLine, now: Timestamp) -> (String, Option<String>) {
    match &standing.start {
        Some(Ok(eta)) => {
            let at = |seconds| now.checked_add(Duration::from_secs(seconds)).unwrap_or(now);
            let late = if eta.p90_seconds > eta.p50_seconds {
                format!("<span class=\"soft late\">9 in 10 by {}</span>", moment(at(eta.p90_seconds)))
            } else {
                String::new()
            };
            (format!("≈ {}{late}", moment(at(eta.p50_seconds))), None)
        }
        Some(Err(unknown)) => ("start not known".to_owned(), Some(escaped(&plain(&unknown.to_string())))),
        None => ("now".to_owned(), None),
    }
}

/// In what it waits, as HTML.
fn waits_in(waiting: &Deployment, now: Timestamp) -> String {
    let so_far = since(waiting.created_at, now);
    match &waiting.state {
        State::Waiting(Place::Ticket { .. }) if waiting.spec.url.is_some() => {
            format!("waits in a CI job, {so_far} so far")
        }
        State::Waiting(Place::Ticket { .. }) => format!("waits in a shell, {so_far} so far"),
        State::Waiting(Place::Queued) => format!("left with the server, {so_far} ago"),
        State::Reserved | State::Ready | State::Running(_) | State::Finished { .. } => String::new(),
    }
}
