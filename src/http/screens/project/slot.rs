//! The slot: who holds it, how far it is and when it is free, or what holds the project.

use std::time::Duration;

use askama::Template;
use jiff::Timestamp;

use crate::{
    http::{
        answer,
        error::ErrorAnswer,
        screens::{
            rendered,
            row::{held, held_word},
            words::{self, Tag, escaped, moment, plain, since, span},
        },
    },
    model::{Deployment, Hold, HoldKind, State},
    store::ProjectState,
    wire::Liveness,
};

#[derive(Template)]
#[template(path = "project_slot.html")]
struct SlotView {
    title: String,
    /// `pause`, `freeze` or `configuration`; empty where nothing holds the project.
    held_by: &'static str,
    held: Option<String>,
    tag: Tag,
    holder: Option<HolderView>,
    notes: Vec<String>,
    progress: Option<u8>,
    is_free: bool,
}

struct HolderView {
    path: String,
    label: String,
    what: String,
    run: Option<String>,
}

/// The slot, as HTML.
///
/// # Errors
/// It cannot be rendered; that is a fault of ours.
pub fn html(
    state: &ProjectState,
    hold: Option<&Hold>,
    absence: Option<&str>,
    title: &str,
    now: Timestamp,
) -> Result<String, ErrorAnswer> {
    let holder = state.holder.as_ref();
    let is_running = holder.is_some_and(|holder| matches!(holder.state, State::Running(_)));
    let mut notes = holder.map(|holder| notes(state, holder, now)).unwrap_or_default();
    notes.extend(absence.map(|absence| escaped(&plain(absence))));
    notes.extend(holder.and_then(|holder| cancelled(holder, absence)));
    let view = SlotView {
        title: title.to_owned(),
        held_by: hold.map(held_by).unwrap_or_default(),
        held: hold.map(held),
        tag: match (holder, hold) {
            (Some(holder), _) => Tag::of(holder, answer::liveness(holder, now)),
            (None, Some(hold)) => Tag::new(held_word(hold.kind), "wait"),
            (None, None) => Tag::new("free", "ok"),
        },
        holder: holder.map(|holder| HolderView {
            path: words::deployment_path(holder),
            label: words::label(holder),
            what: words::what(holder),
            run: holder.spec.url.as_deref().and_then(words::link),
        }),
        notes,
        progress: holder.filter(|_| is_running).map(|holder| holder.progress),
        is_free: holder.is_none(),
    };
    rendered(&view)
}

/// The title of the tab: what is going on, in a few words.
pub fn title(state: &ProjectState, hold: Option<&Hold>, now: Timestamp) -> String {
    let name = &state.project.name;
    let who = |holder: &Deployment| match holder.spec.actor.as_deref().map(plain) {
        Some(actor) if !actor.is_empty() => words::shortened(&actor, 40),
        _ => format!("#{}", holder.number),
    };
    let mut said = match (&state.holder, hold) {
        (Some(holder), _) => match (&holder.state, answer::liveness(holder, now)) {
            (State::Running(_), Liveness::Alive) => format!("{} deploys", who(holder)),
            (State::Running(_), Liveness::Silent | Liveness::Lost) => format!("{} is silent", who(holder)),
            _ => format!("{} is called up", who(holder)),
        },
        (None, Some(hold)) => held_word(hold.kind).to_owned(),
        (None, None) => "free".to_owned(),
    };
    match state.project.waiting_count {
        0 => {}
        1 => said.push_str(", 1 waits"),
        count => said.push_str(&format!(", {count} wait")),
    }
    format!("{name}: {said}")
}

fn held_by(hold: &Hold) -> &'static str {
    match hold.kind {
        HoldKind::Pause => "pause",
        HoldKind::Freeze => "freeze",
        HoldKind::Configuration => "configuration",
    }
}

/// Since when, how long usually, and when it is free, as HTML.
fn notes(state: &ProjectState, holder: &Deployment, now: Timestamp) -> Vec<String> {
    let usual = state.project.eta(&holder.spec.pipeline, Duration::ZERO).map(|usual| {
        let (p50, p90) = (span(usual.p50_seconds), span(usual.p90_seconds));
        if p50 == p90 { format!("usually {p50}") } else { format!("usually {p50}, 9 in 10 within {p90}") }
    });
    let lease = match &holder.state {
        State::Running(lease) => lease,
        State::Reserved => {
            let came = since(holder.created_at, now);
            return vec![format!("the slot is kept until its client comes back for it; submitted {came} ago")];
        }
        State::Waiting(_) | State::Ready | State::Finished { .. } => {
            let came = since(holder.created_at, now);
            return vec![format!("the slot is kept until a worker takes it; submitted {came} ago")];
        }
    };
    let begun = holder.started_at.unwrap_or(holder.created_at);
    let worker = escaped(&plain(lease.holder.worker_name()));
    let mut notes = vec![format!("since {} ({})", words::clock(begun), since(begun, now))];
    if answer::liveness(holder, now) != Liveness::Alive
        && let Some(at) = holder.last_heartbeat_at
    {
        let freed = at.checked_add(lease.ttl).unwrap_or(at);
        notes.push(format!("<b>no sign of life for {} from {worker}</b>", since(at, now)));
        notes.push(format!("the slot is freed at about {}, if none comes", words::clock(freed)));
        return notes;
    }
    notes.extend(usual);
    match answer::eta(holder, &state.project, now) {
        Some(eta) if eta.p90_seconds > 0 => {
            let free = now.checked_add(Duration::from_secs(eta.p50_seconds)).unwrap_or(now);
            notes.push(format!("<b>free at about {}</b>", moment(free)));
        }
        Some(_) => notes.push("<b>longer than usual already</b>".to_owned()),
        None => notes.push("how long it takes is not known yet".to_owned()),
    }
    if !worker.is_empty() {
        notes.push(format!("on {worker}"));
    }
    notes
}

/// That somebody asked for it to be stopped, and what that waits for, as HTML.
fn cancelled(holder: &Deployment, told: Option<&str>) -> Option<String> {
    let cancel = holder.cancel.as_ref()?;
    let who = match (&cancel.superseded_by, &cancel.by) {
        (Some(newer), _) => format!("for {newer}, which takes its place"),
        (None, Some(by)) => format!("by {by}"),
        (None, None) => String::new(),
    };
    let reason = cancel.reason.as_deref().map(|reason| format!(": “{reason}”")).unwrap_or_default();
    let text = format!("a cancel was asked for {who}{reason}");
    let waits =
        holder.message.as_deref().filter(|message| told.is_none() && message.starts_with(crate::model::CANCEL_WAITS));
    let waits = waits.map(|waits| format!(" · {waits}")).unwrap_or_default();
    Some(escaped(&plain(&format!("{text}{waits}"))))
}
