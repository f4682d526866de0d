//! How long each part of a deployment took: its wait, its phases and their rollbacks.

use askama::Template;
use jiff::Timestamp;

use super::{
    deployment_course::PhaseRun,
    deployment_facts::DeploymentFacts,
    deployment_story::{ENTRIES_LIMIT, between, exact, exact_seconds, link_to, rollback_time},
    deployment_wait::{self, WaitReason},
    rendered,
    words::{escaped, plain, since},
};
use crate::{
    http::error::ErrorAnswer,
    model::{PhaseState, RunBy},
};

/// While it runs, the time line is drawn up to the next full so many seconds, so that it does not change all the time.
const SCALE_SECONDS: i64 = 30;

#[derive(Template)]
#[template(path = "deployment_timeline.html")]
struct TimelineView {
    groups: Vec<TimeGroup>,
}

struct TimeGroup {
    title: String,
    total: String,
    rows: Vec<TimeRow>,
}

struct TimeRow {
    mark: &'static str,
    heard: &'static str,
    name: String,
    message: String,
    took: String,
    bar: Option<TimeBar>,
}

struct TimeBar {
    class: &'static str,
    x: String,
    width: String,
}

/// The scale of the bars.
struct Scale {
    from: Timestamp,
    length: i64,
}

impl Scale {
    fn bar(&self, class: &'static str, from: Option<Timestamp>, to: Option<Timestamp>) -> Option<TimeBar> {
        let (from, to) =
            (from?, to.unwrap_or(self.from.checked_add(jiff::SignedDuration::from_millis(self.length)).ok()?));
        let percent = |ms: i64| 100.0 * ms.max(0) as f64 / self.length.max(1) as f64;
        let x = percent(between(self.from, from)).min(99.4);
        let width = percent(between(from, to)).clamp(0.6, 100.0 - x);
        Some(TimeBar { class, x: format!("{x:.2}%"), width: format!("{width:.2}%") })
    }
}

/// Its wait, its phases and their rollbacks.
pub fn timeline(facts: &DeploymentFacts) -> Result<String, ErrorAnswer> {
    let deployment = &facts.deployment;
    let whole = between(deployment.created_at, deployment.ended_at().unwrap_or(facts.now));
    let length = match deployment.is_final() {
        true => whole,
        false => (whole / (SCALE_SECONDS * 1_000) + 1) * SCALE_SECONDS * 1_000,
    };
    let scale = Scale { from: deployment.created_at, length };
    let mut groups = Vec::new();
    let wait = wait_rows(facts, &scale);
    if !wait.is_empty() {
        let is_over = deployment.started_at.is_some() || deployment.is_final();
        let total = deployment_wait::seconds(&facts.wait).iter().sum();
        let (title, total) = match is_over {
            true => ("Waited", exact_seconds(total)),
            false => ("Waits", since(deployment.created_at, facts.now)),
        };
        groups.push(TimeGroup { title: title.to_owned(), total, rows: wait });
    }
    let rows = |is_rollback: bool| -> Vec<TimeRow> {
        let runs = facts.course.phases.iter().filter(|run| run.is_rollback == is_rollback).take(ENTRIES_LIMIT);
        runs.map(|run| phase_row(facts, run, &scale)).collect()
    };
    let rollback = rollback_time(facts);
    if let Some(started) = deployment.started_at {
        let until = rollback.map(|(from, _)| from).or(deployment.ended_at());
        let (title, total) = match until {
            Some(until) => ("Ran", exact(between(started, until))),
            None => ("Runs", since(started, facts.now)),
        };
        groups.push(TimeGroup { title: title.to_owned(), total, rows: rows(false) });
    }
    if let Some((from, until)) = rollback {
        let (title, total) = match until {
            Some(until) => ("Rolled back", exact(between(from, until))),
            None => ("Rolls back", since(from, facts.now)),
        };
        groups.push(TimeGroup { title: title.to_owned(), total, rows: rows(true) });
    }
    rendered(&TimelineView { groups })
}

fn wait_rows(facts: &DeploymentFacts, scale: &Scale) -> Vec<TimeRow> {
    let deployment = &facts.deployment;
    let is_over = deployment.started_at.is_some() || deployment.is_final();
    let seconds = deployment_wait::seconds(&facts.wait);
    if is_over && seconds.iter().sum::<u64>() == 0 {
        return Vec::new();
    }
    let last = facts.wait.len().saturating_sub(1);
    // What took no second is left out: it adds nothing.
    let shown = facts
        .wait
        .iter()
        .zip(seconds)
        .enumerate()
        .filter(|(nth, (_, seconds))| *seconds > 0 || (*nth == last && !is_over));
    let rows = shown.map(|(nth, (part, seconds))| {
        let other = |of: &usize| facts.neighbours.get(*of).map(link_to).unwrap_or_default();
        let (name, message) = match &part.reason {
            WaitReason::Run(of) => (format!("for {}", other(of)), String::new()),
            WaitReason::Kept(of) => (format!("for {}", other(of)), "called up, and had not started".to_owned()),
            WaitReason::Hold(words) => ("held".to_owned(), words.clone()),
            WaitReason::CalledUp => {
                let message = match deployment.spec.executor {
                    RunBy::Submitter => "its client had to come for it",
                    RunBy::Worker if facts.is_by_agents => "no agent had taken it",
                    RunBy::Worker => "no worker had taken it",
                };
                ("called up".to_owned(), message.to_owned())
            }
            WaitReason::NotKnown => ("not known".to_owned(), String::new()),
        };
        let goes_on = nth == last && !is_over;
        TimeRow {
            mark: if goes_on { "wait" } else { "off" },
            heard: if goes_on { "now" } else { "" },
            name,
            message,
            took: if goes_on { since(part.from, facts.now) } else { exact_seconds(seconds) },
            bar: scale.bar("b-wait", Some(part.from), Some(part.until).filter(|_| !goes_on)),
        }
    });
    rows.collect()
}

fn phase_row(facts: &DeploymentFacts, run: &PhaseRun, scale: &Scale) -> TimeRow {
    let is_open = run.ended_at.is_none();
    let until = run.ended_at.or(facts.deployment.ended_at());
    let (mark, heard, class) = match run.state {
        PhaseState::Succeeded => ("ok", "succeeded", "b-ok"),
        PhaseState::RolledBack => ("ok", "rolled back", "b-off"),
        PhaseState::Failed => ("bad", "failed", "b-bad"),
        PhaseState::RollbackFailed => ("bad", "rollback failed", "b-bad"),
        PhaseState::Skipped => ("off", "skipped", "b-off"),
        PhaseState::Started | PhaseState::RollingBack if facts.deployment.is_final() => {
            ("bad", "its end is not known", "b-bad")
        }
        PhaseState::Started | PhaseState::RollingBack => ("run", "running", "b-run"),
    };
    let sign = if run.is_rollback { "↺ " } else { "" };
    let message = run.message.as_deref().map(|text| escaped(&plain(text))).unwrap_or_default();
    let word = match run.state {
        PhaseState::Skipped => "skipped",
        PhaseState::Failed | PhaseState::RollbackFailed if message.is_empty() => "failed",
        PhaseState::RolledBack if message.is_empty() => "rolled back",
        PhaseState::Started | PhaseState::RollingBack if is_open && facts.deployment.is_final() => {
            "its end is not known"
        }
        _ => "",
    };
    let message = if message.is_empty() { word.to_owned() } else { message };
    TimeRow {
        mark,
        heard,
        name: format!("<a href=\"?line={seq}#L{seq}\"><b>{sign}{}</b></a>", escaped(&plain(&run.name)), seq = run.seq),
        message,
        took: match (run.began_at, until) {
            (Some(began), Some(until)) => exact(between(began, until)),
            (Some(began), None) => since(began, facts.now),
            (None, _) => String::new(),
        },
        bar: scale.bar(class, run.began_at, until),
    }
}
