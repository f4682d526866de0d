//! A deployment's screen in words: what it is, what became of it and why, how long each part took, and who did what.

use askama::Template;
use jiff::Timestamp;

use super::{
    deployment_facts::DeploymentFacts,
    deployment_wait::WaitReason,
    rendered,
    row::held,
    words::{self, Tag, escaped, moment, plain, seconds_between, since},
};
use crate::{
    clean::clean,
    http::error::ErrorAnswer,
    model::{CancelCause, Deployment, Mention, Outcome, Party, PhaseState, RunBy, State, mention::short},
    wire::Liveness,
};

/// The longest input or output that is shown, in characters.
const VALUE_LIMIT: usize = 1_000;
/// The longest reason of a failure that is shown, in characters.
const REASON_LIMIT: usize = 600;
/// How many entries of each list are shown.
pub(super) const ENTRIES_LIMIT: usize = 100;
#[derive(Template)]
#[template(path = "deployment_head.html")]
struct HeadView {
    title: String,
    is_final: bool,
    tag: Tag,
    heading: String,
    origin: Vec<String>,
    times: Vec<String>,
    banner: Option<(&'static str, String)>,
    notes: Vec<String>,
    progress: Option<u8>,
}

/// A list of terms, each with what is known of it, as HTML.
#[derive(Template)]
#[template(path = "deployment_list.html")]
struct TermsView {
    id: &'static str,
    title: &'static str,
    terms: Vec<(String, String)>,
}

/// What the tab is called.
pub fn title(facts: &DeploymentFacts) -> String {
    let deployment = &facts.deployment;
    let tag = Tag::of(deployment, facts.liveness);
    let number = if deployment.number == 0 { String::new() } else { format!(" #{}", deployment.number) };
    format!("{}{number} {}", deployment.project, tag.word)
}

/// A link to a deployment, as HTML.
pub fn link_to(deployment: &Deployment) -> String {
    let label = words::label(deployment);
    let label = if label.is_empty() { deployment.id.to_string() } else { label };
    format!("<a href=\"{}\">{}</a>", words::deployment_path(deployment), escaped(&label))
}

/// The same for one of which only this is known.
pub fn link_to_mention(mention: &Mention) -> String {
    let Mention { project, id, named } = mention;
    match named {
        Some(named) => {
            let actor = named.actor.as_deref().map(|actor| format!(" {}", plain(actor))).unwrap_or_default();
            let number = named.number;
            format!("<a href=\"/projects/{project}/deployments/{number}\">#{number}{}</a>", escaped(&actor))
        }
        None => format!("<a href=\"/projects/{project}/deployments/{id}\">{id}</a>"),
    }
}

/// Who did something, as HTML.
fn party(party: &Party) -> String {
    escaped(&plain(&party.to_string()))
}

/// `0.4 s`, `4 min 40 s`, `1 h 2 min 3 s`.
pub(super) fn exact(ms: i64) -> String {
    let ms = ms.max(0);
    match ms / 1_000 {
        seconds if seconds < 10 && ms % 1_000 >= 100 => format!("{seconds}.{} s", ms % 1_000 / 100),
        seconds => exact_seconds(seconds.unsigned_abs()),
    }
}

pub(super) fn exact_seconds(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let parts = [(hours, "h"), (minutes, "min"), (rest, "s")];
    let text: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}")).collect();
    if text.is_empty() { "0 s".to_owned() } else { text.join(" ") }
}

pub(super) fn between(from: Timestamp, to: Timestamp) -> i64 {
    to.as_millisecond() - from.as_millisecond()
}

/// The begin of the first rollback and the end of the last one.
pub(super) fn rollback_time(facts: &DeploymentFacts) -> Option<(Timestamp, Option<Timestamp>)> {
    let mut rollbacks = facts.course.phases.iter().filter(|run| run.is_rollback);
    let first = rollbacks.next()?;
    let from = first.began_at.or(first.ended_at)?;
    let last = rollbacks.next_back().unwrap_or(first);
    Some((from, last.ended_at.or(facts.deployment.ended_at())))
}

/// What it is, and what became of it.
pub fn head(facts: &DeploymentFacts) -> Result<String, ErrorAnswer> {
    let deployment = &facts.deployment;
    let spec = &deployment.spec;
    let message = spec.message.as_deref().and_then(|text| text.lines().next()).map(plain).filter(|it| !it.is_empty());
    let mut origin = Vec::new();
    origin.extend(spec.actor.as_deref().map(|actor| format!("<span class=\"who\">{}</span>", escaped(&plain(actor)))));
    match (spec.ref_name.as_deref().map(plain), spec.commit.as_deref()) {
        (Some(name), Some(commit)) => origin.push(format!("{}@{}", escaped(&name), commit_html(commit))),
        (Some(name), None) => origin.push(escaped(&name)),
        (None, Some(commit)) => origin.push(commit_html(commit)),
        (None, None) => {}
    }
    origin.extend(spec.order.map(|order| format!("build {order}")));
    origin.push(format!("pipeline {}", escaped(&plain(&spec.pipeline))));
    if let Some(url) = spec.url.as_deref().and_then(words::link) {
        origin.push(format!("<a href=\"{}\" rel=\"noreferrer\">CI run ↗</a>", escaped(&url)));
    }
    if spec.rollback {
        origin.push("rollback".to_owned());
    }
    let view = HeadView {
        title: title(facts),
        is_final: deployment.is_final(),
        tag: Tag::of(deployment, facts.liveness),
        heading: message.map_or_else(|| words::label(deployment), |message| format!("“{message}”")),
        origin,
        times: times(facts),
        banner: banner(facts),
        notes: notes(facts),
        progress: matches!(deployment.state, State::Running(_)).then_some(deployment.progress),
    };
    rendered(&view)
}

fn commit_html(commit: &str) -> String {
    let full = escaped(&plain(commit));
    format!("<span class=\"mono\" title=\"{full}\">{}</span>", escaped(&plain(short(commit))))
}

/// How long it waited, ran and rolled back.
fn times(facts: &DeploymentFacts) -> Vec<String> {
    let deployment = &facts.deployment;
    let mut times = Vec::new();
    let waited = between(deployment.created_at, facts.wait_end());
    let is_over = deployment.started_at.is_some() || deployment.is_final();
    let whom: Vec<_> = facts
        .wait
        .iter()
        .filter_map(|part| match &part.reason {
            WaitReason::Run(of) | WaitReason::Kept(of) => facts.neighbours.get(*of),
            WaitReason::Hold(_) | WaitReason::CalledUp | WaitReason::NotKnown => None,
        })
        .collect();
    let mut names: Vec<String> = Vec::new();
    whom.into_iter().map(link_to).for_each(|name| {
        if !names.contains(&name) {
            names.push(name);
        }
    });
    let names = match names.len() {
        0 => String::new(),
        1..=3 => format!(" for {}", names.join(", ")),
        count => format!(" for {} and {} more", names[..2].join(", "), count - 2),
    };
    match is_over {
        true if waited < 1_000 && names.is_empty() => times.push("did not wait".to_owned()),
        true => times.push(format!("waited {}{names}", exact_seconds(waited.unsigned_abs() / 1_000))),
        false => times.push(format!("waits{names} since {}", since(deployment.created_at, facts.now))),
    }
    let Some(started) = deployment.started_at else { return times };
    let rollback = rollback_time(facts);
    let ran_until = rollback.map(|(from, _)| from).or(deployment.ended_at());
    match ran_until {
        Some(until) => times.push(format!("ran {}", exact(between(started, until)))),
        None => times.push(format!("runs for {}", since(started, facts.now))),
    }
    match rollback {
        Some((from, Some(until))) => times.push(format!("rolled back in {}", exact(between(from, until)))),
        Some((from, None)) => times.push(format!("rolls back for {}", since(from, facts.now))),
        None => {}
    }
    times
}

/// One sentence that explains how it ended, or what is wrong now.
fn banner(facts: &DeploymentFacts) -> Option<(&'static str, String)> {
    let deployment = &facts.deployment;
    match &deployment.state {
        State::Running(lease) if facts.liveness != Liveness::Alive => {
            let heard = deployment.last_heartbeat_at.unwrap_or(deployment.created_at);
            let freed = heard.checked_add(lease.ttl).unwrap_or(heard);
            let ago = since(heard, facts.now);
            Some((
                "bad",
                format!("No sign of life of its worker for {ago}. The slot is freed at about {}.", moment(freed)),
            ))
        }
        State::Finished { outcome: Outcome::Failed { message, .. }, .. } => {
            let reason = words::shortened(&clean(message), REASON_LIMIT);
            let again = match &deployment.spec.retry_of_named {
                Some(named) if !deployment.spec.rollback => {
                    format!(
                        " It ran <a href=\"/projects/{}/deployments/{n}\">#{n}</a> again.",
                        deployment.project,
                        n = named.number
                    )
                }
                Some(_) | None => String::new(),
            };
            Some(("bad", format!("{}{again} {} {}", sentence(&reason), rolled_back(facts), live_now(facts))))
        }
        State::Finished { outcome: Outcome::Cancelled { cause, message }, .. } => {
            let cancel = deployment.cancel.as_ref();
            let successor = cancel.and_then(|cancel| cancel.superseded_by.as_ref());
            let first = match (cause, successor) {
                (CancelCause::Superseded { .. }, Some(successor)) => {
                    format!("{} came later and took its place.", link_to_mention(successor))
                }
                (CancelCause::Requested, _) => match cancel.and_then(|cancel| cancel.by.as_ref()) {
                    Some(by) => format!("{} It was asked for by {}.", sentence(message), party(by)),
                    None => sentence(message),
                },
                _ => sentence(message),
            };
            let rest = match deployment.started_at {
                Some(_) => format!(" {} {}", rolled_back(facts), live_now(facts)),
                None => " It never started.".to_owned(),
            };
            Some(("wait", first + &rest))
        }
        State::Finished { outcome: Outcome::Succeeded, .. }
        | State::Waiting(_)
        | State::Reserved
        | State::Ready
        | State::Running(_) => None,
    }
}

/// A text of others as a sentence, as HTML.
fn sentence(text: &str) -> String {
    let text = words::shortened(&clean(text), REASON_LIMIT);
    let text = text.trim();
    let word = text.split_whitespace().next().unwrap_or_default().trim_end_matches([',', ':', '.', '!']);
    let mut letters = text.chars();
    // An address or a path stays as it is.
    let text = match letters.next() {
        Some(first) if word.chars().all(char::is_alphabetic) => first.to_uppercase().chain(letters).collect(),
        _ => text.to_owned(),
    };
    let end = if text.ends_with(['.', '!', '?', '…']) { "" } else { "." };
    escaped(&text) + end
}

fn rolled_back(facts: &DeploymentFacts) -> String {
    let Some(rollbacks) = &facts.deployment.rollbacks else { return "Nothing was rolled back.".to_owned() };
    let failed: Vec<_> = rollbacks.failed().collect();
    if failed.is_empty() {
        return "What was done was rolled back.".to_owned();
    }
    let names: Vec<_> = failed.iter().map(|it| format!("<b>{}</b>", escaped(&plain(&it.phase)))).collect();
    let first = sentence(&failed[0].message);
    format!("A person must look: not rolled back: {}. {first}", names.join(", "))
}

fn live_now(facts: &DeploymentFacts) -> String {
    match &facts.live {
        Some(live) if live.id == facts.deployment.id => "It is live.".to_owned(),
        Some(live) => format!("{} is what succeeded last.", link_to(live)),
        None => "No deployment of the project has succeeded yet.".to_owned(),
    }
}

/// What else a person wants to know now.
fn notes(facts: &DeploymentFacts) -> Vec<String> {
    let deployment = &facts.deployment;
    let mut notes = Vec::new();
    if deployment.is_waiting() {
        let nth = match facts.position {
            0 | 1 => "next in line".to_owned(),
            position => format!("number {position} in line"),
        };
        let start = match &facts.standing.start {
            Some(Ok(eta)) => {
                let at = facts.now.checked_add(std::time::Duration::from_secs(eta.p50_seconds)).unwrap_or(facts.now);
                format!("; expected to start at about {}", moment(at))
            }
            Some(Err(unknown)) => format!("; when it starts is not known: {}", escaped(&unknown.to_string())),
            None => String::new(),
        };
        notes.push(format!("It is {nth}{start}."));
        notes.extend(facts.standing.hold.as_ref().map(|hold| format!("The project is {}.", held(hold))));
        notes.extend(
            facts.standing.overtaker.as_ref().map(|other| {
                format!("If it still waits when {} starts, it ends as superseded.", link_to_mention(other))
            }),
        );
    }
    if matches!(deployment.state, State::Reserved | State::Ready) && facts.absence.is_none() {
        notes.push(format!("The slot is kept for it; {}.", called_up(facts)));
    }
    notes.extend(facts.absence.as_deref().map(sentence));
    if let (State::Running(_), Some(cancel)) = (&deployment.state, &deployment.cancel) {
        let by = cancel.by.as_ref().map(|by| format!(" by {}", party(by))).unwrap_or_default();
        let why = cancel.reason.as_deref().map(|why| format!(": “{}”", escaped(&plain(why)))).unwrap_or_default();
        notes.push(format!("A cancel was asked for{by}{why}."));
    }
    if let (State::Running(_), Some(message)) = (&deployment.state, deployment.message.as_deref()) {
        notes.push(escaped(&plain(message)));
    }
    if deployment.released_by.is_some() && !deployment.is_final() {
        notes.push("Its slot was released.".to_owned());
    }
    notes
}

/// For what a deployment waits that has the slot.
fn called_up(facts: &DeploymentFacts) -> &'static str {
    match facts.deployment.spec.executor {
        RunBy::Submitter => "its client has to come for it",
        RunBy::Worker if facts.is_by_agents => "it waits for an agent",
        RunBy::Worker => "it waits for a worker",
    }
}

/// Inputs, artifact, outputs, who ran it and who asked for it.
pub fn what_and_who(facts: &DeploymentFacts) -> Result<String, ErrorAnswer> {
    let (deployment, spec) = (&facts.deployment, &facts.deployment.spec);
    let mut terms: Vec<(String, String)> = Vec::new();
    let mut tell = |term: &str, told: Option<String>| terms.extend(told.map(|told| (term.to_owned(), told)));
    let value = |text: &str| escaped(&words::shortened(&clean(text), VALUE_LIMIT));
    let lines = |lines: Vec<String>| (!lines.is_empty()).then(|| lines.join("<br>"));
    let mono = |html: String| format!("<span class=\"mono\">{html}</span>");
    let inputs = spec.inputs.iter().map(|(name, text)| mono(format!("{}={}", escaped(name), value(text))));
    let secret = spec.secret_inputs.iter().map(|(name, hash)| mono(format!("{}=••• ({})", escaped(name), value(hash))));
    tell("inputs", lines(inputs.chain(secret).collect()));
    tell("artifact", spec.artifact.as_ref().map(|digest| mono(escaped(&format!("sha256:{digest}")))));
    let outputs = deployment.outputs.iter().map(|(name, text)| match words::link(text) {
        Some(url) => format!("{}: <a href=\"{}\" rel=\"noreferrer\">{}</a>", value(name), escaped(&url), value(text)),
        None => mono(format!("{}={}", value(name), value(text))),
    });
    tell("outputs", lines(outputs.collect()));
    tell("ran on", deployment.lease().map(|lease| escaped(&plain(lease.holder.worker_name()))));
    let submitted = spec.submitted_by.as_ref().map(|identity| escaped(&plain(&identity.to_string())));
    tell("submitted by", submitted);
    let cancel = deployment.cancel.as_ref();
    tell("cancelled by", cancel.and_then(|cancel| cancel.by.as_ref()).map(party));
    tell("reason", cancel.and_then(|cancel| cancel.reason.as_deref()).map(|reason| escaped(&plain(reason))));
    tell("released by", deployment.released_by.as_ref().map(party));
    tell(
        "fencing token",
        deployment.lease().map(|lease| format!("<span class=\"num\">{}</span>", lease.fencing_token)),
    );
    let deadline = spec
        .deadline_seconds
        .and_then(|seconds| deployment.created_at.checked_add(std::time::Duration::from_secs(seconds)).ok());
    tell("deadline", deadline.map(|at| format!("to start by {}", moment(at))));
    tell("passes holds", spec.override_pause.then(|| "yes: no pause and no freeze holds it".to_owned()));
    let again =
        spec.retry_of.map(|id| Mention { project: deployment.project.clone(), id, named: spec.retry_of_named.clone() });
    tell("runs again", again.as_ref().map(link_to_mention));
    tell("superseded by", cancel.and_then(|cancel| cancel.superseded_by.as_ref()).map(link_to_mention));
    let superseded: Vec<_> = facts.superseded().take(ENTRIES_LIMIT).map(link_to).collect();
    tell("supersedes", (!superseded.is_empty()).then(|| superseded.join(", ")));
    tell("slot before", facts.previous().map(link_to));
    tell("slot after", facts.next().map(link_to));
    tell("id", Some(mono(deployment.id.to_string())));
    rendered(&TermsView { id: "d-facts", title: "What and who", terms })
}

/// Who did what, in order.
pub fn what_happened(facts: &DeploymentFacts) -> Result<String, ErrorAnswer> {
    let deployment = &facts.deployment;
    let mut told: Vec<(Timestamp, String)> = Vec::new();
    let course = &facts.course;
    let actor = deployment.spec.actor.as_deref().map_or_else(|| "somebody".to_owned(), |actor| escaped(&plain(actor)));
    for (nth, stand) in course.stands.iter().enumerate() {
        let behind =
            stand.blocker.as_ref().map(|other| format!(" behind {}", link_to_mention(other))).unwrap_or_default();
        let hold = stand.hold.as_ref().map(|hold| format!("; the project was {}", held(hold))).unwrap_or_default();
        let over = stand.overtaker.as_ref().map(|it| format!("; {} is newer and goes first", link_to_mention(it)));
        let over = over.unwrap_or_default();
        let what = match (nth, stand.position) {
            (0, 0) => format!("{actor} submitted; the slot was free"),
            (0, position) => format!("{actor} submitted, number {position} in line{behind}{hold}{over}"),
            (_, 0) => "got the slot".to_owned(),
            (_, position) => format!("number {position} in line{behind}{hold}{over}"),
        };
        told.push((stand.at, what));
    }
    if let Some(started) = deployment.started_at {
        let who = deployment.lease().map(|lease| format!(" by {}", escaped(&plain(lease.holder.worker_name()))));
        told.push((started, format!("started{}", who.unwrap_or_default())));
    }
    for run in course.phases.iter().take(ENTRIES_LIMIT) {
        let (name, Some(at)) = (escaped(&plain(&run.name)), run.ended_at.or(run.began_at)) else { continue };
        let what = match run.state {
            PhaseState::Started => format!("{name} began"),
            PhaseState::Succeeded => format!("{name} succeeded"),
            PhaseState::Failed => format!("{name} failed"),
            PhaseState::Skipped => format!("{name} skipped"),
            PhaseState::RollingBack => format!("rollback of {name} began"),
            PhaseState::RolledBack => format!("{name} rolled back"),
            PhaseState::RollbackFailed => format!("rollback of {name} failed"),
        };
        told.push((at, what));
    }
    for cancel in &course.cancels {
        let by = cancel.by.as_ref().map(party);
        let why = cancel.reason.as_deref().map(|why| format!(": “{}”", escaped(&plain(why)))).unwrap_or_default();
        let what = match (&cancel.successor, by) {
            (Some(successor), _) => format!("{} takes its place{why}", link_to_mention(successor)),
            (None, Some(by)) => format!("{by} asked for a cancel{why}"),
            (None, None) => format!("a cancel was asked for{why}"),
        };
        told.push((cancel.at, what));
    }
    told.sort_by_key(|(at, _)| *at);
    if let Some(ended) = deployment.ended_at() {
        let next = facts.next().map(|next| format!("; {} had the slot next", link_to(next))).unwrap_or_default();
        told.push((ended, format!("<b>{}</b>{next}", escaped(&Tag::of(deployment, Liveness::Alive).word))));
    }
    let first = told.first().map_or(deployment.created_at, |(at, _)| *at);
    let is_long = told.last().is_some_and(|(last, _)| seconds_between(first, *last) > 20 * 3_600);
    let time = |at: Timestamp| if is_long { moment(at) } else { clock(at) };
    let mut terms: Vec<_> = told.into_iter().map(|(at, what)| (time(at), what)).collect();
    if course.goes_on {
        terms.push((String::new(), "… and more; the log has all of it".to_owned()));
    }
    rendered(&TermsView { id: "d-story", title: "What happened", terms })
}

/// A moment of a day, to the second, as HTML; the script makes local time of it.
pub fn clock(at: Timestamp) -> String {
    let text = at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%H:%M:%S").to_string();
    format!("<time datetime=\"{at:.3}\" data-as=\"clock\" title=\"{}\">{text}</time>", words::text_of(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_exactly() {
        for (ms, text) in [
            (0, "0 s"),
            (450, "0.4 s"),
            (9_950, "9.9 s"),
            (12_345, "12 s"),
            (280_000, "4 min 40 s"),
            (3_600_000, "1 h"),
            (3_723_000, "1 h 2 min 3 s"),
            (-5, "0 s"),
        ] {
            assert_eq!(exact(ms), text);
        }
    }

    #[test]
    fn reasons_are_sentences() {
        assert_eq!(sentence("it <broke>"), "It &#60;broke&#62;.");
        assert_eq!(sentence("Done!"), "Done!");
        assert_eq!(sentence("http://a.example answered 503"), "http://a.example answered 503.");
    }
}
